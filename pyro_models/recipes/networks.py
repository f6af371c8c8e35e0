"""Recipes whose encoder and decoder may be the user's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyro_models import nn
from pyro_models.recipes.base import Recipe
from pyro_models.recipes.options import option


@dataclass(frozen=True)
class OwnNetworks(Recipe):
    """The options that replace the encoder and the decoder."""

    encoder: Any = option(
        None,
        "your own encoder, MODULE:CLASS, in Python a module too: from [batch, *shape] to [batch, outputs], called with "
        "those of `shape`, `latent_dim` and `outputs` that it has parameters for; none: as `network` says",
    )
    decoder: Any = option(
        None,
        "your own decoder, as `encoder`: from [batch, latent_dim] to [batch, *shape], the parameters of the likelihood",
    )

    def own_encoder(
        self, shape: Sequence[int], latent: int, outputs: int, meaning: str, columns: nn.ColumnInputs | None = None
    ) -> nn.Module | None:
        """Build the user's encoder, None where there is none: [..., *shape] to [..., outputs].

        Rows of a table go through `columns` first.
        """
        if self.encoder is None:
            return None
        shape = tuple(shape) if columns is None else (columns.width,)
        made = {"shape": shape, "latent_dim": latent, "outputs": outputs}
        network = nn.own_network("encoder", self.encoder, shape, [outputs], arguments=made, meaning=meaning)
        dropout = getattr(self, "encoder_dropout", 0.0)
        before = [*([] if columns is None else [columns]), *([nn.Dropout(dropout)] if dropout else [])]
        return nn.Sequential(*before, network) if before else network

    def own_decoder(self, shape: Sequence[int], latent: int) -> nn.Module | None:
        """Build the user's decoder, None where there is none: [..., latent] to [..., *shape]."""
        if self.decoder is None:
            return None
        made = {"shape": tuple(shape), "latent_dim": latent, "outputs": tuple(shape)}
        meaning = f": a datum's shape, from `latent_dim={latent}`"
        return nn.own_network("decoder", self.decoder, [latent], shape, arguments=made, meaning=meaning)

    def as_json(self) -> dict[str, Any]:
        """Return the recipe's name and fields; a network in memory by the name of its class alone."""
        return super().as_json() | {name: nn.spelling(getattr(self, name)) for name in ("encoder", "decoder")}

    def command(self, processes: int = 1) -> str:
        """Return the shortest command that trains this recipe."""
        spelled = {name: nn.spelling(getattr(self, name)) for name in ("encoder", "decoder")}
        if spelled == {name: getattr(self, name) for name in spelled}:
            return super().command(processes)
        return dataclasses.replace(self, **spelled).command(processes)
