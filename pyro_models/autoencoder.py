"""The story of the plain auto-encoder: the limit of a VAE without a prior or noise in z."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_models.distributions import Likelihood, observe


class Autoencoder(PyroModule):
    r"""Auto-encoder.

        z ~ improper uniform            z: [batch, latent]
        x ~ likelihood(decoder(z))      x: [batch, *image], pixels in [0, 1], or [batch, columns]

    The log-density of z is masked to 0, an improper uniform prior. With the guide's point mass at the encoder's output
    the ELBO is log p(x | z) alone: of Normal(decoder(z), 1) minus half the squared error, less the Normal's constant.
    It is no bound on a log-evidence, and the model cannot generate new images.

    Hinton and Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, 2006.

    Args:
        decoder: from latents [..., latent] to the parameters of the likelihood, [..., *image].
        likelihood: from the decoder's output to a distribution over images; its negative logarithm is what is learned.
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
        """Run the model on observed images `x`, or on `batch` images whose `z` is conditioned on or replayed."""
        with pyro.plate("data", batch if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(self.origin, 1.0).mask(False).to_event(1))
            return observe("x", self.likelihood_of(z), x)
