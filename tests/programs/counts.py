"""Counts: rates that vary more than Poisson's, sparse layers of Gammas, dice, coins."""

import pyro
import pyro.distributions as dist
import torch
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDiagonalNormal, init_to_feasible
from torch import Tensor
from torch.nn.functional import softplus

from tests.programs.pair import Pair, program

COUNTS = torch.tensor([0.0, 3.0, 1.0, 7.0, 0.0], dtype=torch.float64)


@program
def poisson_gamma() -> Pair:
    """A Gamma rate for each count: the evidence is negative binomial, and the guide the posterior."""

    def model(counts: Tensor) -> None:
        with pyro.plate("days", len(counts)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("counts", dist.Poisson(rate), obs=counts)

    def guide(counts: Tensor) -> None:
        shape = pyro.param("shape", torch.tensor(2.0), constraints.positive)
        with pyro.plate("days", len(counts)):
            pyro.sample("rate", dist.Gamma(shape + counts, 2.0))

    log_p = dist.NegativeBinomial(torch.tensor(2.0).double(), probs=torch.tensor(0.5).double()).log_prob(COUNTS)
    tags = frozenset({"local", "amortised", "conjugate"})
    posterior = {"rate": (2 + COUNTS) / 2}
    return Pair(model, guide, kwargs={"counts": COUNTS}, log_p=log_p, posterior=posterior, exact=True, tags=tags)


@program
def poisson_global() -> Pair:
    """One Gamma rate for all counts: the evidence is of the whole, and the guide the posterior."""

    def model(counts: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("days", len(counts)):
            pyro.sample("counts", dist.Poisson(rate), obs=counts)

    def guide(counts: Tensor) -> None:
        shape = pyro.param("shape", torch.tensor(2.0), constraints.positive)
        pyro.sample("rate", dist.Gamma(shape + counts.sum(), 1.0 + len(counts)))

    a, b, n = 2 + COUNTS.sum(), torch.tensor(6.0).double(), (COUNTS + 1).lgamma().sum()
    log_p = a.lgamma() - a * b.log() - torch.tensor(2.0).double().lgamma() - n
    tags = frozenset({"global", "amortised", "conjugate"})
    return Pair(model, guide, kwargs={"counts": COUNTS}, log_p=log_p, posterior={"rate": a / b}, exact=True, tags=tags)


@program
def coins() -> Pair:
    """A coin's fairness, and one observed site for each toss in a list: no plate, positional arguments."""
    tosses = [torch.tensor(1.0)] * 3 + [torch.tensor(0.0)]

    def model(tosses: list[Tensor]) -> None:
        fairness = pyro.sample("fairness", dist.Beta(2.0, 2.0))
        for i, toss in enumerate(tosses):
            pyro.sample(f"toss_{i}", dist.Bernoulli(fairness), obs=toss)

    def guide(tosses: list[Tensor]) -> None:
        heads = sum(tosses)
        first = pyro.param("first", torch.tensor(2.0), constraints.positive)
        pyro.sample("fairness", dist.Beta(first + heads, 2.0 + len(tosses) - heads))

    def log_beta(a: float, b: float) -> Tensor:
        return sum(sign * torch.tensor(v).double().lgamma() for sign, v in ((1, a), (1, b), (-1, a + b)))

    log_p = log_beta(5.0, 3.0) - log_beta(2.0, 2.0)
    tags = frozenset({"no-plate", "amortised", "conjugate"})
    posterior = {"fairness": torch.tensor(5 / 8).double()}
    return Pair(model, guide, (tosses,), log_p=log_p, posterior=posterior, exact=True, tags=tags)


@program
def dice() -> Pair:
    """The faces of a die with a Dirichlet prior, observed as integers, which are no bytes of an image."""
    faces = torch.tensor([0, 2, 2, 1, 2])

    def model(faces: Tensor) -> None:
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("throws", len(faces)):
            pyro.sample("faces", dist.Categorical(shares), obs=faces)

    def guide(faces: Tensor) -> None:
        prior = pyro.param("prior", torch.ones(3), constraints.positive)
        seen = torch.nn.functional.one_hot(faces, 3).sum(0)
        pyro.sample("shares", dist.Dirichlet(prior + seen))

    seen = torch.tensor([1.0, 1.0, 3.0]).double()
    log_p = (1 + seen).lgamma().sum() - (3 + seen.sum()).lgamma() + torch.tensor(3.0).double().lgamma()
    tags = frozenset({"global", "amortised", "conjugate", "integers"})
    posterior = {"shares": (1 + seen) / 8}
    return Pair(model, guide, kwargs={"faces": faces}, log_p=log_p, posterior=posterior, exact=True, tags=tags)


WIDTHS = (2, 2, 3)


def layers(x: Tensor) -> None:
    with pyro.plate("upper_weights", 4):
        upper = pyro.sample("w_upper", dist.Gamma(0.8, 1.0))
    with pyro.plate("lower_weights", 6):
        lower = pyro.sample("w_lower", dist.Gamma(0.8, 1.0))
    with pyro.plate("data", len(x)):
        top = pyro.sample("z_top", dist.Gamma(1.0, 1.0).expand([2]).to_event(1))
        mean = (top.unsqueeze(-2) @ upper.reshape(*upper.shape[:-1], 2, 2)).squeeze(-2)
        bottom = pyro.sample("z_bottom", dist.Gamma(1.0, 1.0 / mean).to_event(1))
        rate = (bottom.unsqueeze(-2) @ lower.reshape(*lower.shape[:-1], 2, 3)).squeeze(-2)
        pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)


X = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


@program
def sparse_gamma() -> Pair:
    """Two layers of Gammas, weights in plates of their own, a Gamma guide by hand."""

    def gamma(name: str, *shape: int) -> dist.Gamma:
        shape_of = softplus(pyro.param(f"shape_{name}", lambda: torch.full(shape, 0.9)))
        mean = softplus(pyro.param(f"mean_{name}", lambda: torch.full(shape, 0.5)))
        return dist.Gamma(shape_of, shape_of / mean)

    def guide(x: Tensor) -> None:
        with pyro.plate("upper_weights", 4):
            pyro.sample("w_upper", gamma("w_upper", 4))
        with pyro.plate("lower_weights", 6):
            pyro.sample("w_lower", gamma("w_lower", 6))
        with pyro.plate("data", len(x)):
            pyro.sample("z_top", gamma("z_top", len(x), 2).to_event(1))
            pyro.sample("z_bottom", gamma("z_bottom", len(x), 2).to_event(1))

    return Pair(layers, guide, kwargs={"x": X}, tags=frozenset({"global"}))


class Groups(EasyGuide):
    """All weights jointly, and all local latents jointly."""

    def guide(self, x: Tensor) -> None:
        weights = self.group(match="w_.*")
        loc = pyro.param("w_loc", lambda: torch.zeros(weights.event_shape))
        weights.sample("ws", dist.Normal(loc, 0.2).to_event(1))
        local = self.group(match="z_.*")
        with self.plate("data", len(x)):
            centre = pyro.param("z_loc", lambda: torch.zeros((len(x), *local.event_shape)))
            local.sample("zs", dist.Normal(centre, 0.2).to_event(1))


@program
def sparse_gamma_easy() -> Pair:
    """The same layers with an `EasyGuide`: auxiliary sites, and Deltas that they determine."""
    return Pair(layers, Groups(layers), kwargs={"x": X}, tags=frozenset({"global", "auxiliary"}))


@program
def sparse_gamma_automatic() -> Pair:
    """The same layers with one joint Normal of everything."""
    guide = AutoDiagonalNormal(layers, init_loc_fn=init_to_feasible, init_scale=0.2)
    return Pair(layers, guide, kwargs={"x": X}, tags=frozenset({"global", "auto"}))


@program
def discrete_rate() -> Pair:
    """A latent count with no finite support, which can be drawn and not summed over."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Poisson(2.0))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        rate = pyro.param("rate", torch.tensor(2.5), constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Poisson(rate.expand(len(x))))

    return Pair(model, guide, kwargs={"x": torch.tensor([1.0, 3.5, 2.0])}, tags=frozenset({"local", "discrete"}))
