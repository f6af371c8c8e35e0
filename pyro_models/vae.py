"""The story of the variational auto-encoder."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_models.distributions import Likelihood, observe


class VAE(PyroModule):
    r"""Variational auto-encoder.

        z ~ Normal(0, I)                z: [batch, latent]
        x ~ likelihood(decoder(z))      x: [batch, *image], pixels in [0, 1]

    Kingma and Welling, Auto-Encoding Variational Bayes, 2014.

    Args:
        decoder: from latents [..., latent] to the parameters of the likelihood, [..., *image].
        likelihood: from the decoder's output to a distribution over images.
        latent_dim: the size of z.
    """

    origin: Tensor

    def __init__(self, decoder: nn.Module, likelihood: Likelihood, latent_dim: int):
        super().__init__()
        self.decoder = decoder
        self.likelihood = likelihood
        self.register_buffer("origin", torch.zeros(latent_dim), persistent=False)

    def likelihood_of(self, z: Tensor) -> dist.TorchDistribution:
        """Return p(x | z), event shape [*image]; further dimensions of `z` stand left of the batch."""
        return self.likelihood(self.decoder(z))

    def forward(self, x: Tensor | None = None, *, batch: int = 1) -> Tensor:
        """Run the model on observed images `x`; without them, generate `batch` images."""
        with pyro.plate("data", batch if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(self.origin, 1.0).to_event(1))
            return observe("x", self.likelihood_of(z), x)
