"""Objectives of a story with an image x and attributes y1, y2, ...: sums of bounds and divergences, each by its name.

What is missing is hidden: a bound of x alone is that of the story without its attributes, p(x | z) p(z). Where a guide
has a method `features(x)`, they are computed once for a batch, and its `posterior` and `forward` go on from them: all
passes over x are one, with the same dropout, and q(z | x, y) and q(z | x) differ by what is given alone.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_models.base.names import X_SITES
from pyro_models.objectives.estimators import Objective, Terms, kl_of, named
from pyro_models.objectives.handlers import CaptureSite, MaskMissing
from pyro_models.objectives.programs import Program

Posterior = Callable[..., TorchDistribution]
"""From some of the keyword arguments x, y1, y2, ... to q(z | these)."""

Attributes = dict[str, Tensor]
Choose = Callable[[Attributes], Attributes]
"""From attributes to those that a step looks at."""

Parts = dict[str, tuple[float, Objective, Attributes]]
"""By the names of their terms, the weight of a bound, its estimator, and what it is a bound of."""


def all_of(y: Attributes) -> Attributes:
    """Choose all attributes."""
    return y


def some_of(y: Attributes) -> Attributes:
    """Choose a random subset, not empty, of the attributes that each datum has; the others become NaN.

    All sizes of the subset are equally likely.

    Example:
        >>> import torch
        >>> y = {"y1": torch.ones(4, 1), "y2": torch.zeros(4, 3)}
        >>> chosen = some_of(y)
        >>> bool((chosen["y1"].isnan().all(-1) & chosen["y2"].isnan().all(-1)).any())
        False
    """
    known = torch.stack([~value.isnan().any(-1) for value in y.values()], dim=-1)
    ranks = torch.rand(known.shape, device=known.device).masked_fill(~known, 2.0).argsort(1).argsort(1)
    count = 1 + (torch.rand(len(known), device=known.device) * known.sum(1)).long()
    kept = ranks < count[:, None]
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

    Example:
        >>> from torch import nn
        >>> from pyro_models.guides.jmvae import JMVAEGuide
        >>> from pyro_models.distributions import bernoulli
        >>> from pyro_models.jmvae import JMVAE
        >>> from pyro_models.nn import Conditional
        >>> from pyro_models.objectives import mean_field
        >>> image = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(-1, (1, 2, 2)))
        >>> model = JMVAE(image, bernoulli, {"y1": nn.Linear(2, 3)}, 2)
        >>> encoder = Conditional(nn.Sequential(nn.Flatten(), nn.Linear(4, 8)), nn.Linear(3, 8), nn.Linear(8, 4))
        >>> guide = JMVAEGuide(encoder, {"y1": nn.Linear(3, 4)}, {"y1": 3})
        >>> batch = {"x": torch.rand(5, 1, 2, 2).bernoulli(), "y1": torch.eye(3)[[0, 1, 2, 0, 1]]}
        >>> jmvae(mean_field, guide.posterior, weight=5.0)(model, guide, **batch).weights
        {'elbo': -1.0, 'kl_given_x': 5.0, 'kl_given_y': 5.0}
        >>> telbo(mean_field, weight_y=2.0)(model, guide, **batch).weights
        {'elbo': -1.0, 'elbo_x': -1.0, 'elbo_y': -2.0}
    """

    def objective(model: Program, guide: Program, **batch: Tensor) -> Terms:
        x, y = _halves(batch)
        features = _features(guide, x["x"])
        with MaskMissing(), CaptureSite("z") as captured:
            terms = Terms(bound(model, partial(guide, **features), **batch))
        for name, given in (("kl_given_x", x | features), ("kl_given_y", choose(y))):
            terms = terms.plus(named(name, kl_of(captured.fn, posterior(**given)).mean()), weight)
        return terms

    return objective


def telbo(
    bound: Objective,
    *,
    bound_y: Objective | None = None,
    weight_x: float = 1.0,
    weight_y: float = 1.0,
    frozen: Collection[str] = (),
    choose: Choose = all_of,
) -> Objective:
    """The triple ELBO: -ELBO(x, y) - weight_x * ELBO(x) - weight_y * ELBO(y), nats per datum.

    Vedantam, Fischer, Huang and Murphy, Generative models of visually grounded imagination, 2018, equation 4. The
    terms are `elbo`, `elbo_x` and `elbo_y`.

    Args:
        bound: an estimator.
        bound_y: the estimator of ELBO(y), where that is another: there the paper weighs p(y | z) more.
        weight_x, weight_y: of the bounds of one modality; at 0 they are computed and train nothing.
        frozen: which bounds, of `elbo`, `elbo_x` and `elbo_y`, train the guide alone: the model is frozen in them.
        choose: which attributes ELBO(y) is of.
    """

    def parts(batch: Attributes) -> Parts:
        x, y = _halves(batch)
        return {"elbo_x": (weight_x, bound, x), "elbo_y": (weight_y, bound_y or bound, choose(y))}

    return _bounds(bound, parts, frozen)


def mvae(bound: Objective, *, choose: Choose = some_of) -> Objective:
    """The bounds of a guide that is a product: of all, of each site alone, and of some attributes without and with x.

    A sub-sampling after Wu and Goodman, Multimodal generative models for scalable weakly-supervised learning, 2018,
    equation 5, where each step draws some subsets of all modalities.
    """

    def parts(batch: Attributes) -> Parts:
        x, y = _halves(batch)
        alone: Parts = {f"elbo_{site}": (1.0, bound, {site: value}) for site, value in batch.items()}
        return alone | {"elbo_y": (1.0, bound, choose(y)), "elbo_some": (1.0, bound, x | choose(y))}

    return _bounds(bound, parts)


def _bounds(bound: Objective, parts: Callable[[Attributes], Parts], frozen: Collection[str] = ()) -> Objective:
    """Minus the bound of all, minus weight times that of each part of a batch; `frozen` ones train the guide alone."""

    def objective(model: Program, guide: Program, **batch: Tensor) -> Terms:
        module = _module(model) if frozen else nn.Module()
        story = module.forward if frozen else model  # calling a frozen module makes Pyro warn of it
        infer = partial(guide, **_features(guide, batch["x"]))
        with MaskMissing():
            with frozen_parameters(module) if "elbo" in frozen else nullcontext():
                terms = Terms(bound(story, infer, **batch))
            for name, (weight, estimator, given) in parts(batch).items():
                hidden = [site for site in batch if site not in given] + (X_SITES if "x" not in given else [])
                marginal = poutine.block(story, hide=hidden)
                fixed = frozen_parameters(module) if name in frozen else nullcontext()
                with fixed, torch.set_grad_enabled(weight != 0):
                    part = estimator(marginal, infer, **given)
                terms = terms.plus(part, weight, suffix=name.removeprefix("elbo"))
        return terms

    return objective


def _module(model: Program) -> nn.Module:
    """Return the module that `model` is, or is the `forward` of."""
    module = getattr(model, "__self__", model)
    if not isinstance(module, nn.Module) or model not in (module, module.forward):
        raise TypeError(f"a model that is frozen in some bounds must be an nn.Module, not {model!r}")
    return module


def _features(guide: Program, x: Tensor) -> dict[str, Tensor]:
    """What the guide, or the one that it is a method of, computes of x alone, as a keyword argument of its methods."""
    compute = getattr(getattr(guide, "__self__", guide), "features", lambda x: None)
    features = compute(x)
    return {} if features is None else {"features": features}


def masked(objective: Objective) -> Objective:
    """`objective` where missing attributes, which are NaN, do not count (see `MaskMissing`)."""

    def whole(model: Program, guide: Program, **batch: Tensor) -> dict[str, Tensor]:
        with MaskMissing():
            return objective(model, guide, **batch)

    return whole


@contextmanager
def frozen_parameters(module: nn.Module) -> Iterator[None]:
    """Freeze the parameters of a module for what is computed within; gradients flow through it to others."""
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
