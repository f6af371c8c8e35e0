"""Estimators of the evidence lower bound and of tighter bounds, with their parts named.

An objective takes a model, a guide and a batch (one keyword argument for each observed site) and returns
terms: scalar tensors in nats per datum, averaged over the batch. `loss` is what to minimise, and the only
one to differentiate. The others are its parts, each with its own sign, unscaled whatever beta is:

    reconstruction = E_q[log p(x | z)]          higher is better; with several observed sites also
                                                reconstruction_SITE for each
    kl             = E_q[log q(z | x) - log p(z)], and with several latent sites also kl_SITE for each
    elbo           = reconstruction - kl        a lower bound of log p(x), and itself where nothing is latent

Each estimator here needs every site inside one plate whose length is the batch. There it equals Pyro's own of the same
kind, where Pyro has it, value and gradient. It is written anew because it keeps the importance weights of each datum,
and names the terms in the same pass.

    >>> import torch, pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))  # the posterior
    >>> x = torch.tensor([-1.0, 0.0, 2.0])
    >>> round(dist.Normal(0.0, 2.0**0.5).log_prob(x).mean().item(), 4)  # log p(x), which the bound attains
    -1.6822
    >>> {name: round(term.item(), 4) for name, term in iwae(model, guide, particles=3, x=x).items() if "w" in name}
    {'iwae': -1.6822}
    >>> terms = scaled(trace, {"z": 4.0})(model, guide, x=x)  # beta = 4 in the loss; the other terms stay
    >>> round(terms["elbo"].item(), 4), terms.weights
    (-1.6822, {'elbo': -1.0})

Discrete sites: `enum` sums over them, `graph` and `rws` draw them, and the others take them under `relaxed` alone,
where every term is of the relaxed story, and no bound of the discrete one.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_models.distributions import RelaxedOneHotCategorical
from pyro_models.objectives.handlers import Detach, Enumerate, Relax, ScaleSites, Site, exp_of, record_pair

Model = Callable[..., Any]
"""A Pyro program, model or guide, that takes the batch as keyword arguments."""
Divergence = Callable[[Site, Site], Tensor]
"""From a site of the guide and that of the model to KL(q || p) for each datum, nats."""
Sites = Mapping[str, Site]


class Terms(dict[str, Tensor]):
    """The terms of an objective by name, `loss` among them, and the weights that make the loss of the others.

    Attributes:
        weights: such that loss = sum of weights[name] * terms[name] where no site is scaled; terms that are not in the
            sum have none. None where the loss is no such sum, or its weights are not known.

    Example:
        >>> terms = Terms({"loss": torch.tensor(3.0), "elbo": torch.tensor(-3.0)}, {"elbo": -1.0})
        >>> terms = terms.plus(named("penalty", torch.tensor(2.0)), weight=0.5)
        >>> terms["loss"].item(), terms.weights
        (4.0, {'elbo': -1.0, 'penalty': 0.5})
    """

    def __init__(self, terms: Mapping[str, Tensor], weights: Mapping[str, float] | None = None):
        super().__init__(terms)
        self.weights = getattr(terms, "weights", None) if weights is None else dict(weights)

    def plus(self, other: Mapping[str, Tensor], weight: float = 1.0, prefix: str = "", suffix: str = "") -> "Terms":
        """Return these terms with weight * the loss of others added, and the terms of which that is made.

        Args:
            other: the terms of another objective.
            weight: of its loss.
            prefix, suffix: of the names that the added terms get; they are those with a weight, and `elbo`.
        """
        ours, theirs = self.weights, getattr(other, "weights", None)
        names = {name: prefix + name + suffix for name in other if name == "elbo" or name in (theirs or ())}
        terms = self | {names[name]: other[name] for name in names} | {"loss": self["loss"] + weight * other["loss"]}
        if ours is None or theirs is None:
            return Terms(terms)
        return Terms(terms, ours | {names[name]: weight * theirs[name] for name in theirs if weight})


def named(name: str, value: Tensor) -> Terms:
    """Return an objective's one term, which is its loss."""
    return Terms({"loss": value, name: value.detach()}, {name: 1.0})


class Objective(Protocol):
    """From a model, a guide and a batch to named terms, in nats per datum."""

    def __call__(self, model: Model, guide: Model, **batch: Tensor) -> dict[str, Tensor]:
        """Return the terms, best as `Terms`; `loss` carries the gradient."""


@dataclass(frozen=True)
class Scheduled:
    """An objective that changes over a run: a falling temperature, a rising beta.

    Attributes:
        at: from the fraction of the run that is over, in [0, 1), to the objective of the step.

    Example:
        >>> warm_up = Scheduled(lambda progress: scaled(trace, {"z": min(1.0, 2 * progress)}))
        >>> warm_up.at(0.7) is trace
        True
    """

    at: Callable[[float], Objective]


def sampled_kl(q: Site, p: Site) -> Tensor:
    """Estimate KL(q || p) for each datum by the one draw that both sites share, nats."""
    return q.log_prob() - p.log_prob()


def analytic_kl(q: Site, p: Site) -> Tensor:
    """Return KL(q || p) for each datum, nats: in closed form where there is one, else sampled.

    Of relaxed sites it is the divergence of the exact categories that they relax.
    """
    exact: list[Any] = [getattr(site.fn, "discrete", site.fn) for site in (q, p)]
    try:
        return scale_and_mask(kl_divergence(*exact), mask=q.mask)
    except NotImplementedError:
        return sampled_kl(q, p)


def trace(
    model: Model, guide: Model, *, particles: int = 1, divergence: Divergence = sampled_kl, **batch: Tensor
) -> Terms:
    """The ELBO with every expectation estimated at `particles` draws from the guide.

    Kingma and Welling, 2014, equation 6 (estimator A); Pyro's `Trace_ELBO`.
    """
    return _means(_parts(*_draw(model, guide, batch, particles), divergence))


def mean_field(model: Model, guide: Model, *, particles: int = 1, **batch: Tensor) -> Terms:
    """The ELBO with closed-form divergences where they exist.

    Kingma and Welling, 2014, equation 7 (estimator B); Pyro's `TraceMeanField_ELBO`. As there, the guide's
    latents may depend on each other only as far as the model's do. With relaxed sites, whose divergence is the discrete
    one, the value bounds neither story; this is the loss of Jang et al. (2017), and `enum` is the bound.
    """
    return trace(model, guide, particles=particles, divergence=analytic_kl, **batch)


def iwae(model: Model, guide: Model, *, particles: int = 5, **batch: Tensor) -> Terms:
    """The importance-weighted bound, E[log mean_k w_k], as the term `iwae`.

    Burda, Grosse and Salakhutdinov, 2016, equation 8.

    Raises:
        ValueError: a site is scaled, and the result would bound nothing.
    """
    p, q = _draw(model, guide, batch, particles)
    return _weighted_bound("iwae", p, q, _log_weights(p, q, particles), alpha=0.0)


def renyi(model: Model, guide: Model, *, particles: int = 5, alpha: float = 0.5, **batch: Tensor) -> Terms:
    """The variational Renyi bound, log E[w^(1 - alpha)] / (1 - alpha), as the term `renyi`.

    Li and Turner, 2016, equation 7; Pyro's `RenyiELBO`. Alpha = 0 gives `iwae`; alpha = 1 is the ELBO, which
    `trace` gives.

    Raises:
        ValueError: alpha is 1, or a site is scaled.
    """
    if alpha == 1.0:
        raise ValueError("renyi: alpha = 1 is the ELBO itself; use trace")
    p, q = _draw(model, guide, batch, particles)
    return _weighted_bound("renyi", p, q, _log_weights(p, q, particles), alpha)


def graph(model: Model, guide: Model, *, particles: int = 1, **batch: Tensor) -> Terms:
    """The ELBO with drawn discrete sites, whose gradient is the score function's less a baseline.

    The baseline of a draw is the mean cost of the other particles of its datum (Kool, van Hoof and Welling, 2019), and
    with one particle that of the other data in the batch. Closed-form divergences; akin to Pyro's `TraceGraph_ELBO`.
    Where data see each other (batch norm in training) baseline and score are not independent: the gradient is biased.
    """
    p, q = _draw(model, guide, batch, particles, discrete=True)
    parts = _parts(p, q, analytic_kl)
    cost, among = parts["loss"].detach(), 0 if particles > 1 else -1
    baseline = (cost.sum(among, keepdim=True) - cost) / max(1, cost.shape[among] - 1)
    for site in q.values():
        if not site.fn.has_rsample:
            score = site.log_prob() * (cost - baseline)
            parts["loss"] = parts["loss"] + score - score.detach()
    return _means(parts)


def enum(
    model: Model, guide: Model, *, particles: int = 1, divergence: Divergence = analytic_kl, **batch: Tensor
) -> Terms:
    """The ELBO with an exact sum over each discrete site of the guide, and no noise from it.

    The model runs at every value: 10 values of y cost up to 10 times the decoder. Pyro's `TraceEnum_ELBO` where the
    guide is enumerated.
    """
    with Enumerate():
        return _means(_parts(*_draw(model, guide, batch, particles), divergence))


def rws(model: Model, guide: Model, *, particles: int = 5, **batch: Tensor) -> Terms:
    """Reweighted wake-sleep: the model climbs `iwae`, the guide nears the posterior as the weights show it.

    No draw is differentiated, so that discrete sites cost nothing extra. The guide's is the wake-phase update of
    Bornschein and Bengio, Reweighted wake-sleep, 2015, equation 9. Pyro's `ReweightedWakeSleep(insomnia=1)` does the
    same with one datum, and weights several as if they were one.

    Raises:
        ValueError: a site is scaled.
    """
    with Detach():
        p, q = _draw(model, guide, batch, particles, discrete=True)
    log_p, log_q = (_joint(sites).reshape(particles, -1) for sites in (p, q))
    log_weights = (log_p - log_q).detach()
    gradient = -(log_weights.softmax(0) * (log_p + log_q)).sum(0).mean()
    return _steered(gradient, _weighted_bound("iwae", p, q, log_weights, alpha=0.0))


def dreg(model: Model, guide: Model, *, particles: int = 5, **batch: Tensor) -> Terms:
    """The bound of `iwae` with the doubly reparameterised gradient for the guide.

    Its signal does not fade as particles grow (Tucker, Lawson, Gu and Maddison, 2019, equation 8). The guide runs
    twice: once to draw, and once to differentiate its density by the draws with its parameters fixed.

    Raises:
        ValueError: a site is scaled.
    """
    if not torch.is_grad_enabled():
        return iwae(model, guide, particles=particles, **batch)
    _, drawn = _draw(model, guide, batch, particles)
    leaves, fixed, moving = [], {}, []
    for name, site in drawn.items():
        exp = exp_of(site.fn)  # a relaxed draw is a function of its logarithm, which its density reads
        moving.append(exp.inv(site.value))
        leaves.append(moving[-1].detach().requires_grad_())
        fixed[name] = replace(site, value=exp(leaves[-1]))
    p, q = _draw(model, guide, batch, particles, latents=fixed)
    log_p, log_weights = _joint(p).reshape(particles, -1), _log_weights(p, q, particles)
    weights = log_weights.detach().softmax(0)
    slopes = torch.autograd.grad((weights.square() * log_weights).sum(0).mean(), leaves, retain_graph=True)
    gradient = -(weights * log_p).sum(0).mean()
    for slope, original in zip(slopes, moving, strict=True):
        gradient = gradient - (slope * original).sum()
    return _steered(gradient, _weighted_bound("iwae", p, q, log_weights.detach(), alpha=0.0))


ESTIMATORS: dict[str, Callable[..., Terms]] = {
    "trace": trace,
    "mean-field": mean_field,
    "graph": graph,
    "enum": enum,
    "iwae": iwae,
    "renyi": renyi,
    "rws": rws,
    "dreg": dreg,
}


def log_weights(model: Model, guide: Model, *, particles: int, hidden: Collection[str] = (), **batch: Tensor) -> Tensor:
    """Return log p(x, z) - log q(z | x) at draws from the guide: [particles, batch], nats.

    Over discrete sites it sums p(x, y, z_y) / q(z_y | x, y), which needs no draw that a sure q(y | x) never makes.
    The model draws its sites that are `hidden`, and their densities do not count.

    Raises:
        ValueError: a site is scaled (beta, a subsampled plate): inside a logsumexp that bounds nothing.
    """
    with Enumerate():
        p, q = _draw(model, guide, batch, particles, hidden=hidden)
    drawn = {name: site for name, site in q.items() if not site.is_enumerated}
    return _log_weights(p, drawn, particles, enumerated=len(q) - len(drawn))


def elbos(model: Model, guide: Model, *, particles: int, hidden: Collection[str] = (), **batch: Tensor) -> Tensor:
    """Return the ELBO of each datum at draws from the guide: [particles, batch], nats.

    Discrete sites are summed over, and divergences are in closed form where there is one, as in `enum`. The model draws
    its sites that are `hidden`, and their densities do not count.
    """
    with Enumerate():
        p, q = _draw(model, guide, batch, particles, hidden=hidden)
    return _parts(p, q, analytic_kl)["elbo"].reshape(particles, -1)


def scaled(objective: Objective, scales: Mapping[str, float]) -> Objective:
    """`objective` with the log-densities of the named sites scaled; itself where every scale is 1.

    Only `loss` is scaled: `elbo`, `reconstruction` and `kl` keep their meaning.
    """
    scales = {site: scale for site, scale in scales.items() if scale != 1.0}
    if not scales:
        return objective

    def with_scales(model: Model, guide: Model, **batch: Tensor) -> dict[str, Tensor]:
        with ScaleSites(scales):
            return objective(model, guide, **batch)

    return with_scales


def relaxed(objective: Objective, temperature: float) -> Objective:
    """`objective` with each one-hot category that is sampled relaxed at `temperature` (see `Relax`)."""

    def soft(model: Model, guide: Model, **batch: Tensor) -> dict[str, Tensor]:
        with Relax(temperature):
            return objective(model, guide, **batch)

    return soft


def _draw(
    model: Model,
    guide: Model,
    batch: dict[str, Tensor],
    particles: int,
    *,
    discrete: bool = False,
    latents: Sites | None = None,
    hidden: Collection[str] = (),
) -> tuple[Sites, Sites]:
    """Record the pair, in a plate of particles where there are several: batch shapes [batch] or [particles, batch].

    Args:
        discrete: whether the guide may draw what it does not reparameterise.
        latents: what the guide is to draw, where that is known.
        hidden: sites of the model that are not recorded.
    """
    if particles > 1:
        repeat = pyro.plate("particles", particles, dim=-2)
        model, guide = repeat(model), repeat(guide)
    if hidden:
        model = poutine.block(model, hide=list(hidden))  # outside the plate, so that each particle has its own draw
    p, q = record_pair(model, guide, latents=latents, **batch)
    plates = 2 if particles > 1 else 1
    shape = next(iter(p.values())).fn.batch_shape[-plates:]
    for name, site in p.items():
        if site.fn.batch_shape[-plates:] != shape or len(shape) < plates:
            raise ValueError(f"site {name!r} stands outside the plate of the data: these estimators are per datum")
        if name in q and q[name].scale is not site.scale and q[name].scale != site.scale:
            raise ValueError(f"site {name!r} is scaled by {site.scale} in the model and {q[name].scale} in the guide")
        if name not in q:
            continue
        guided = q[name]
        if not (discrete or guided.fn.has_rsample or guided.is_enumerated or not torch.is_grad_enabled()):
            raise ValueError(
                f"site {name!r} is not reparameterised: this estimator has no gradient for it; relax it, or use graph, "
                "enum or rws"
            )
        soft = [isinstance(half.fn, RelaxedOneHotCategorical) for half in (site, guided)]
        if soft[0] != soft[1] or (soft[0] and guided.is_enumerated):
            raise ValueError(f"site {name!r} is relaxed in one of model and guide, exact in the other: no bound")
    return p, q


def _parts(p: Sites, q: Sites, divergence: Divergence) -> dict[str, Tensor]:
    """The terms, and the loss, of each draw."""
    reconstruction = kl = loss = torch.zeros(())
    each: dict[str, Tensor] = {}
    observed: dict[str, Tensor] = {}
    for name, site in p.items():
        if site.is_observed:
            cost = _expected(-site.log_prob(), q)
            observed[f"reconstruction_{name}"] = -cost
            reconstruction = reconstruction - cost
        else:
            cost = each[f"kl_{name}"] = _expected(divergence(q[name], site), q)
            kl = kl + cost
        loss = loss + site.scale * cost
    terms = {"loss": loss, "elbo": reconstruction - kl}
    if each:
        terms |= {"reconstruction": reconstruction, "kl": kl}
    for several in (observed, each):
        if len(several) > 1:
            terms |= several
    return terms


def _expected(cost: Tensor, q: Sites) -> Tensor:
    """Average over the values of the enumerated sites, each with its probability; other costs stay as they are."""
    enumerated = [site.log_prob() for site in q.values() if site.is_enumerated]
    if not enumerated:
        return cost
    weighted = sum(enumerated[1:], enumerated[0]).exp() * cost
    return weighted.sum(tuple(range(len(enumerated))))


def _means(parts: Mapping[str, Tensor]) -> Terms:
    means = {name: part.mean() if name == "loss" else part.detach().mean() for name, part in parts.items()}
    return Terms(means, {"elbo": -1.0})


def _joint(sites: Sites) -> Tensor:
    """Return the log-density of all sites together, unless one is scaled."""
    total = torch.zeros(())
    for name, site in sites.items():
        if not isinstance(site.scale, float) or site.scale != 1.0:
            raise ValueError(f"site {name!r} is scaled by {site.scale}: its importance weights bound nothing")
        total = total + site.log_prob()
    return total


def _log_weights(p: Sites, q: Sites, particles: int, enumerated: int = 0) -> Tensor:
    log_weights = _joint(p) - _joint(q)
    if enumerated:
        log_weights = log_weights.logsumexp(tuple(range(enumerated)))
    return log_weights.reshape(particles, -1)


def _weighted_bound(name: str, p: Sites, q: Sites, log_weights: Tensor, alpha: float) -> Terms:
    power = (1.0 - alpha) * log_weights
    bound = ((power.logsumexp(0) - math.log(len(power))) / (1.0 - alpha)).mean()
    return Terms(_means(_parts(p, q, sampled_kl)) | {"loss": -bound, name: bound.detach()}, {name: -1.0})


def _steered(gradient: Tensor, terms: Terms) -> Terms:
    """The terms, with the gradient of another loss and the value of their own."""
    return Terms(terms | {"loss": terms["loss"].detach() + gradient - gradient.detach()}, terms.weights)
