"""The story of a classifier."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn


class Classifier(PyroModule):
    r"""Classifier.

        y ~ Categorical(network(x))         y: [batch, classes], one-hot

    The model is conditional on x, so data whose y is not observed contribute nothing to its likelihood.

    Args:
        network: from data [batch, *shape] to logits [batch, classes].
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, y: Tensor | None = None, *, batch: int = 1) -> Tensor:
        """Run the model on data `x`: observe the classes `y`, [batch, classes], or sample them."""
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.OneHotCategorical(logits=self.network(x)), obs=y)
