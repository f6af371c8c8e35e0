"""Effect handlers: the programs stay as they are, and what inference makes of their sites changes.

How they compose. Pyro passes the message of a site from the innermost handler (entered last) to the outermost, draws if
nothing has set `done`, and passes it back from the outermost to the innermost. A handler that stands outside another
therefore sees what that wrote. Objectives nest them as `scaled(relaxed(estimator))`, with `Record` innermost.

    handler                reads                     writes
    Record                 everything, at the end    value, done: in the model, what the guide drew
    Enumerate              fn, done                  value (the support), done, infer["is_enumerated"]
    AtMean                 fn, done                  value (mean or mode), done
    Relax                  fn                        fn
    MaskMissing            observed value            value (NaN filled), mask (and-ed)
    ScaleSites             name                      scale (multiplied)
    Detach                 value, after the draw     value

Scales and masks change neither each other nor the draw, so their order does not matter. `Site.log_prob` applies the
mask, the loss of an estimator the scale: the terms beside the loss are masked and never scaled. Handlers of the draw
exclude each other: the innermost sets `done`, and the others pass. `Relax` changes the distribution alone: inside
`Enumerate` it leaves no support to enumerate, and outside it the site would be both, which is refused.

Refused, with a ValueError that names the site, is what has no meaning as a bound: a scale inside the logsumexp of
importance weights (iwae, renyi, rws, dreg), different scales in model and guide, a site that is relaxed in one of them
and exact in the other or enumerated, a discrete draw without gradient in an estimator that needs one, and a guide whose
sites are not the model's latent ones. `PropagateMeans` and `CaptureSite` serve reports and
terms; they keep what they see of the handlers inside them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import OneHotCategorical, TorchDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions.transforms import identity_transform

from pyro_models.distributions.relaxed import CachedExp, RelaxedOneHotCategorical


@dataclass(frozen=True, slots=True)
class Site:
    """One `pyro.sample` of a program that ran.

    Attributes:
        fn: the distribution, expanded over the plates around it.
        value: what was drawn from it, or observed.
        is_observed: which of the two.
        scale: what multiplies the log-density (`poutine.scale`, a subsampled plate, `ScaleSites`).
        mask: where the log-density counts (`poutine.mask`); None where it counts everywhere.
        is_enumerated: whether the value is the whole support, along a dimension of its own left of the plates.
    """

    fn: TorchDistribution
    value: Tensor
    is_observed: bool
    scale: Tensor | float
    mask: Tensor | bool | None
    is_enumerated: bool = False

    def log_prob(self) -> Tensor:
        """Return the log-density with the mask and without the scale: one value for each datum of the plates."""
        return scale_and_mask(self.fn.log_prob(self.value), mask=self.mask)


class Record(Messenger):
    """Record the sample sites of a program, giving its latent ones values that another program drew.

    This is what `poutine.trace` and `poutine.replay` do together, less what no estimator here reads; a training step of
    a small net spends a tenth less time.

    Attributes:
        sites: from the name of each site to what happened there, in order.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> with AtMean(), Record() as recorded:
        ...     _ = pyro.sample("z", dist.Normal(2.0, 1.0))
        >>> round(recorded.sites["z"].log_prob().item(), 4)
        -0.9189
    """

    def __init__(self, latents: Mapping[str, Site] | None = None):
        super().__init__()
        self.latents = latents or {}
        self.sites: dict[str, Site] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.latents and not msg["is_observed"]:
            msg["value"] = self.latents[msg["name"]].value
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self.sites[msg["name"]] = Site(
                msg["fn"],
                msg["value"],
                msg["is_observed"],
                msg["scale"],
                msg["mask"],
                msg["infer"].get("is_enumerated", False),
            )


class ScaleSites(Messenger):
    """Multiply the log-density of named sample sites, in the model and in the guide alike.

    With `ScaleSites({"z": beta})` around both, the ELBO becomes reconstruction - beta * kl (Higgins et al.,
    beta-VAE, 2017, equation 4).
    """

    def __init__(self, scales: Mapping[str, float]):
        super().__init__()
        self.scales = scales

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.scales:
            msg["scale"] = msg["scale"] * self.scales[msg["name"]]


class AtMean(Messenger):
    """Give each latent site the mean of its distribution, and a discrete one its mode, in place of a draw."""

    def _pyro_sample(self, msg: Any) -> None:
        if _is_open(msg):
            msg["value"] = msg["fn"].mode if msg["fn"].has_enumerate_support else msg["fn"].mean
            msg["done"] = True


class Relax(Messenger):
    """Relax the one-hot categories that are sampled; those that are observed stay exact.

    The pair becomes another one, whose discrete sites have densities on the simplex (Maddison et al., 2017; Jang et
    al., 2017), through which gradients flow. Guide and model must run under one instance: by the name of a site it
    holds the transform from which both take the exact logarithm of the draw.

    Args:
        temperature: above 0; towards 0 the draws become one-hot and their gradients noisy.

    Raises:
        ValueError: the temperature is not above 0.
    """

    def __init__(self, temperature: float):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"a temperature must be above 0, not {temperature}")
        self.temperature = temperature
        self.exps: dict[str, CachedExp] = {}  # by site: guide and model share the exact logarithm of a draw

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], OneHotCategorical) and not msg["is_observed"]:
            logits, exp = msg["fn"].logits, self.exps.setdefault(msg["name"], CachedExp())
            msg["fn"] = RelaxedOneHotCategorical(logits.new_full((), self.temperature), logits=logits, exp=exp)


class Enumerate(Messenger):
    """Give each discrete latent site its whole support instead of a draw, along a new dimension left of all others.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> with Enumerate(), pyro.plate("data", 7):
        ...     y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3)))
        >>> list(y.shape)
        [3, 1, 3]
    """

    def __enter__(self) -> "Enumerate":
        self.dimensions = 0
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if _is_open(msg) and msg["fn"].has_enumerate_support:
            support = msg["fn"].enumerate_support(expand=False)
            self.dimensions = 1 + max(self.dimensions, len(msg["fn"].batch_shape))
            msg["value"] = support.reshape(len(support), *[1] * (self.dimensions - 1), *msg["fn"].event_shape)
            msg["infer"]["is_enumerated"] = True
            msg["done"] = True


class MaskMissing(Messenger):
    """Mask observed sites of one event dimension, as an attribute [size] is, where their value holds a NaN.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> y = torch.tensor([[0.0, 1.0], [torch.nan, torch.nan]])
        >>> with MaskMissing(), Record() as recorded, pyro.plate("data", 2):
        ...     _ = pyro.sample("y", dist.OneHotCategorical(torch.ones(2)), obs=y)
        >>> [round(value, 4) for value in recorded.sites["y"].log_prob().tolist()]
        [-0.6931, 0.0]
    """

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] or len(msg["fn"].event_shape) != 1:
            return
        known = ~msg["value"].isnan().any(-1, keepdim=True)
        filler = torch.eye(1, msg["value"].shape[-1]).to(msg["value"])  # any value of the support will do
        msg["value"] = msg["value"].where(known, filler)
        msg["mask"] = known[..., 0] if msg["mask"] is None else known[..., 0] & msg["mask"]


class Detach(Messenger):
    """Let no gradient flow through what is drawn."""

    def _pyro_post_sample(self, msg: Any) -> None:
        exp = exp_of(msg["fn"])
        msg["value"] = exp(exp.inv(msg["value"]).detach())


class PropagateMeans(Messenger):
    """Give each site that is not known the mean of its distribution in place of a draw, and keep the means.

    Args:
        known: the values of the others.

    Attributes:
        means: the mean of each site, [*batch, *event], known or not.
    """

    def __init__(self, known: Mapping[str, Tensor]):
        super().__init__()
        self.known = known
        self.means: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self.means[msg["name"]] = msg["fn"].mean
            msg["value"] = self.known.get(msg["name"], msg["fn"].mean)
            msg["done"] = True


class CaptureSite(Messenger):
    """Keep the distribution of the first latent site of a name: the guide's, which runs before the model.

    Attributes:
        fn: the distribution; None before the site is met.
    """

    def __init__(self, site: str):
        super().__init__()
        self.site = site
        self.fn: Any = None

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == self.site and self.fn is None and not msg["is_observed"]:
            self.fn = msg["fn"]


def exp_of(fn: Any) -> Any:
    """Return the transform from what the density of a relaxed site reads, the log of a draw; else the identity."""
    return fn.exp if isinstance(fn, RelaxedOneHotCategorical) else identity_transform


def _is_open(msg: Any) -> bool:
    return not (msg["is_observed"] or msg["done"] or site_is_subsample(msg))


def record_pair(
    model: Callable[..., Any], guide: Callable[..., Any], *, latents: Mapping[str, Site] | None = None, **batch: Tensor
) -> tuple[dict[str, Site], dict[str, Site]]:
    """Run the guide, then the model at what the guide drew: the sites of the model, and of the guide.

    Args:
        model, guide: the pair.
        latents: what the guide is to draw; None lets it draw.
        batch: what both are called with.

    Raises:
        ValueError: the guide's sites are not the model's latent ones.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model(x):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     pyro.sample("z", dist.Normal(x / 2, 0.5))
        >>> p, q = record_pair(model, guide, x=torch.tensor(1.0))
        >>> list(p), list(q), bool(p["z"].value == q["z"].value)
        (['z', 'x'], ['z'], True)
    """
    with Record(latents) as q:
        guide(**batch)
    with Record(latents=q.sites) as p:
        model(**batch)
    latent = {name for name, site in p.sites.items() if not site.is_observed}
    if latent != q.sites.keys():
        raise ValueError(f"the model's latent sites are {sorted(latent)}, the guide's are {sorted(q.sites)}")
    return p.sites, q.sites
