"""Plates: nested, crossed, sequential, subsampled in three ways, without a size, of one length, and none."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from tests.programs.pair import Pair, program

X = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)


def local(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def exact(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2 + pyro.param("shift", torch.zeros(())), 0.5**0.5))


def log_p_of(x: Tensor) -> Tensor:
    """The evidence of data with a standard normal latent and noise of variance 1 each."""
    return dist.Normal(torch.zeros((), dtype=x.dtype), 2**0.5).log_prob(x)


TAGS = frozenset({"local", "amortised", "conjugate"})


@program
def plate() -> Pair:
    """One plate of data, each with a latent of its own."""
    return Pair(local, exact, kwargs={"x": X}, log_p=log_p_of(X), posterior={"z": X / 2}, exact=True, tags=TAGS)


def _nested(x: Tensor) -> tuple[Tensor, Tensor]:
    """The evidence of each column and the posterior mean of its latent."""
    m = len(x)
    whole = dist.MultivariateNormal(torch.zeros(m).double(), torch.eye(m).double() + torch.ones(m, m).double())
    return whole.log_prob(x.T), x.sum(0) / (m + 1)


@program
def plate_nested() -> Pair:
    """Observations within data: their terms are added up, not averaged."""
    x = torch.stack([X, X.flip(0), 2 * X])  # [observations, data]

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[1]), 1.0))
            with pyro.plate("observations", len(x), dim=-2):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = x.sum(0) / (len(x) + 1) + pyro.param("shift", torch.zeros(()))
        with pyro.plate("data", x.shape[1], dim=-1):
            pyro.sample("z", dist.Normal(loc, (1 / (len(x) + 1)) ** 0.5))

    log_p, mean = _nested(x)
    tags = TAGS | {"nested"}
    return Pair(model, guide, kwargs={"x": x}, log_p=log_p, posterior={"z": mean}, exact=True, tags=tags)


@program
def plate_of_equal_length() -> Pair:
    """A plate within the data's that is as long as it: frames tell them apart, lengths do not."""
    x = torch.stack([X, X.flip(0), 2 * X, -X])

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[1], dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("observations", len(x), dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        loc = x.sum(0) / (len(x) + 1) + pyro.param("shift", torch.zeros(()))
        with pyro.plate("data", x.shape[1], dim=-2):
            pyro.sample("z", dist.Normal(loc.unsqueeze(-1), (1 / (len(x) + 1)) ** 0.5))

    log_p, mean = _nested(x)
    posterior = {"z": mean.unsqueeze(-1)}
    return Pair(model, guide, kwargs={"x": x}, log_p=log_p, posterior=posterior, exact=True, tags=TAGS | {"nested"})


@program
def plate_global() -> Pair:
    """One latent of all data, outside their plate: a bound of the whole alone."""

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = x.sum() / (len(x) + 1) + pyro.param("shift", torch.zeros(()))
        pyro.sample("z", dist.Normal(loc, (1 / (len(x) + 1)) ** 0.5))

    log_p, mean = _nested(X.unsqueeze(-1))
    tags = frozenset({"global", "amortised", "conjugate"})
    return Pair(model, guide, kwargs={"x": X}, log_p=log_p[0], posterior={"z": mean[0]}, exact=True, tags=tags)


@program
def plate_global_equal() -> Pair:
    """A plate of latents as long as the data's, and beside it: it must not pass for it."""
    x = torch.stack([X, X.flip(0), 2 * X, -X])

    def model(x: Tensor) -> None:
        with pyro.plate("columns", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[1]), 1.0))
        with pyro.plate("rows", len(x), dim=-1):
            pyro.sample("x", dist.Normal(z.unsqueeze(-2), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = x.sum(0) / (len(x) + 1) + pyro.param("shift", torch.zeros(()))
        with pyro.plate("columns", x.shape[1], dim=-1):
            pyro.sample("z", dist.Normal(loc, (1 / (len(x) + 1)) ** 0.5))

    log_p, mean = _nested(x)
    tags = frozenset({"global", "amortised", "conjugate"})
    return Pair(model, guide, kwargs={"x": x}, log_p=log_p.sum(), posterior={"z": mean}, exact=True, tags=tags)


@program
def plate_sequential() -> Pair:
    """A plate that is a loop, with a site for each of its turns."""

    def model(x: Tensor) -> None:
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i])

    def guide(x: Tensor) -> None:
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"z_{i}", dist.Normal(x[i] / 2 + pyro.param("shift", torch.zeros(())), 0.5**0.5))

    posterior = {f"z_{i}": X[i] / 2 for i in range(len(X))}
    tags = frozenset({"sequential", "amortised", "conjugate"})
    return Pair(model, guide, kwargs={"x": X}, log_p=log_p_of(X).sum(), posterior=posterior, exact=True, tags=tags)


@program
def plate_none() -> Pair:
    """No plate: the data are one event."""

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, len(x)]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = x.sum() / (len(x) + 1) + pyro.param("shift", torch.zeros(()))
        pyro.sample("z", dist.Normal(loc, (1 / (len(x) + 1)) ** 0.5))

    log_p, mean = _nested(X.unsqueeze(-1))
    tags = frozenset({"no-plate", "amortised", "conjugate"})
    return Pair(model, guide, kwargs={"x": X}, log_p=log_p[0], posterior={"z": mean[0]}, exact=True, tags=tags)


@program
def plate_without_size() -> Pair:
    """`pyro.plate("data")`: its size is that of what is in it."""

    def model(x: Tensor) -> None:
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(x / 2 + pyro.param("shift", torch.zeros(())), 0.5**0.5))

    return Pair(model, guide, kwargs={"x": X}, log_p=log_p_of(X), posterior={"z": X / 2}, exact=True, tags=TAGS)


@program
def plate_subsampled() -> Pair:
    """Half of the data at a time, chosen by the plate: the model takes the guide's choice."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=2) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=2) as index:
            pyro.sample("z", dist.Normal(x[index] / 2 + pyro.param("shift", torch.zeros(())), 0.7))

    return Pair(model, guide, kwargs={"x": X}, tags=frozenset({"local", "subsample"}))


@program
def plate_subsampled_in_guide() -> Pair:
    """The subsample stands in the guide alone, and the model's plate takes it by name."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(len(index)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=2) as index:
            pyro.sample("z", dist.Normal(x[index] / 2 + pyro.param("shift", torch.zeros(())), 0.7))

    return Pair(model, guide, kwargs={"x": X}, tags=frozenset({"local", "subsample"}))


@program
def plate_of_minibatch() -> Pair:
    """A batch that is handed in, of a size that is told; one global latent beside it, an automatic guide."""

    def model(batch: Tensor, size: int) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", size, len(batch)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=batch)

    return Pair(model, AutoNormal(model), (X,), {"size": 12}, tags=frozenset({"global", "auto", "subsample"}))


@program
def plate_with_indices() -> Pair:
    """`subsample=` with indices from outside, each datum's own parameters in the guide."""

    def model(batch: Tensor, index: Tensor) -> None:
        with pyro.plate("data", 6, subsample=index):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(index)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=batch)

    def guide(batch: Tensor, index: Tensor) -> None:
        with pyro.plate("data", 6, subsample=index):
            loc = pyro.param("loc", torch.linspace(-1, 1, 6), event_dim=0)
            pyro.sample("z", dist.Normal(loc, 0.7))

    data = {"batch": X, "index": torch.tensor([0, 2, 3, 5])}
    return Pair(model, guide, kwargs=data, tags=frozenset({"local", "subsample"}))
