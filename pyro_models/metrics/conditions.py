"""Conditions on the attributes of an image: in words, as indices, and what a pair generates and infers under them."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_models.base.errors import UserError, nearest
from pyro_models.data import Attribute, one_hot_attributes
from pyro_models.metrics.evaluation import eval_mode

MOST_NUMBERS = 100_000  # in the table of latents of `posterior_means`


def describe(attributes: tuple[Attribute, ...], values: Tensor) -> str:
    """Describe conditions, indices of values [attributes] with -1 where one is not given, in words.

    A value is named alone where no other attribute has a value of that name, else as NAME=VALUE.

    >>> describe((Attribute("size", ("small", "big")), Attribute("n", ("1", "2"))), torch.tensor([1, -1]))
    'big'
    """
    count = Counter(value for attribute in attributes for value in attribute.values)
    words = []
    for attribute, index in zip(attributes, values.tolist(), strict=True):
        if index >= 0:
            alone = all(count[value] == 1 for value in attribute.values)
            words.append(attribute.values[index] if alone else f"{attribute.name}={attribute.values[index]}")
    return " ".join(words)


def parse_conditions(attributes: tuple[Attribute, ...], conditions: Sequence[str]) -> Tensor:
    """Read NAME=VALUE words into indices of values [1, attributes]; -1 where one is not given.

    Raises:
        UserError: there are none, a word has another form, an attribute or a value is unknown, or an attribute is given
            twice, with two values.

    >>> parse_conditions((Attribute("size", ("small", "big")), Attribute("n", ("1", "2"))), ["size=big"])
    tensor([[ 1, -1]])
    """
    names = [attribute.name for attribute in attributes]
    if not conditions:
        raise UserError(f"no condition is given: give `given=NAME=VALUE`, with a name out of {', '.join(names)}")
    values = torch.full((1, len(attributes)), -1)
    for word in conditions:
        name, separator, value = word.rpartition("=")
        if not separator:
            raise UserError(f"`given={word}`: give NAME=VALUE, as {names[0]}={attributes[0].values[0]}")
        if name not in names:
            raise UserError(f"`given={word}`: unknown attribute {name!r}: {nearest(name, names)}")
        i = names.index(name)
        index = attributes[i].index(value)
        if values[0, i] not in (-1, index):
            raise UserError(f"`given={word}` contradicts {name}={attributes[i].values[values[0, i]]}")
        values[0, i] = index
    return values


def generate_given(
    model: nn.Module,
    guide: nn.Module,
    attributes: tuple[Attribute, ...],
    values: Tensor,
    *,
    mean: bool = False,
    seed: int = 0,
    batch_size: int = 1000,
) -> Tensor:
    """Return images drawn from p(x | z), z from q(z | y): [n, *image].

    Args:
        model, guide: the pair.
        attributes: those of the story.
        values: the attributes given, indices of their values [n, attributes]; -1 where one is not given.
        mean: whether to return the means of p(x | z) instead.
        seed: of the draws.
        batch_size: how many at a time.
    """
    images = []
    with eval_mode(model, guide, seed=seed):
        for part in values.split(batch_size):
            q = guide.posterior(**one_hot_attributes(attributes, part))  # type: ignore[operator]
            x: Any = model.likelihood_of(q.sample())  # type: ignore[operator]
            images.append(x.mean if mean else x.sample())
    return torch.cat(images)


def posterior_means(guide: nn.Module, attributes: tuple[Attribute, ...]) -> tuple[list[dict[str, Any]], Tensor]:
    """Return the mean of q(z | attributes given) for every combination of given and missing values.

    Of so many attributes that the means would be more than 100,000 numbers, only the first ones are used.

    Returns:
        the choices, which are the `name` and the `values` of each attribute used, "not given" before them; and the
        means, [combinations, latent], the last attribute varying fastest.
    """
    device = next(guide.parameters()).device

    def means(used: list[Attribute]) -> Tensor:
        given = torch.tensor(list(itertools.product(*(range(-1, len(each.values)) for each in used))))
        values = F.pad(given, (0, len(attributes) - len(used)), value=-1).to(device)
        with eval_mode(guide):
            return guide.posterior(**one_hot_attributes(attributes, values)).mean.float().cpu()  # type: ignore[operator]

    used = list(attributes)
    latent_dim = means(used[:1]).shape[1]
    while math.prod(len(each.values) + 1 for each in used) * latent_dim > MOST_NUMBERS:
        used.pop()
    if not used:
        return [], torch.empty(0, latent_dim)
    return [{"name": each.name, "values": ["not given", *each.values]} for each in used], means(used)
