"""The story of a classifier."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn


class Classifier(PyroModule):
    r"""Classifier.

        y ~ Categorical(network(x))         y: [batch, kinds], one-hot

    Of x it says nothing: where y is not seen, there is nothing to learn from this story alone.

    Args:
        network: from data [batch, *shape] to logits [batch, kinds].
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, y: Tensor | None = None, *, batch: int = 1) -> Tensor:
        """Tell the kinds of `x`, or draw them where they are not known."""
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.OneHotCategorical(logits=self.network(x)), obs=y)
