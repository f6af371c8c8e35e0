"""Networks that look at, or draw, a patch anywhere on a canvas: spatial transformers (Jaderberg et al., 2015)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_models.nn.conv import strided
from pyro_models.nn.dense import mlp, residual_mlp

PATCH = 28  # pixels a side
OVERVIEW = 16  # likewise, of the whole canvas made small


def placed(images: Tensor, theta: Tensor, shape: Sequence[int]) -> Tensor:
    """Sample images where an affine map says, by bilinear interpolation; zero outside them.

    Args:
        images: [n, channel, height, width].
        theta: the rows of the map of each, [n, 6]: from coordinates in the result, -1 to 1 from edge to edge, and 1, to
            those in the image.
        shape: of the result, [..., height, width].

    Returns:
        [n, channel, height, width] of that shape.
    """
    down, right = (
        (torch.arange(size, dtype=theta.dtype, device=theta.device) + 0.5) * 2 / size - 1 for size in shape[-2:]
    )
    by_right, by_down, offset = theta.unflatten(-1, (2, 3))[:, None, None].unbind(-1)  # affine_grid is slower
    grid = by_right * right[:, None] + (by_down * down[:, None, None] + offset)
    return F.grid_sample(images, grid, align_corners=False)


def _where(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """An MLP that starts near zero, so that a patch starts where its user puts it."""
    network = mlp(inputs, hidden, hidden, outputs)
    nn.init.normal_(network[-1].weight, 0.0, 0.01)  # type: ignore[arg-type]
    nn.init.zeros_(network[-1].bias)  # type: ignore[arg-type]
    return network


class Spatial(nn.Module):
    """From images to outputs, by an overview of all and a glimpse at some of it.

    The glimpse is a patch of the canvas, at first all of it, as the overview decides.

    Args:
        shape: of an image, [channel, height, width].
        features: from glimpses [batch, channel, PATCH, PATCH] to [batch, features].
        what: from these features, the overview (channel * OVERVIEW**2) and the glimpse's map (6) to [batch, outputs].
    """

    def __init__(self, shape: Sequence[int], features: nn.Module, what: nn.Module):
        super().__init__()
        self.where = _where(shape[0] * OVERVIEW**2, 128, 6)
        self.features = features
        self.what = what
        self.register_buffer("whole", torch.tensor([1.0, 0, 0, 0, 1, 0]), persistent=False)
        self.whole: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channel, height, width] to [batch, outputs]."""
        overview = F.adaptive_avg_pool2d(x, OVERVIEW).flatten(1)
        theta = self.whole + self.where(overview)
        glimpse = placed(x, theta, (PATCH, PATCH))
        return self.what(torch.cat([self.features(glimpse), overview, theta], -1))


def spatial_encoder(shape: Sequence[int], outputs: int, *, width: int) -> Spatial:
    """From images [batch, *shape] to outputs, by layers of `width` hidden units."""
    features = shape[0] * (PATCH**2 + OVERVIEW**2) + 6
    return Spatial(shape, nn.Flatten(), residual_mlp(features, outputs, width=width, depth=1))


def spatial_classifier(shape: Sequence[int], kinds: int) -> Spatial:
    """From images [batch, *shape] to logits: convolutions of stride 2 on the glimpse, 256 hidden units, batch norm."""
    convolutions, features = strided(shape[0], PATCH, PATCH)
    hidden = [nn.Linear(features + shape[0] * OVERVIEW**2 + 6, 256), nn.BatchNorm1d(256), nn.ReLU()]
    return Spatial(shape, convolutions, nn.Sequential(*hidden, nn.Linear(256, kinds)))


class SpatialDecoder(nn.Module):
    """From codes to images: a patch, put somewhere on an even background.

    Args:
        latent_dim: the size of a code.
        shape: of an image, [channel, height, width].
        width: hidden units of a layer.
        background: what it is at first.
    """

    def __init__(self, latent_dim: int, shape: Sequence[int], *, width: int, background: float = 0.0):
        super().__init__()
        self.shape = tuple(shape)
        self.what = residual_mlp(latent_dim, shape[0] * PATCH**2, width=width, depth=2)
        self.where = _where(latent_dim, 64, 6)
        self.background = nn.Parameter(torch.tensor(background))
        self.register_buffer("middle", torch.tensor([1.6, 0, 0, 0, 1.6, 0]), persistent=False)  # 5 / 8 of the canvas
        self.middle: Tensor

    def forward(self, z: Tensor) -> Tensor:
        """Map [..., latent] to [..., channel, height, width]."""
        codes = z.reshape(-1, z.shape[-1])
        patch = self.what(codes).unflatten(-1, (self.shape[0], PATCH, PATCH))
        canvas = placed(patch, _about_middle(self.middle + self.where(codes)), self.shape)
        return (canvas + self.background).reshape(*z.shape[:-1], *self.shape)


def _about_middle(theta: Tensor) -> Tensor:
    """Read the offsets of a map [n, 6] as the place on the canvas that the middle of the patch comes to."""
    rows = theta.unflatten(-1, (2, 3))
    linear, middle = rows.split([2, 1], -1)
    return torch.cat([linear, -(linear * middle.mT).sum(-1, keepdim=True)], -1).flatten(1)
