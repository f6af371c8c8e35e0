"""Replicated data, drawn from a model. Nothing here can return the data themselves."""

from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_models.metrics.evaluation import Data, Program, in_batches


class Replicate(NamedTuple):
    """One replicated data set.

    Attributes:
        drawn: by observed site, data drawn from p(x | z), never its mean; NaN where the data are missing (NaN).
        latents: by latent site, the values that they were drawn given.
        observed: by observed site, the data.
        likelihood: by observed site, the distribution that its replicate was drawn from.
    """

    drawn: dict[str, Tensor]
    latents: dict[str, Tensor]
    observed: dict[str, Tensor]
    likelihood: dict[str, TorchDistribution]


def replicate(model: Program, guide: Program | None, data: Data) -> Replicate:
    """Draw replicated data from a model, given latents inferred from the data, or none.

    With a guide this is a posterior predictive replicate: z from q(z | x), then x from p(x | z); without one a prior
    predictive replicate: z from p(z). `Predictive(model, guide=guide)(x=x)` would return x instead, as x is observed.

    Args:
        model, guide: the pair, or any other; what the model is conditioned on is drawn anew as well.
        data: what both are called with, a keyword argument each.

    Raises:
        ValueError: a site cannot be drawn, as something around this call observes it; or the guide's sites are not the
            model's latent ones.
    """
    guided = poutine.trace(guide).get_trace(**data) if guide else Trace()
    replayed = poutine.trace(poutine.uncondition(poutine.replay(model, trace=guided))).get_trace(**data)
    if replayed.observation_nodes:
        raise ValueError(f"{replayed.observation_nodes} are observed from outside and cannot be drawn anew")
    sites = samples(replayed)
    latents = {name: site["value"] for name, site in sites.items() if not site["infer"].get("was_observed")}
    if guide and latents.keys() != samples(guided).keys():
        raise ValueError(f"the model's latent sites are {sorted(latents)}, the guide's are {sorted(samples(guided))}")
    sites = {name: site for name, site in sites.items() if site["infer"].get("was_observed")}
    observed = {name: site["infer"]["obs"] for name, site in sites.items()}
    drawn = {name: site["value"].where(~observed[name].isnan(), torch.nan) for name, site in sites.items()}
    return Replicate(drawn, latents, observed, {name: site["fn"] for name, site in sites.items()})


def samples(trace: Trace) -> dict[str, Any]:
    """Return what was drawn at each site of a trace; not the subsamples of plates, nor what is computed."""
    drawn: dict[str, Any] = {name: trace.nodes[name] for name in trace.stochastic_nodes}
    made = {name for name, site in drawn.items() if site_is_subsample(site) or site["infer"].get("_deterministic")}
    return {name: site for name, site in drawn.items() if name not in made}


def in_parts(model: Program, guide: Program | None, data: Data, size: int | None) -> Replicate:
    """Replicate `size` data at a time, or all at once (None), as models need whose data share a latent.

    What it returns has no `likelihood`; see `replicate`.
    """
    parts = [replicate(model, guide, batch)[:3] for batch in in_batches(data, size)]
    merged = [{name: torch.cat([one[name] for one in some]) for name in some[0]} for some in zip(*parts, strict=True)]
    drawn, latents, observed = merged
    return Replicate(drawn, latents, observed, {})


def as_drawn(observed: Tensor, drawn: Tensor) -> Tensor:
    """Return data in the kind of value that the model draws: grey pixels become black or white, if its own are.

    Grey pixels under a Bernoulli are learned as E[log Bernoulli(b; p)] over b ~ Bernoulli(x): the model is of b,
    which is drawn here.
    """
    grey = not is_binary(observed) and bool(((observed >= 0) & (observed <= 1)).all())
    return torch.bernoulli(observed) if grey and is_binary(drawn) else observed


def is_binary(values: Tensor) -> bool:
    """Whether all that is known is 0 or 1."""
    return bool(((values == 0) | (values == 1) | values.isnan()).all())
