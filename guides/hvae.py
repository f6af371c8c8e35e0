"""The inference of the variational auto-encoder of two levels of latents."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_models.distributions import ProductOfNormals


class HVAEGuide(PyroModule):
    r"""Ladder inference for the HVAE: z1 combines what x says, bottom up, with what z2 says, top down.

        q(z2 | x)     = Normal(loc, scale)          loc, log_scale = upper(encoder(x))
        q(z1 | z2, x) ∝ Normal(z1; loc, scale) p(z1 | z2)       loc, log_scale = lower(encoder(x))

    The product of two Normals is a Normal whose precision is the sum of theirs and whose loc is their mean weighted by
    precision (Sønderby et al., 2016, equations 17 to 19). As z2 is drawn first, in the order of the story, KL(q(z1 |
    z2, x) || p(z1 | z2)) is in closed form given z2.

    Args:
        encoder: from images [batch, *image] to features [batch, features].
        lower: from features to [batch, 2 * lower], loc beside log_scale of the factor of z1 that x gives.
        upper: from features to [batch, 2 * upper], loc beside log_scale of z2.
        top_down: the story's own, from z2 [..., upper] to [..., 2 * lower].
    """

    def __init__(self, encoder: nn.Module, lower: nn.Module, upper: nn.Module, top_down: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.lower = lower
        self.upper = upper
        self.top_down = top_down

    def posterior(self, x: Tensor, z2: Tensor | None = None) -> dist.TorchDistribution:
        """Return q(z2 | x), event shape [upper]; of z2 [..., batch, upper], q(z1 | z2, x), event shape [lower]."""
        return self._given(self.encoder(x), z2)

    def forward(self, x: Tensor, *, batch: int = 1) -> Tensor:
        """Sample both levels, z2 first."""
        features = self.encoder(x)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", self._given(features))
            return pyro.sample("z1", self._given(features, z2))

    def _given(self, features: Tensor, z2: Tensor | None = None) -> dist.TorchDistribution:
        if z2 is None:
            loc, log_scale = self.upper(features).chunk(2, dim=-1)
            return dist.Normal(loc, log_scale.exp()).to_event(1)
        experts = torch.broadcast_tensors(self.lower(features), self.top_down(z2))
        loc, log_scale = torch.stack(experts, dim=-2).chunk(2, dim=-1)
        return ProductOfNormals(loc, log_scale.exp(), dim=-2).to_event(1)
