"""Estimators of the evidence lower bound and of tighter bounds, with their parts named.

An objective takes a model, a guide and a batch (one keyword argument for each observed site) and returns
terms: scalar tensors in nats per datum, averaged over the batch. `loss` is what to minimise, and the only
one to differentiate. The others say what it is made of, each with its own sign, unscaled whatever beta is:

    reconstruction = E_q[log p(x | z)]          higher is better
    kl             = E_q[log q(z | x) - log p(z)]
    elbo           = reconstruction - kl        a lower bound of log p(x)

Each estimator here needs every site inside one plate whose length is the batch, and reparameterised
latents. There it equals Pyro's own of the same kind, value and gradient. It is written anew because it
keeps the importance weights of each datum, names the terms in the same pass, and never waits for the device.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_models.objectives.handlers import ScaleSites, Site, recorded

Model = Callable[..., Any]
Terms = dict[str, Tensor]
Divergence = Callable[[Site, Site], Tensor]
Sites = Mapping[str, Site]


class Objective(Protocol):
    """From a model, a guide and a batch to named terms, in nats per datum."""

    def __call__(self, model: Model, guide: Model, **batch: Tensor) -> Terms:
        """Return the terms; `loss` carries the gradient."""


def sampled_kl(q: Site, p: Site) -> Tensor:
    """Estimate KL(q || p) for each datum by the one draw that both sites share, nats."""
    return q.log_prob() - p.log_prob()


def analytic_kl(q: Site, p: Site) -> Tensor:
    """Return KL(q || p) for each datum, nats: in closed form where there is one, else sampled."""
    try:
        return scale_and_mask(kl_divergence(q.fn, p.fn), mask=q.mask)
    except NotImplementedError:
        return sampled_kl(q, p)


def trace(
    model: Model, guide: Model, *, particles: int = 1, divergence: Divergence = sampled_kl, **batch: Tensor
) -> Terms:
    """The ELBO with every expectation estimated at `particles` draws from the guide.

    Kingma and Welling, 2014, equation 6 (estimator A); Pyro's `Trace_ELBO`.
    """
    return _terms(*_draw(model, guide, batch, particles), divergence)


def mean_field(model: Model, guide: Model, *, particles: int = 1, **batch: Tensor) -> Terms:
    """The ELBO with closed-form divergences where there are some.

    Kingma and Welling, 2014, equation 7 (estimator B); Pyro's `TraceMeanField_ELBO`. As there, the guide's
    latents may depend on each other only as far as the model's do.
    """
    return trace(model, guide, particles=particles, divergence=analytic_kl, **batch)


def iwae(model: Model, guide: Model, *, particles: int = 5, **batch: Tensor) -> Terms:
    """The importance-weighted bound, E[log mean_k w_k], as the term `iwae`.

    Burda, Grosse and Salakhutdinov, 2016, equation 8.

    Raises:
        ValueError: a site is scaled, and the result would bound nothing.
    """
    return _weighted_bound("iwae", model, guide, batch, particles, alpha=0.0)


def renyi(model: Model, guide: Model, *, particles: int = 5, alpha: float = 0.5, **batch: Tensor) -> Terms:
    """The variational Renyi bound, log E[w^(1 - alpha)] / (1 - alpha), as the term `renyi`.

    Li and Turner, 2016, equation 7; Pyro's `RenyiELBO`. Alpha = 0 gives `iwae`; alpha = 1 is the ELBO, which
    `trace` gives.

    Raises:
        ValueError: alpha is 1, or a site is scaled.
    """
    if alpha == 1.0:
        raise ValueError("renyi: alpha = 1 is the ELBO itself; use trace")
    return _weighted_bound("renyi", model, guide, batch, particles, alpha)


ESTIMATORS: dict[str, Callable[..., Terms]] = {
    "trace": trace,
    "mean-field": mean_field,
    "iwae": iwae,
    "renyi": renyi,
}


def log_weights(model: Model, guide: Model, *, particles: int, **batch: Tensor) -> Tensor:
    """Return log p(x, z) - log q(z | x) at draws from the guide: [particles, batch], nats.

    Raises:
        ValueError: a site is scaled (beta, a subsampled plate): inside a logsumexp that bounds nothing.
    """
    return _log_weights(*_draw(model, guide, batch, particles), particles)


def tempered(objective: Objective, scales: Mapping[str, float]) -> Objective:
    """`objective` with the log-densities of the named sites scaled; itself where every scale is 1.

    Only `loss` feels the scales: `elbo`, `reconstruction` and `kl` keep their meaning.
    """
    scales = {site: scale for site, scale in scales.items() if scale != 1.0}
    if not scales:
        return objective

    def scaled(model: Model, guide: Model, **batch: Tensor) -> Terms:
        with ScaleSites(scales):
            return objective(model, guide, **batch)

    return scaled


def _draw(model: Model, guide: Model, batch: dict[str, Tensor], particles: int) -> tuple[Sites, Sites]:
    """Record the pair, in a plate of particles where there are several: batch shapes [batch] or [particles, batch]."""
    if particles > 1:
        repeat = pyro.plate("particles", particles, dim=-2)
        model, guide = repeat(model), repeat(guide)
    p, q = recorded(model, guide, **batch)
    shape = next(iter(p.values())).fn.batch_shape
    for name, site in p.items():
        if site.fn.batch_shape != shape or not shape:
            raise ValueError(f"site {name!r} stands outside the plate of the data: these estimators are per datum")
        if name in q and q[name].scale is not site.scale and q[name].scale != site.scale:
            raise ValueError(f"site {name!r} is scaled by {site.scale} in the model and {q[name].scale} in the guide")
        if torch.is_grad_enabled() and name in q and not q[name].fn.has_rsample:
            raise ValueError(f"site {name!r} is not reparameterised: this estimator has no gradient for it")
    return p, q


def _terms(p: Sites, q: Sites, divergence: Divergence) -> Terms:
    reconstruction = kl = loss = torch.zeros(())
    for name, site in p.items():
        if site.is_observed:
            cost = -site.log_prob()
            reconstruction = reconstruction - cost
        else:
            cost = divergence(q[name], site)
            kl = kl + cost
        loss = loss + site.scale * cost
    terms = {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
    return {"loss": loss.mean()} | {name: term.detach().mean() for name, term in terms.items()}


def _log_weights(p: Sites, q: Sites, particles: int) -> Tensor:
    for name, site in p.items():
        if not isinstance(site.scale, float) or site.scale != 1.0:
            raise ValueError(f"site {name!r} is scaled by {site.scale}: its importance weights bound nothing")
    log_weight = torch.zeros(())
    for site in p.values():
        log_weight = log_weight + site.log_prob()
    for site in q.values():
        log_weight = log_weight - site.log_prob()
    return log_weight.reshape(particles, -1)


def _weighted_bound(
    name: str, model: Model, guide: Model, batch: dict[str, Tensor], particles: int, alpha: float
) -> Terms:
    p, q = _draw(model, guide, batch, particles)
    power = (1.0 - alpha) * _log_weights(p, q, particles)
    bound = ((power.logsumexp(0) - math.log(particles)) / (1.0 - alpha)).mean()
    return _terms(p, q, sampled_kl) | {"loss": -bound, name: bound.detach()}
