"""Estimators of the evidence lower bound and of tighter bounds, with their parts named.

An objective takes a model, a guide and a batch (one keyword argument for each observed site) and returns
terms: scalar tensors in nats per datum, averaged over the batch. `loss` is what to minimise, and the only
one to differentiate. The others are its parts, each with its own sign, unscaled whatever beta is:

    reconstruction = E_q[log p(x | z)]          higher is better; with several observed sites also
                                                reconstruction_SITE for each
    kl             = E_q[log q(z | x) - log p(z)], and with several latent sites also kl_SITE for each
    elbo           = reconstruction - kl        a lower bound of log p(x), and itself where nothing is latent

A pair is any two Pyro programs, with any arguments. Where one plate is common to all their sites, it is taken for
that of the data: the values are Pyro's, value and gradient, divided by the number of data, and the weighted bounds are
per datum. Where there is none, as with a latent that all data share, the values are of the whole, and the weighted
bounds are of the joint density. `Terms.data` says which: the number of data, or 1.

What is added to Pyro's estimators are the names of the terms, importance weights for each datum, and care: closed-form
divergences are left for draws where they would not be part of the bound, and what bounds nothing is refused.

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

Sites without reparameterisation, such as discrete ones: `enum` sums over them where they have finite support; `trace`,
`graph` and `rws` draw them; the others take them under `relaxed` alone, where every term is of the relaxed story, and
no bound of the discrete one.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from pyro.distributions import ExpandedDistribution, Independent, MaskedDistribution, Normal, Uniform, Unit
from pyro.distributions.distribution import Distribution
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_models.base.errors import UserError, first_line
from pyro_models.distributions import ProductOfNormals, RelaxedOneHotCategorical
from pyro_models.objectives.draws import OUTSIDE, Draw, Sites, draw, sum_plates
from pyro_models.objectives.exact import enumerated_elbo, summed_log_weights
from pyro_models.objectives.handlers import (
    Detach,
    DrawLeaves,
    FreeBits,
    Relax,
    ScaleSites,
    Site,
    Unenumerable,
    base_of,
    is_point,
)
from pyro_models.objectives.programs import Program

NORMALS = torch.distributions.Normal, Normal, ProductOfNormals  # whose divergence is that of their loc and scale
Divergence = Callable[[Site, Site], Tensor]
"""From a site of the guide and that of the model to KL(q || p), scaled and masked, for each element of their plates."""


class Terms(dict[str, Tensor]):
    """The terms of an objective by name, `loss` among them, and the weights that make the loss of the others.

    Attributes:
        weights: such that loss = sum of weights[name] * terms[name] where no site is scaled; terms that are not in the
            sum have none. None where the loss is no such sum, or its weights are not known.
        data: the number of data that the values are a mean over; 1 where they are of the whole.

    Example:
        >>> terms = Terms({"loss": torch.tensor(3.0), "elbo": torch.tensor(-3.0)}, {"elbo": -1.0})
        >>> terms = terms.plus(named("penalty", torch.tensor(2.0)), weight=0.5)
        >>> terms["loss"].item(), terms.weights
        (4.0, {'elbo': -1.0, 'penalty': 0.5})
    """

    def __init__(
        self, terms: Mapping[str, Tensor], weights: Mapping[str, float] | None = None, data: int | None = None
    ):
        super().__init__(terms)
        self.weights = getattr(terms, "weights", None) if weights is None else dict(weights)
        self.data: int | None = getattr(terms, "data", None) if data is None else data

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
        data = self.data or getattr(other, "data", None)
        if ours is None or theirs is None:
            return Terms(terms, None, data)
        left_out = isinstance(weight, (int, float)) and not weight  # it is a stand-in where a step is made a graph
        return Terms(terms, ours | {names[name]: weight * theirs[name] for name in theirs if not left_out}, data)


def named(name: str, value: Tensor) -> Terms:
    """Return an objective's one term, which is its loss."""
    return Terms({"loss": value, name: value.detach()}, {name: 1.0})


class Objective(Protocol):
    """From a pair and what it is called with to named terms, in nats per datum."""

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
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


def kl_of(q: Any, p: Any) -> Tensor:
    """Return KL(q || p) of two distributions, [*batch], nats, where torch has a formula for it.

    That of Normals takes the logarithm of the ratio of their scales, torch's of its square, whose gradient is infinite
    from a ratio of 1e-19 on in single precision, where ours is from 1e-38 on: the scale that q(z | x) has for one
    outlier of the data would make all weights NaN.

    Raises:
        NotImplementedError: torch has none.

    >>> log_scale = torch.tensor(-60.0, requires_grad=True)
    >>> kl_of(Normal(0.0, log_scale.exp()), Normal(0.0, 1.0)).backward()
    >>> log_scale.grad  # of exp(2 log_scale) / 2 - log_scale
    tensor(-1.)
    """
    if isinstance(q, Independent) and isinstance(p, Independent):
        shared = min(q.reinterpreted_batch_ndims, p.reinterpreted_batch_ndims)
        left = [each.reinterpreted_batch_ndims - shared for each in (q, p)]
        q, p = (Independent(each.base_dist, n) if n else each.base_dist for each, n in zip((q, p), left, strict=True))
        return sum_rightmost(kl_of(q, p), shared)
    if type(q) in NORMALS and type(p) in NORMALS:
        ratio = q.scale / p.scale
        return 0.5 * (ratio.square() + ((q.loc - p.loc) / p.scale).square() - 1.0) - ratio.log()
    return kl_divergence(q, p)


def sampled_kl(q: Site, p: Site) -> Tensor:
    """Estimate KL(q || p) by the one draw that both sites share, nats."""
    return _cost(q) - _times(p.log_prob(), p.scale)


def analytic_kl(q: Site, p: Site) -> Tensor:
    """Return KL(q || p), nats: in closed form where there is one, else sampled.

    Of relaxed sites it is the divergence of the exact categories that they relax. Of a point (`Delta`) it is sampled:
    Pyro's formula leaves out the log-density that a guide may give it, as those do which transform an auxiliary draw.
    """
    if is_point(q.fn):
        return sampled_kl(q, p)
    exact: list[Any] = [getattr(site.fn, "discrete", site.fn) for site in (q, p)]
    try:
        kl = scale_and_mask(kl_of(*exact), mask=q.mask)
    except NotImplementedError:
        return sampled_kl(q, p)
    return _times(kl, q.scale)


def finite_kl(q: Site, p: Site) -> Tensor:
    """Return `analytic_kl` where it is finite and what both sites cost, else that sampled, nats.

    It is infinite where q exceeds the support of p, as a Normal does that of a Uniform; and where the program scales or
    masks one density otherwise than the other, what is left of the two is no multiple of a divergence. Estimators that
    are to agree in expectation with one that draws, as Pyro's, draw then.
    """
    kl, families = analytic_kl(q, p), {type(base_of(site.fn)) for site in (q, p)}
    if q.mask is not p.mask or not (q.scale is p.scale or (isinstance(q.scale, float) and q.scale == p.scale)):
        weights = [scale_and_mask(torch.ones(()), site.scale, site.mask) for site in (q, p)]
        kl = torch.where(weights[0] == weights[1], kl, sampled_kl(q, p))
    if len(families) == 1 and Uniform not in families:  # their supports are the same
        return kl
    return kl if kl.isfinite().all() else sampled_kl(q, p)


def trace(
    model: Program,
    guide: Program,
    *args: Any,
    particles: int = 1,
    divergence: Divergence = sampled_kl,
    plate: str | None = None,
    **kwargs: Any,
) -> Terms:
    """The ELBO with every expectation estimated at `particles` draws from the guide.

    Kingma and Welling, 2014, equation 6 (estimator A); Pyro's `Trace_ELBO`. Sites without reparameterisation are
    trained by the score function, without a baseline (Ranganath, Gerrish and Blei, 2014); `graph` has one.

    Args:
        model, guide: the pair.
        args, kwargs: what both are called with.
        particles: how many draws.
        divergence: how a latent site's part is estimated.
        plate: the name of the data's plate; None takes the outermost one common to all sites.

    Raises:
        UserError: the guide is not of the model, or a site has a dimension that no plate declares.
    """
    draws = draw(model, guide, args, kwargs, particles=particles, plate=plate)
    return _means(draws, [_parts(each, divergence, score=True) for each in draws])


def mean_field(
    model: Program, guide: Program, *args: Any, particles: int = 1, plate: str | None = None, **kwargs: Any
) -> Terms:
    """The ELBO with closed-form divergences where they exist.

    Kingma and Welling, 2014, equation 7 (estimator B); Pyro's `TraceMeanField_ELBO`. Where the guide draws a site
    before one that the model draws ahead of it, the closed form would be no part of the bound, and the draw takes its
    place. With relaxed sites, whose divergence is the discrete one, the value bounds neither story; this is the loss of
    Jang et al. (2017), and `enum` is the bound.

    Raises:
        UserError: as `trace`; or a site of the guide is not reparameterised.
    """
    draws = draw(model, guide, args, kwargs, particles=particles, plate=plate)
    _check_gradient(draws)
    return _means(draws, [_parts(each, analytic_kl) for each in draws])


def iwae(
    model: Program, guide: Program, *args: Any, particles: int = 5, plate: str | None = None, **kwargs: Any
) -> Terms:
    """The importance-weighted bound, E[log mean_k w_k], as the term `iwae`.

    Burda, Grosse and Salakhutdinov, 2016, equation 8.

    Raises:
        UserError: a site is scaled, and the result would bound nothing; or as `mean_field`.
    """
    draws = draw(model, guide, args, kwargs, particles=particles, plate=plate, weighted=True)
    _check_gradient(draws)
    return _weighted_bound("iwae", draws, _log_weights(draws), alpha=0.0)


def renyi(
    model: Program,
    guide: Program,
    *args: Any,
    particles: int = 5,
    alpha: float = 0.5,
    plate: str | None = None,
    **kwargs: Any,
) -> Terms:
    """The variational Renyi bound, log E[w^(1 - alpha)] / (1 - alpha), as the term `renyi`.

    Li and Turner, 2016, equation 7; Pyro's `RenyiELBO`. Alpha = 0 gives `iwae`; alpha = 1 is the ELBO, which
    `trace` gives.

    Raises:
        UserError: alpha is 1; or as `iwae`.
    """
    if alpha == 1.0:
        raise UserError("renyi: `alpha=1` is the ELBO itself; use trace")
    draws = draw(model, guide, args, kwargs, particles=particles, plate=plate, weighted=True)
    _check_gradient(draws)
    return _weighted_bound("renyi", draws, _log_weights(draws), alpha)


def graph(
    model: Program, guide: Program, *args: Any, particles: int = 1, plate: str | None = None, **kwargs: Any
) -> Terms:
    """The ELBO with drawn discrete sites, whose gradient is the score function's less a baseline.

    The baseline of a draw is the mean cost of the other particles of its datum (Kool, van Hoof and Welling, 2019), and
    with one particle that of the other data in the batch. Closed-form divergences; akin to Pyro's `TraceGraph_ELBO`.
    Where data see each other (batch norm in training) baseline and score are not independent: the gradient is biased.

    Raises:
        UserError: as `trace`.
    """
    draws = draw(model, guide, args, kwargs, particles=particles, plate=plate)
    return _means(draws, [_parts(each, finite_kl, score=True, baseline=True) for each in draws])


def enum(
    model: Program,
    guide: Program,
    *args: Any,
    particles: int = 1,
    divergence: Divergence = finite_kl,
    plate: str | None = None,
    **kwargs: Any,
) -> Terms:
    """The ELBO with an exact sum over each discrete site, of the guide or of the model alone, and no noise from it.

    The model runs at every value: 10 values of y cost up to 10 times the decoder. Pyro's `TraceEnum_ELBO` where all
    that can be enumerated is. Where sites of the model alone are summed out, where they form a chain, or where the
    guide's stand in plates that a later site leaves, it is that class which computes, and `elbo` is the only term.

    Raises:
        UserError: as `trace`, or Pyro cannot sum out the sites, for its reason.
    """
    try:
        draws = draw(model, guide, args, kwargs, particles=particles, enumerate=True, plate=plate)
        if any(_is_scored(site) for each in draws for site in each.q.values()):
            raise Unenumerable("a site of the guide is neither reparameterised nor enumerated")
        return _means(draws, [_parts(each, divergence) for each in draws])
    except Unenumerable:
        loss, elbo, data = enumerated_elbo(model, guide, args, kwargs, particles, plate)
        return Terms({"loss": loss, "elbo": elbo}, {"elbo": -1.0}, data)


def rws(
    model: Program, guide: Program, *args: Any, particles: int = 5, plate: str | None = None, **kwargs: Any
) -> Terms:
    """Reweighted wake-sleep: the model climbs `iwae`, the guide nears the posterior as the weights show it.

    No draw is differentiated, so that discrete sites cost nothing extra. The guide's is the wake-phase update of
    Bornschein and Bengio, Reweighted wake-sleep, 2015, equation 9. Pyro's `ReweightedWakeSleep(insomnia=1)` does the
    same with one datum, and weights several as if they were one.

    Raises:
        UserError: a site is scaled; or the guide samples a point, which has no density to fit; or as `trace`.
    """
    with Detach():
        draws = draw(model, guide, args, kwargs, particles=particles, plate=plate, weighted=True)
    for name, site in draws[0].q.items() if torch.is_grad_enabled() else ():
        if is_point(site.fn) and not any(each.is_auxiliary for each in draws[0].q.values()):
            raise UserError(f"site {name!r} of the guide is a point, which has no density for rws to fit: use trace")
    log_p, log_q = (torch.cat(joint) for joint in zip(*((_joint(d, d.p), _joint(d, d.q)) for d in draws), strict=True))
    log_weights = (log_p - log_q).detach()
    gradient = -(log_weights.softmax(0) * (log_p + log_q)).sum(0).mean()
    return _steered(gradient, _weighted_bound("iwae", draws, log_weights, alpha=0.0))


def dreg(
    model: Program, guide: Program, *args: Any, particles: int = 5, plate: str | None = None, **kwargs: Any
) -> Terms:
    """The bound of `iwae` with the doubly reparameterised gradient for the guide.

    Its signal does not fade as particles grow (Tucker, Lawson, Gu and Maddison, 2019, equation 8). The guide's density
    is differentiated by its draws with its parameters fixed, and these draws by the parameters. What is a function of
    parameters without a density, as a point estimate is, has the gradient of `iwae`.

    Raises:
        UserError: as `iwae`.
    """
    if not torch.is_grad_enabled():
        return iwae(model, guide, *args, particles=particles, plate=plate, **kwargs)
    with DrawLeaves() as guided:
        draws = draw(model, guide, args, kwargs, particles=particles, plate=plate, weighted=True)
    _check_gradient(draws)
    log_weights = _log_weights(draws)
    weights = log_weights.detach().softmax(0)
    points = [{name: site for name, site in each.q.items() if is_point(site.fn) or site.is_observed} for each in draws]
    direct = [_joint(each, each.p) - _joint(each, sites) for each, sites in zip(draws, points, strict=True)]
    gradient = -(weights * torch.cat(direct)).sum(0).mean()
    squares = (weights.square() * log_weights).sum(0).mean()
    slopes = _gradients(squares, guided.leaves)
    for k in reversed(range(len(guided.leaves))):  # the last draw first, as it may depend on those before it
        path = (slopes[k] * guided.draws[k]).sum()
        gradient = gradient - path
        for earlier, slope in enumerate(_gradients(path, guided.leaves[:k])):
            slopes[earlier] = slopes[earlier] + slope
    return _steered(gradient, _weighted_bound("iwae", draws, log_weights.detach(), alpha=0.0))


def _gradients(value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The gradient by each input, 0 by those on which the value does not depend."""
    return list(torch.autograd.grad(value, inputs, retain_graph=True, materialize_grads=True)) if inputs else []


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


def log_weights(
    model: Program,
    guide: Program,
    *args: Any,
    particles: int,
    hidden: Iterable[str] = (),
    plate: str | None = None,
    **kwargs: Any,
) -> Tensor:
    """Return log p(x, z) - log q(z | x) at draws from the guide: [particles, data], or [particles, 1] of the whole.

    They are in nats. Over discrete sites it sums p(x, y, z_y) / q(z_y | x, y), which needs no draw that a sure q(y | x)
    never makes; over those of the model alone it sums p. Where the guide's stand in plates of their own, they are
    drawn. The model draws its sites that are `hidden`, and their densities do not count.

    Raises:
        UserError: a site is scaled (beta, a subsampled plate): inside a logsumexp that bounds nothing; or as `trace`.
    """
    return _of_enumerated(_log_weights, model, guide, args, kwargs, particles, list(hidden), plate)


def elbos(
    model: Program,
    guide: Program,
    *args: Any,
    particles: int,
    hidden: Iterable[str] = (),
    plate: str | None = None,
    **kwargs: Any,
) -> Tensor:
    """Return the ELBO of each datum at draws from the guide: [particles, data], or [particles, 1] of the whole, nats.

    Discrete sites are summed over, and divergences are in closed form where there is one, as in `enum`. The model draws
    its sites that are `hidden`, and their densities do not count.

    Raises:
        UserError: as `enum`.
    """

    def bounds(draws: list[Draw]) -> Tensor:
        return torch.cat([_parts(each, finite_kl)["elbo"].expand(each.rows, -1) for each in draws])

    return _of_enumerated(bounds, model, guide, args, kwargs, particles, list(hidden), plate)


def _of_enumerated(
    compute: Callable[[list[Draw]], Tensor],
    model: Program,
    guide: Program,
    args: Any,
    kwargs: Any,
    particles: int,
    hidden: list[str],
    plate: str | None,
) -> Tensor:
    """Compute from draws with discrete sites enumerated; where they cannot be, return weights with them summed out."""
    try:
        draws = draw(
            model, guide, args, kwargs, particles=particles, enumerate=True, hidden=hidden, plate=plate, weighted=True
        )
        return compute(draws)
    except Unenumerable:
        return summed_log_weights(model, guide, args, kwargs, particles, hidden, plate)


def scaled(objective: Objective, scales: Mapping[str, float]) -> Objective:
    """`objective` with the log-densities of the named sites scaled; itself where every scale is 1.

    Only `loss` is scaled: `elbo`, `reconstruction` and `kl` keep their meaning. A scale in the program itself
    (`poutine.scale`, a subsampled plate) is part of every term.
    """
    scales = {site: scale for site, scale in scales.items() if scale != 1.0}
    return _under(partial(ScaleSites, scales), objective) if scales else objective


def free_bits(objective: Objective, nats: Mapping[str, float]) -> Objective:
    """`objective` whose loss counts the mean divergence of named sites as their nats where it is below (`FreeBits`).

    It keeps a latent in use that the decoder could do without: Kingma et al., Improved Variational Inference with
    Inverse Autoregressive Flow, 2016, section C.8, with one group a site. Itself where every number is 0.
    """
    nats = {site: each for site, each in nats.items() if each}
    return _under(partial(FreeBits, nats), objective) if nats else objective


def relaxed(objective: Objective, temperature: float) -> Objective:
    """`objective` with each one-hot category that is sampled relaxed at `temperature` (see `Relax`)."""
    return _under(partial(Relax, temperature), objective)


def _under(handler: Callable[[], Messenger], objective: Objective) -> Objective:
    """`objective` with both programs under a handler, a new one for each call."""

    def handled(model: Program, guide: Program, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        with handler():
            return objective(model, guide, *args, **kwargs)

    return handled


def _check_gradient(draws: list[Draw]) -> None:
    """Refuse sites of the guide that no gradient reaches, where one is asked for, and half-relaxed ones."""
    for name, site in draws[0].q.items():
        if _is_scored(site):
            what = "only in part reparameterised" if site.fn.has_rsample else "not reparameterised"
            raise UserError(
                f"site {name!r} is {what}: this estimator has no gradient for it; use trace, graph, enum or rws, or "
                "relax it"
            )


def _is_scored(site: Site) -> bool:
    """Whether a site of the guide has all of its gradient only by the score function, and one is asked for.

    What the guide observes is not drawn, but for a factor, which may stand for a draw made elsewhere.
    """
    drawn = not site.is_enumerated and (not site.is_observed or isinstance(site.fn, Unit))
    return torch.is_grad_enabled() and drawn and (not site.fn.has_rsample or _is_partial(site.fn))


def _is_partial(fn: Any) -> bool:
    """Whether draws are reparameterised in part alone, as those by rejection are, which have a score of their own."""
    while isinstance(fn, Independent | ExpandedDistribution | MaskedDistribution):
        fn = fn.base_dist
    return type(fn).score_parts is not Distribution.score_parts


def _times(value: Tensor, scale: Tensor | float) -> Tensor:
    return value if isinstance(scale, float) and scale == 1.0 else value * scale


def _cost(site: Site) -> Tensor:
    """The log-density of a site of the guide; where the score alone trains it, without a gradient of its own."""
    log_q = _times(site.log_prob(), site.scale)
    return log_q.detach() if _is_scored(site) and not site.fn.has_rsample else log_q


def _parts(draw: Draw, divergence: Divergence, *, score: bool = False, baseline: bool = False) -> dict[str, Tensor]:
    """The terms, and the loss, of each particle and datum of a run: [rows, data].

    Args:
        draw: the run.
        divergence: how a latent site's part is estimated.
        score: whether the loss gets the score function's gradient for sites without reparameterisation.
        baseline: whether that is less a baseline.
    """
    p, q = draw.p, draw.q
    reconstruction = kl = loss = torch.zeros(())
    each: dict[str, Tensor] = {}
    observed: dict[str, Tensor] = {}
    whole: list[tuple[Site, Tensor]] = []  # each site's cost for every element of its plates
    ordered = _closed_forms(p, q)
    own = [(name, site) for name, site in q.items() if name not in p or site.is_observed]
    for name, site in [*p.items(), *own]:
        of_model = p.get(name) is site
        if of_model and name in q and not site.is_observed:
            _check_relaxation(name, site, q[name])
            cost = (divergence if name in ordered else sampled_kl)(q[name], site)
        elif of_model:
            cost = -_times(site.log_prob(), site.scale)
        else:
            cost = _cost(site)
        whole.append((site, cost))
        cost = draw.each(_expected(cost, site, name, q), site)
        if of_model and site.is_observed:
            observed[f"reconstruction_{name}"] = -cost
            reconstruction = reconstruction - cost
        else:
            each[f"kl_{name}"] = cost
            kl = kl + cost
        if site.free and name in q:
            cost = torch.where(cost.detach().mean() < site.free, site.free, cost)
        loss = loss + _times(cost, site.beta)
    for site in q.values() if score else ():
        if _is_scored(site):
            term = draw.each(_score(site) * _signal(whole, site, draw, baseline), site)
            loss = loss + term - term.detach()
    terms = {"loss": loss, "elbo": reconstruction - kl}
    if each:
        terms |= {"reconstruction": reconstruction, "kl": kl}
    for several in (observed, each):
        if len(several) > 1:
            terms |= several
    return terms


def _closed_forms(p: Sites, q: Sites) -> set[str]:
    """The latent sites whose closed-form divergence is part of the bound.

    It is the expectation over the site, given what both densities of it depend on: that must not have been drawn from
    it in turn, so that what the model draws before the site, the guide must draw before it too.
    """
    model_order, guide_order = [name for name in p if name in q], [name for name in q if name in p]
    if model_order == guide_order:
        return set(model_order)
    before = {name: set(guide_order[:k]) for k, name in enumerate(guide_order)}
    return {name for k, name in enumerate(model_order) if before[name] >= set(model_order[:k])}


def _check_relaxation(name: str, p: Site, q: Site) -> None:
    soft = [isinstance(site.fn, RelaxedOneHotCategorical) for site in (p, q)]
    if soft[0] != soft[1] or (soft[0] and q.is_enumerated):
        raise UserError(f"site {name!r} is relaxed in one of model and guide, exact in the other: no bound")


def _score(site: Site) -> Tensor:
    """The part of a site's log-density whose gradient is that of its draw's probability; no scale or mask is in it."""
    fn = base_of(site.fn)  # `Independent` takes no notice of a score of its parts
    return sum_rightmost(fn.score_parts(site.value).score_function, site.fn.event_dim - fn.event_dim)


def _signal(costs: list[tuple[Site, Tensor]], site: Site, draw: Draw, baseline: bool) -> Tensor:
    """What a draw of a site costs: the costs of all sites, summed over the plates in which it does not stand."""
    kept = {frame.name: frame.dim for frame in site.frames if frame.dim is not None}
    cost = torch.zeros(())
    for other, each in costs:
        common = [kept[frame.name] for frame in other.frames if frame.name in kept]
        cost = cost + sum_plates(each.detach(), draw.nesting, common)
    if not baseline:
        return cost
    among = -1 - draw.nesting if draw.rows > 1 else draw.plate and draw.plate.dim
    if among is None or cost.ndim < -among or among not in (-1 - draw.nesting, *kept.values()):
        return cost
    return cost - (cost.sum(among, keepdim=True) - cost) / max(1, cost.shape[among] - 1)


def _expected(cost: Tensor, site: Site, name: str, q: Sites) -> Tensor:
    """Average a cost over the values of the enumerated sites on which it depends, each with its probability.

    Raises:
        UserError: one of them stands in a plate that the cost's site does not: all its values would count at once.
    """
    enumerated = [each for each in q.values() if each.is_enumerated]
    if not enumerated:
        return cost
    dimensions = {-each.value.ndim + len(each.fn.event_shape): each for each in enumerated}  # the leftmost of each
    used = {dim for dim in dimensions if _varies(cost, dim)}
    probabilities: dict[int, Tensor] = {}
    while used - probabilities.keys():
        for dim in used - probabilities.keys():
            each = dimensions[dim]
            for frame in each.frames:
                if site.frame(frame.name) is None:
                    raise UserError(OUTSIDE.format(name, frame.name))
            probabilities[dim] = each.fn.log_prob(each.value)  # a mask leaves the probabilities as they are
            used = used | {other for other in dimensions if _varies(probabilities[dim], other)}
    if probabilities:
        ordered = [probabilities[dim] for dim in dimensions if dim in probabilities]
        cost = sum(ordered[1:], ordered[0]).exp() * cost
        cost = cost.sum(sorted(used), keepdim=True)
    while cost.ndim > 0 and -cost.ndim in dimensions:
        cost = cost.squeeze(0)
    return cost


def _varies(value: Tensor, dim: int) -> bool:
    return value.ndim >= -dim and value.shape[dim] > 1


def _means(draws: list[Draw], parts: list[dict[str, Tensor]]) -> Terms:
    """Average over draws, particles and data; a term that some draws lack, as their programs took another way, is 0."""
    means: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for each in parts for name in each):
        values = [each[name] if name == "loss" else each[name].detach() for each in parts if name in each]
        means[name] = sum((value.mean() for value in values[1:]), values[0].mean()) / len(parts)
    return Terms(means, {"elbo": -1.0}, draws[0].data)


def _joint(draw: Draw, sites: Sites) -> Tensor:
    """Return the log-density of all sites of a program but those enumerated in the guide, unless one is scaled.

    Returns:
        [*enumerated, rows, data], nats.
    """
    total = torch.zeros(())
    for name, site in sites.items():
        if site.is_enumerated:
            continue
        if site.free:
            raise UserError(f"site {name!r} has free bits: inside importance weights these bound nothing; use trace")
        if site.beta != 1.0 or not isinstance(site.scale, float) or site.scale != 1.0:
            scale = float(torch.as_tensor(site.scale * site.beta).mean())
            raise UserError(
                f"site {name!r} is scaled by {scale:g}: inside importance weights a scale bounds nothing; use trace, "
                "mean-field, graph or enum"
            )
        if draw.plate is not None and site.frame(draw.plate.name) is None:
            raise UserError(
                f"site {name!r} stands outside of plate {draw.plate.name!r}, so that its data have no importance "
                "weights each: leave out `plate` for that of the whole"
            )
        try:
            total = total + draw.each(site.log_prob(), site)
        except (KeyError, NotImplementedError) as error:  # of a flow without an inverse
            raise UserError(
                f"site {name!r} has a density at its own draws alone ({first_line(error)}): use trace or iwae"
            ) from error
    return total if total.ndim else total.expand(draw.rows, 1)


def _log_weights(draws: list[Draw]) -> Tensor:
    """Return log p - log q, [particles, data], with the enumerated sites summed out.

    Raises:
        Unenumerable: one of them stands in a plate beside the data's, or has a mask.
    """
    rows = []
    for each in draws:
        plates = {each.plate.name} if each.plate else set()
        for name, site in each.q.items():
            if site.is_enumerated and (site.mask is not None or {frame.name for frame in site.frames} - plates):
                raise Unenumerable(f"site {name!r} stands in a plate of its own, or is masked")
        log_weights = _joint(each, each.p) - _joint(each, each.q)
        if log_weights.ndim > 2:
            log_weights = log_weights.logsumexp(tuple(range(log_weights.ndim - 2)))
        rows.append(log_weights)
    return torch.cat(rows) if len(rows) > 1 else rows[0]


def _weighted_bound(name: str, draws: list[Draw], log_weights: Tensor, alpha: float) -> Terms:
    power = (1.0 - alpha) * log_weights
    bound = ((power.logsumexp(0) - math.log(len(power))) / (1.0 - alpha)).mean()
    terms = _means(draws, [_parts(each, sampled_kl) for each in draws])
    return Terms(terms | {"loss": -bound, name: bound.detach()}, {name: -1.0}, terms.data)


def _steered(gradient: Tensor, terms: Terms) -> Terms:
    """The terms, with the gradient of another loss and the value of their own."""
    return Terms(terms | {"loss": terms["loss"].detach() + gradient - gradient.detach()}, terms.weights, terms.data)
