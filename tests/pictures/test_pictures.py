"""Every picture of every recipe is drawn of an untrained pair on a few data, under its own names."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from pyro_models import pictures, plots
from pyro_models.metrics import eval_mode
from pyro_models.recipes import RECIPES
from tests.plots.canvas import assert_nothing_is_cut

CURVES = {"learning-curves"}
RECONSTRUCTIONS = {"reconstructions"}
PLANE = {"latent-map", "decoded-plane"}
SIDES = {f"{what}-{name}" for what in ("images-from", "latent-map-by") for name in ("side", "digit")}
GIVEN = {"latents-given-attributes", "latents-of-images", "decision-regions"}
CASES = {
    "vae": ("vae", {}, CURVES | RECONSTRUCTIONS | PLANE | {"prior-samples"}),
    "vae, 3 latents": ("vae", {"latent_dim": 3}, CURVES | RECONSTRUCTIONS | {"latent-map", "prior-samples"}),
    "autoencoder": ("autoencoder", {}, CURVES | RECONSTRUCTIONS | PLANE | {"pixels-and-latents"}),
    "gmvae": (
        "gmvae",
        {"labels": 30},
        CURVES
        | RECONSTRUCTIONS
        | {"clusters", "latent-map", "latent-map-by-cluster", "prior-of-clusters", "confusion", "scores-of-classes"}
        | {"adversaries", "labelled", "learning-curves-terms", "learning-curves-scores"},
    ),
    "gmvae, two columns": (
        "gmvae",
        RECIPES["gmvae"].presets["table"] | {"data": "blobs"},
        CURVES
        | {"points", "latent-map", "latent-map-by-cluster", "prior-of-clusters", "confusion"}
        | {"learning-curves-terms", "learning-curves-scores"},
    ),
    "gmvae, four columns": (
        "gmvae",
        RECIPES["gmvae"].presets["table"] | {"data": "iris", "latent_dim": 1, "batch_size": 32},
        CURVES
        | {"points", "latent-map", "latent-map-by-cluster", "confusion"}
        | {"learning-curves-terms", "learning-curves-scores"},
    ),
    "classifier": (
        "classifier",
        {},
        CURVES
        | {"confusion", "scores-of-classes", "adversaries", "labelled"}
        | {"learning-curves-terms", "learning-curves-scores"},
    ),
    "jmvae": (
        "jmvae",
        {},
        CURVES
        | RECONSTRUCTIONS
        | SIDES
        | GIVEN
        | {"images-from-side-and-digit", "decoded-plane", "learning-curves-terms"},
    ),
    "cvae": ("cvae", {}, CURVES | RECONSTRUCTIONS | {"completions", "latent-map"}),
    "hvae": ("hvae", {}, CURVES | RECONSTRUCTIONS | {"levels", "samples", "latent-map"}),
}


DRAWN: set = set()


def few(dataset):
    """The data set with so few data that pictures take little time."""
    return replace(
        dataset,
        train=dataset.train[:200],
        validation=dataset.validation[:20],
        test=dataset.test[: min(60, len(dataset.test))],
    )


def run_of(recipe, dataset):
    """What the pictures read of a run of two epochs."""
    model, guide = recipe.pair(dataset)
    run = SimpleNamespace(recipe=recipe, dataset=dataset, model=model, guide=guide)
    objective = recipe.training_objective(guide, dataset.train)
    if hasattr(objective, "at"):
        objective = objective.at(1.0)
    batch = next(iter(recipe.batches(dataset, size=32).epoch(1)))
    train = {name: value.item() for name, value in objective(model, guide, **batch).items()}
    row = {f"train_{name}": value for name, value in (train | recipe.training_scores(run)).items()}
    for name in ("validation", "test"):
        row |= {f"{name}_{term}": value for term, value in recipe.scores(run, dataset.parts[name]).items()}
    run.metrics = [{"epoch": epoch} | row for epoch in (1, 2)]
    examples = recipe.examples(dataset)
    images = torch.randint(0, 256, (2, len(examples), *dataset.shape), dtype=torch.uint8)
    run.frames = {"examples": examples, "epochs": [1, 2], "images": list(images)}
    return run


def pictures_of(run, functions):
    """Draw pictures of a run, as a folder's are drawn; no two may have one name, and nothing leaves its canvas."""
    drawn = {}
    for draw in functions:
        with eval_mode(run.model, run.guide):
            found = draw(run)
        assert not drawn.keys() & found.keys()
        drawn |= found
    for name in drawn.keys() - DRAWN:  # a second one of a name, of another recipe, would take as long again
        assert_nothing_is_cut(drawn[name])
    DRAWN.update(drawn)
    return drawn


def test_every_recipe_has_a_case():
    assert {name for name, _, _ in CASES.values()} == set(RECIPES)


@pytest.mark.parametrize("case", CASES)
def test_every_picture_is_drawn_and_has_its_name(case, monkeypatch):
    """With two coordinates in place of t-SNE, which tests/plots lays out."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(plots, "tsne", lambda points, seed=0: F.pad(points.flatten(1).cpu(), (0, 1))[:, :2])
    name, options, expected = CASES[case]
    recipe = RECIPES[name](**options)
    assert set(pictures_of(run_of(recipe, few(recipe.load())), recipe.pictures())) == expected


OF_ATTRIBUTES = [
    pictures.generated_images,
    pictures.latents_given_attributes,
    pictures.latents_of_images,
    pictures.attribute_regions,
    pictures.latent_map_by_attribute,
]


def test_attributes_that_are_never_known_together_are_given_one_by_one():
    torch.set_default_dtype(torch.float32)
    recipe = RECIPES["jmvae"]()
    dataset = few(recipe.load())
    values = dataset.test.attributes.clone()
    values[::2, 0] = values[1::2, 1] = -1
    run = run_of(recipe, replace(dataset, test=replace(dataset.test, attributes=values)))
    assert pictures_of(run, OF_ATTRIBUTES).keys() == SIDES | GIVEN
