"""The inference of the joint multimodal variational auto-encoder."""

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_models.distributions import ProductOfNormals
from pyro_models.nn import Conditional


class JMVAEGuide(PyroModule):
    r"""Amortised inference for the JMVAE from any subset of the image and the attributes.

        q(z | x, y) = Normal(loc, scale)                loc, log_scale = encoder(x, y)
        q(z | x)    = the same, with all attributes missing
        q(z | y)    ∝ p(z) q(z | y1) q(z | y2) ...      Normals of loc, scale = expert_i(y_i); missing y_i left out

    With `product` an image is an expert like the others, e(z; x): q(z | x, y) ∝ p(z) e(z; x) q(z | y1) ..., and
    q(z | x) ∝ p(z) e(z; x) (Wu and Goodman, Multimodal generative models for weakly-supervised learning, 2018).

    The networks take an attribute as signs, -1 for 0 and 1 for 1, and as zeros where it is missing.

    Args:
        encoder: from images [batch, *image] and the signs of all attributes [batch, sizes] to [batch, 2 * latent], loc
            beside log_scale; with `product` from images alone.
        experts: for each attribute's site, from its signs [batch, size] to [batch, 2 * latent], loc beside log_scale.
            In a product, log_scale is squashed into [-3, 3], the image's too.
        sizes: of the attributes' encodings, by site.
        product: whether q(z | x, y) is a product too.
    """

    def __init__(
        self, encoder: nn.Module, experts: Mapping[str, nn.Module], sizes: Mapping[str, int], *, product: bool = False
    ):
        super().__init__()
        self.encoder = encoder
        self.experts = nn.ModuleDict(experts)
        self.sizes = dict(sizes)
        self.product = product

    def features(self, x: Tensor) -> Tensor | None:
        """Return the encoder's features of images, [batch, features], to pass to `posterior` with several y.

        The encoder's body then runs once, with the same dropout for all y. None if the encoder has no such features, as
        in a product.
        """
        return self.encoder.body(x) if isinstance(self.encoder, Conditional) else None

    def posterior(
        self, x: Tensor | None = None, *, features: Tensor | None = None, **given: Tensor | None
    ) -> dist.TorchDistribution:
        """Return q(z | x, y), q(z | x) or q(z | y), batch shape [batch] and event shape [latent].

        Args:
            x: images, [batch, *image]; None where they are missing.
            features: of `features(x)`, to reuse them; None computes them.
            given: attributes by site, [batch, size]; NaN where a value is missing, None if all are.

        Raises:
            ValueError: neither x nor an attribute is given.
        """
        y = {site: value for site, value in given.items() if value is not None}
        if x is not None and not self.product:
            encode: Any = self.encoder if features is None else self.encoder.combine
            loc, log_scale = encode(x if features is None else features, self._signs(x, y)).chunk(2, dim=-1)
            return dist.Normal(loc, log_scale.exp()).to_event(1)
        experts = [self.experts[site](signs(value)) for site, value in y.items()]
        present = [~value.isnan().any(-1, keepdim=True) for value in y.values()]
        if x is not None:
            experts.append(self.encoder(x))
            present.append(torch.ones(x.shape[0], 1, dtype=torch.bool, device=x.device))
        if not experts:
            raise ValueError("neither `x` nor an attribute is given: q(z | nothing) is the prior")
        prior = torch.zeros_like(experts[0])
        loc, log_scale = torch.stack([prior, *experts], dim=-2).chunk(2, dim=-1)
        log_scale = 3.0 * (log_scale / 3.0).tanh()  # scales of 1 / 20 to 20, so that no expert dominates the product
        mask = torch.cat([torch.ones_like(present[0]), *present], dim=-1)
        return ProductOfNormals(loc, log_scale.exp(), mask, dim=-2).to_event(1)

    def forward(
        self, x: Tensor | None = None, *, features: Tensor | None = None, batch: int = 1, **y: Tensor | None
    ) -> Tensor:
        """Sample z for each datum."""
        q = self.posterior(x, features=features, **y)
        with pyro.plate("data", q.batch_shape[0]):
            return pyro.sample("z", q)

    def _signs(self, x: Tensor, y: Mapping[str, Tensor]) -> Tensor:
        """Return the signs of all attributes, concatenated, [batch, sizes]; zeros where missing."""
        blank = {site: x.new_full((x.shape[0], size), torch.nan) for site, size in self.sizes.items()}
        return torch.cat([signs(value) for value in (blank | dict(y)).values()], dim=-1)


def signs(value: Tensor) -> Tensor:
    """Return -1 for 0, 1 for 1, and 0 for NaN: [batch, size]."""
    return (2.0 * value - 1.0).nan_to_num(0.0)
