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
    r"""Amortised inference for the JMVAE, whatever is given.

        q(z | x, y) = Normal(loc, scale)                loc, log_scale = encoder(x, y)
        q(z | x)    = the same, with no attribute known
        q(z | y)    ∝ p(z) q(z | y1) q(z | y2) ...      Normals of loc, scale = expert_i(y_i); known ones only

    With `product` an image is an expert like the others, e(z; x): q(z | x, y) ∝ p(z) e(z; x) q(z | y1) ..., and
    q(z | x) ∝ p(z) e(z; x) (Wu and Goodman, Multimodal generative models for weakly-supervised learning, 2018).

    The networks see an attribute as signs, -1 and 1, and as zeros where it is not known.

    Args:
        encoder: from images [batch, *image] and the signs of all attributes [batch, sizes] to [batch, 2 * latent], loc
            beside log_scale; with `product` from images alone.
        experts: for each attribute's site, from its signs [batch, size] to [batch, 2 * latent], loc beside log_scale.
            Those of a product, the image's too, are bent to lie within -3 and 3.
        sizes: of the attributes, by site.
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
        """Return the encoder's features of images, [batch, features], from which `posterior` goes on for several y.

        All of them then cost one pass over x, with the same dropout. None where the encoder has no such features, as
        that of a product has not.
        """
        return self.encoder.body(x) if isinstance(self.encoder, Conditional) else None

    def posterior(
        self, x: Tensor | None = None, *, features: Tensor | None = None, **given: Tensor | None
    ) -> dist.TorchDistribution:
        """Return q(z | what is given), batch shape [batch] and event shape [latent].

        Args:
            x: images, [batch, *image]; None where they are missing.
            features: what `features(x)` returned, where x is given and they were computed already.
            given: attributes by site, [batch, size]; NaN where one is missing, and None or left out where all are.

        Raises:
            ValueError: neither is given.
        """
        y = {site: value for site, value in given.items() if value is not None}
        if x is not None and not self.product:
            encode: Any = self.encoder if features is None else self.encoder.combine
            loc, log_scale = encode(x if features is None else features, self._signs(x, y)).chunk(2, dim=-1)
            return dist.Normal(loc, log_scale.exp()).to_event(1)
        experts = [self.experts[site](signs(value)) for site, value in y.items()]
        known = [~value.isnan().any(-1, keepdim=True) for value in y.values()]
        if x is not None:
            experts.append(self.encoder(x))
            known.append(torch.ones(len(x), 1, dtype=torch.bool, device=x.device))
        if not experts:
            raise ValueError("neither x nor an attribute is given")
        prior = torch.zeros_like(experts[0])
        loc, log_scale = torch.stack([prior, *experts], dim=-2).chunk(2, dim=-1)
        log_scale = 3.0 * (log_scale / 3.0).tanh()  # scales of 1 / 20 to 20: a sure expert must not drown the others
        mask = torch.cat([torch.ones_like(known[0]), *known], dim=-1)
        return ProductOfNormals(loc, log_scale.exp(), mask, dim=-2).to_event(1)

    def forward(
        self, x: Tensor | None = None, *, features: Tensor | None = None, batch: int = 1, **y: Tensor | None
    ) -> Tensor:
        """Draw a latent for each datum."""
        q = self.posterior(x, features=features, **y)
        with pyro.plate("data", q.batch_shape[0]):
            return pyro.sample("z", q)

    def _signs(self, x: Tensor, y: Mapping[str, Tensor]) -> Tensor:
        """The signs of all attributes side by side, [batch, sizes]; zeros where nothing is known."""
        blank = {site: x.new_full((len(x), size), torch.nan) for site, size in self.sizes.items()}
        return torch.cat([signs(value) for value in (blank | dict(y)).values()], dim=-1)


def signs(value: Tensor) -> Tensor:
    """-1 for 0, 1 for 1, and 0 where an attribute is not known: [batch, size]."""
    return (2.0 * value - 1.0).nan_to_num(0.0)
