"""Effect handlers: the programs stay as they are, and what inference makes of their sites changes.

How they compose. Pyro passes the message of a site from the innermost handler (entered last) to the outermost, draws if
nothing has set `done`, and passes it back from the outermost to the innermost. A handler that stands outside another
therefore sees what that wrote. Objectives nest them as `scaled(relaxed(estimator))`, with `Record` innermost.

    handler                reads                     writes
    Record                 everything, at the end    value, done: in the model, what the guide drew
    Enumerate              fn, done                  value (the support), done, infer["is_enumerated"]
    AtMean                 fn, done                  value (mean or mode), done
    CommonNoise            fn, done                  value, done
    Relax                  fn                        fn
    MaskMissing            observed value            value (NaN filled), mask (and-ed)
    ScaleSites             name                      scale (multiplied), infer["_beta"], infer["_scale"]
    FreeBits               name                      infer["_free"]
    FixLabels              fn, where observed        fn (its logits detached)
    Detach, DrawLeaves     value, after the draw     value

Scales and masks change neither each other nor the draw, so their order does not matter. A program's own scales and
masks (`poutine.scale`, a subsampled plate) are part of it: every term has them. Those of `ScaleSites` are the loss's
alone; `Site` keeps the two apart. Handlers of the draw exclude each other: the innermost sets `done`, and the others
pass. `Relax` changes the distribution alone: inside
`Enumerate` it leaves no support to enumerate, and outside it the site would be both, which is refused.

Refused, with a UserError that names the site, is what has no meaning as a bound: a scale inside the logsumexp of
importance weights (iwae, renyi, rws, dreg), a site that is relaxed in one of model and guide and exact in the other or
enumerated, a discrete draw without gradient in an estimator that needs one, and a guide whose sites are not the model's
latent ones. `PropagateMeans` and `CaptureSite` serve reports and terms; they keep what they see of the handlers inside
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro.distributions import Delta, Independent, Normal, OneHotCategorical, TorchDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions.transforms import identity_transform

from pyro_models.base.errors import UserError
from pyro_models.base.seeds import derived_seed
from pyro_models.distributions.columns import Incomplete, OneHotColumns
from pyro_models.distributions.relaxed import CachedExp, RelaxedOneHotCategorical

PARTICLES = "_particles"  # the name of the plate of particles
MANY = 4096  # values of all discrete sites together, above which they are not enumerated side by side


class Unenumerable(Exception):
    """Discrete sites cannot each take all values along a dimension of their own: they are too many, or in plates."""


@dataclass(frozen=True)
class Site:
    """One `pyro.sample` of a program that ran.

    Attributes:
        fn: the distribution, expanded over the plates around it.
        value: what was drawn from it, or observed.
        is_observed: which of the two.
        scale: what the program multiplies the log-density by (`poutine.scale`, a subsampled plate).
        mask: where the log-density counts (`poutine.mask`); None where it counts everywhere.
        is_enumerated: whether the value is the whole support, along a dimension of its own left of the plates.
        frames: the plates around it, the outermost first; those of particles are left out.
        beta: what the loss multiplies the log-density by (`ScaleSites`).
        is_auxiliary, is_deterministic: whether Pyro marks it as an auxiliary draw of a guide, or as a computed value.
        free: the nats below which the loss takes its mean divergence for constant (`FreeBits`).
    """

    fn: TorchDistribution
    value: Tensor
    is_observed: bool
    scale: Tensor | float
    mask: Tensor | bool | None
    is_enumerated: bool = False
    frames: tuple[CondIndepStackFrame, ...] = ()
    beta: float = 1.0
    is_auxiliary: bool = False
    is_deterministic: bool = False
    free: float = 0.0

    @cached_property
    def _log_prob(self) -> Tensor:  # computed once: some flows know the density of their last draw alone
        return scale_and_mask(self.fn.log_prob(self.value), mask=self.mask)

    def log_prob(self) -> Tensor:
        """Return the log-density with the mask and without a scale: one value for each element of the plates."""
        return self._log_prob

    def frame(self, plate: str) -> CondIndepStackFrame | None:
        """Return the frame of a plate around the site, None where it does not stand in it."""
        return next((frame for frame in self.frames if frame.name == plate), None)


class Record(Messenger):
    """Record the sample sites of a program, giving its latent ones values that another program drew.

    This is what `poutine.trace` and `poutine.replay` do together, less what no estimator here reads; a training step of
    a small net spends a tenth less time.

    Args:
        latents: by name, sites whose values the program's own latent sites take.
        subsamples: by name, the indices that its plates take.

    Attributes:
        sites: from the name of each site to what happened there, in order.
        subsamples: from the name of each plate to its indices.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> with AtMean(), Record() as recorded:
        ...     _ = pyro.sample("z", dist.Normal(2.0, 1.0))
        >>> round(recorded.sites["z"].log_prob().item(), 4)
        -0.9189
    """

    def __init__(self, latents: Mapping[str, Site] | None = None, subsamples: Mapping[str, Tensor] | None = None):
        super().__init__()
        self.latents = latents or {}
        self.subsamples = dict(subsamples or {})
        self.sites: dict[str, Site] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name in self.latents and not msg["is_observed"]:
            msg["value"] = self.latents[name].value
            msg["done"] = True
        elif name in self.subsamples and msg["value"] is None and site_is_subsample(msg):
            msg["value"] = self.subsamples[name]
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self.subsamples[msg["name"]] = msg["value"]
            return
        infer, frames = msg["infer"], msg["cond_indep_stack"]
        self.sites[msg["name"]] = Site(
            msg["fn"],
            msg["value"],
            msg["is_observed"],
            infer.get("_scale", msg["scale"]),
            msg["mask"],
            infer.get("is_enumerated", False),
            frames[1:] if frames and frames[0].name == PARTICLES else frames,
            infer.get("_beta", 1.0),
            infer.get("is_auxiliary", False),
            infer.get("_deterministic", False),
            infer.get("_free", 0.0),
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
            beta = self.scales[msg["name"]]
            msg["infer"].setdefault("_scale", msg["scale"])
            msg["infer"]["_beta"] = msg["infer"].get("_beta", 1.0) * beta
            msg["scale"] = msg["scale"] * beta


class FreeBits(Messenger):
    """Let the divergence of named latent sites cost nothing more below a number of nats (Kingma et al., 2016, IAF).

    Where the mean of KL(q || p) of a site over the batch is below its nats, the loss has these in its place, without a
    gradient: the guide may tell so much of a datum for free. No term but `loss` changes.
    """

    def __init__(self, nats: Mapping[str, float]):
        super().__init__()
        self.nats = nats

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.nats:
            msg["infer"]["_free"] = self.nats[msg["name"]]


class AtMean(Messenger):
    """Give each latent site the mean of its distribution, and a discrete one its mode, in place of a draw."""

    def _pyro_sample(self, msg: Any) -> None:
        if _is_open(msg):
            msg["value"] = msg["fn"].mode if msg["fn"].has_enumerate_support else msg["fn"].mean
            msg["done"] = True


class CommonNoise(Messenger):
    """Give each latent site a draw made of standard noise that is the same for all data of the innermost plate.

    Noise of K particles is drawn at once from a generator of its own, [K, *event] for each site, and the runs within
    take it in order. A datum's draws then depend on the datum, the seed and K alone: not on the data beside it, not on
    how many particles run side by side. Differences between data have less noise, their mean has more.

    Args:
        samples: K.
        seed: of the noise.
    """

    def __init__(self, samples: int, seed: int):
        super().__init__()
        self.samples = samples
        self.seed = seed
        self.used: dict[str, int] = {}
        self.noise: dict[str, Tensor] = {}

    def of(self, site: str, event: torch.Size) -> Tensor:
        """Return the standard Normal noise of a site: [K, *event], on the CPU."""
        if site not in self.noise:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, f"common noise {site}"))
            # of the values of single precision, so that it is the same under every default
            self.noise[site] = torch.randn(self.samples, *event, generator=generator, dtype=torch.float32)
        return self.noise[site].to(torch.get_default_dtype())

    def _pyro_sample(self, msg: Any) -> None:
        fn = base_of(msg["fn"])
        if not _is_open(msg) or isinstance(fn, Delta):
            return
        name, event = msg["name"], msg["fn"].event_shape
        rows = next((frame.size for frame in msg["cond_indep_stack"] if frame.name == PARTICLES), 1)
        first = self.used.get(name, 0)
        self.used[name] = first + rows
        noise = self.of(name, event)[first : first + rows]
        noise = noise[:, None] if rows > 1 else noise
        if isinstance(fn, Normal):
            msg["value"] = (fn.loc + fn.scale * noise.to(fn.loc.device)).expand(msg["fn"].shape())
        elif isinstance(fn, OneHotCategorical):
            gumbel = -(-torch.special.ndtr(noise.to(fn.logits.device)).log()).log()
            largest = (fn.logits + gumbel).argmax(-1)
            msg["value"] = torch.nn.functional.one_hot(largest, event[-1]).to(fn.logits)
        else:
            raise UserError(
                f"site {name!r} is a {type(fn).__name__}: noise is common to Normal and one-hot sites alone"
            )
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

    def __init__(self, temperature: float | Tensor):
        super().__init__()
        if not isinstance(temperature, Tensor) and not temperature > 0:
            raise ValueError(f"a temperature must be above 0, not {temperature}")
        self.temperature = temperature
        self.exps: dict[str, CachedExp] = {}  # by site: guide and model share the exact logarithm of a draw

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], OneHotCategorical) and not msg["is_observed"]:
            logits, exp = msg["fn"].logits, self.exps.setdefault(msg["name"], CachedExp())
            for dim in range(logits.ndim - 1):  # what a plate expanded stays so: terms see that all data have one prior
                logits = logits if logits.stride(dim) else logits.narrow(dim, 0, 1)
            temperature = torch.as_tensor(self.temperature).to(logits)
            relaxed = RelaxedOneHotCategorical(temperature, logits=logits, exp=exp)
            msg["fn"] = relaxed.expand(msg["fn"].batch_shape)


class Enumerate(Messenger):
    """Give each discrete latent site its whole support instead of a draw, along a new dimension left of all others.

    Args:
        nesting: the number of dimensions from the right that plates, and particles, may take.

    Raises:
        Unenumerable: the values of all sites together are more than 4,096.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> with Enumerate(), pyro.plate("data", 7):
        ...     y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3)))
        >>> list(y.shape)
        [3, 1, 3]
    """

    def __init__(self, nesting: int = 0):
        super().__init__()
        self.nesting = nesting

    def __enter__(self) -> "Enumerate":
        self.dimensions, self.values = self.nesting, 1
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if _is_open(msg) and msg["fn"].has_enumerate_support:
            expand = msg["infer"].get("expand", False)
            try:
                support = msg["fn"].enumerate_support(expand=expand)
            except NotImplementedError:  # as of a Binomial whose counts differ: it is drawn
                return
            self.values *= len(support)
            if self.values > MANY:
                raise Unenumerable(f"up to site {msg['name']!r}, discrete sites have {self.values} values together")
            inner = support.shape[1:] if expand else [1] * len(msg["fn"].batch_shape) + list(msg["fn"].event_shape)
            padding = max(self.dimensions, len(msg["fn"].batch_shape)) - len(msg["fn"].batch_shape)
            self.dimensions = 1 + max(self.dimensions, len(msg["fn"].batch_shape))
            msg["value"] = support.reshape(len(support), *[1] * padding, *inner)
            msg["infer"]["is_enumerated"] = True
            msg["done"] = True


class MaskMissing(Messenger):
    """Mask observed sites of one event dimension, as an attribute [size] is, where their value holds a NaN.

    Columns of a table, some of whose cells are missing, have distributions that leave out these cells alone.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> y = torch.tensor([[0.0, 1.0], [torch.nan, torch.nan]])
        >>> with MaskMissing(), Record() as recorded, pyro.plate("data", 2):
        ...     _ = pyro.sample("y", dist.OneHotCategorical(torch.ones(2)), obs=y)
        >>> [round(value, 4) for value in recorded.sites["y"].log_prob().tolist()]
        [-0.6931, 0.0]
    """

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] or len(msg["fn"].event_shape) != 1 or takes_missing(msg["fn"]):
            return
        known = ~msg["value"].isnan().any(-1, keepdim=True)
        filler = torch.eye(1, msg["value"].shape[-1]).to(msg["value"])  # any value of the support will do
        msg["value"] = msg["value"].where(known, filler)
        msg["mask"] = known[..., 0] if msg["mask"] is None else known[..., 0] & msg["mask"]


class FixLabels(Messenger):
    """Let no gradient flow into the prior of an observed category: labels are drawn as their owner chose to.

    Few labels, or as many of each class, say nothing of how frequent the classes are.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], OneHotCategorical) and msg["is_observed"]:
            msg["fn"] = OneHotCategorical(logits=msg["fn"].logits.detach())


class Detach(Messenger):
    """Let no gradient flow through what is drawn."""

    def _pyro_post_sample(self, msg: Any) -> None:
        exp = exp_of(msg["fn"])
        msg["value"] = exp(exp.inv(msg["value"]).detach())


class DrawLeaves(Messenger):
    """Cut the draws of a guide out of the graph, so that what follows depends on them as on parameters.

    Points (`Delta`) stay as they are: they are functions of parameters or of other draws. Of a relaxed site it is the
    logarithm of the draw that is cut out, which the density reads.

    Attributes:
        draws: the draws as the guide made them, differentiable by its parameters and by the leaves before.
        leaves: in their place, in the same order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Tensor] = []
        self.leaves: list[Tensor] = []
        self.values: dict[int, Tensor] = {}  # by identity: the model, which is given them, draws nothing

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or id(msg["value"]) in self.values:
            return
        if msg["value"].requires_grad and not is_point(msg["fn"]):
            exp = exp_of(msg["fn"])
            self.draws.append(exp.inv(msg["value"]))
            self.leaves.append(self.draws[-1].detach().requires_grad_())
            msg["value"] = exp(self.leaves[-1])
        self.values[id(msg["value"])] = msg["value"]


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
    """Keep the distributions of the first two latent sites of a name: the guide's, which runs before the model's.

    Attributes:
        fn: the guide's distribution; None before the site is met.
        prior: the model's; None where the model does not run, or observes the site.
    """

    def __init__(self, site: str):
        super().__init__()
        self.site = site
        self.fn: Any = None
        self.prior: Any = None

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] != self.site or msg["is_observed"]:
            return
        if self.fn is None:
            self.fn = msg["fn"]
        elif self.prior is None:
            self.prior = msg["fn"]


def takes_missing(fn: Any) -> bool:
    """Return whether a distribution leaves out what is missing (NaN) itself."""
    return isinstance(base_of(fn), Incomplete | OneHotColumns)


def base_of(fn: Any) -> Any:
    """Return the distribution of which some batch dimensions are made an event's by `to_event`; or itself."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def is_point(fn: Any) -> bool:
    """Return whether a distribution is a `Delta`, of some event dimensions or none."""
    return isinstance(base_of(fn), Delta)


def exp_of(fn: Any) -> Any:
    """Return the transform from what the density of a relaxed site reads, the log of a draw; else the identity."""
    return fn.exp if isinstance(fn, RelaxedOneHotCategorical) else identity_transform


def _is_open(msg: Any) -> bool:
    return not (msg["is_observed"] or msg["done"] or site_is_subsample(msg))
