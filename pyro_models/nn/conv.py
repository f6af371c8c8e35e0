"""Convolutional networks: those of the articles, for images of 28 x 28, and a classifier of images of any size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_models.nn.own import Folded

FEATURES = 128 * 7 * 7  # of the clustering article's networks


def normed(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a linear layer, batch norm and a leaky ReLU."""
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.LeakyReLU(0.2)]


def conv_classifier(
    channels: int, classes: int, widths: tuple[int, int] = (64, 128), hidden: int = 256, dropout: float = 0.4
) -> nn.Sequential:
    """Classify images [batch, channels, 28, 28]: two convolutions with pooling, a hidden layer, dropout, logits.

    The defaults are those of the clustering article. The article on virtual adversarial training has widths 32 and 64,
    100 hidden units and dropout 0.5.

    >>> conv_classifier(1, 10)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 4, padding=2), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    head = [nn.Flatten(), nn.Linear(49 * widths[1], hidden), nn.Dropout(dropout), nn.ReLU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*block(channels, widths[0]), *block(*widths), *head)


def strided(channels: int, height: int, width: int) -> tuple[nn.Sequential, int]:
    """Return two convolutions of stride 2 for images of a shape, flattened, and the number of their features."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 5, 2, 2), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(*block(channels, 16), *block(16, 32), nn.Flatten()), 32 * -(-height // 4) * -(-width // 4)


def strided_classifier(shape: Sequence[int], classes: int) -> nn.Sequential:
    """Classify images [batch, *shape]: two convolutions of stride 2, 128 hidden units, batch norm throughout, logits.

    >>> strided_classifier((3, 9, 14), 5)(torch.zeros(2, 3, 9, 14)).shape
    torch.Size([2, 5])
    """
    convolutions, features = strided(*shape)
    hidden = [nn.Linear(features, 128), nn.BatchNorm1d(128), nn.ReLU()]
    return nn.Sequential(*convolutions, *hidden, nn.Linear(128, classes))


class ConvEncoder(nn.Module):
    """Encode images and their cluster as loc and log_scale of z, as the clustering article does.

    The convolutional features become 40 numbers that all clusters share, and one number for each cluster, times y.

    >>> encoder, y = ConvEncoder(1, 10, latent_dim=3), torch.eye(10)
    >>> encoder(torch.zeros(2, 1, 28, 28), y[:, None]).shape
    torch.Size([10, 2, 6])

    Args:
        channels: of an image.
        clusters: the size of y.
        latent_dim: the size of z.
    """

    def __init__(self, channels: int, clusters: int, latent_dim: int):
        super().__init__()

        def block(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]

        self.body = nn.Sequential(*block(channels, 64), *block(64, 128), nn.Flatten())
        self.shared = nn.Linear(FEATURES, 40)
        self.per_cluster = nn.Linear(FEATURES, clusters)
        self.head = Folded(nn.Sequential(*normed(40 + clusters, 1024), nn.Linear(1024, 2 * latent_dim)))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map x [batch, channels, 28, 28] and y [..., batch, clusters], to [..., batch, 2 * latent]; both broadcast."""
        features = self.body(x)
        per_cluster = self.per_cluster(features) * y
        shared = self.shared(features).expand(*per_cluster.shape[:-1], -1)
        return self.head(torch.cat([shared, per_cluster], dim=-1))


def conv_decoder(channels: int, latent_dim: int) -> Folded:
    """Decode latents [..., latent] to logits [..., channels, 28, 28] by two transposed convolutions.

    >>> conv_decoder(1, latent_dim=3)(torch.zeros(5, 2, 3)).shape
    torch.Size([5, 2, 1, 28, 28])
    """
    return Folded(
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


def conv_component(clusters: int, latent_dim: int) -> Folded:
    """Map one-hot clusters [..., clusters] to loc and log_scale, [..., 2 * latent], by 1024 hidden units.

    >>> conv_component(10, latent_dim=3)(torch.eye(10)).shape
    torch.Size([10, 6])
    """
    return Folded(nn.Sequential(*normed(clusters, 1024), nn.Linear(1024, 2 * latent_dim)))
