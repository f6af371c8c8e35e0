"""A few labels, as if the others were not known."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_models.base.errors import UserError
from pyro_models.base.seeds import derived_seed
from pyro_models.data.datasets import Split, split_by_sklearn


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Encode labels 0 to classes - 1, [n], as one-hot rows of floats, [n, classes].

    >>> one_hot(torch.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    return F.one_hot(labels, classes).to(torch.get_default_dtype())


def check_labels(split: Split, kinds: int) -> Tensor:
    """Return the labels of a split.

    Raises:
        UserError: there are none, or one is not among 0 to kinds - 1.
    """
    if split.labels is None:
        raise UserError("--labels: the data have none")
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= kinds:
        raise UserError(f"--labels: the data are labelled {low} to {high}, --kinds {kinds} wants 0 to {kinds - 1}")
    return split.labels


def draw_labels(
    split: Split, count: int, kinds: int, *, seed: int, how: Literal["stratified", "random", "article"] = "stratified"
) -> tuple[Split, Split]:
    """Draw the data of a split whose labels are seen.

    Args:
        split: where from.
        count: how many.
        kinds: the labels are 0 to kinds - 1.
        seed: of the draw.
        how: `stratified`, each label as often as the others or one time more or less; `random`; or `article`, at
            random by scikit-learn's `train_test_split`, as the article on virtual adversarial training draws them.

    Returns:
        the `count` data, and the others in a random order, whatever their labels.

    Raises:
        UserError: there are no labels or too few of them; one lies outside; fewer are wanted than there are kinds.
    """
    all_labels = check_labels(split, kinds)
    if count < kinds:
        raise UserError(f"--labels {count} is fewer than --kinds {kinds}: at least one for each")
    if count > len(split):
        raise UserError(f"--labels {count} is more than the {len(split)} training data")
    if how == "article":
        order = torch.cat(split_by_sklearn(len(split), count, seed))
    else:
        generator = torch.Generator().manual_seed(derived_seed(seed, "labels"))
        order = torch.randperm(len(split), generator=generator)
    if how == "stratified":
        labels = all_labels.cpu()[order]
        rank = torch.stack([(labels == kind).cumsum(0) for kind in range(kinds)]).gather(0, labels[None])[0]
        seen = torch.zeros(len(order), dtype=torch.bool)
        seen[rank.argsort(stable=True)[:count]] = True  # the first of each kind, then the second of each, ...
        others = order[~seen]  # whose start lacks what `seen` took, hence in another order
        order = torch.cat([order[seen], others[torch.randperm(len(others), generator=generator)]])
    order = order.to(all_labels.device)
    return split[order[:count]], split[order[count:]]
