"""Eight schools: centred, not centred by hand, and not centred by reparameterisation; item response."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor

from tests.programs.pair import Pair, program

RESULTS = torch.tensor([28.0, 8.0, -3.0, 7.0], dtype=torch.float64)
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0], dtype=torch.float64)
DATA = {"results": RESULTS, "errors": ERRORS}


def schools(results: Tensor, errors: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.LogNormal(1.0, 1.0))
    with pyro.plate("schools", len(results)):
        effect = pyro.sample("effect", dist.Normal(loc, scale))
        pyro.sample("result", dist.Normal(effect, errors), obs=results)


@program
def schools_centred() -> Pair:
    """A guide by hand, with local and global latents."""

    def guide(results: Tensor, errors: Tensor) -> None:
        loc = pyro.param("loc_loc", torch.tensor(5.0))
        pyro.sample("loc", dist.Normal(loc, pyro.param("loc_scale", torch.tensor(3.0), constraints.positive)))
        pyro.sample("scale", dist.LogNormal(1.0, pyro.param("spread", torch.tensor(0.5), constraints.positive)))
        with pyro.plate("schools", len(results)):
            pyro.sample("effect", dist.Normal(pyro.param("pull", torch.tensor(0.5)) * results, 5.0))

    return Pair(schools, guide, kwargs=DATA, tags=frozenset({"global", "amortised"}))


@program
def schools_not_centred() -> Pair:
    """Standardised effects, a deterministic site, an automatic guide."""

    def model(results: Tensor, errors: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        scale = pyro.sample("scale", dist.LogNormal(1.0, 1.0))
        with pyro.plate("schools", len(results)):
            standard = pyro.sample("standard", dist.Normal(0.0, 1.0))
            effect = pyro.deterministic("effect", loc + scale * standard, event_dim=0)
            pyro.sample("result", dist.Normal(effect, errors), obs=results)

    return Pair(model, AutoDiagonalNormal(model, init_scale=0.3), kwargs=DATA, tags=frozenset({"global", "auto"}))


@program
def schools_reparam() -> Pair:
    """`poutine.reparam` around the centred program."""
    model = poutine.reparam(schools, {"effect": LocScaleReparam(0.0)})
    return Pair(model, AutoNormal(model), kwargs=DATA, tags=frozenset({"global", "auto", "reparam"}))


@program
def item_response() -> Pair:
    """Answers of people to items: two crossed plates, neither of which holds all latent sites."""
    answers = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])

    def model(answers: Tensor) -> None:
        people = pyro.plate("people", answers.shape[0], dim=-2)
        items = pyro.plate("items", answers.shape[1], dim=-1)
        with people:
            ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
        with items:
            difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0))
            slope = pyro.sample("slope", dist.LogNormal(0.0, 0.3))
        with people, items:
            pyro.sample("answer", dist.Bernoulli(logits=slope * (ability - difficulty)), obs=answers)

    return Pair(model, AutoNormal(model), kwargs={"answers": answers}, tags=frozenset({"global", "auto", "crossed"}))
