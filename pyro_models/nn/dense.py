"""Fully connected networks."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(
    *sizes: int, activation: Callable[[], nn.Module] = nn.ReLU, norm: Callable[[int], nn.Module] | None = None
) -> nn.Sequential:
    """Linear layers through `sizes`; between them, and not after the last, `norm` of the width and the activation."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), *([norm(outputs)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def shrunk(module: nn.Module, factor: float) -> nn.Module:
    """`module` with its linear weights times `factor`: it starts unsure, and its batch-normed layers turn faster."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.weight.data.mul_(factor)
    return module


def redrawn(module: nn.Module, scale: float) -> nn.Module:
    """`module` with the weights of its linear and convolutional layers drawn from Normal(0, scale), the biases 0."""
    _draw(module, partial(nn.init.normal_, std=scale))
    return module


def glorot(module: nn.Sequential) -> nn.Sequential:
    """`module` with the weights of its linear and convolutional layers as Glorot and Bengio (2010), the biases 0."""
    _draw(module, nn.init.xavier_uniform_)
    return module


def _draw(module: nn.Module, weights: Callable[[Tensor], Tensor]) -> None:
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            weights(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class GaussianNoise(nn.Module):
    """x + scale * noise while training, x otherwise."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Map [...] to [...]."""
        return x + self.scale * torch.randn_like(x) if self.training else x


class Residual(nn.Module):
    """x + gelu(linear(layer_norm(x))), over the last dimension."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width] to [..., width]."""
        return x + F.gelu(self.linear(self.norm(x)))


def residual_mlp(inputs: int, outputs: int, *, width: int, depth: int) -> nn.Sequential:
    """One layer to `width`, `depth` residual ones, one to `outputs`."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.GELU(), *(Residual(width) for _ in range(depth)), nn.Linear(width, outputs)
    )


class TransposedLinear(nn.Module):
    """`x W + b`, where W is the weight of `linear` itself, shared, and b a bias of its own.

    The weight stays shared through `.to`, in-place loading, `copy.deepcopy` of a module that holds both
    layers, and an optimiser, which sees it once.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight = linear.weight
        self.bias = nn.Parameter(linear.weight.new_zeros(linear.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., linear.out_features] to [..., linear.in_features]."""
        return F.linear(x, self.weight.mT, self.bias)


def encoder(body: nn.Module, shape: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """`body` after flattening [..., *image] to [..., pixels], some of which training hides."""
    hidden = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(nn.Flatten(-len(shape)), *hidden, body)


def decoder(body: nn.Module, shape: Sequence[int]) -> nn.Sequential:
    """`body`, then from [..., pixels] to [..., *image]."""
    return nn.Sequential(body, nn.Unflatten(-1, tuple(shape)))


def size(shape: Sequence[int]) -> int:
    """Return the number of pixels of one image, channels counted."""
    return math.prod(shape)
