"""The inference of the classifier: there is none."""

import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn


class ClassifierGuide(PyroModule):
    r"""The empty guide of the Classifier, whose story has nothing latent.

        q(y | x) = p(y | x) = Categorical(network(x))

    Where nothing but x is seen, what is believed of y is what the story says of it. The terms that need no label read
    this (`vat`, `entropy`, ...), and it is never drawn.

    Args:
        network: the story's own, from data [batch, *shape] to logits [batch, kinds].
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def classify(self, x: Tensor) -> dist.OneHotCategorical:
        """Return q(y | x), batch shape [batch] and event shape [kinds]."""
        return dist.OneHotCategorical(logits=self.network(x))

    def forward(self, x: Tensor, y: Tensor | None = None, *, batch: int = 1) -> None:
        """Draw nothing."""
