"""The inference gap: how far the ELBO lies below the evidence, and how much of it a better guide would close."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from tqdm import tqdm

from pyro_models.base.errors import UserError
from pyro_models.likelihood.importance import DRAWS, importance, marginalised, shares
from pyro_models.metrics.evaluation import Data, Program, eval_mode, in_batches
from pyro_models.objectives import Enumerate, Record, elbos

PARTICLES = 10  # of the bound that each datum's own guide maximises


class NoClosedFamily(UserError):
    """The guide's own family has no parameters of each datum: a site depends on another's draw, or is no Normal."""


def gap(
    model: Program,
    guide: Program,
    data: Data,
    *,
    target: str = "x",
    samples: int = 500,
    seed: int = 0,
    draws: int = DRAWS,
    steps: int = 500,
    learning_rate: float = 0.03,
) -> dict[str, Tensor]:
    """Split log p(x) - ELBO as Cremer, Li and Duvenaud do (Inference suboptimality in VAEs, 2018, section 3).

    The best member of the guide's own family has a loc and a scale for each datum and Normal site, and logits for each
    discrete one; where the guide draws a site given a discrete other, it has them for each value of that. They start
    at the guide's own and maximise the ELBO by Adam, whose step size falls to 0 along half a cosine.

    Args:
        model, guide, data, target, seed, draws: as of `evidence`.
        samples: K, drawn of each datum for its log p(x) and for either bound.
        steps: of Adam.
        learning_rate: of Adam, at its peak.

    Returns:
        of each datum, [n] nats: `elbo`; `gap`, log p(x) - elbo, with log p(x) estimated from draws of the guide and as
        many of the best member; `amortisation`, what that member gains on the guide; `approximation`, what it lacks.
        With few samples log p(x) comes out too low, and so does `approximation`.

    Raises:
        NoClosedFamily: a site of the guide is neither Normal nor discrete, or depends on what a Normal one drew.
    """
    parts = []
    with eval_mode(model, guide, seed=seed):
        marginal, hidden = marginalised(model, data, target)
        for batch in tqdm(list(in_batches(data, max(1, draws // PARTICLES))), disable=None):
            given = {name: values for name, values in batch.items() if name not in hidden}
            amortised = lambda batch=batch, **_: guide(**batch)  # noqa: E731
            best, free = datum_wise(amortised, given)
            maximise(marginal, best, given, free, steps, learning_rate)
            elbo, highest = (_bound(marginal, half, given, samples, draws) for half in (amortised, best))
            both = [importance(marginal, half, given, frozenset(), samples, draws).log_p for half in (amortised, best)]
            log_p = torch.stack(both).logsumexp(0) - math.log(2.0)
            parts.append(
                {"elbo": elbo, "gap": log_p - elbo, "amortisation": highest - elbo, "approximation": log_p - highest}
            )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _bound(model: Program, guide: Program, batch: Data, samples: int, draws: int) -> Tensor:
    size = len(next(iter(batch.values())))
    sums = [elbos(model, guide, particles=share, **batch).sum(0) for share in shares(samples, draws // size)]
    return torch.stack(sums).sum(0) / samples


def maximise(
    model: Program, guide: Program, batch: Data, parameters: list[Tensor], steps: int, learning_rate: float
) -> None:
    """Raise the ELBO of each datum by its own parameters of the guide."""
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = -elbos(model, guide, particles=PARTICLES, **batch).mean(0).sum()
        loss.backward(inputs=parameters)
        optimizer.step()
        schedule.step()


def datum_wise(guide: Program, batch: Data) -> tuple[Program, list[Tensor]]:
    """Return the guide with parameters of each datum's own, and those parameters.

    Raises:
        NoClosedFamily: a site of the guide is neither Normal nor discrete, or depends on what a Normal one drew.
    """
    twice = []
    for _ in range(2):
        with Enumerate(), Record() as q:
            pyro.plate("particles", 1, dim=-2)(guide)(**batch)  # so that the plate of `elbos` can widen that dimension
        twice.append({name: _freed(name, site.fn) for name, site in q.sites.items()})
    families, again = twice
    for name in families:
        if not all(map(torch.equal, families[name][0], again[name][0])):
            raise NoClosedFamily(
                f"site {name!r} depends on what another drew: its best is no loc and scale of each datum"
            )

    size = len(next(iter(batch.values())))

    def own(**_: Tensor) -> None:
        with pyro.plate("data", size):
            for name, family in families.items():
                pyro.sample(name, family[1]())

    return own, [parameter for parameters, _ in families.values() for parameter in parameters]


def _freed(name: str, fn: TorchDistribution) -> tuple[list[Tensor], Callable[[], TorchDistribution]]:
    """Return parameters that start where those of `fn` are, and what makes the distribution of them."""
    base: Any = fn.base_dist if isinstance(fn, dist.Independent) else fn
    if isinstance(base, torch.distributions.Normal):
        loc, log_scale = (value.clone().requires_grad_() for value in (base.loc, base.scale.log()))
        return [loc, log_scale], lambda: dist.Normal(loc, log_scale.exp()).to_event(fn.event_dim)
    if fn.has_enumerate_support:
        logits = base.logits.clone().requires_grad_()
        return [logits], lambda: type(base)(logits=logits).to_event(fn.event_dim - base.event_dim)
    raise NoClosedFamily(f"site {name!r} is neither Normal nor discrete: what its family could do better is not known")
