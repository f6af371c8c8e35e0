"""The recipe of the conditional variational auto-encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyro_models
from pyro_models import data as datasets
from pyro_models import guides, metrics, nn, pictures, plots
from pyro_models.base.errors import DataError, UserError
from pyro_models.recipes.base import Picture
from pyro_models.recipes.latent import VariationalRecipe
from pyro_models.recipes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_models.metrics import Trained

GIVEN = {"1": "1 quadrant given", "2": "2 quadrants given", "3": "3 quadrants given", "label": "label given"}
COMPLETIONS = 5  # of each image in the picture


@dataclass(frozen=True)
class CVAERecipe(VariationalRecipe):
    """Conditional VAE: z ~ Normal(loc(c), scale(c)), x ~ likelihood(decoder(c, z)), c quadrants of x or its label."""

    name: ClassVar[str] = "cvae"
    density: ClassVar[str] = "p(x | c)"
    beside_z: ClassVar[str] = "the condition c"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "pyro-tutorial": {
            "data": "mnist",
            "network": "mlp",
            "latent_dim": 200,
            "encoder_dropout": 0.0,
            "batch_size": 128,
            "epochs": 50,
            "schedule": "constant",
        },
        "mnist": {"data": "mnist", "epochs": 12},
    }
    sources: ClassVar[Mapping[str, str]] = {
        "pyro-tutorial": "Pyro's tutorial on conditional VAEs (pyro.ai/examples/cvae.html), after Sohn, Lee and Yan, "
        "2015: MLPs of 500-500, z of 200, Adam at a constant 0.001, 50 epochs at most; its prior sees the prediction "
        "of a network without z too, ours does not",
        "mnist": "grey MNIST: on validation data 12 epochs bring the bound of one given quadrant below the tutorial's",
    }

    given: Literal["1", "2", "3", "label"] = option(
        "1",
        "condition c: 1 (the bottom left quadrant of the image), 2 (its left half), 3 (all but the bottom right "
        "quadrant), as in Pyro's tutorial on conditional VAEs, or label",
    )
    latent_dim: int = option(32, "dimensions of the latent z; 2 can be drawn as a map", 1, 4096)
    network: Literal["residual", "mlp"] = option(
        "residual",
        "prior, encoder and decoder: residual MLPs, or MLPs of two hidden layers of 500 units, as in the tutorial",
    )

    def check_data(self, dataset: datasets.Dataset) -> None:
        """Refuse data that the recipe cannot learn from."""
        super().check_data(dataset)
        if dataset.is_table and self.given != "label":
            raise DataError(f"`data={self.data}` is a table, which has no quadrants: use `given=label`")
        if self.given == "label":
            for split in dataset.parts.values():
                if split.labels is None or split.labels.min() < 0:
                    raise DataError(f"`given=label` needs the labels of all data, which {self.data} has not")

    def given_pixels(self, dataset: datasets.Dataset) -> Tensor | None:
        """Return True for each pixel that is given, [*image]; None where the label is."""
        if self.given == "label":
            return None
        import torch

        height, width = dataset.shape[-2:]
        given = torch.zeros(dataset.shape, dtype=torch.bool, device=dataset.device)
        given[:, height // 2 :, : width // 2] = True
        if self.given == "2":
            given[:, :, : width // 2] = True
        if self.given == "3":
            given[:, : height // 2] = True
        return given

    def batch(self, dataset: datasets.Dataset, split: datasets.Split) -> dict[str, Tensor]:
        """Return the images as `x`, and as `c` their given pixels, the others black, or their labels, one-hot."""
        x, given = datasets.to_float(split.x, self.pixels), self.given_pixels(dataset)
        return {"x": x, "c": x * given if given is not None else self.labels_of(dataset, split).to(x)}

    def labels_of(self, dataset: datasets.Dataset, split: datasets.Split) -> Tensor:
        """Return the labels of a split, one-hot: [n, classes].

        Raises:
            DataError: some are not known.
        """
        if split.labels is None or (len(split) and split.labels.min() < 0):
            raise DataError("`given=label` needs the label of each datum, and these data lack some: add a label column")
        return datasets.one_hot(split.labels, dataset.class_count)

    def sample(self, run: Trained, conditions: Sequence[str], count: int, seed: int) -> tuple[Tensor, str]:
        """Draw data given a label, as label=NAME, and describe it."""
        if self.given != "label":
            raise UserError(f"the cvae draws x given a part of an image, here {GIVEN[self.given]}: use `reconstruct`")
        attribute = datasets.Attribute("label", tuple(run.dataset.classes))
        values = metrics.parse_conditions((attribute,), conditions)
        c = datasets.one_hot(values[0], len(attribute.values)).expand(count, -1).to(run.dataset.device)
        mean = not run.dataset.is_table and self.pixels == "grey"
        with metrics.eval_mode(run.model, seed=seed):
            p: Any = run.model.prior(c)  # type: ignore[operator]
            x: Any = run.model.likelihood_of(p.sample(), c)  # type: ignore[operator]
            return x.mean if mean else x.sample(), metrics.describe((attribute,), values[0])

    def inputs_of(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the part of a batch that latents are inferred from: all of it."""
        return dict(batch)

    def conditions(self, run: Trained) -> tuple[Sequence[str], dict[str, Tensor]]:
        """Return each label, or the given part of a few test images."""
        dataset, classes = run.dataset, run.dataset.classes
        if self.given == "label":
            import torch

            return classes, {"c": torch.eye(dataset.class_count)}
        shown = dataset.test[self.examples(dataset)]
        names = [f"part of test image {k}" for k in self.examples(dataset)]
        return names, {"c": self.batch(dataset, shown)["c"]}

    def pair(self, dataset: datasets.Dataset) -> tuple[nn.Module, nn.Module]:
        """Build the CVAE and its guide."""
        shape, latent, given = dataset.shape, self.latent_dim, self.given_pixels(dataset)
        condition = shape if given is not None else (dataset.class_count,)
        pixels, size, width = nn.size(shape), nn.size(condition), 512 if self.network == "residual" else 500

        def two_layers(inputs: int, outputs: int) -> nn.Module:
            if self.network == "residual":
                return nn.residual_mlp(inputs, outputs, width=width, depth=1)
            return nn.mlp(inputs, width, width, outputs)

        def after_first(outputs: int) -> nn.Module:
            if self.network == "residual":
                return nn.Sequential(nn.GELU(), nn.residual_mlp(width, outputs, width=width, depth=1))
            return nn.Sequential(nn.ReLU(), nn.mlp(width, width, outputs))

        scaled = partial(nn.scale_head, given=self.scale_head)
        prior = scaled(nn.encoder(two_layers(size, 2 * latent), condition))
        first = nn.encoder(nn.Linear(size, width), condition)
        decoder = nn.Conditional(first, nn.Linear(latent, width), nn.decoder(after_first(pixels), shape))
        columns = self.columns(dataset)
        inputs = pixels if columns is None else columns.width
        first = nn.encoder(nn.Linear(inputs, width), shape, self.encoder_dropout, columns)
        encoder = nn.Conditional(first, nn.encoder(nn.Linear(size, width), condition), scaled(after_first(2 * latent)))
        story = pyro_models.CVAE(prior, decoder, self.likelihood_of(dataset), given)
        return story, guides.CVAEGuide(encoder)

    def unit(self, dataset: datasets.Dataset) -> str:
        """Return the unit of likelihoods, which compare under one condition alone."""
        return f"{super().unit(dataset)}, {GIVEN[self.given]}"

    def pictures(self) -> Sequence[Picture]:
        """Return the pictures of completions, reconstructions, latents and learning curves."""
        return completions, pictures.reconstructions, pictures.latent_map, pictures.learning_curves


def completions(run: Trained) -> dict[str, Any]:
    """Draw test images: what is given of each, means of x at latents drawn from p(z | c), and the image."""
    if run.dataset.is_table:
        return {}
    import torch

    recipe, model = run.recipe, run.model
    batch = recipe.batch(run.dataset, run.dataset.test[recipe.examples(run.dataset)])
    x, c = batch["x"], batch["c"]
    with metrics.eval_mode(model, seed=recipe.seed):
        p: Any = model.prior(c)  # type: ignore[operator]
        drawn = model.likelihood_of(p.sample((COMPLETIONS,)), c).mean  # type: ignore[operator]
    rows = {f"sample {k}": images for k, images in enumerate(drawn, 1)} | {"image": x}
    if recipe.given != "label":
        rows = {"given": c.where(recipe.given_pixels(run.dataset), 0.5)} | rows
    title = f"{GIVEN[recipe.given]}: mean images at latents drawn from p(z | c) ({recipe.pixels} pixels)"
    return {"completions": plots.image_rows(torch.stack(list(rows.values())).clamp(0, 1), list(rows), title)}
