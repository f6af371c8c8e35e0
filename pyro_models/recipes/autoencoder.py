"""The recipe of the plain auto-encoder."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pyro_models.base.errors import UserError
from pyro_models.base.names import WEIGHTED
from pyro_models.recipes.latent import LatentRecipe
from pyro_models.recipes.options import option

if TYPE_CHECKING:
    from torch import nn

    from pyro_models.data import Attribute, Dataset


@dataclass(frozen=True)
class AutoencoderRecipe(LatentRecipe):
    """Auto-encoder: x ~ Normal(decoder(z), 1), z = encoder(x); the ELBO is minus half the squared error."""

    name: ClassVar[str] = "autoencoder"
    generative: ClassVar[bool] = False
    presets: ClassVar[dict[str, str]] = {
        "article": "--network simple --latent-dim 20 --learning-rate 0.01 --schedule constant --epochs 50"
    }
    figures: ClassVar[tuple[str, ...]] = (
        "reconstructions",
        "latent_map",
        "pixels_and_codes",
        "decoded_plane",
        "learning_curves",
    )

    network: Literal["deep", "simple", "linear"] = option("deep", "residual MLPs; one sigmoid layer each way; or none")
    tied: bool = option(False, "decode with the transpose of the encoder's weight (simple and linear)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tied and self.network == "deep":
            raise UserError("--tied goes with --network simple or --network linear, not with deep")
        if self.elbo in WEIGHTED or self.beta != 1.0:
            raise UserError("an auto-encoder draws nothing and has no kl: leave --elbo and --beta alone")

    def unit(self, dataset: "Dataset") -> str:
        """Return the unit of likelihoods, which here are a Normal's."""
        return super().unit(dataset) + ", normal likelihood"

    def pair(self, shape: tuple[int, ...], attributes: "tuple[Attribute, ...]" = ()) -> "tuple[nn.Module, nn.Module]":
        """Build the auto-encoder and its guide, which share one weight where they are tied."""
        from torch.nn import Identity, Linear, Sequential, Sigmoid

        from guides.autoencoder import AutoencoderGuide
        from pyro_models import nn
        from pyro_models.autoencoder import Autoencoder

        pixels, codes = nn.size(shape), self.latent_dim
        if self.network == "deep":
            encoder = nn.residual_mlp(pixels, codes, width=512, depth=3)
            decoder = nn.residual_mlp(codes, pixels, width=512, depth=3)
        else:
            activation = Sigmoid if self.network == "simple" else Identity
            inward = Linear(pixels, codes)
            outward = nn.TransposedLinear(inward) if self.tied else Linear(codes, pixels)
            encoder, decoder = Sequential(inward, activation()), Sequential(outward, activation())
        story = Autoencoder(nn.decoder(decoder, shape), codes)
        return story, AutoencoderGuide(nn.encoder(encoder, shape))
