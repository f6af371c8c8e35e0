"""The story of the conditional variational auto-encoder."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_models.distributions import Likelihood


class CVAE(PyroModule):
    r"""Conditional variational auto-encoder: x given a condition c, of which nothing is believed.

        z ~ Normal(loc(c), scale(c))        z: [batch, latent]; c: [batch, *condition]
        x ~ likelihood(decoder(z, c))       x: [batch, *image], pixels in [0, 1]

    Sohn, Lee and Yan, Learning Structured Output Representation using Deep Conditional Generative Models, 2015.

    Args:
        conditional_prior: from conditions [batch, *condition] to [batch, 2 * latent], loc beside log_scale.
        decoder: from latents [..., batch, latent] and conditions [batch, *condition] to what the likelihood takes,
            [..., batch, *image].
        likelihood: from the decoder's output to a distribution over images.
    """

    def __init__(self, conditional_prior: nn.Module, decoder: nn.Module, likelihood: Likelihood):
        super().__init__()
        self.conditional_prior = conditional_prior
        self.decoder = decoder
        self.likelihood = likelihood

    def prior(self, c: Tensor) -> dist.TorchDistribution:
        """Return p(z | c), batch shape [batch] and event shape [latent]."""
        loc, log_scale = self.conditional_prior(c).chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def likelihood_of(self, z: Tensor, c: Tensor) -> dist.TorchDistribution:
        """Return p(x | z, c), event shape [*image]; further dimensions of `z` stand left of the batch."""
        return self.likelihood(self.decoder(z, c))

    def forward(self, x: Tensor | None = None, *, c: Tensor, batch: int = 1) -> Tensor:
        """Sample z given each condition, and observe `x`, or sample it where there is none; `c` sets the batch."""
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", self.prior(c))
            return pyro.sample("x", self.likelihood_of(z, c), obs=x)
