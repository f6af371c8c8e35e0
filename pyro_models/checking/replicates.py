"""Replicated data, drawn from a model; never the data themselves."""

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
        model, guide: the pair, or any other; the sites that the model is conditioned on are drawn anew as well.
        data: what both are called with, a keyword argument each.

    Raises:
        ValueError: a site cannot be drawn, as something around this call observes it; or the guide's sites are not the
            model's latent ones.

    >>> from guides import VAEGuide
    >>> from pyro_models import VAE, distributions
    >>> model = VAE(torch.nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2)
    >>> x = torch.zeros(7, 4)
    >>> replicate(model, VAEGuide(torch.nn.Linear(4, 4)), {"x": x}).drawn["x"].shape
    torch.Size([7, 4])
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
    """Return the sites of a trace with draws, without the subsamples of plates and deterministic sites."""
    drawn: dict[str, Any] = {name: trace.nodes[name] for name in trace.stochastic_nodes}
    computed = {name for name, site in drawn.items() if site_is_subsample(site) or site["infer"].get("_deterministic")}
    return {name: site for name, site in drawn.items() if name not in computed}


def in_parts(model: Program, guide: Program | None, data: Data, size: int | None) -> Replicate:
    """Replicate `size` data at a time, or all at once (None), as models need whose data share a latent.

    The result has no `likelihood`; see `replicate`.
    """
    parts = [replicate(model, guide, batch)[:3] for batch in in_batches(data, size)]
    merged = [{name: torch.cat([part[name] for part in each]) for name in each[0]} for each in zip(*parts, strict=True)]
    drawn, latents, observed = merged
    return Replicate(drawn, latents, observed, {})


def as_drawn(observed: Tensor, drawn: Tensor) -> Tensor:
    """Return data as the model draws them: grey pixels become black or white, if those of the model are.

    Grey pixels under a Bernoulli are learned as E[log Bernoulli(b; p)] over b ~ Bernoulli(x): the model is of b,
    which is drawn here.

    >>> as_drawn(torch.full((3,), 0.5), drawn=torch.ones(3)).eq(0.5).any()
    tensor(False)
    """
    grey = not is_binary(observed) and bool(((observed >= 0) & (observed <= 1)).all())
    return torch.bernoulli(observed) if grey and is_binary(drawn) else observed


def is_binary(values: Tensor) -> bool:
    """Return whether all values that are not missing (NaN) are 0 or 1.

    >>> is_binary(torch.tensor([0.0, torch.nan, 1.0])), is_binary(torch.tensor([0.5]))
    (True, False)
    """
    return bool(((values == 0) | (values == 1) | values.isnan()).all())
