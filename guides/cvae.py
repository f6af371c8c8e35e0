"""The inference of the conditional variational auto-encoder."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn


class CVAEGuide(PyroModule):
    r"""Amortised inference for the CVAE.

        q(z | x, c) = Normal(loc, scale)        loc, log_scale = encoder(x, c)

    Args:
        encoder: from images [batch, *image] and conditions [batch, *condition] to [batch, 2 * latent], loc beside
            log_scale.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def posterior(self, x: Tensor, c: Tensor) -> dist.TorchDistribution:
        """Return q(z | x, c), batch shape [batch] and event shape [latent]."""
        loc, log_scale = self.encoder(x, c).chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def forward(self, x: Tensor, *, c: Tensor, batch: int = 1) -> Tensor:
        """Sample z of each image under its condition."""
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x, c))
