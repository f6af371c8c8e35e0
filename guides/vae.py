"""The inference of the variational auto-encoder."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn


class VAEGuide(PyroModule):
    r"""Amortised inference for the VAE.

        q(z | x) = Normal(loc, scale)   loc, log_scale = encoder(x)

    Args:
        encoder: from images [batch, *image] to [batch, 2 * latent], loc beside log_scale.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z | x), batch shape [batch] and event shape [latent]."""
        loc, log_scale = self.encoder(x).chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def forward(self, x: Tensor, *, batch: int = 1) -> Tensor:
        """Sample z for each image."""
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x))
