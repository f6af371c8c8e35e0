"""Distributions of pixels between 0 and 1: the continuous Bernoulli, and the cross-entropy called a Bernoulli."""

import math

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints


class ContinuousBernoulli(dist.ContinuousBernoulli):
    """The continuous Bernoulli with its density computed from the logits.

    Torch's version clamps the probability, so that in float32 the density of a black pixel stops rising at a logit of
    about -16, which decoders of images do reach.

    >>> ContinuousBernoulli(logits=torch.tensor(0.0)).log_prob(torch.tensor(0.3)).item()
    0.0

    log_prob(x) = x l - softplus(l) + log C(l), with C(l) = l / tanh(l / 2) and C(0) = 2 (Loaiza-Ganem and Cunningham,
    2019, equation 7, at l = logit(lambda)).
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density, nats."""
        if self._validate_args:
            self._validate_sample(value)
        return value * self.logits - F.softplus(self.logits) + log_normaliser(self.logits)

    @property
    def mean(self) -> Tensor:
        """E[x] = 1 / 2 + 1 / (2 tanh(l / 2)) - 1 / l; torch's own is wrong by 0.005 near l = 0, in float32."""
        near = self.logits.abs() < 0.25
        away = torch.where(near, 1.0, self.logits)
        series = 0.5 + self.logits / 12 - self.logits**3 / 720 + self.logits**5 / 30240  # the next term is below 1e-10
        return torch.where(near, series, 0.5 + 0.5 / (away / 2).tanh() - 1.0 / away)


def log_normaliser(logits: Tensor) -> Tensor:
    """Return log(l / tanh(l / 2)); below 0.05 by its series at 0, whose next term is less than 1e-11 there."""
    near = logits.abs() < 0.05
    away = torch.where(near, 1.0, logits)
    square = logits.square()
    series = math.log(2.0) + square / 12 - 7 * square.square() / 1440
    return torch.where(near, series, (away / (away / 2).tanh()).log())


class GreyBernoulli(dist.Bernoulli):
    """A Bernoulli whose log-probability is extended to intensities between 0 and 1.

    log_prob(x) = x log p + (1 - x) log(1 - p), which is E[log Bernoulli(b; p)] over b ~ Bernoulli(x). At 0
    and 1 this is the Bernoulli itself; in between it is not normalised, so that its values are comparable only
    with those of another GreyBernoulli (Loaiza-Ganem and Cunningham, The continuous Bernoulli, 2019, section 3).
    Samples are 0 or 1.
    """

    support = constraints.unit_interval
