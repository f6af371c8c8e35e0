"""What has to hold for every recipe, whatever it is."""

import dataclasses
from typing import get_args, get_type_hints

import pyro
import pytest
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO

from pyro_models.base.errors import UserError
from pyro_models.data import Batches, Split
from pyro_models.objectives import ESTIMATORS, recorded
from pyro_models.training.fit import fit, parameters
from pyro_models.training.recipe import Recipe
from pyro_models.training.recipes import RECIPES, AutoencoderRecipe, VAERecipe, from_json, table

SHAPE = (1, 6, 6)
VARIANTS = [
    VAERecipe(),
    VAERecipe(network="article", latent_dim=3),
    VAERecipe(likelihood="continuous-bernoulli"),
    VAERecipe(likelihood="normal"),
    VAERecipe(likelihood="normal", scale=0.2),
    VAERecipe(pixels="dynamic"),
    AutoencoderRecipe(),
    AutoencoderRecipe(network="simple"),
    AutoencoderRecipe(network="simple", tied=True),
    AutoencoderRecipe(network="linear", tied=True),
]
every_variant = pytest.mark.parametrize(
    "recipe", VARIANTS, ids=lambda r: "-".join(str(v) for v in dataclasses.astuple(r) if isinstance(v, str | bool))
)


@pytest.fixture
def split():
    return Split(torch.randint(0, 256, (40, *SHAPE), dtype=torch.uint8))


def batch_of(recipe, split):
    return next(Batches(split, recipe.pixels, size=40).epoch(0))


def test_every_recipe_has_a_variant_here():
    assert {type(recipe) for recipe in VARIANTS} == set(RECIPES.values())


@every_variant
def test_the_guide_draws_the_latent_sites_of_the_story(recipe, split):
    model, guide = recipe.pair(SHAPE)
    p, q = recorded(model, guide, **batch_of(recipe, split))
    assert list(q) == [name for name, site in p.items() if not site.is_observed] == ["z"]
    assert p["x"].is_observed


@every_variant
def test_every_parameter_of_both_halves_gets_a_gradient(recipe, split):
    model, guide = recipe.pair(SHAPE)
    recipe.bound()(model, guide, **batch_of(recipe, split))["loss"].backward()
    for half in (model, guide):
        for name, parameter in half.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@every_variant
def test_learning_one_batch_lowers_the_loss(recipe, split):
    pair = recipe.pair(SHAPE)
    optimizer = torch.optim.Adam(parameters(*pair), lr=1e-3)
    batches = Batches(split, recipe.pixels, size=40)
    losses = [epoch.terms["loss"] for epoch in fit(*pair, recipe.bound(), optimizer, batches, epochs=25)]
    assert sum(losses[-5:]) < sum(losses[:5])


@every_variant
def test_pyros_svi_trains_every_pair(recipe, split):
    pair = recipe.pair(SHAPE)
    before = [parameter.detach().clone() for parameter in parameters(*pair)]
    svi = SVI(*pair, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO(max_plate_nesting=1))
    losses = [svi.step(**batch_of(recipe, split)) for _ in range(25)]
    assert sum(losses[-5:]) < sum(losses[:5])
    changed = [not torch.equal(one, other) for one, other in zip(before, parameters(*pair), strict=True)]
    assert all(changed)


@every_variant
@pytest.mark.parametrize("estimator", [TraceMeanField_ELBO, RenyiELBO])
def test_pyros_other_estimators_take_every_pair(recipe, split, estimator):
    pair = recipe.pair(SHAPE)
    svi = SVI(*pair, pyro.optim.Adam({"lr": 1e-3}), estimator(max_plate_nesting=1))
    assert torch.tensor(svi.step(**batch_of(recipe, split))).isfinite()


@every_variant
def test_a_recipe_survives_json(recipe):
    assert from_json(recipe.as_json()) == recipe


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_presets_and_their_options_are_valid(recipe):
    for options in recipe.presets.values():
        assert from_json(recipe(**options).as_json()) == recipe(**options)


def test_the_estimators_of_the_command_line_are_those_of_the_table():
    assert get_args(get_type_hints(Recipe)["elbo"]) == tuple(ESTIMATORS)


def test_a_tied_autoencoder_has_one_parameter_fewer_and_shares_it_everywhere(split):
    loose = AutoencoderRecipe(network="simple").pair(SHAPE)
    tied = AutoencoderRecipe(network="simple", tied=True).pair(SHAPE)
    assert len(parameters(*loose)) == 4
    assert len(parameters(*tied)) == 3
    both = torch.nn.ModuleList(tied).to(torch.float32)
    model, guide = tied
    assert model.decoder[0][0].weight is guide.encoder[1][0].weight
    torch.set_default_dtype(torch.float32)
    batches = Batches(split, "grey", size=20)
    list(fit(*tied, AutoencoderRecipe().bound(), torch.optim.Adam(parameters(*tied)), batches, epochs=1))
    assert model.decoder[0][0].weight is guide.encoder[1][0].weight
    assert len(list(both.parameters())) == 3


def test_the_best_linear_tied_autoencoder_is_pca():
    """Its squared error can only reach that of the principal components, and does."""
    torch.manual_seed(1)
    x = (torch.randn(200, 3) @ torch.randn(3, 36) + 0.1 * torch.randn(200, 36)).sigmoid()
    split = Split((x * 255).to(torch.uint8).reshape(-1, *SHAPE))
    pair = AutoencoderRecipe(network="linear", tied=True, latent_dim=3).pair(SHAPE)
    optimizer = torch.optim.LBFGS(parameters(*pair), max_iter=500, line_search_fn="strong_wolfe", tolerance_change=0)
    pixels = (split.x / 255.0).double()

    def loss():
        optimizer.zero_grad()
        value = AutoencoderRecipe().bound()(*pair, x=pixels)["loss"]
        value.backward()
        return value

    optimizer.step(loss)
    from pyro_models.criticism import reconstruct

    error = (reconstruct(*pair, pixels) - pixels).square().sum()
    singular = torch.linalg.svdvals(pixels.flatten(1) - pixels.flatten(1).mean(0))
    torch.testing.assert_close(error, singular[3:].square().sum(), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs must be between 1 and 100000, not 0"),
        ({"latent_dim": 0}, "--latent-dim must be"),
        ({"batch_size": -3}, "--batch-size must be at least 1"),
        ({"learning_rate": float("nan")}, "--learning-rate must be"),
        ({"beta": 2.0, "elbo": "iwae", "particles": 5}, "bounds nothing"),
        ({"elbo": "iwae"}, "ask for 2 or more"),
        ({"elbo": "renyi", "particles": 2, "alpha": 1.0}, "use --elbo trace"),
        ({"network": "artcle"}, "did you mean 'article'"),
        ({"epochs": "5"}, "--epochs must be of type int, not '5'"),
        ({"data": "minst"}, "did you mean 'mnist'"),
        ({"alpha": 0.3}, "--alpha goes with --elbo renyi"),
        ({"scale": 0.3}, "--scale goes with --likelihood normal"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        VAERecipe(**options)


@pytest.mark.parametrize("options", [{"tied": True}, {"beta": 2.0}, {"elbo": "iwae", "particles": 3}])
def test_an_autoencoder_refuses_what_it_has_no_use_for(options):
    with pytest.raises(UserError):
        AutoencoderRecipe(**options)


def test_an_unknown_recipe_or_option_in_json_is_refused():
    with pytest.raises(UserError, match="did you mean 'vae'"):
        from_json({"recipe": "vaes"})
    with pytest.raises(UserError, match="latent_dims"):
        from_json({"recipe": "vae", "latent_dims": 3})


def test_the_readme_holds_the_table_of_recipes():
    from pathlib import Path

    assert table() in (Path(__file__).parents[2] / "README.md").read_text()
