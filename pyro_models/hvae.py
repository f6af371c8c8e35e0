"""The story of the variational auto-encoder of two levels of latents."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_models.distributions import Likelihood, observe


class HVAE(PyroModule):
    r"""Hierarchical variational auto-encoder of two levels.

        z2 ~ Normal(0, I)                       z2: [batch, upper]
        z1 ~ Normal(loc(z2), scale(z2))         z1: [batch, lower]
        x  ~ likelihood(decoder(z1))            x: [batch, *image], pixels in [0, 1]

    Sønderby, Raiko, Maaløe, Sønderby and Winther, Ladder Variational Autoencoders, 2016.

    Args:
        top_down: from latents z2 [..., upper] to [..., 2 * lower], loc beside log_scale.
        decoder: from latents z1 [..., lower] to what the likelihood takes, [..., *image].
        likelihood: from the decoder's output to a distribution over images.
        latent_dim: the size of z2.
    """

    origin: Tensor

    def __init__(self, top_down: nn.Module, decoder: nn.Module, likelihood: Likelihood, latent_dim: int):
        super().__init__()
        self.top_down = top_down
        self.decoder = decoder
        self.likelihood = likelihood
        self.register_buffer("origin", torch.zeros(latent_dim), persistent=False)

    def prior(self, z2: Tensor) -> dist.TorchDistribution:
        """Return p(z1 | z2), event shape [lower]."""
        loc, log_scale = self.top_down(z2).chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def likelihood_of(self, z1: Tensor) -> dist.TorchDistribution:
        """Return p(x | z1), event shape [*image]."""
        return self.likelihood(self.decoder(z1))

    def forward(self, x: Tensor | None = None, *, batch: int = 1) -> Tensor:
        """Sample both levels, and observe `x`, or sample `batch` new images where there is no `x`."""
        with pyro.plate("data", batch if x is None else len(x)):
            z2 = pyro.sample("z2", dist.Normal(self.origin, 1.0).to_event(1))
            z1 = pyro.sample("z1", self.prior(z2))
            return observe("x", self.likelihood_of(z1), x)
