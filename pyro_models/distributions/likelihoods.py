"""Likelihoods: from a decoder's output to a distribution over images."""

import math
from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_models.distributions.pixels import ContinuousBernoulli, GreyBernoulli

Likelihood = Callable[[Tensor], TorchDistribution]
"""From a decoder's output [..., *image] to a distribution of event shape `image`."""


def bernoulli(logits: Tensor, event_dim: int = 3) -> TorchDistribution:
    """Pixels of 0 or 1; log-probabilities in nats."""
    return dist.Bernoulli(logits=logits).to_event(event_dim)


def grey_bernoulli(logits: Tensor, event_dim: int = 3) -> TorchDistribution:
    """Pixels between 0 and 1 under minus the cross-entropy, in nats (see `GreyBernoulli`)."""
    return GreyBernoulli(logits=logits).to_event(event_dim)


def continuous_bernoulli(logits: Tensor, event_dim: int = 3) -> TorchDistribution:
    """Pixels between 0 and 1 under a normalised density, in nats (Loaiza-Ganem and Cunningham, 2019)."""
    return ContinuousBernoulli(logits=logits).to_event(event_dim)


def attribute(logits: Tensor) -> TorchDistribution:
    """An attribute, event shape [size]: one bit where there is one logit, else a one-hot category."""
    if logits.shape[-1] == 1:
        return bernoulli(logits, 1)
    return dist.OneHotCategorical(logits=logits)


class NormalLikelihood(nn.Module):
    """Pixels as Normal(loc, scale), one scale for all of them.

    Args:
        scale: the scale, fixed; None learns it (Rybkin, Daniilidis and Levine, sigma-VAE, 2021).
        event_dim: how many trailing dimensions make one datum.
    """

    log_scale: Tensor

    def __init__(self, scale: float | None = None, event_dim: int = 3):
        super().__init__()
        self.event_dim = event_dim
        if scale is None:
            self.log_scale = nn.Parameter(torch.zeros(()))
        else:
            self.register_buffer("log_scale", torch.tensor(math.log(scale)))

    def forward(self, loc: Tensor) -> TorchDistribution:
        """Return Normal(loc, scale) over the last `event_dim` dimensions."""
        return dist.Normal(loc, self.log_scale.exp()).to_event(self.event_dim)
