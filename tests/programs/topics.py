"""Topics of documents: words summed out in the model, proportions from a network."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormal
from pyro.ops.indexing import Vindex
from torch import Tensor

from tests.programs.pair import Pair, program

WORDS = torch.tensor([[0, 1, 3], [1, 1, 2], [3, 0, 2], [2, 2, 0]])  # [words of a document, documents]


def topics(words: Tensor) -> None:
    with pyro.plate("topics", 2):
        vocabulary = pyro.sample("vocabulary", dist.Dirichlet(torch.full((4,), 0.8)))
    with pyro.plate("documents", words.shape[1], dim=-1):
        share = pyro.sample("share", dist.Dirichlet(torch.full((2,), 0.7)))
        with pyro.plate("words", len(words), dim=-2):
            topic = pyro.sample("topic", dist.Categorical(share), infer={"enumerate": "parallel"})
            pyro.sample("word", dist.Categorical(Vindex(vocabulary)[..., topic, :]), obs=words)


@program
def topics_amortised() -> Pair:
    """The proportions of each document are a point that a network computes; each word's topic is summed out."""
    network = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Softmax(-1))

    def guide(words: Tensor) -> None:
        pyro.module("network", network)
        concentration = pyro.param("concentration", torch.full((2, 4), 1.5), constraints.positive)
        with pyro.plate("topics", 2):
            pyro.sample("vocabulary", dist.Dirichlet(concentration))
        counts = torch.nn.functional.one_hot(words, 4).sum(0).to(network[0].weight.dtype)
        with pyro.plate("documents", words.shape[1], dim=-1):
            pyro.sample("share", dist.Delta(network(counts), event_dim=1))

    tags = frozenset({"global", "model-enum", "amortised"})
    return Pair(topics, guide, kwargs={"words": WORDS}, nesting=2, tags=tags)


@program
def topics_automatic() -> Pair:
    """The same with an automatic guide of the continuous sites."""
    guide = AutoNormal(poutine.block(topics, hide=["topic"]))
    return Pair(topics, guide, kwargs={"words": WORDS}, nesting=2, tags=frozenset({"global", "model-enum", "auto"}))


@program
def topics_logistic() -> Pair:
    """Proportions with a logistic-normal prior, a multinomial of counts, batch norm and dropout in the networks."""
    counts = torch.tensor([[2.0, 1.0, 0.0, 3.0], [0.0, 2.0, 2.0, 1.0], [1.0, 0.0, 4.0, 0.0]])

    class Topics(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.2), torch.nn.BatchNorm1d(4))
            self.decoder = torch.nn.Sequential(torch.nn.Linear(2, 4, bias=False), torch.nn.BatchNorm1d(4))

        def model(self, counts: Tensor) -> None:
            pyro.module("decoder", self.decoder)
            with pyro.plate("documents", len(counts)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                words = self.decoder(z.softmax(-1)).softmax(-1)
                pyro.sample("counts", dist.Multinomial(int(counts.sum(-1).max()), words), obs=counts)

        def guide(self, counts: Tensor) -> None:
            pyro.module("encoder", self.encoder)
            with pyro.plate("documents", len(counts)):
                loc, log_scale = self.encoder(counts).chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    both = Topics()
    return Pair(both.model, both.guide, kwargs={"counts": counts}, tags=frozenset({"local", "batch-norm", "methods"}))
