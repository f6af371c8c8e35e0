"""The normalised product of Normal densities."""

import math
from collections.abc import Sequence
from typing import Self

import pyro.distributions as dist
import torch
from torch import Tensor


class ProductOfNormals(dist.Normal):
    r"""The Normal whose density is the normalised product of experts' densities.

    z ~ prod_i Normal(z; loc_i, scale_i) / exp(log_normaliser), whose precision is the sum of the experts' and whose loc
    is their mean weighted by precision (Hinton, Products of experts, 2002; Cao and Fleet, Generalized product of
    experts, 2014; for missing modalities Vedantam et al., 2018, and Wu and Goodman, MVAE, 2018). A prior is an expert
    like any other.

    The batch shape is that of loc and scale without the dimension `dim`. A masked expert is a factor of 1: its loc and
    scale, NaN included, affect neither values nor gradients. An expert of infinite scale is a factor of 1 too.

    >>> product = ProductOfNormals(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0]), dim=-1)
    >>> product.loc.item(), round(product.variance.item(), 6)
    (1.0, 0.5)

    Args:
        loc: of the experts, [..., experts, *event].
        scale: of the experts, [..., experts, *event].
        mask: True where an expert takes part, [..., experts]; None if all do.
        dim: the dimension of loc and scale over the experts, negative: -2 for [..., experts, latent].

    Raises:
        ValueError: `dim` is not negative; or, under validation, an expert's scale is not positive, or a product has no
            expert.
    """

    def __init__(
        self, loc: Tensor, scale: Tensor, mask: Tensor | None = None, *, dim: int, validate_args: bool | None = None
    ):
        if dim >= 0:
            raise ValueError(f"`dim` must be negative, a dimension from the right such as -1, not {dim}")
        if mask is not None:
            mask = mask[(..., *[None] * (-1 - dim))]
            loc, scale = torch.where(mask, loc, 0.0), torch.where(mask, scale, math.inf)
        self.dim = dim
        self.experts = dist.Normal(loc, scale, validate_args=validate_args)
        # Precisions in units of the largest do not overflow. The unit cancels, so that no gradient needs to reach it.
        smallest = self.experts.scale.detach().amin(dim, keepdim=True)
        if self.experts._validate_args and smallest.isinf().any():
            raise ValueError("a product of no experts is not a distribution: include an unmasked prior")
        precision = (smallest / self.experts.scale).square()
        total = precision.sum(dim, keepdim=True)
        super().__init__(
            (precision / total * self.experts.loc).sum(dim),
            (smallest / total.sqrt()).squeeze(dim),
            validate_args=validate_args,
        )

    def expand(self, batch_shape: Sequence[int], _instance: Self | None = None) -> Self:
        """Return the same with its batch shape expanded."""
        new = self._get_checked_instance(ProductOfNormals, _instance)
        new.dim, new.experts = self.dim, self.experts
        return super().expand(batch_shape, _instance=new)

    @property
    def log_normaliser(self) -> Tensor:
        """The logarithm of the integral of the experts' product, [*batch], nats: of product / density, at loc."""
        absent = self.experts.scale.isinf()
        experts = dist.Normal(self.experts.loc, self.experts.scale.masked_fill(absent, 1.0), validate_args=False)
        factors = experts.log_prob(self.loc.unsqueeze(self.dim)).masked_fill(absent, 0.0)
        return factors.sum(self.dim) - self.log_prob(self.loc)
