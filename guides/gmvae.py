"""The inference of the Gaussian-mixture variational auto-encoder."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn


class GMVAEGuide(PyroModule):
    r"""Amortised inference for the GMVAE.

        q(y | x) = Categorical(classifier(x))
        q(z | x, y) = Normal(loc, scale)        loc, log_scale = encoder(x, y)

    Args:
        classifier: from data [batch, *shape] to logits [batch, clusters].
        encoder: from data and one-hot clusters [..., batch, clusters] to [..., batch, 2 * latent]: loc, log_scale.
    """

    def __init__(self, classifier: nn.Module, encoder: nn.Module):
        super().__init__()
        self.classifier = classifier
        self.encoder = encoder

    def classify(self, x: Tensor) -> dist.OneHotCategorical:
        """Return q(y | x), batch shape [batch] and event shape [clusters]."""
        return dist.OneHotCategorical(logits=self.classifier(x))

    def posterior(self, x: Tensor, y: Tensor) -> dist.TorchDistribution:
        """Return q(z | x, y), event shape [latent]; further dimensions of `y` stand left of the batch."""
        loc, log_scale = self.encoder(x, y).chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def forward(self, x: Tensor, y: Tensor | None = None, *, batch: int = 1) -> Tensor:
        """Sample y for each datum unless it is observed, and z."""
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", self.classify(x))
            return pyro.sample("z", self.posterior(x, y))
