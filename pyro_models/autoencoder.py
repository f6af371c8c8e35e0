"""The story of the plain auto-encoder: a variational one at the edge, with neither prior nor noise in z."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn


class Autoencoder(PyroModule):
    r"""Auto-encoder.

        z ~ anything at all             z: [batch, latent]
        x ~ Normal(decoder(z), 1)       x: [batch, *image], pixels in [0, 1]

    The prior says nothing: its density is masked to a constant one. With the guide's single code for an
    image, log p(x | z) is minus half the squared error, less the Normal's constant, and the ELBO is that
    alone. It therefore bounds no evidence, and new images cannot be drawn from it.

    Hinton and Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, 2006.

    Args:
        decoder: from codes [..., latent] to mean images [..., *image].
        latent_dim: the size of z.
        event_dim: how many trailing dimensions make one datum: 3 for [channel, height, width].
    """

    origin: Tensor

    def __init__(self, decoder: nn.Module, latent_dim: int, event_dim: int = 3):
        super().__init__()
        self.decoder = decoder
        self.event_dim = event_dim
        self.register_buffer("origin", torch.zeros(latent_dim), persistent=False)

    def likelihood_of(self, z: Tensor) -> dist.TorchDistribution:
        """Return p(x | z), event shape [*image]; further dimensions of `z` stand left of the batch."""
        return dist.Normal(self.decoder(z), 1.0).to_event(self.event_dim)

    def forward(self, x: Tensor | None = None, *, batch: int = 1) -> Tensor:
        """Tell the story of `x`, or of `batch` images whose codes something else supplies."""
        with pyro.plate("data", batch if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(self.origin, 1.0).mask(False).to_event(1))
            return pyro.sample("x", self.likelihood_of(z), obs=x)
