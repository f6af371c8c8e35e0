"""Estimators of the evidence lower bound and of tighter bounds, with their parts named.

An objective takes a model, a guide and a batch (one keyword argument for each observed site) and returns
terms: scalar tensors in nats per datum, averaged over the batch. `loss` is what to minimise, and the only
one to differentiate. The others say what it is made of, each with its own sign, unscaled whatever beta is:

    reconstruction = E_q[log p(x | z)]          higher is better
    kl             = E_q[log q(z | x) - log p(z)]
    elbo           = reconstruction - kl        a lower bound of log p(x)

Each estimator here needs one plate around every site, whose length is the batch, and reparameterised
latents. For those it equals Pyro's own of the same kind, value and gradient. It is written anew because it
keeps the per-datum importance weights, names the terms in the same pass, leaves nothing in Pyro's global
parameter store, and never waits for the device.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

Model = Callable[..., Any]
Terms = dict[str, Tensor]
Site = Any


class Objective(Protocol):
    """From a model, a guide and a batch to named terms, in nats per datum."""

    def __call__(self, model: Model, guide: Model, **batch: Tensor) -> Terms:
        """Return the terms; `loss` carries the gradient."""


def _sample_kl(q: Site, p: Site) -> Tensor:
    """Estimate KL(q || p) at the one draw that both traces share."""
    return q["unscaled_log_prob"] - p["unscaled_log_prob"]


def _analytic_kl(q: Site, p: Site) -> Tensor:
    """Return KL(q || p) in closed form where there is one."""
    try:
        return kl_divergence(q["fn"], p["fn"])
    except NotImplementedError:
        return _sample_kl(q, p)


def trace(
    model: Model,
    guide: Model,
    *,
    particles: int = 1,
    kl: Callable[[Site, Site], Tensor] = _sample_kl,
    **batch: Tensor,
) -> Terms:
    """The ELBO with every expectation estimated at `particles` draws from the guide.

    Kingma and Welling, 2014, equation 6 (estimator A); Pyro's `Trace_ELBO`.
    """
    return _terms(*_importance_traces(model, guide, batch, particles), kl)


def mean_field(model: Model, guide: Model, *, particles: int = 1, **batch: Tensor) -> Terms:
    """The ELBO with closed-form divergences where there are some.

    Kingma and Welling, 2014, equation 7 (estimator B); Pyro's `TraceMeanField_ELBO`. As there, the guide's
    latents may depend on each other only as far as the model's do.
    """
    return trace(model, guide, particles=particles, kl=_analytic_kl, **batch)


def iwae(model: Model, guide: Model, *, particles: int = 5, **batch: Tensor) -> Terms:
    """The importance-weighted bound, E[log mean_k w_k], as the term `iwae`.

    Burda, Grosse and Salakhutdinov, 2016, equation 8.

    Raises:
        ValueError: a latent site is scaled, and the result would bound nothing.
    """
    return _weighted_bound(model, guide, batch, particles, alpha=0.0, name="iwae")


def renyi(model: Model, guide: Model, *, particles: int = 5, alpha: float = 0.5, **batch: Tensor) -> Terms:
    """The variational Renyi bound, log E[w^(1 - alpha)] / (1 - alpha), as the term `renyi`.

    Li and Turner, 2016, equation 7; Pyro's `RenyiELBO`. A lower bound where 0 <= alpha: alpha = 0 gives
    `iwae`, and alpha = 1 the ELBO, which is to be had from `trace`.

    Raises:
        ValueError: alpha is 1, or a latent site is scaled.
    """
    if alpha == 1.0:
        raise ValueError("renyi: alpha = 1 is the ELBO itself; use trace")
    return _weighted_bound(model, guide, batch, particles, alpha=alpha, name="renyi")


ESTIMATORS: dict[str, Callable[..., Terms]] = {
    "trace": trace,
    "mean-field": mean_field,
    "iwae": iwae,
    "renyi": renyi,
}


def _importance_traces(model: Model, guide: Model, batch: dict[str, Tensor], particles: int) -> tuple[Trace, Trace]:
    """Run the guide, then the model against it: traces of log-densities of shape [batch] or [particles, batch]."""
    if particles > 1:
        repeat = pyro.plate("particles", particles, dim=-2)
        model, guide = repeat(model), repeat(guide)
    p, q = get_importance_trace("flat", 1 if particles == 1 else 2, model, guide, (), batch)
    shape = None
    for name, site in _samples(p):
        shape = shape or site["log_prob"].shape
        if site["log_prob"].shape != shape:
            raise ValueError(f"site {name!r} stands outside the plate of the data: estimators here are per datum")
        if not site["is_observed"] and not q.nodes[name]["fn"].has_rsample:
            raise ValueError(f"site {name!r} is not reparameterised: this estimator has no gradient for it")
    return p, q


def _samples(trace: Trace) -> list[tuple[str, Site]]:
    return [(name, site) for name, site in trace.nodes.items() if site["type"] == "sample"]


def _terms(p: Trace, q: Trace, kl: Callable[[Site, Site], Tensor]) -> Terms:
    reconstruction = divergence = loss = torch.zeros(())
    for name, site in _samples(p):
        if site["is_observed"]:
            reconstruction = reconstruction + scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
            loss = loss - site["log_prob"]
        else:
            cost = kl(q.nodes[name], site)
            divergence = divergence + scale_and_mask(cost, mask=site["mask"])
            loss = loss + scale_and_mask(cost, site["scale"], site["mask"])
    terms = {"elbo": reconstruction - divergence, "reconstruction": reconstruction, "kl": divergence}
    return {"loss": loss.mean()} | {name: term.detach().mean() for name, term in terms.items()}


def log_weights(model: Model, guide: Model, *, particles: int, **batch: Tensor) -> Tensor:
    """Return log p(x, z) - log q(z | x) at draws from the guide: [particles, batch], nats.

    Raises:
        ValueError: a site is scaled (beta, a subsampled plate): inside a logsumexp that bounds nothing.
    """
    return _log_weights(*_importance_traces(model, guide, batch, particles), particles)


def _log_weights(p: Trace, q: Trace, particles: int) -> Tensor:
    for name, site in _samples(p):
        if site["scale"] != 1.0:
            raise ValueError(f"site {name!r} is scaled by {site['scale']:g}: its importance weights bound nothing")
    model = sum(site["log_prob"] for _, site in _samples(p))
    guide = sum(site["log_prob"] for _, site in _samples(q))
    return (model - guide).reshape(particles, -1)


def _weighted_bound(
    model: Model, guide: Model, batch: dict[str, Tensor], particles: int, alpha: float, name: str
) -> Terms:
    p, q = _importance_traces(model, guide, batch, particles)
    power = (1.0 - alpha) * _log_weights(p, q, particles)
    bound = ((power.logsumexp(0) - math.log(particles)) / (1.0 - alpha)).mean()
    return _terms(p, q, _sample_kl) | {"loss": -bound, name: bound.detach()}
