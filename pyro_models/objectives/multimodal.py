"""Objectives of a story with an image x and attributes y1, y2, ...: sums of bounds and divergences, each by its name.

What is missing is hidden: a bound of x alone is that of the story without its attributes, p(x | z) p(z). A site left
unobserved instead would be drawn from the guide's codes, and its log-density would be added for nothing.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_models.objectives.adversarial import module_of
from pyro_models.objectives.estimators import Model, Objective, Terms
from pyro_models.objectives.handlers import MaskMissing
from pyro_models.objectives.terms import Watch

Posterior = Callable[..., TorchDistribution]
"""From some of the keyword arguments x, y1, y2, ... to q(z | these)."""

Attributes = dict[str, Tensor]
Choose = Callable[[Attributes], Attributes]
"""From attributes to those that a step looks at."""


def all_of(y: Attributes) -> Attributes:
    """Choose all attributes."""
    return y


def some_of(y: Attributes) -> Attributes:
    """Choose some attributes of each datum, one at least; the others become NaN, which bounds need `masked` for.

    Every number of them is as likely.
    """
    first = next(iter(y.values()))
    ranks = torch.rand(len(first), len(y), device=first.device).argsort(1).argsort(1)
    kept = ranks < torch.randint(1, len(y) + 1, (len(first), 1), device=first.device)
    return {site: value.where(kept[:, [i]], torch.nan) for i, (site, value) in enumerate(y.items())}


def jmvae(bound: Objective, posterior: Posterior, *, weight: float = 1.0, choose: Choose = all_of) -> Objective:
    """-ELBO(x, y) + weight * (KL(q(z | x, y) || q(z | x)) + KL(q(z | x, y) || q(z | y))), nats per datum.

    Suzuki, Nakayama and Matsuo, Joint multimodal learning with deep generative models, 2016, equation 4, where the
    weight is alpha. The divergences are the terms `kl_given_x` and `kl_given_y`; they train the guide alone, and
    `elbo` stays the bound of log p(x, y).

    Args:
        bound: an estimator.
        posterior: the guide's.
        weight: of the divergences.
        choose: which attributes q(z | y) is given.
    """

    def objective(model: Model, guide: Model, **batch: Tensor) -> Terms:
        with Watch("z") as watch:
            terms = bound(model, guide, **batch)
        x, y = _halves(batch)
        for name, given in (("kl_given_x", x), ("kl_given_y", choose(y))):
            value = kl_divergence(watch.fn, posterior(**given)).mean()
            terms |= {"loss": terms["loss"] + weight * value, name: value.detach()}
        return terms

    return objective


def telbo(
    bound: Objective,
    *,
    bound_y: Objective | None = None,
    weight_x: float = 1.0,
    weight_y: float = 1.0,
    still: Collection[str] = (),
    choose: Choose = all_of,
) -> Objective:
    """The triple ELBO: -ELBO(x, y) - weight_x * ELBO(x) - weight_y * ELBO(y), nats per datum.

    Vedantam, Fischer, Huang and Murphy, Generative models of visually grounded imagination, 2018, equation 4. The
    terms are `elbo`, `elbo_x` and `elbo_y`.

    Args:
        bound: an estimator.
        bound_y: the estimator of ELBO(y), where that is another: there the paper weighs p(y | z) more.
        weight_x, weight_y: of the bounds of one modality.
        still: which bounds, of `elbo`, `elbo_x` and `elbo_y`, leave the story as it is and train the guide alone.
        choose: which attributes ELBO(y) is of.
    """

    def parts(batch: Attributes) -> dict[str, tuple[float, Attributes]]:
        x, y = _halves(batch)
        return {"elbo_x": (weight_x, x), "elbo_y": (weight_y, choose(y))}

    return _bounds(bound, parts, still, {"elbo_y": bound_y or bound})


def mvae(bound: Objective, *, choose: Choose = some_of) -> Objective:
    """The sub-sampled bounds of a guide that is a product: of all, of each site alone, and of some at random.

    Wu and Goodman, Multimodal generative models for scalable weakly-supervised learning, 2018, equation 5.
    """

    def parts(batch: Attributes) -> dict[str, tuple[float, Attributes]]:
        x, y = _halves(batch)
        alone = {f"elbo_{site}": (1.0, {site: value}) for site, value in batch.items()}
        return alone | {"elbo_some": (1.0, x | choose(y))}

    return _bounds(bound, parts)


def _bounds(
    bound: Objective,
    parts: Callable[[Attributes], dict[str, tuple[float, Attributes]]],
    still: Collection[str] = (),
    others: Mapping[str, Objective] | None = None,
) -> Objective:
    """Minus the bound of all, and minus weight times the bound of each part of a batch.

    Args:
        bound: an estimator.
        parts: from a batch to the weight and the given of each part, by the names of their terms.
        still: which spare the story.
        others: estimators of parts that have one of their own.
    """

    def objective(model: Model, guide: Model, **batch: Tensor) -> Terms:
        story = module_of(model).forward if still else model  # calling a frozen module makes Pyro warn of it
        with frozen(module_of(model)) if "elbo" in still else nullcontext():
            terms = bound(story, guide, **batch)
        for name, (weight, given) in parts(batch).items():
            seen = poutine.block(story, hide=[site for site in batch if site not in given])
            with frozen(module_of(model)) if name in still else nullcontext():
                part = (others or {}).get(name, bound)(seen, guide, **given)
            terms |= {"loss": terms["loss"] + weight * part["loss"], name: part["elbo"]}
        return terms

    return objective


def masked(objective: Objective) -> Objective:
    """`objective` where missing attributes, which are NaN, do not count (see `MaskMissing`)."""

    def whole(model: Model, guide: Model, **batch: Tensor) -> Terms:
        with MaskMissing():
            return objective(model, guide, **batch)

    return whole


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let nothing computed meanwhile train the module's parameters; gradients flow through it."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_()


def _halves(batch: Mapping[str, Tensor]) -> tuple[Attributes, Attributes]:
    """What is given of x, and of the attributes."""
    return {"x": batch["x"]}, {site: value for site, value in batch.items() if site != "x"}
