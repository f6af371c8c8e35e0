"""The story of the joint multimodal variational auto-encoder."""

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_models.distributions import Likelihood, attribute, observe


class JMVAE(PyroModule):
    r"""Joint multimodal variational auto-encoder.

        z   ~ Normal(0, I)                  z: [batch, latent]
        y_i ~ attribute(head_i(z))          y1, y2, ...: [batch, size], a bit (size 1) or one-hot
        x   ~ likelihood(decoder(z))        x: [batch, *image], pixels in [0, 1]

    Suzuki, Nakayama and Matsuo, Joint Multimodal Learning with Deep Generative Models, 2016.

    Args:
        decoder: from latents [..., latent] to the parameters of the likelihood, [..., *image].
        likelihood: from the decoder's output to a distribution over images.
        heads: for each attribute's site, y1, y2, ..., from latents [..., latent] to logits [..., size].
        latent_dim: the size of z.
    """

    origin: Tensor

    def __init__(self, decoder: nn.Module, likelihood: Likelihood, heads: Mapping[str, nn.Module], latent_dim: int):
        super().__init__()
        self.decoder = decoder
        self.likelihood = likelihood
        self.heads = nn.ModuleDict(heads)
        self.register_buffer("origin", torch.zeros(latent_dim), persistent=False)

    def likelihood_of(self, z: Tensor) -> dist.TorchDistribution:
        """Return p(x | z), event shape [*image]; further dimensions of `z` stand left of the batch."""
        return self.likelihood(self.decoder(z))

    def forward(self, x: Tensor | None = None, *, batch: int = 1, **y: Tensor | None) -> Tensor:
        """Run the model on observed `x` and attributes `y1`, `y2`, ...; without any, generate `batch` data."""
        given = [value for value in (x, *y.values()) if value is not None]
        with pyro.plate("data", len(given[0]) if given else batch):
            z = pyro.sample("z", dist.Normal(self.origin, 1.0).to_event(1))
            for site, head in self.heads.items():
                pyro.sample(site, attribute(head(z)), obs=y.get(site))
            return observe("x", self.likelihood_of(z), x)
