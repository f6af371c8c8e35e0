"""Likelihoods: from a decoder's output to a distribution over images."""

import math
from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_models.distributions.columns import Incomplete
from pyro_models.distributions.pixels import ContinuousBernoulli, GreyBernoulli

Likelihood = Callable[[Tensor], TorchDistribution]
"""From a decoder's output [..., *image] to a distribution of event shape `image`."""


def bernoulli(logits: Tensor, event_dim: int = 3) -> TorchDistribution:
    """Return the likelihood of pixels of 0 or 1, over the last `event_dim` dimensions, in nats.

    >>> bernoulli(torch.zeros(5, 1, 4, 4)).event_shape
    torch.Size([1, 4, 4])
    """
    return dist.Bernoulli(logits=logits).to_event(event_dim)


def grey_bernoulli(logits: Tensor, event_dim: int = 3) -> TorchDistribution:
    """Return the negative cross-entropy of pixels between 0 and 1, in nats (see `GreyBernoulli`)."""
    return GreyBernoulli(logits=logits).to_event(event_dim)


def continuous_bernoulli(logits: Tensor, event_dim: int = 3) -> TorchDistribution:
    """Return the continuous Bernoulli of pixels between 0 and 1, in nats (Loaiza-Ganem and Cunningham, 2019)."""
    return ContinuousBernoulli(logits=logits).to_event(event_dim)


def attribute(logits: Tensor) -> TorchDistribution:
    """Return the distribution of an attribute, event shape [size]: a bit for one logit, else a one-hot category.

    >>> attribute(torch.zeros(5, 1)).event_shape, attribute(torch.zeros(5, 3)).event_shape
    (torch.Size([1]), torch.Size([3]))
    """
    if logits.shape[-1] == 1:
        return bernoulli(logits, 1)
    return dist.OneHotCategorical(logits=logits)


class NormalLikelihood(nn.Module):
    """The likelihood Normal(loc, scale) with one scale for all pixels; of rows, cells that are NaN do not count.

    >>> NormalLikelihood(scale=0.1)(torch.zeros(5, 1, 4, 4)).event_shape
    torch.Size([1, 4, 4])

    Args:
        scale: the fixed scale; None learns it (Rybkin, Daniilidis and Levine, sigma-VAE, 2021).
        event_dim: the number of trailing dimensions that make one datum.
    """

    log_scale: Tensor

    def __init__(self, scale: float | None = None, event_dim: int = 3):
        super().__init__()
        self.event_dim = event_dim
        if scale is None:
            self.log_scale = nn.Parameter(torch.zeros(()))
        else:
            self.register_buffer("log_scale", torch.tensor(math.log(scale)), persistent=False)

    def forward(self, loc: Tensor) -> TorchDistribution:
        """Return Normal(loc, scale) over the last `event_dim` dimensions."""
        fn = dist.Normal(loc, self.log_scale.exp())
        return (Incomplete(fn) if self.event_dim == 1 else fn).to_event(self.event_dim)
