"""The inference gap, log p(x) - ELBO: the part that a better guide of its family would close, and the rest."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from tqdm import tqdm

from pyro_models.base.errors import UserError
from pyro_models.likelihood.importance import DRAWS, importance, inspect, rows, shares
from pyro_models.metrics.evaluation import eval_mode, in_batches
from pyro_models.objectives import Arguments, Enumerate, Program, Record, arguments, elbos
from pyro_models.objectives.draws import layout_of
from pyro_models.objectives.handlers import PARTICLES as PLATE

PARTICLES = 10  # of the bound that the parameters of each datum maximise


class NoClosedFamily(UserError):
    """The guide's family has no parameters for each datum alone: a site is neither Normal nor discrete, or depends on
    the draw of a Normal one."""


def gap(
    model: Program,
    guide: Program,
    data: Arguments,
    *,
    target: str | None = None,
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
        of each datum, [n] nats, or [1] of the whole where latents are shared: `elbo`; `gap`, log p(x) - elbo, with
        log p(x) estimated from draws of the guide and as many of the best member; `amortisation`, what that member
        gains on the guide; `approximation`, what it lacks. With few samples log p(x) comes out too low, and so does
        `approximation`.

    Raises:
        NoClosedFamily: a site of the guide is neither Normal nor discrete, or depends on the draw of a Normal one.
        ValueError: as `evidence`.

    >>> from pyro_models.guides import VAEGuide
    >>> from pyro_models import VAE, distributions
    >>> model = VAE(torch.nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2)
    >>> guide = VAEGuide(torch.nn.Linear(4, 4))
    >>> sorted(gap(model, guide, {"x": torch.zeros(7, 4)}, samples=10, steps=5))
    ['amortisation', 'approximation', 'elbo', 'gap']
    """
    parts = []
    args, kwargs = arguments(data)
    with eval_mode(model, guide, seed=seed):
        hidden, size = inspect(model, guide, args, kwargs, target)
        batches = [kwargs] if size else list(in_batches(kwargs, max(1, draws // PARTICLES)))
        for batch in tqdm(batches, disable=None):
            most = max(1, draws // (size or rows(batch)))
            given = {name: values for name, values in batch.items() if name not in hidden}
            amortised = partial(guide, **{name: batch[name] for name in hidden}) if hidden else guide
            best, parameters = datum_wise(model, amortised, args, given)
            pairs = [(amortised, args, given), (best, args, given)]
            maximise(model, best, args, given, parameters, steps, learning_rate, hidden)
            elbo, highest = (_bound(model, *each, hidden, samples, most) for each in pairs)
            both = [importance(model, *each, frozenset(hidden), samples, most).log_p for each in pairs]
            log_p = torch.stack(both).logsumexp(0) - math.log(2.0)
            parts.append(
                {"elbo": elbo, "gap": log_p - elbo, "amortisation": highest - elbo, "approximation": log_p - highest}
            )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _bound(
    model: Program, guide: Program, args: Any, kwargs: Any, hidden: frozenset[str], samples: int, most: int
) -> Tensor:
    particles = shares(samples, most)
    sums = [elbos(model, guide, *args, particles=share, hidden=hidden, **kwargs).sum(0) for share in particles]
    return torch.stack(sums).sum(0) / samples


def maximise(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    parameters: list[Tensor],
    steps: int,
    learning_rate: float,
    hidden: frozenset[str] = frozenset(),
) -> None:
    """Maximise the ELBO of each datum by Adam, over parameters that a guide has for each datum.

    Args:
        model, guide: the pair.
        args, kwargs: what both are called with.
        parameters: of the guide, which change in place.
        steps: of Adam.
        learning_rate: of Adam, at its peak.
        hidden: observed sites of the model that are marginalised.
    """
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = -elbos(model, guide, *args, particles=PARTICLES, hidden=hidden, **kwargs).mean(0).sum()
        loss.backward(inputs=parameters)
        optimizer.step()
        schedule.step()


def datum_wise(
    model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Program, list[Tensor]]:
    """Return a guide of the same family with parameters for each datum, and these, which start at the guide's own.

    Raises:
        NoClosedFamily: a site of the guide is neither Normal nor discrete, depends on the draw of a Normal one, or
            stands in a plate that is sequential or subsampled.
    """
    layout = layout_of(model, guide, args, kwargs, particles=True, enumerate=True)
    wide = pyro.plate(PLATE, 1, dim=-1 - layout.nesting)(guide) if layout.vectorised else guide  # as in `elbos`
    runs = []
    for _ in range(2):  # a site that depends on a draw has other parameters each time
        with Enumerate(layout.nesting + layout.vectorised), Record() as q:
            wide(*args, **kwargs)
        runs.append({name: _with_parameters(name, site.fn) for name, site in q.sites.items()})
    families, again = runs
    for name in families:
        if not all(map(torch.equal, families[name][0], again[name][0])):
            raise NoClosedFamily(f"site {name!r} depends on the draw of another: it has no parameters for each datum")
        for frame in q.sites[name].frames:
            if frame.dim is None or frame.full_size not in (None, frame.size):
                raise NoClosedFamily(f"site {name!r} stands in plate {frame.name!r}, which is sequential or subsampled")

    def parametrised(*_: Any, **__: Any) -> None:
        for name, family in families.items():
            with ExitStack() as plates:
                for frame in q.sites[name].frames:
                    plates.enter_context(pyro.plate(frame.name, frame.size, dim=frame.dim))
                pyro.sample(name, family[1]())

    return parametrised, [parameter for parameters, _ in families.values() for parameter in parameters]


def _with_parameters(name: str, fn: TorchDistribution) -> tuple[list[Tensor], Callable[[], TorchDistribution]]:
    """Return parameters that start at those of `fn`, and a function that makes the distribution of them."""
    base: Any = fn.base_dist if isinstance(fn, dist.Independent) else fn
    if isinstance(base, torch.distributions.Normal):
        loc, log_scale = (value.clone().requires_grad_() for value in (base.loc, base.scale.log()))
        return [loc, log_scale], lambda: dist.Normal(loc, log_scale.exp()).to_event(fn.event_dim)
    if fn.has_enumerate_support:
        logits = base.logits.clone().requires_grad_()
        return [logits], lambda: type(base)(logits=logits).to_event(fn.event_dim - base.event_dim)
    raise NoClosedFamily(f"site {name!r} is neither Normal nor discrete: the best member of its family is not known")
