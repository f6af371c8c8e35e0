"""The recipe of the plain auto-encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyro_models
from pyro_models import data as datasets
from pyro_models import guides, nn, objectives, pictures
from pyro_models.base.errors import UserError
from pyro_models.recipes.base import Picture, Question
from pyro_models.recipes.latent import LatentRecipe
from pyro_models.recipes.networks import OwnNetworks
from pyro_models.recipes.options import option


@dataclass(frozen=True)
class AutoencoderRecipe(LatentRecipe, OwnNetworks):
    """Auto-encoder: x ~ likelihood(decoder(z)), z = encoder(x); of a Normal, minus half the squared error."""

    name: ClassVar[str] = "autoencoder"
    unanswered: ClassVar[Mapping[Question, str]] = {
        "replicates": "the autoencoder cannot generate x, as z has no prior: there are no replicates to check",
        "log-likelihood": "the autoencoder is no density of x: it has no log p(x) to estimate",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "sigmoid": {"network": "simple", "latent_dim": 20, "learning_rate": 0.01, "schedule": "constant", "epochs": 50},
        "table": {"data": "wine", "likelihood": "columns", "batch_size": 64},
    }
    sources: ClassVar[Mapping[str, str]] = {
        "sigmoid": "an introductory course's chapter on auto-encoders: one sigmoid layer each way, z of 20, Adam at a "
        "constant 0.01, 50 passes",
        "table": "rows of a table, wine unless `data` says otherwise: a likelihood for each type of column",
    }

    likelihood: str = option(
        "normal",
        "distribution of x given z, whose negative logarithm is minimised: normal of standard deviation 1, which is "
        "half the squared error; or one of those of vae",
    )

    network: Literal["deep", "simple", "linear"] = option(
        "deep", "encoder and decoder: residual MLPs; simple: one sigmoid layer each; linear: one layer each (PCA)"
    )
    tied: bool = option(False, "use the transpose of the encoder's weight in the decoder (simple and linear networks)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tied and self.network == "deep":
            raise UserError("`tied` goes with `network=simple` or `network=linear`, not with deep")

    def bound(self) -> objectives.Objective:
        """Build the ELBO, which has no noise: the latent is a point mass."""
        return objectives.ESTIMATORS["mean-field"]

    def estimators(self, names: Sequence[str], particles: int) -> dict[str, tuple[objectives.Objective, str | None]]:
        """Return the estimators that need no noise."""
        taken = ("trace", "mean-field")
        for name in names:
            if name not in taken:
                raise UserError(
                    f"the {self.name} takes the estimators {', '.join(taken)}, not {name}: z has no density"
                )
        return {name: (objectives.ESTIMATORS[name], None) for name in names or taken}

    def pair(self, dataset: datasets.Dataset) -> tuple[nn.Module, nn.Module]:
        """Build the auto-encoder and its guide, which share one weight where they are tied."""
        shape, latent = dataset.shape, self.latent_dim
        pixels, columns = nn.size(shape), self.columns(dataset)
        inputs = pixels if columns is None else columns.width
        if self.network == "deep":
            encoder = nn.residual_mlp(inputs, latent, width=512, depth=3)
            decoder = nn.residual_mlp(latent, pixels, width=512, depth=3)
        else:
            activation = nn.Sigmoid if self.network == "simple" else nn.Identity
            inward = nn.Linear(inputs, latent)
            outward = nn.TransposedLinear(inward) if self.tied else nn.Linear(latent, pixels)
            encoder, decoder = nn.Sequential(inward, activation()), nn.Sequential(outward, activation())
        own_encoder = self.own_encoder(shape, latent, latent, f": z, of `latent_dim={latent}`", columns)
        own_decoder = self.own_decoder(shape, latent)
        decode = nn.decoder(decoder, shape) if own_decoder is None else own_decoder
        encode = nn.encoder(encoder, shape, columns=columns) if own_encoder is None else own_encoder
        return pyro_models.Autoencoder(decode, self.likelihood_of(dataset), latent), guides.AutoencoderGuide(encode)

    def pictures(self) -> Sequence[Picture]:
        """Return the pictures of reconstructions, latents and learning curves."""
        return (
            pictures.reconstructions,
            pictures.latent_map,
            pictures.pixels_and_latents,
            pictures.decoded_plane,
            pictures.error_curves,
        )
