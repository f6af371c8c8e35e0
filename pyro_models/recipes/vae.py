"""The recipe of the variational auto-encoder."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pyro_models.recipes.latent import VariationalRecipe
from pyro_models.recipes.options import option

if TYPE_CHECKING:
    from torch import nn

    from pyro_models.data import Attribute


@dataclass(frozen=True)
class VAERecipe(VariationalRecipe):
    """Variational auto-encoder: z ~ Normal(0, I), x ~ likelihood(decoder(z)), q(z | x) Normal."""

    name: ClassVar[str] = "vae"
    presets: ClassVar[dict[str, str]] = {
        "article": "--network article --encoder-dropout 0 --schedule constant",
        "burda": "--data mnist --pixels dynamic --network iwae --latent-dim 50 --encoder-dropout 0 --elbo trace "
        "--batch-size 20 --epochs 3280 --schedule stages",
    }
    figures: ClassVar[tuple[str, ...]] = (
        "reconstructions",
        "latent_map",
        "decoded_plane",
        "prior_samples",
        "learning_curves",
    )

    network: Literal["residual", "article", "iwae"] = option(
        "residual", "residual MLPs; the article's 784-512-z; 784-200-200-z with tanh, of the IWAE's paper"
    )

    def pair(self, shape: tuple[int, ...], attributes: "tuple[Attribute, ...]" = ()) -> "tuple[nn.Module, nn.Module]":
        """Build the VAE and its guide."""
        from torch.nn import Tanh

        from guides.vae import VAEGuide
        from pyro_models import nn
        from pyro_models.vae import VAE

        pixels, codes = nn.size(shape), self.latent_dim
        if self.network == "article":
            encoder, decoder = nn.mlp(pixels, 512, 2 * codes), nn.mlp(codes, 512, pixels)
        elif self.network == "iwae":
            encoder = nn.glorot(nn.mlp(pixels, 200, 200, 2 * codes, activation=Tanh))
            decoder = nn.glorot(nn.mlp(codes, 200, 200, pixels, activation=Tanh))
        else:
            encoder = nn.residual_mlp(pixels, 2 * codes, width=512, depth=3)
            decoder = nn.residual_mlp(codes, pixels, width=512, depth=3)
        story = VAE(nn.decoder(decoder, shape), self._likelihood(shape), codes)
        return story, VAEGuide(nn.encoder(encoder, shape, self.encoder_dropout))
