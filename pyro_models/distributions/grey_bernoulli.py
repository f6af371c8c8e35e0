"""The cross-entropy that the literature calls a Bernoulli likelihood of grey pixels."""

import pyro.distributions as dist
from torch.distributions import constraints


class GreyBernoulli(dist.Bernoulli):
    """A Bernoulli whose log-density is carried on to intensities between 0 and 1.

    log_prob(x) = x log p + (1 - x) log(1 - p), which is E[log Bernoulli(b; p)] over b ~ Bernoulli(x). On 0
    and 1 this is the Bernoulli itself; in between it is not normalised, so that its values compare only
    with values of the same kind (Loaiza-Ganem and Cunningham, The continuous Bernoulli, 2019, section 3).
    Samples are 0 or 1.
    """

    support = constraints.unit_interval
