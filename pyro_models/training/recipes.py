"""The list of recipes: the command line, its help, the README's table and the tests all come from it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_type_hints

from pyro_models.base.errors import UserError, nearest
from pyro_models.training.options import option
from pyro_models.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from pyro_models.distributions import Likelihood


@dataclass(frozen=True)
class VAERecipe(Recipe):
    """Variational auto-encoder: z ~ Normal(0, I), x ~ likelihood(decoder(z)), q(z | x) Normal."""

    name: ClassVar[str] = "vae"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "article": {"network": "article", "encoder_dropout": 0.0, "schedule": "constant"}
    }
    figures: ClassVar[tuple[str, ...]] = (
        "reconstructions",
        "latent_map",
        "decoded_plane",
        "prior_samples",
        "learning_curves",
    )

    network: Literal["residual", "article"] = option("residual", "residual MLPs, or the article's 784-512-z")
    likelihood: Literal["bernoulli", "continuous-bernoulli", "normal"] = option("bernoulli", "of pixels given z")
    encoder_dropout: float = option(0.2, "share of pixels hidden from the encoder while it trains", 0.0, 0.99)
    scale: float | None = option(None, "of the normal likelihood; none learns it", 1e-3, 1e3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None and self.likelihood != "normal":
            raise UserError(f"--scale goes with --likelihood normal, not with {self.likelihood}")
        if self.likelihood != "bernoulli" and self.pixels != "grey":
            raise UserError(f"--likelihood {self.likelihood} is a density of grey pixels, not of {self.pixels} ones")

    @property
    def unit(self) -> str:
        """The unit of likelihoods: the Bernoulli goes without saying, a density does not."""
        return super().unit + ("" if self.likelihood == "bernoulli" else f", {self.likelihood} likelihood")

    def pair(self, shape: tuple[int, ...]) -> "tuple[nn.Module, nn.Module]":
        """Build the VAE and its guide."""
        from guides.vae import VAEGuide
        from pyro_models import nn
        from pyro_models.vae import VAE

        pixels, codes = nn.size(shape), self.latent_dim
        if self.network == "article":
            encoder, decoder = nn.mlp(pixels, 512, 2 * codes), nn.mlp(codes, 512, pixels)
        else:
            encoder = nn.residual_mlp(pixels, 2 * codes, width=512, depth=3)
            decoder = nn.residual_mlp(codes, pixels, width=512, depth=3)
        story = VAE(nn.decoder(decoder, shape), self._likelihood(), codes)
        return story, VAEGuide(nn.encoder(encoder, shape, self.encoder_dropout))

    def _likelihood(self) -> "Likelihood":
        from pyro_models import distributions

        if self.likelihood == "normal":
            return distributions.NormalLikelihood(self.scale)
        if self.likelihood == "continuous-bernoulli":
            return distributions.continuous_bernoulli
        return distributions.grey_bernoulli if self.pixels == "grey" else distributions.bernoulli


@dataclass(frozen=True)
class AutoencoderRecipe(Recipe):
    """Auto-encoder: x ~ Normal(decoder(z), 1), z = encoder(x); the ELBO is minus half the squared error."""

    name: ClassVar[str] = "autoencoder"
    generative: ClassVar[bool] = False
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "article": {
            "network": "simple",
            "latent_dim": 20,
            "learning_rate": 0.01,
            "schedule": "constant",
            "epochs": 50,
        }
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
        if self.elbo in ("iwae", "renyi") or self.beta != 1.0:
            raise UserError("an auto-encoder draws nothing and has no kl: leave --elbo and --beta alone")

    @property
    def unit(self) -> str:
        """The unit of likelihoods, which here are a Normal's."""
        return super().unit + ", normal likelihood"

    def pair(self, shape: tuple[int, ...]) -> "tuple[nn.Module, nn.Module]":
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


RECIPES: dict[str, type[Recipe]] = {recipe.name: recipe for recipe in (VAERecipe, AutoencoderRecipe)}


def from_json(content: dict[str, Any]) -> Recipe:
    """Make the recipe that `Recipe.as_json` wrote.

    Raises:
        UserError: it names an unknown recipe or option.
    """
    fields = dict(content)
    name = str(fields.pop("recipe", None))
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}: {nearest(name, RECIPES)}")
    try:
        return RECIPES[name](**fields)
    except TypeError as error:
        raise UserError(f"recipe {name!r}: {error}") from None


def table() -> str:
    """Return the recipes as a Markdown table."""
    lines = ["| recipe | what it is | networks | presets |", "| --- | --- | --- | --- |"]
    for name, recipe in RECIPES.items():
        networks = get_args(get_type_hints(recipe)["network"])
        what = str(recipe.__doc__).replace("|", "\\|")
        lines.append(f"| `{name}` | {what} | {', '.join(networks)} | {', '.join(recipe.presets)} |")
    return "\n".join(lines)
