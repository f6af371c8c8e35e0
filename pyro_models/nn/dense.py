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
    """Return linear layers of `sizes`, with `norm` of the width and the activation after each but the last.

    >>> mlp(784, 512, 2)(torch.zeros(5, 784)).shape
    torch.Size([5, 2])
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), *([norm(outputs)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def scale_weights(module: nn.Module, factor: float) -> nn.Module:
    """Multiply the weights of a module's linear layers by `factor`, in place, and return it.

    A classifier then starts with nearly uniform probabilities, and layers before batch norm have larger gradients.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.weight.data.mul_(factor)
    return module


def normal_init(module: nn.Module, scale: float) -> nn.Module:
    """Draw weights of linear and convolutional layers from Normal(0, scale), in place, biases 0; return the module."""
    _draw(module, partial(nn.init.normal_, std=scale))
    return module


def glorot(module: nn.Sequential) -> nn.Sequential:
    """Draw weights of linear and convolutional layers as Glorot and Bengio (2010), in place, biases 0.

    >>> glorot(mlp(4, 3, 2))[0].bias.tolist()
    [0.0, 0.0, 0.0]
    """
    _draw(module, nn.init.xavier_uniform_)
    return module


def _draw(module: nn.Module, weights: Callable[[Tensor], Tensor]) -> None:
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            weights(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class GaussianNoise(nn.Module):
    """Add Normal(0, scale) noise in training mode, and nothing in evaluation mode."""

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
    """Return a linear layer to `width`, `depth` residual layers, and a linear layer to `outputs`.

    >>> residual_mlp(784, 20, width=512, depth=3)(torch.zeros(5, 784)).shape
    torch.Size([5, 20])
    """
    return nn.Sequential(
        nn.Linear(inputs, width), nn.GELU(), *(Residual(width) for _ in range(depth)), nn.Linear(width, outputs)
    )


class ScaleHead(nn.Module):
    """A network whose outputs, loc beside what gives the scale, become loc beside log_scale (see `scale_head`)."""

    def __init__(self, network: nn.Module, given: str):
        super().__init__()
        self.network = network
        self.given = given

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map what the network takes to [..., 2 * latent]."""
        loc, raw = self.network(*inputs).chunk(2, dim=-1)
        return torch.cat([loc, raw / 2 if self.given == "log-variance" else F.softplus(raw).log()], dim=-1)


def scale_head(network: nn.Module, given: str) -> nn.Module:
    """Return a network of loc beside log_scale, from one whose second half of outputs gives the scale in another way.

    The scales are the same functions of x, but an optimiser moves them at another speed: Adam, whose steps do not
    depend on the size of a gradient, moves a scale half as fast through the logarithm of its variance.

    Args:
        network: to [..., 2 * latent].
        given: what it gives beside loc: `log-scale`, which stays as it is; `log-variance`; or `softplus`, a number
            whose softplus is the scale.

    >>> scale_head(nn.Identity(), "log-variance")(torch.tensor([1.0, 3.0]))
    tensor([1.0000, 1.5000])
    """
    return network if given == "log-scale" else ScaleHead(network, given)


class TransposedLinear(nn.Module):
    """The transpose of a linear layer: `x W + b`, where W is the weight of `linear`, shared, and b its own bias.

    The weight stays shared through `.to`, in-place loading, `copy.deepcopy` of a module that holds both
    layers, and an optimiser, which sees it once.

    >>> linear = nn.Linear(5, 2)
    >>> TransposedLinear(linear)(torch.zeros(3, 2)).shape
    torch.Size([3, 5])
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight = linear.weight
        self.bias = nn.Parameter(linear.weight.new_zeros(linear.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., linear.out_features] to [..., linear.in_features]."""
        return F.linear(x, self.weight.mT, self.bias)


def encoder(
    body: nn.Module, shape: Sequence[int], dropout: float = 0.0, columns: nn.Module | None = None
) -> nn.Sequential:
    """Return `body` after flattening [..., *image] to [..., pixels] and, in training, dropping some pixels.

    Rows of a table go through `columns` first, see `ColumnInputs`.

    >>> encoder(mlp(16, 4), (1, 4, 4), dropout=0.2)(torch.zeros(7, 1, 4, 4)).shape
    torch.Size([7, 4])
    """
    hidden = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(columns or nn.Flatten(-len(shape)), *hidden, body)


def decoder(body: nn.Module, shape: Sequence[int]) -> nn.Sequential:
    """Return `body` and then a reshape from [..., pixels] to [..., *image].

    >>> decoder(mlp(2, 16), (1, 4, 4))(torch.zeros(7, 2)).shape
    torch.Size([7, 1, 4, 4])
    """
    return nn.Sequential(body, nn.Unflatten(-1, tuple(shape)))


def size(shape: Sequence[int]) -> int:
    """Return the number of pixels of an image of a shape, over all channels.

    >>> size((3, 8, 8))
    192
    """
    return math.prod(shape)
