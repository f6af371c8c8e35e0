"""The recipe of the variational auto-encoder of two levels of latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyro_models
from pyro_models import data as datasets
from pyro_models import guides, metrics, nn, pictures, plots
from pyro_models.recipes.base import Picture
from pyro_models.recipes.latent import VariationalRecipe
from pyro_models.recipes.options import option

if TYPE_CHECKING:
    from pyro_models.metrics import Trained

DRAWS = 5  # of z1 for each image in the picture


@dataclass(frozen=True)
class HVAERecipe(VariationalRecipe):
    """VAE of two levels: z2 ~ Normal(0, I), z1 ~ Normal(loc(z2), scale(z2)), x ~ likelihood(decoder(z1)), ladder q."""

    name: ClassVar[str] = "hvae"
    latent_site: ClassVar[str] = "z2"
    latent_sites: ClassVar[tuple[str, ...]] = ("z1", "z2")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "sonderby": {
            "data": "mnist",
            "pixels": "dynamic",
            "network": "mlp",
            "lower_dim": 64,
            "latent_dim": 32,
            "encoder_dropout": 0.0,
            "batch_size": 256,
            "learning_rate": 0.0002,
            "schedule": "constant",
            "epochs": 2000,
            "warm_up": 0.1,  # 200 epochs
        },
        "mnist": {"data": "mnist", "pixels": "dynamic", "epochs": 30},
    }
    sources: ClassVar[Mapping[str, str]] = {
        "sonderby": "Sønderby et al., Ladder Variational Autoencoders, 2016 (arXiv:1602.02282): sizes, step size, "
        "batch, epochs and warm-up of the command in the authors' README; their model has a third level of 16, and "
        "batch norm",
        "mnist": "the same data with the residual networks; 30 epochs are half an hour of one core",
    }

    latent_dim: int = option(
        32, "dimensions of the upper latent z2, 32 in Sønderby et al., 2016; 2 can be drawn as a map", 1, 4096
    )
    lower_dim: int = option(64, "dimensions of the lower latent z1, 64 in Sønderby et al., 2016", 1, 4096)
    network: Literal["residual", "mlp"] = option(
        "residual",
        "networks: residual MLPs, or mlp: two hidden layers of 512 units below z1 and of 256 above (Sønderby et al., "
        "2016)",
    )
    warm_up: float = option(
        0.1,
        "share of the run over which the weight of both KL terms rises from 0 to `beta`, so that z2 comes into use; "
        "0.1 in Sønderby et al., 2016",
        0.0,
        1.0,
    )

    def pair(self, dataset: datasets.Dataset) -> tuple[nn.Module, nn.Module]:
        """Build the HVAE and its guide."""
        shape, lower, upper = dataset.shape, self.lower_dim, self.latent_dim
        pixels, columns = nn.size(shape), self.columns(dataset)

        def network(inputs: int, outputs: int, width: int) -> nn.Module:
            if self.network == "residual":
                return nn.residual_mlp(inputs, outputs, width=width, depth=2)
            return nn.mlp(inputs, width, width, outputs)

        scaled = partial(nn.scale_head, given=self.scale_head)
        top_down, decoder = scaled(network(upper, 2 * lower, 256)), nn.decoder(network(lower, pixels, 512), shape)
        story = pyro_models.HVAE(top_down, decoder, self.likelihood_of(dataset), upper)
        features = nn.Sequential(network(pixels if columns is None else columns.width, 512, 512), nn.GELU())
        encoder = nn.encoder(features, shape, self.encoder_dropout, columns)
        bottom, top = scaled(nn.Linear(512, 2 * lower)), scaled(network(512, 2 * upper, 256))
        return story, guides.HVAEGuide(encoder, bottom, top, top_down)

    def pictures(self) -> Sequence[Picture]:
        """Return the pictures of reconstructions, of what each level says, latents, samples and learning curves."""
        return levels, samples, pictures.reconstructions, pictures.latent_map, pictures.learning_curves


def levels(run: Trained) -> dict[str, Any]:
    """Draw test images, their reconstructions, and what z2 alone says of them: means of x at z1 from p(z1 | z2)."""
    if run.dataset.is_table:
        return {}
    import torch

    model, guide = run.model, run.guide
    x = run.recipe.batch(run.dataset, run.dataset.test[run.recipe.examples(run.dataset)])["x"]
    with metrics.eval_mode(model, guide, seed=run.recipe.seed):
        z2 = guide.posterior(x).mean  # type: ignore[operator]
        z1 = guide.posterior(x, z2).mean  # type: ignore[operator]
        p: Any = model.prior(z2)  # type: ignore[operator]
        images = [model.likelihood_of(z).mean for z in (z1, *p.sample((DRAWS,)))]  # type: ignore[operator]
    names = ["image", "z1 of x", *(f"z1 of z2, {k}" for k in range(1, DRAWS + 1))]
    title = f"mean images at z1 given x and z2, and at z1 drawn given z2 alone ({run.recipe.pixels} pixels)"
    return {"levels": plots.image_rows(torch.stack([x, *images]).clamp(0, 1), names, title)}


def samples(run: Trained) -> dict[str, Any]:
    """Draw the mean images given latents of both levels that were drawn from the story."""
    if run.dataset.is_table:
        return {}
    images = metrics.generate(run.model, ["x"], 100)["x"]
    title = f"mean images at latents drawn from the story ({run.recipe.pixels} pixels)"
    return {"samples": plots.image_grid(images.clamp(0, 1), 10, title)}
