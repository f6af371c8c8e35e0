"""Mixtures: clusters drawn by the guide, summed out in the model, chosen by a stick that is broken."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.ops.indexing import Vindex
from torch import Tensor

from tests.programs.pair import Pair, program

POINTS = torch.tensor([0.1, 1.0, 1.8, 2.6], dtype=torch.float64)


def known(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample("x", dist.Normal(2.0 * k, 1.0), obs=x)


def _log_joint(x: Tensor) -> Tensor:
    prior = torch.tensor([0.3, 0.7], dtype=x.dtype).log()
    return prior + dist.Normal(torch.tensor([0.0, 2.0], dtype=x.dtype), 1.0).log_prob(x.unsqueeze(-1))


@program
def mixture_posterior() -> Pair:
    """Two known clusters, and a guide that is the posterior of each datum's: one to be enumerated."""

    def guide(x: Tensor) -> None:
        shift = pyro.param("shift", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=_log_joint(x) + shift))

    log_p = _log_joint(POINTS).logsumexp(-1)
    share = _log_joint(POINTS).softmax(-1)[:, 1]
    tags = frozenset({"local", "discrete", "amortised", "conjugate"})
    return Pair(known, guide, kwargs={"x": POINTS}, log_p=log_p, posterior={"k": share}, exact=True, tags=tags)


@program
def mixture_summed_out() -> Pair:
    """The same with the clusters summed out in the model, whose guide is empty."""
    log_p = _log_joint(POINTS).logsumexp(-1)
    tags = frozenset({"local", "model-enum", "amortised"})
    return Pair(config_enumerate(known), lambda x: None, kwargs={"x": POINTS}, log_p=log_p, exact=True, tags=tags)


@config_enumerate
def gaussian(x: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(torch.tensor([0.0, 2.0]), 1.0))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(Vindex(loc.unsqueeze(-2))[..., 0, k], scale), obs=x)


@program
def mixture_gaussian() -> Pair:
    """Unknown clusters with an automatic guide of the global latents, data's clusters summed out."""
    guide = AutoDelta(poutine.block(gaussian, hide=["k"]))
    return Pair(gaussian, guide, kwargs={"x": POINTS}, nesting=1, tags=frozenset({"global", "model-enum", "auto"}))


@program
def mixture_gaussian_full() -> Pair:
    """The same, and the guide has each datum's cluster too."""
    globals_of = AutoNormal(poutine.block(gaussian, hide=["k"]))

    @config_enumerate
    def guide(x: Tensor) -> None:
        globals_of(x)
        with pyro.plate("data", len(x)):
            probs = pyro.param("probs", torch.full((len(x), 2), 0.5), constraints.simplex)
            pyro.sample("k", dist.Categorical(probs))

    return Pair(gaussian, guide, kwargs={"x": POINTS}, nesting=1, tags=frozenset({"global", "discrete"}))


@program
def mixture_dirichlet_process() -> Pair:
    """Weights by breaking a stick, clusters of data drawn by the guide."""

    def model(x: Tensor) -> None:
        with pyro.plate("breaks", 2):
            part = pyro.sample("part", dist.Beta(1.0, 1.5))
        with pyro.plate("clusters", 3):
            loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
        rest = (1 - part).cumprod(-1)
        pad = torch.nn.functional.pad
        weights = pad(part, (0, 1), value=1) * pad(rest, (1, 0), value=1)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[k], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        concentration = pyro.param("concentration", torch.ones(2), constraints.positive)
        centre = pyro.param("centre", torch.tensor([0.0, 2.0, 1.0]))
        probs = pyro.param("probs", torch.tensor([[0.6, 0.3, 0.1]]).expand(len(x), 3).clone(), constraints.simplex)
        with pyro.plate("breaks", 2):
            pyro.sample("part", dist.Beta(torch.ones(2), concentration))
        with pyro.plate("clusters", 3):
            pyro.sample("loc", dist.Normal(centre, 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(probs))

    return Pair(model, guide, kwargs={"x": POINTS}, tags=frozenset({"global", "discrete"}))


@program
def mixture_as_many() -> Pair:
    """As many clusters as data, in another plate of the same dimension: only its frame tells it from the data's."""

    def model(x: Tensor) -> None:
        with pyro.plate("clusters", 2):
            on = pyro.sample("on", dist.Bernoulli(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(on.flip(-1), 0.5), obs=x)  # each datum belongs to the other's cluster

    def guide(x: Tensor) -> None:
        logits = pyro.param("logits", torch.tensor([0.5, -0.2]))
        with pyro.plate("clusters", 2):
            pyro.sample("on", dist.Bernoulli(logits=logits))

    return Pair(model, guide, kwargs={"x": POINTS[:2]}, nesting=1, tags=frozenset({"global", "discrete"}))
