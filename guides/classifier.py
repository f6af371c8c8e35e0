"""The guide of the classifier, which has no latent variables to infer."""

import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn


class ClassifierGuide(PyroModule):
    r"""The empty guide of the Classifier, which has no latent variables.

        q(y | x) = p(y | x) = Categorical(network(x))

    Given x alone, the posterior of y is the model's own conditional. Terms that need no labels (`vat`, `entropy`, ...)
    are computed from it; it is never sampled.

    Args:
        network: the model's own, from data [batch, *shape] to logits [batch, classes].
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def classify(self, x: Tensor) -> dist.OneHotCategorical:
        """Return q(y | x), batch shape [batch] and event shape [classes]."""
        return dist.OneHotCategorical(logits=self.network(x))

    def forward(self, x: Tensor, y: Tensor | None = None, *, batch: int = 1) -> None:
        """Sample nothing."""
