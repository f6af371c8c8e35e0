"""The story of the conditional variational auto-encoder."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_models.distributions import GreyBernoulli, Likelihood, observe


class CVAE(PyroModule):
    r"""Conditional variational auto-encoder: x given a condition c, of which nothing is believed.

        z ~ Normal(loc(c), scale(c))        z: [batch, latent]; c: [batch, *condition]
        x ~ likelihood(decoder(c, z))       x: [batch, *image], pixels in [0, 1]

    Where the condition is a part of the image itself (c: [batch, *image]), x is the whole image: the given pixels are
    those of c, with certainty, and p(x | c) is the density of the others.

    Sohn, Lee and Yan, Learning Structured Output Representation using Deep Conditional Generative Models, 2015.

    Args:
        conditional_prior: from conditions [batch, *condition] to [batch, 2 * latent], loc beside log_scale.
        decoder: from conditions [batch, *condition] and latents [..., batch, latent] to what the likelihood takes,
            [..., batch, *image].
        likelihood: from the decoder's output to a distribution over images.
        given: True where a pixel of x is given by c, [*image]; None where c is no part of the image.
    """

    given: Tensor | None

    def __init__(
        self, conditional_prior: nn.Module, decoder: nn.Module, likelihood: Likelihood, given: Tensor | None = None
    ):
        super().__init__()
        self.conditional_prior = conditional_prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.register_buffer("given", given, persistent=False)

    def prior(self, c: Tensor) -> dist.TorchDistribution:
        """Return p(z | c), batch shape [batch] and event shape [latent]."""
        loc, log_scale = self.conditional_prior(c).chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def likelihood_of(self, z: Tensor, c: Tensor) -> dist.TorchDistribution:
        """Return p(x | z, c), event shape [*image]; further dimensions of `z` stand left of the batch."""
        x = self.likelihood(self.decoder(c, z))
        return x if self.given is None else Completed(x, self.given, c).to_event(x.event_dim)

    def forward(self, x: Tensor | None = None, *, c: Tensor, batch: int = 1) -> Tensor:
        """Sample z given each condition, and observe `x`, or sample it where there is none; `c` sets the batch."""
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", self.prior(c))
            return observe("x", self.likelihood_of(z, c), x)


class Completed(dist.MaskedDistribution):
    """Independent pixels some of which are given: those are certain, and add nothing to the log-density.

    Where the pixels are grey and their draws black or white (`GreyBernoulli`), so are those of the given ones.

    Args:
        images: a distribution over images of independent pixels, event shape [*image].
        given: True where a pixel is given, [*image].
        value: images [..., *image] that hold the given pixels.
    """

    base_dist: dist.TorchDistribution

    def __init__(self, images: dist.TorchDistribution, given: Tensor, value: Tensor):
        super().__init__(images.base_dist, ~given)
        self.given, self.value = given, value

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Completed":
        """Return the same with its batch shape, pixels included, expanded."""
        new = self._get_checked_instance(Completed, _instance)
        new.given, new.value = self.given, self.value
        return super().expand(batch_shape, _instance=new)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw the pixels that are not given."""
        drawn = self.base_dist.sample(torch.Size(sample_shape))
        value = self.value.expand_as(drawn)
        return torch.where(self.given, value.bernoulli() if isinstance(self.base_dist, GreyBernoulli) else value, drawn)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw the pixels that are not given, by reparameterisation where there is one."""
        return torch.where(self.given, self.value, self.base_dist.rsample(torch.Size(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """The mean image."""
        return torch.where(self.given, self.value, self.base_dist.mean)

    @property
    def variance(self) -> Tensor:
        """The variance of each pixel."""
        return self.base_dist.variance * ~self.given
