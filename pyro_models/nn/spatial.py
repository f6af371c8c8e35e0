"""Networks that read or write a patch anywhere on a canvas: spatial transformers (Jaderberg et al., 2015)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_models.nn.conv import strided
from pyro_models.nn.dense import mlp, residual_mlp

PATCH = 28  # height and width of a patch
OVERVIEW = 16  # height and width of the downsampled canvas


def affine_sample(images: Tensor, theta: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample images under affine maps by bilinear interpolation, with zeros outside the image.

    Args:
        images: [n, channel, height, width].
        theta: the two rows of each affine map, [n, 6], from homogeneous coordinates in the result, -1 to 1 from edge to
            edge, to those in the image.
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


def _localisation(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return an MLP whose output starts near zero, so that an affine map starts near its offset."""
    network = mlp(inputs, hidden, hidden, outputs)
    nn.init.normal_(network[-1].weight, 0.0, 0.01)  # type: ignore[arg-type]
    nn.init.zeros_(network[-1].bias)  # type: ignore[arg-type]
    return network


class Spatial(nn.Module):
    """Map images to outputs from a downsampled overview and a glimpse, a patch located by the overview.

    At first the glimpse covers the whole canvas.

    Args:
        shape: of an image, [channel, height, width].
        features: from glimpses [batch, channel, PATCH, PATCH] to [batch, features].
        what: from these features, the overview (channel * OVERVIEW**2) and the glimpse's map (6) to [batch, outputs].
    """

    def __init__(self, shape: Sequence[int], features: nn.Module, what: nn.Module):
        super().__init__()
        self.where = _localisation(shape[0] * OVERVIEW**2, 128, 6)
        self.features = features
        self.what = what
        self.register_buffer("whole", torch.tensor([1.0, 0, 0, 0, 1, 0]), persistent=False)
        self.whole: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channel, height, width] to [batch, outputs]."""
        overview = F.adaptive_avg_pool2d(x, OVERVIEW).flatten(1)
        theta = self.whole + self.where(overview)
        glimpse = affine_sample(x, theta, (PATCH, PATCH))
        return self.what(torch.cat([self.features(glimpse), overview, theta], -1))


def spatial_encoder(shape: Sequence[int], outputs: int, *, width: int) -> Spatial:
    """Encode images [batch, *shape] by layers of `width` hidden units.

    >>> spatial_encoder((1, 64, 64), 6, width=32)(torch.zeros(2, 1, 64, 64)).shape
    torch.Size([2, 6])
    """
    features = shape[0] * (PATCH**2 + OVERVIEW**2) + 6
    return Spatial(shape, nn.Flatten(), residual_mlp(features, outputs, width=width, depth=1))


def spatial_classifier(shape: Sequence[int], classes: int) -> Spatial:
    """Classify images [batch, *shape]: convolutions of stride 2 on the glimpse, 256 hidden units, batch norm, logits.

    >>> spatial_classifier((1, 64, 64), 5)(torch.zeros(2, 1, 64, 64)).shape
    torch.Size([2, 5])
    """
    convolutions, features = strided(shape[0], PATCH, PATCH)
    hidden = [nn.Linear(features + shape[0] * OVERVIEW**2 + 6, 256), nn.BatchNorm1d(256), nn.ReLU()]
    return Spatial(shape, convolutions, nn.Sequential(*hidden, nn.Linear(256, classes)))


class SpatialDecoder(nn.Module):
    """Decode latents to images: a patch, placed by an affine map on a constant background.

    >>> SpatialDecoder(2, (1, 64, 64), width=32)(torch.zeros(5, 2)).shape
    torch.Size([5, 1, 64, 64])

    Args:
        latent_dim: the size of z.
        shape: of an image, [channel, height, width].
        width: hidden units of a layer.
        background: the initial value of the background.
    """

    def __init__(self, latent_dim: int, shape: Sequence[int], *, width: int, background: float = 0.0):
        super().__init__()
        self.shape = tuple(shape)
        self.what = residual_mlp(latent_dim, shape[0] * PATCH**2, width=width, depth=2)
        self.where = _localisation(latent_dim, 64, 6)
        self.background = nn.Parameter(torch.tensor(background))
        self.register_buffer("middle", torch.tensor([1.6, 0, 0, 0, 1.6, 0]), persistent=False)  # 5 / 8 of the canvas
        self.middle: Tensor

    def forward(self, z: Tensor) -> Tensor:
        """Map [..., latent] to [..., channel, height, width]."""
        flat = z.reshape(-1, z.shape[-1])
        patch = self.what(flat).unflatten(-1, (self.shape[0], PATCH, PATCH))
        canvas = affine_sample(patch, _centred(self.middle + self.where(flat)), self.shape)
        return (canvas + self.background).reshape(*z.shape[:-1], *self.shape)


def _centred(theta: Tensor) -> Tensor:
    """Convert maps [n, 6] whose offsets are the position of the patch's centre on the canvas to affine maps, [n, 6]."""
    rows = theta.unflatten(-1, (2, 3))
    linear, middle = rows.split([2, 1], -1)
    return torch.cat([linear, -(linear * middle.mT).sum(-1, keepdim=True)], -1).flatten(1)
