"""The recipe of the variational auto-encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyro_models
from pyro_models import data as datasets
from pyro_models import guides, nn, pictures
from pyro_models.recipes.base import Picture
from pyro_models.recipes.latent import VariationalRecipe
from pyro_models.recipes.networks import OwnNetworks
from pyro_models.recipes.options import option


@dataclass(frozen=True)
class VAERecipe(VariationalRecipe, OwnNetworks):
    """Variational auto-encoder: z ~ Normal(0, I), x ~ likelihood(decoder(z)), q(z | x) Normal."""

    name: ClassVar[str] = "vae"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "kingma": {"network": "article", "scale_head": "log-variance", "encoder_dropout": 0.0, "schedule": "constant"},
        "burda": {
            "data": "mnist",
            "pixels": "dynamic",  # drawn anew each pass, as there
            "network": "iwae",
            "latent_dim": 50,
            "encoder_dropout": 0.0,
            "elbo": "trace",
            "batch_size": 20,
            "epochs": 3280,  # 1 + 3 + ... + 3^7
            "schedule": "stages",
        },
        "table": {"data": "wine", "likelihood": "columns", "encoder_dropout": 0.0, "batch_size": 64},
    }
    sources: ClassVar[Mapping[str, str]] = {
        "kingma": "an introduction to Kingma and Welling, Auto-Encoding Variational Bayes, 2014 (arXiv:1312.6114): "
        "784-512-z and back, Adam at a constant 0.001, nothing hidden from the encoder",
        "burda": "Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016 (arXiv:1509.00519), section "
        "5: one stochastic layer, 3,280 passes of batch 20",
        "table": "rows of a table, wine unless `data` says otherwise: a likelihood for each type of "
        "column, and no column hidden from the encoder",
    }

    network: Literal["residual", "article", "iwae"] = option(
        "residual",
        "encoder and decoder: residual MLPs; article: 784-512-z, as in the preset kingma; 784-200-200-z with tanh "
        "(Burda et al., 2016)",
    )

    def pair(self, dataset: datasets.Dataset) -> tuple[nn.Module, nn.Module]:
        """Build the VAE and its guide."""
        shape, latent = dataset.shape, self.latent_dim
        pixels, columns = nn.size(shape), self.columns(dataset)
        inputs = pixels if columns is None else columns.width
        width = 64 if dataset.is_table else 512  # more overfits the few rows that tables have
        if self.network == "article":
            encoder, decoder = nn.mlp(inputs, 512, 2 * latent), nn.mlp(latent, 512, pixels)
        elif self.network == "iwae":
            encoder = nn.glorot(nn.mlp(inputs, 200, 200, 2 * latent, activation=nn.Tanh))
            decoder = nn.glorot(nn.mlp(latent, 200, 200, pixels, activation=nn.Tanh))
        else:
            encoder = nn.residual_mlp(inputs, 2 * latent, width=width, depth=3)
            decoder = nn.residual_mlp(latent, pixels, width=width, depth=3)
        meaning = f": loc beside what `scale_head={self.scale_head}` takes, of `latent_dim={latent}`"
        own_encoder = self.own_encoder(shape, latent, 2 * latent, meaning, columns)
        own_decoder = self.own_decoder(shape, latent)
        decode = nn.decoder(decoder, shape) if own_decoder is None else own_decoder
        encode = nn.encoder(encoder, shape, self.encoder_dropout, columns) if own_encoder is None else own_encoder
        guide = guides.VAEGuide(nn.scale_head(encode, self.scale_head))
        return pyro_models.VAE(decode, self.likelihood_of(dataset), latent), guide

    def pictures(self) -> Sequence[Picture]:
        """Return the pictures of reconstructions, latents, samples and learning curves."""
        return (
            pictures.reconstructions,
            pictures.latent_map,
            pictures.decoded_plane,
            pictures.prior_samples,
            pictures.learning_curves,
        )
