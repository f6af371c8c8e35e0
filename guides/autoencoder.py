"""The inference of the plain auto-encoder."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn


class AutoencoderGuide(PyroModule):
    r"""Deterministic inference for the Autoencoder.

        q(z | x) = Delta(encoder(x))

    Args:
        encoder: from images [batch, *image] to latents [batch, latent].
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z | x), batch shape [batch] and event shape [latent]."""
        return dist.Delta(self.encoder(x), event_dim=1)

    def forward(self, x: Tensor, *, batch: int = 1) -> Tensor:
        """Encode each image."""
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x))
