"""The relaxed one-hot category, finite at every temperature."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.transforms import ExpTransform

SINGLE = torch.Size()


class CachedExp(ExpTransform):
    """From the logarithm of a draw to the draw, of which the inverse remembers the last one.

    A draw that underflowed to 0 has lost its logarithm. The inverse returns the exact one for the last tensor that came
    out, and for a value from elsewhere that of a number no smaller than the smallest normal one.
    """

    def __init__(self) -> None:
        super().__init__(cache_size=1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.clamp(min=torch.finfo(y.dtype).tiny).log()

    def remembers(self, y: Tensor) -> bool:
        """Whether this tensor is the last one that came out."""
        return y is self._cached_x_y[1]


class RelaxedOneHotCategorical(dist.RelaxedOneHotCategorical):
    """The Concrete or Gumbel-softmax distribution, with its density computed from the logarithm of the draw.

    A draw of a low temperature underflows to exact zeros, at which torch's density is infinite or NaN. Here `exp` keeps
    the logarithm of the last draw, so that the density of that is exact and finite; a value from elsewhere is kept off
    the boundary by the smallest normal number. Distributions that share `exp`, as the guide's and the model's of one
    site do under `Relax`, have the exact densities of each other's draws.

    log p(y) = log Gamma(K) + (K - 1) log t - K logsumexp(l - t log y) + sum(l - (t + 1) log y)
    (Maddison, Mnih and Teh, The Concrete distribution, 2017, equation 6 with alpha = exp(l)).

    Args:
        temperature: above 0, a scalar.
        probs, logits: of the category, [*batch, K]; one of the two.
        exp: the transform of the draws; None makes one, which the expanded copies of the distribution share.
        validate_args: as elsewhere in torch.
    """

    def __init__(
        self,
        temperature: Tensor,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        *,
        exp: CachedExp | None = None,
        validate_args: bool | None = None,
    ):
        super().__init__(temperature, probs, logits, validate_args=validate_args)
        self.transforms = [exp or CachedExp()]

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "RelaxedOneHotCategorical":
        """Return the distribution of a larger batch shape, with the same transform."""
        return super().expand(batch_shape, self._get_checked_instance(RelaxedOneHotCategorical, _instance))

    @property
    def exp(self) -> CachedExp:
        """The transform from the logarithm of a draw to the draw."""
        return self.transforms[0]

    def rsample(self, sample_shape: torch.Size = SINGLE) -> Tensor:
        """Draw by reparameterisation: softmax((logits + Gumbel noise) / temperature)."""
        logits = self.logits.expand(self._extended_shape(sample_shape))
        noise = -torch.empty_like(logits).exponential_().clamp(min=torch.finfo(logits.dtype).tiny).log()
        return self.exp(((logits + noise) / self.temperature).log_softmax(-1))

    def sample(self, sample_shape: torch.Size = SINGLE) -> Tensor:
        """Draw without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density on the simplex, nats."""
        if self._validate_args and not self.exp.remembers(value):
            self._validate_sample(value)
        log_value, classes, temperature = self.exp.inv(value), self.event_shape[-1], self.temperature
        return (
            math.lgamma(classes)
            + (classes - 1) * temperature.log()
            - classes * (self.logits - temperature * log_value).logsumexp(-1)
            + (self.logits - (temperature + 1) * log_value).sum(-1)
        )

    @property
    def discrete(self) -> dist.OneHotCategorical:
        """The exact category that this relaxes."""
        return dist.OneHotCategorical(logits=self.logits)
