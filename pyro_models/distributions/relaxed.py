"""The relaxed one-hot category, finite at every temperature."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor

SINGLE = torch.Size()


class RelaxedOneHotCategorical(dist.RelaxedOneHotCategorical):
    """The Concrete or Gumbel-softmax distribution, with its density computed from the logarithm of the draw.

    A draw of a low temperature underflows to exact zeros, at which torch's density is infinite or NaN. Here a draw
    remembers its own logarithm, so that every density of this class is exact and finite at it; a value from
    elsewhere is kept off the boundary by the smallest normal number.

    log p(y) = log Gamma(K) + (K - 1) log t - K logsumexp(l - t log y) + sum(l - (t + 1) log y)
    (Maddison, Mnih and Teh, The Concrete distribution, 2017, equation 6 with alpha = exp(l)).
    """

    def rsample(self, sample_shape: torch.Size = SINGLE) -> Tensor:
        """Draw by reparameterisation: softmax((logits + Gumbel noise) / temperature)."""
        logits = self.logits.expand(self._extended_shape(sample_shape))
        noise = -torch.empty_like(logits).exponential_().clamp(min=torch.finfo(logits.dtype).tiny).log()
        log_value = ((logits + noise) / self.temperature).log_softmax(-1)
        value = log_value.exp()
        value.log_value = log_value
        return value

    def sample(self, sample_shape: torch.Size = SINGLE) -> Tensor:
        """Draw without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density on the simplex, nats."""
        log_value = getattr(value, "log_value", None)
        if log_value is None:
            if self._validate_args:
                self._validate_sample(value)
            log_value = value.clamp(min=torch.finfo(value.dtype).tiny).log()
        kinds, temperature = self.event_shape[-1], self.temperature
        return (
            math.lgamma(kinds)
            + (kinds - 1) * temperature.log()
            - kinds * (self.logits - temperature * log_value).logsumexp(-1)
            + (self.logits - (temperature + 1) * log_value).sum(-1)
        )

    @property
    def discrete(self) -> dist.OneHotCategorical:
        """The exact category that this relaxes."""
        return dist.OneHotCategorical(logits=self.logits)
