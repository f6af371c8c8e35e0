"""Sites of a special kind: factors, deterministic ones, Deltas, conditioned ones, draws without a path."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import config_enumerate
from torch import Tensor

from tests.programs.pair import Pair, program
from tests.programs.plates import TAGS, X, exact, log_p_of


@program
def site_factor() -> Pair:
    """The likelihood is a factor: nothing is observed."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.factor("likelihood", dist.Normal(z, 1.0).log_prob(x))

    tags = frozenset({"local", "factor"})
    return Pair(model, exact, kwargs={"x": X}, log_p=log_p_of(X), posterior={"z": X / 2}, exact=True, tags=tags)


@program
def site_factor_in_guide() -> Pair:
    """A penalty of the guide's parameters, as a factor of the guide."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        shift = pyro.param("shift", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift, 0.7))
            pyro.factor("penalty", 0.1 * shift**2, has_rsample=True)

    return Pair(model, guide, kwargs={"x": X}, tags=frozenset({"local", "factor"}))


@program
def site_deterministic() -> Pair:
    """`pyro.deterministic` in the plate, and one outside that takes all data together."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            double = pyro.deterministic("double", 2 * z, event_dim=0)
            pyro.sample("x", dist.Normal(double / 2, 1.0), obs=x)
        pyro.deterministic("mean", z.mean(-1))

    return Pair(model, exact, kwargs={"x": X}, log_p=log_p_of(X), posterior={"z": X / 2}, exact=True, tags=TAGS)


@program
def site_auxiliary() -> Pair:
    """A joint draw in the guide, which Deltas take apart."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(len(x)), 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        factor = pyro.param("factor", torch.tensor([[0.7, 0.0], [0.4, 0.6]]))
        with pyro.plate("data", len(x)):
            loc = torch.stack([x / 3, 2 * x / 3], -1)
            both = pyro.sample(
                "both", dist.MultivariateNormal(loc, scale_tril=factor.tril()), infer={"is_auxiliary": True}
            )
            pyro.sample("a", dist.Delta(both[..., 0]))
            pyro.sample("b", dist.Delta(both[..., 1]))

    return Pair(model, guide, kwargs={"x": X}, tags=frozenset({"local", "auxiliary"}))


@program
def site_conditioned() -> Pair:
    """The model observes by `poutine.condition`: no argument holds the data."""

    def model(size: int) -> None:
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0))

    def guide(size: int) -> None:
        with pyro.plate("data", size):
            pyro.sample("z", dist.Normal(X / 2 + pyro.param("shift", torch.zeros(())), 0.5**0.5))

    model = poutine.condition(model, {"x": X})
    tags = frozenset({"local", "condition"})
    return Pair(model, guide, (4,), log_p=log_p_of(X), posterior={"z": X / 2}, exact=True, tags=tags)


@program
def site_conditioned_alone() -> Pair:
    """One measurement, one weight: scalars, a number as an argument."""

    def model(guess: float) -> None:
        weight = pyro.sample("weight", dist.Normal(guess, 1.0))
        pyro.sample("measurement", dist.Normal(weight, 0.75))

    def guide(guess: float) -> None:
        loc = (0.75**2 * guess + 9.5) / (1 + 0.75**2)
        shift = pyro.param("shift", torch.zeros(()))
        pyro.sample("weight", dist.Normal(loc + shift, (0.75**2 / (1 + 0.75**2)) ** 0.5))

    log_p = dist.Normal(torch.tensor(8.5).double(), 1.25).log_prob(torch.tensor(9.5).double())
    posterior = {"weight": torch.tensor((0.75**2 * 8.5 + 9.5) / (1 + 0.75**2)).double()}
    model = poutine.condition(model, {"measurement": torch.tensor(9.5, dtype=torch.float64)})
    tags = frozenset({"no-plate", "condition"})
    return Pair(model, guide, (8.5,), log_p=log_p, posterior=posterior, exact=True, tags=tags)


@program
def site_discrete_in_model() -> Pair:
    """Two discrete sites that the guide lacks, one after the other, beside a continuous one that it has."""

    @config_enumerate
    def model(x: Tensor) -> None:
        rate = pyro.sample("rate", dist.Beta(2.0, 2.0))
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(rate))
            b = pyro.sample("b", dist.Bernoulli(0.2 + 0.6 * a))
            pyro.sample("x", dist.Normal(a + 2 * b, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("rate", dist.Beta(pyro.param("first", torch.tensor(2.0), constraints.positive), 2.5))

    return Pair(model, guide, kwargs={"x": X}, nesting=1, tags=frozenset({"global", "model-enum"}))


@program
def site_without_path() -> Pair:
    """A VonMises, which can be drawn without a path for the gradient."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            angle = pyro.sample("angle", dist.VonMises(0.0, 1.0))
            pyro.sample("x", dist.Normal(angle, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.2))
        with pyro.plate("data", len(x)):
            pyro.sample("angle", dist.VonMises(loc.expand(len(x)), 2.0))

    return Pair(model, guide, kwargs={"x": X}, tags=frozenset({"local", "scored"}))


@program
def site_order() -> Pair:
    """The guide's latents depend on each other in the other order: no closed form of a divergence is a part there."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(len(x)), 1.0))
            z2 = pyro.sample("z2", dist.Normal(z1, 0.5))
            pyro.sample("x", dist.Normal(z2, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        variance = 1 / (1 / 1.25 + 4.0)
        shift = pyro.param("shift", torch.zeros(()))
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(4 * x * variance + shift, variance**0.5))
            pyro.sample("z1", dist.Normal(0.8 * z2, 0.2**0.5))

    log_p = dist.Normal(0.0, 1.5**0.5).log_prob(X)
    posterior = {"z1": X / 1.5, "z2": 1.25 * X / 1.5}
    tags = frozenset({"local", "order", "amortised", "conjugate"})
    return Pair(model, guide, kwargs={"x": X}, log_p=log_p, posterior=posterior, exact=True, tags=tags)


@program
def site_several_discrete() -> Pair:
    """Two discrete sites in the guide, the second given the first, beside a continuous one."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
            b = pyro.sample("b", dist.Bernoulli(0.3 + 0.2 * a))
            z = pyro.sample("z", dist.Normal(a - b, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        logits = pyro.param("logits", torch.tensor([0.1, 0.3, -0.2]))
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(logits=logits.expand(len(x), 3)))
            b = pyro.sample("b", dist.Bernoulli(logits=0.5 * a - pyro.param("slope", torch.tensor(0.4))))
            pyro.sample("z", dist.Normal(x / 2 + 0.1 * a - 0.1 * b, 0.8))

    return Pair(model, guide, kwargs={"x": X}, nesting=1, tags=frozenset({"local", "discrete"}))
