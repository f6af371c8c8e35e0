"""Data that are missing, and densities that count in part or more than once."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import Tensor

from tests.programs.pair import Pair, program
from tests.programs.plates import X, log_p_of

SEEN = torch.tensor([True, True, False, True])


def guide(x: Tensor, seen: Tensor | None = None) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2 + pyro.param("shift", torch.zeros(())), 0.5**0.5))


@program
def mask_around_both() -> Pair:
    """`poutine.mask` around latent and observed sites of both programs."""

    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.mask(mask=seen):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def masked(x: Tensor, seen: Tensor) -> None:
        with poutine.mask(mask=seen):
            guide(x)

    tags = frozenset({"local", "mask"})
    log_p = torch.where(SEEN, log_p_of(X), 0.0)
    return Pair(model, masked, kwargs={"x": X, "seen": SEEN}, log_p=log_p, exact=True, tags=tags)


@program
def mask_of_observations() -> Pair:
    """`poutine.mask` around the observed site alone, as for missing data."""

    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def exact(x: Tensor, seen: Tensor) -> None:
        shift = pyro.param("shift", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.where(seen, x / 2, 0.0) + shift, torch.where(seen, 0.5**0.5, 1.0)))

    log_p = torch.where(SEEN, log_p_of(X), 0.0)
    posterior = {"z": torch.where(SEEN, X / 2, 0.0)}
    tags = frozenset({"local", "mask", "amortised", "conjugate"})
    data = {"x": X, "seen": SEEN}
    return Pair(model, exact, kwargs=data, log_p=log_p, posterior=posterior, exact=True, tags=tags)


@program
def obs_mask() -> Pair:
    """`obs_mask`: what is missing becomes a latent site of the guide's."""

    def model(x: Tensor, seen: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x, obs_mask=seen)

    return Pair(model, AutoNormal(model), kwargs={"x": X, "seen": SEEN}, tags=frozenset({"global", "auto", "mask"}))


@program
def mask_of_distribution() -> Pair:
    """`dist.mask` of an observed site with an event dimension."""
    x, seen = torch.stack([X, -X], -1), torch.stack([SEEN, ~SEEN], -1)

    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).mask(seen).to_event(1), obs=x)

    def exact(x: Tensor, seen: Tensor) -> None:
        shift = pyro.param("shift", torch.zeros(()))
        with pyro.plate("data", len(x)):
            loc, scale = torch.where(seen, x / 2, 0.0) + shift, torch.where(seen, 0.5**0.5, 1.0)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    log_p = torch.where(seen, log_p_of(x), 0.0).sum(-1)
    tags = frozenset({"local", "dist-mask", "amortised", "conjugate"})
    return Pair(model, exact, kwargs={"x": x, "seen": seen}, log_p=log_p, exact=True, tags=tags)


@program
def prior_masked_out() -> Pair:
    """A prior with `mask(False)`: a point guide maximises the likelihood."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0).mask(False))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    return Pair(model, AutoDelta(model), kwargs={"x": X}, tags=frozenset({"global", "auto", "improper"}))


@program
def scaled_twice() -> Pair:
    """`poutine.scale` around both programs: the ELBO counts twice, and no importance weight means anything."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def with_x(x: Tensor) -> None:
        guide(x)

    both = [poutine.scale(each, 2.0) for each in (model, with_x)]
    return Pair(both[0], both[1], kwargs={"x": X}, tags=frozenset({"local", "scale"}))


@program
def scaled_in_model() -> Pair:
    """`poutine.scale` of one latent site in the model alone, as for annealing by hand."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.5):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def with_x(x: Tensor) -> None:
        guide(x)

    return Pair(model, with_x, kwargs={"x": X}, tags=frozenset({"local", "scale"}))
