"""Convolutional networks: those of the articles, for images of 28 x 28, and one for images of any size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FEATURES = 128 * 7 * 7  # of the clustering article's nets


class Flattened(nn.Module):
    """A module that wants one batch dimension, given any number of them.

    Args:
        module: from [batch, *inputs] to [batch, *outputs].
        event_dim: how many dimensions `inputs` are.
    """

    def __init__(self, module: nn.Module, event_dim: int = 1):
        super().__init__()
        self.module = module
        self.event_dim = event_dim

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., *inputs] to [..., *outputs]."""
        left = x.shape[: x.ndim - self.event_dim]
        out = self.module(x.reshape(-1, *x.shape[x.ndim - self.event_dim :]))
        return out.reshape(*left, *out.shape[1:])


def normed(inputs: int, outputs: int) -> list[nn.Module]:
    """A linear layer, batch norm and a leaky ReLU."""
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.LeakyReLU(0.2)]


def conv_classifier(
    channels: int, kinds: int, widths: tuple[int, int] = (64, 128), hidden: int = 256, dropout: float = 0.4
) -> nn.Sequential:
    """From images [batch, channels, 28, 28] to logits: two convolutions with pooling, hidden units, dropout.

    As it is, the clustering article's; of widths 32 and 64, 100 hidden units and dropout 0.5, that of the article on
    virtual adversarial training.
    """

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 4, padding=2), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    head = [nn.Flatten(), nn.Linear(49 * widths[1], hidden), nn.Dropout(dropout), nn.ReLU(), nn.Linear(hidden, kinds)]
    return nn.Sequential(*block(channels, widths[0]), *block(*widths), *head)


def strided(channels: int, height: int, width: int) -> tuple[nn.Sequential, int]:
    """From images of that shape to features, by two convolutions of stride 2; and how many features."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 5, 2, 2), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(*block(channels, 16), *block(16, 32), nn.Flatten()), 32 * -(-height // 4) * -(-width // 4)


def strided_classifier(shape: Sequence[int], kinds: int) -> nn.Sequential:
    """From images [batch, *shape] to logits: two convolutions of stride 2, 128 hidden units, batch norm throughout."""
    convolutions, features = strided(*shape)
    return nn.Sequential(*convolutions, nn.Linear(features, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, kinds))


class ConvEncoder(nn.Module):
    """From images and kinds to 2 * latent numbers: the features as 40 numbers, and as one for each kind times y."""

    def __init__(self, channels: int, kinds: int, latent_dim: int):
        super().__init__()

        def block(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]

        self.body = nn.Sequential(*block(channels, 64), *block(64, 128), nn.Flatten())
        self.shared = nn.Linear(FEATURES, 40)
        self.by_kind = nn.Linear(FEATURES, kinds)
        self.head = Flattened(nn.Sequential(*normed(40 + kinds, 1024), nn.Linear(1024, 2 * latent_dim)))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map [batch, channels, 28, 28] and [..., batch, kinds], or what broadcasts to it, to [..., batch, outputs]."""
        features = self.body(x)
        by_kind = self.by_kind(features) * y
        shared = self.shared(features).expand(*by_kind.shape[:-1], -1)
        return self.head(torch.cat([shared, by_kind], dim=-1))


def conv_decoder(channels: int, latent_dim: int) -> Flattened:
    """From codes [..., latent] to logits [..., channels, 28, 28], by two transposed convolutions."""
    return Flattened(
        nn.Sequential(
            nn.Linear(latent_dim, 40),
            *normed(40, 1024),
            nn.Linear(1024, FEATURES),
            nn.LeakyReLU(0.2),
            nn.Unflatten(1, (128, 7, 7)),
            nn.ConvTranspose2d(128, 64, 4, 2, 1),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(64, channels, 4, 2, 1),
        )
    )


def conv_component(kinds: int, latent_dim: int) -> Flattened:
    """From kinds [..., kinds] to 2 * latent numbers, by 1024 hidden units."""
    return Flattened(nn.Sequential(*normed(kinds, 1024), nn.Linear(1024, 2 * latent_dim)))
