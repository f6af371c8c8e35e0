"""States over time: a deep Markov model, a random walk with its posterior, forecasting, an epidemic."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.forecast import ForecastingModel
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor

from tests.programs.pair import Pair, program


@program
def deep_markov() -> Pair:
    """Gated states over time, lengths in masks of the distributions, a scale of the latent sites as an argument."""
    y = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]])
    inside = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])

    class Markov(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.move, self.emit = torch.nn.Linear(2, 4), torch.nn.Linear(2, 2)
            self.read, self.combine = torch.nn.RNN(2, 3, batch_first=True), torch.nn.Linear(5, 4)
            self.start = torch.nn.Parameter(torch.zeros(2))

        def model(self, y: Tensor, inside: Tensor, weight: float = 1.0) -> None:
            pyro.module("markov", self)
            z = self.start.expand(len(y), 2)
            with pyro.plate("sequences", len(y)):
                for t in pyro.markov(range(y.shape[1])):
                    loc, log_scale = self.move(z).chunk(2, -1)
                    mask = inside[:, t : t + 1].bool()
                    with poutine.scale(scale=weight):
                        z = pyro.sample(f"z_{t}", dist.Normal(loc, log_scale.exp()).mask(mask).to_event(1))
                    logits = self.emit(z)
                    pyro.sample(f"y_{t}", dist.Bernoulli(logits=logits).mask(mask).to_event(1), obs=y[:, t])

        def guide(self, y: Tensor, inside: Tensor, weight: float = 1.0) -> None:
            pyro.module("markov", self)
            seen, _ = self.read(y.flip(1))
            z = self.start.expand(len(y), 2)
            with pyro.plate("sequences", len(y)):
                for t in pyro.markov(range(y.shape[1])):
                    both = torch.cat([z, seen[:, -1 - t].expand(*z.shape[:-1], 3)], -1)
                    loc, log_scale = self.combine(both).chunk(2, -1)
                    mask = inside[:, t : t + 1].bool()
                    with poutine.scale(scale=weight):
                        z = pyro.sample(f"z_{t}", dist.Normal(loc, log_scale.exp()).mask(mask).to_event(1))

    both = Markov()
    tags = frozenset({"local", "methods", "dist-mask", "amortised"})
    return Pair(both.model, both.guide, (y, inside), tags=tags)


@program
def random_walk() -> Pair:
    """A walk of three steps, each observed, without any plate; the guide is the posterior, in the reverse order."""
    data = torch.tensor([0.5, 1.2, 0.3], dtype=torch.float64)
    path = torch.ones(3, 3, dtype=torch.float64).tril()
    prior = path @ path.T
    whole = dist.MultivariateNormal(torch.zeros(3).double(), prior + torch.eye(3).double())

    def model(data: Tensor) -> None:
        z: Tensor | float = 0.0
        for t, value in enumerate(data):
            z = pyro.sample(f"z_{t}", dist.Normal(z, 1.0))
            pyro.sample(f"y_{t}", dist.Normal(z, 1.0), obs=value)

    def guide(data: Tensor) -> None:
        precision = torch.linalg.inv(prior) + torch.eye(3)
        mean = torch.linalg.solve(precision, data) + pyro.param("shift", torch.zeros(3))
        covariance = torch.linalg.inv(precision)
        drawn: list[Tensor] = []
        for t in (2, 1, 0):  # each given those after it
            later = list(range(t + 1, 3))
            loc, variance = mean[t], covariance[t, t]
            if later:
                weights = torch.linalg.solve(covariance[later][:, later], covariance[later, t])
                apart = torch.stack(drawn[::-1], -1) - mean[later]
                loc, variance = loc + (apart * weights).sum(-1), variance - weights @ covariance[later, t]
            drawn.append(pyro.sample(f"z_{t}", dist.Normal(loc, variance.sqrt())))

    posterior = torch.linalg.solve(torch.linalg.inv(prior) + torch.eye(3), data)
    return Pair(
        model,
        guide,
        kwargs={"data": data},
        log_p=whole.log_prob(data),
        posterior={f"z_{t}": posterior[t] for t in range(3)},
        exact=True,
        tags=frozenset({"no-plate", "order", "amortised"}),
    )


class Forecast(ForecastingModel):
    """A level that drifts, and a slope for one covariate."""

    def model(self, zero_data: Tensor, covariates: Tensor) -> None:
        weight = pyro.sample("weight", dist.Normal(0, 1).expand([1]).to_event(1))
        drift_scale = pyro.sample("drift_scale", dist.LogNormal(-1, 0.5).expand([1]).to_event(1))
        with self.time_plate, poutine.reparam(config={"drift": LocScaleReparam()}):
            drift = pyro.sample("drift", dist.Normal(zero_data, drift_scale).to_event(1))
        prediction = drift.cumsum(-2) + (weight * covariates).sum(-1, keepdim=True)
        noise = pyro.sample("noise", dist.LogNormal(-1, 0.5).expand([1]).to_event(1))
        self.predict(dist.Normal(0, noise), prediction)


@program
def forecast() -> Pair:
    """`pyro.contrib.forecast`: the observed value is computed from latents."""
    model = Forecast()
    data, covariates = torch.tensor([[0.1], [0.4], [0.2], [0.9]]), torch.arange(4.0).unsqueeze(-1)
    return Pair(model, AutoNormal(model), (data, covariates), tags=frozenset({"global", "auto", "reparam"}))


@program
def linear_system() -> Pair:
    """A whole series is one draw of `GaussianHMM`, whose parameters are latent."""

    def model(series: Tensor) -> None:
        decay = pyro.sample("decay", dist.Beta(2.0, 2.0))
        scale = pyro.sample("scale", dist.LogNormal(-1.0, 0.3))
        hmm = dist.GaussianHMM(
            dist.Normal(0, 1).expand([1]).to_event(1),
            decay[..., None, None],
            dist.Normal(0, scale.unsqueeze(-1)).to_event(1),
            torch.eye(1),
            dist.Normal(0, 0.5).expand([1]).to_event(1),
            duration=4,
        )
        pyro.sample("series", hmm, obs=series)

    series = torch.tensor([[0.3], [0.5], [0.2], [0.4]])
    return Pair(model, AutoNormal(model), kwargs={"series": series}, tags=frozenset({"global", "auto", "no-plate"}))


@program
def epidemic() -> Pair:
    """Counts that move between compartments, day by day; the guide draws them too, so that they sum to the same."""
    cases = torch.tensor([1.0, 1.0, 2.0])

    def moves(rate: Tensor, cases: Tensor, observe: bool) -> None:
        susceptible, infectious = torch.tensor(9.0), torch.tensor(1.0)
        for t, count in enumerate(cases):
            new = pyro.sample(f"new_{t}", dist.Binomial(susceptible, -torch.expm1(-rate * (infectious + 0.1) / 10)))
            healed = pyro.sample(f"healed_{t}", dist.Binomial(infectious, 0.3))
            susceptible, infectious = susceptible - new, infectious + new - healed
            if observe:
                pyro.sample(f"cases_{t}", dist.Poisson(0.5 * new + 0.1), obs=count)

    def model(cases: Tensor) -> None:
        moves(pyro.sample("rate", dist.LogNormal(0.0, 0.5)), cases, True)

    def guide(cases: Tensor) -> None:
        moves(pyro.sample("rate", dist.LogNormal(pyro.param("loc", torch.tensor(0.3)), 0.4)), cases, False)

    return Pair(model, guide, kwargs={"cases": cases}, tags=frozenset({"global", "discrete", "no-plate"}))
