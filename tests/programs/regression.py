"""Linear regressions: a guide of each automatic family, one written by hand, one that is the posterior."""

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions import constraints
from pyro.infer import autoguide
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal, init_to_median
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

from tests.programs.pair import PROGRAMS, Pair

SLOPES = torch.tensor([[1.0, 0.5], [-0.3, 1.2], [0.4, -0.7], [2.0, 0.1]], dtype=torch.float64)
ANSWERS = torch.tensor([0.8, 1.9, -1.1, 1.4], dtype=torch.float64)
DATA = {"x": SLOPES, "y": ANSWERS}


def line(x: Tensor, y: Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    bias = pyro.sample("bias", dist.Normal(0.0, 2.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal((x * weight).sum(-1) + bias, scale), obs=y)


class ByGroups(EasyGuide):
    """The weights' joint Normal, and a point for the scale."""

    def guide(self, x: Tensor, y: Tensor) -> None:
        self.map_estimate("scale")
        group = self.group(match="weight|bias")
        loc = pyro.param("loc", torch.zeros(group.event_shape))
        scale = pyro.param("spread", torch.full(group.event_shape, 0.3), constraint=constraints.positive)
        group.sample("coefficients", dist.Normal(loc, scale).to_event(1))


def listed(model: Any) -> AutoGuideList:
    """A list: a Normal of some sites, a joint Normal of the others."""
    guide = AutoGuideList(model)
    guide.append(autoguide.AutoMultivariateNormal(poutine.block(model, expose=["weight", "bias"]), init_scale=0.3))
    guide.append(AutoDelta(poutine.block(model, expose=["scale"])))
    return guide


def structured(model: Any) -> autoguide.AutoStructured:
    conditionals = {"weight": "mvn", "bias": "normal", "scale": "delta"}
    return autoguide.AutoStructured(model, conditionals=conditionals, dependencies={"bias": {"weight": "linear"}})


FAMILIES = {
    "delta": AutoDelta,
    "normal": AutoNormal,
    "diagonal_normal": partial(autoguide.AutoDiagonalNormal, init_scale=0.3),
    "multivariate_normal": partial(autoguide.AutoMultivariateNormal, init_scale=0.3),
    "low_rank": partial(autoguide.AutoLowRankMultivariateNormal, init_scale=0.3, rank=1),
    "iaf": partial(autoguide.AutoIAFNormal, hidden_dim=[8]),
    "flow": partial(
        autoguide.AutoNormalizingFlow, init_transform_fn=partial(dist.transforms.iterated, 1, dist.transforms.planar)
    ),
    "laplace": autoguide.AutoLaplaceApproximation,
    "gaussian": autoguide.AutoGaussian,
    "structured": structured,
    "list": listed,
    "easy": ByGroups,
}


def _with(family: str) -> Pair:
    pyro.set_rng_seed(0)
    make: Any = FAMILIES[family]
    takes_init = isinstance(make, type) and issubclass(make, AutoNormal | AutoDelta)
    guide = make(line, init_loc_fn=init_to_median) if takes_init else make(line)
    return Pair(line, guide, kwargs=DATA, tags=frozenset({"global", "auto"}))


for _family in FAMILIES:
    PROGRAMS[f"regression_{_family}"] = partial(_with, _family)


def conjugate(x: Tensor, y: Tensor) -> None:
    weight = pyro.sample("weight", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal((x * weight).sum(-1), 1.0), obs=y)


def regression_posterior() -> Pair:
    """The posterior of a linear regression with known noise, as a function of the data."""

    def guide(x: Tensor, y: Tensor) -> None:
        precision = torch.eye(2) + x.T @ x
        loc = torch.linalg.solve(precision, x.T @ y)
        shift = pyro.param("shift", torch.zeros(2))
        pyro.sample("weight", dist.MultivariateNormal(loc + shift, precision_matrix=precision))

    log_p = dist.MultivariateNormal(torch.zeros(4), torch.eye(4) + SLOPES @ SLOPES.T).log_prob(ANSWERS)
    mean = torch.linalg.solve(torch.eye(2).double() + SLOPES.T @ SLOPES, SLOPES.T @ ANSWERS)
    tags = frozenset({"global", "amortised", "conjugate"})
    return Pair(conjugate, guide, kwargs=DATA, log_p=log_p, posterior={"weight": mean}, exact=True, tags=tags)


class Bayesian(PyroModule):
    """A linear layer with priors on its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[torch.nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 2.0).expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        scale = pyro.sample("scale", dist.Uniform(0.1, 5.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(mean, scale), obs=y)


def regression_module() -> Pair:
    """Weights sampled by a module (`PyroSample`), called with positional arguments."""
    model = Bayesian()
    return Pair(model, AutoNormal(model, init_loc_fn=init_to_median), (SLOPES, ANSWERS), tags=frozenset({"global"}))


def regression_maximum_likelihood() -> Pair:
    """Nothing is latent: parameters of the store, and an empty guide."""

    def model(x: Tensor, y: Tensor) -> None:
        weight = pyro.param("weight", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ weight, 1.0), obs=y)

    log_p = dist.Normal(0.0, 1.0).log_prob(ANSWERS)
    return Pair(model, lambda x, y: None, kwargs=DATA, log_p=log_p, exact=True)


for _build in (regression_posterior, regression_module, regression_maximum_likelihood):
    PROGRAMS[_build.__name__] = _build
