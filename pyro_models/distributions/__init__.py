"""Distributions that torch and Pyro lack, and the likelihoods of images."""

from pyro_models.distributions.continuous_bernoulli import ContinuousBernoulli
from pyro_models.distributions.grey_bernoulli import GreyBernoulli
from pyro_models.distributions.likelihoods import (
    Likelihood,
    NormalLikelihood,
    attribute,
    bernoulli,
    continuous_bernoulli,
    grey_bernoulli,
)
from pyro_models.distributions.product import ProductOfNormals
from pyro_models.distributions.relaxed import RelaxedOneHotCategorical

__all__ = [
    "ContinuousBernoulli",
    "GreyBernoulli",
    "Likelihood",
    "NormalLikelihood",
    "ProductOfNormals",
    "RelaxedOneHotCategorical",
    "attribute",
    "bernoulli",
    "continuous_bernoulli",
    "grey_bernoulli",
]
