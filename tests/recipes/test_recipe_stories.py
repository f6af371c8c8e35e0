"""What recipes are read as: their stories, and their objectives with the weights that their losses really have."""

import dataclasses
from functools import cache
from itertools import islice
from typing import get_args, get_type_hints

import pyro
import pytest
import torch

from pyro_models.objectives import Scheduled
from pyro_models.recipes.autoencoder import AutoencoderRecipe
from pyro_models.recipes.classifier import ClassifierRecipe
from pyro_models.recipes.cvae import CVAERecipe
from pyro_models.recipes.gmvae import GMVAERecipe
from pyro_models.recipes.hvae import HVAERecipe
from pyro_models.recipes.jmvae import JMVAERecipe
from pyro_models.recipes.vae import VAERecipe
from tests.least_squares import assert_weights_are_the_losss
from tests.recipes.test_fingerprints import load, recipes, without_download

VAE = ("p(x, z) = ∏_data p(z) p(x | z)", "q(z | x) = ∏_data q(z | x)")
GMVAE = ("p(x, y, z) = ∏_data p(y) p(z | y) p(x | z)", "q(y, z | x) = ∏_data q(y | x) q(z | x, y)")
JMVAE = ("p(y1, y2, x, z) = ∏_data p(z) p(y1 | z) p(y2 | z) p(x | z)", "q(z | x, y1, y2) = ∏_data q(z | x, y1, y2)")
CVAE = ("p(x, z | c) = ∏_data p(z | c) p(x | c, z)", "q(z | x, c) = ∏_data q(z | x, c)")
HVAE = ("p(x, z2, z1) = ∏_data p(z2) p(z1 | z2) p(x | z1)", "q(z2, z1 | x) = ∏_data q(z2 | x) q(z1 | x, z2)")
OF_X = "ELBO(x) = E_q[log p(x | z) − KL(q(z | x) ‖ p(z))]"
OF_ALL = "KL(q(z | x, y1, y2) ‖ p(z))]"
OF_KINDS = "ELBO(x) = E_q[log p(x | z) − KL(q(y | x) ‖ p(y)) − KL(q(z | x, y) ‖ p(z | y))]"
OF_X_GIVEN_C = "ELBO(x | c) = E_q[log p(x | c, z) − KL(q(z | x, c) ‖ p(z | c))]"
OF_LEVELS = "ELBO(x) = E_q[log p(x | z1) − 2 · KL(q(z2 | x) ‖ p(z2)) − 2 · KL(q(z1 | x, z2) ‖ p(z1 | z2))]"
BOUND_ALONE = {"vat": 0.0, "consistency": 0.0, "marginal_kl": 0.0, "entropy": 0.0}
CASES = [
    (VAERecipe(), VAE, ("loss = − elbo", OF_X)),
    (VAERecipe(beta=4.0), VAE, ("loss = − elbo", OF_X.replace("− KL", "− 4 · KL"))),
    (VAERecipe(elbo="iwae", particles=3), VAE, ("loss = − iwae",)),
    (
        AutoencoderRecipe(),
        ("p(x, z) ∝ ∏_data p(x | z)", VAE[1]),
        ("loss = − elbo", "ELBO(x) = E_q[log p(x | z) − log q(z | x)]"),
    ),
    (
        GMVAERecipe(),
        GMVAE,
        ("loss = − elbo + 100 · vat + 200 · consistency + 200 · marginal_kl + 20 · entropy", OF_KINDS),
    ),
    (
        GMVAERecipe(labels=100, **BOUND_ALONE, label_weight=7.0, elbo="enum", beta=0.5),
        GMVAE,
        (
            "loss = − elbo − 0.0728863 · labelled_elbo + 7 · cross_entropy",  # 100 of 1372 training digits
            OF_KINDS.replace("− KL(q(z", "− 0.5 · KL(q(z"),
            "ELBO(y, x) = E_q[log p(y) + log p(x | z) − 0.5 · KL(q(z | x, y) ‖ p(z | y))]",
        ),
    ),
    (
        ClassifierRecipe(network="mlp", vat=3.0),
        ("p(y | x) = ∏_data p(y | x)",),
        ("loss = 3 · vat + 2 · consistency + marginal_kl + 0.2 · entropy − elbo", "ELBO(y | x) = E_q[log p(y | x)]"),
    ),
    (
        JMVAERecipe(width=16),
        JMVAE,
        (
            "loss = − elbo + 5 · kl_given_x + 5 · kl_given_y",
            f"ELBO(y1, y2, x) = E_q[30 · log p(y1 | z) + 30 · log p(y2 | z) + log p(x | z) − {OF_ALL}",
        ),
    ),
    (
        JMVAERecipe(width=16, objective="telbo", private_weight=3.0, beta=0.2),
        JMVAE,
        (
            "loss = − elbo − elbo_x − elbo_y",
            f"ELBO(y1, y2, x) = E_q[30 · log p(y1 | z) + 30 · log p(y2 | z) + log p(x | z) − 0.2 · {OF_ALL}",
            OF_X.replace("− KL", "− 0.2 · KL"),
            "ELBO(y1, y2) = E_q[90 · log p(y1 | z) + 90 · log p(y2 | z) − 0.2 · KL(q(z | y1, y2) ‖ p(z))]",
        ),
    ),
    (CVAERecipe(), CVAE, ("loss = − elbo", OF_X_GIVEN_C)),
    (CVAERecipe(given="label"), CVAE, ("loss = − elbo", OF_X_GIVEN_C)),
    (HVAERecipe(beta=2.0), HVAE, ("loss = − elbo", OF_LEVELS)),
]


@pytest.mark.parametrize(
    ("recipe", "factorisation", "objective"), CASES, ids=lambda value: getattr(value, "name", None)
)
def test_recipes_are_read_as_they_are_written_down(recipe, factorisation, objective):
    torch.set_default_dtype(torch.float32)
    state = torch.get_rng_state()
    story = dataclasses.replace(recipe, batch_size=16).story(recipe.load(None))
    assert story.factorisation == factorisation
    assert story.objective == objective
    assert (story.note == "") == (recipe.bound_of is None)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(pyro.get_param_store().keys()) == []
    assert max(map(len, story.text.splitlines())) <= 100


@cache
def variants():
    """One recipe for each kind of objective, by a name; networks change nothing here."""
    chosen, hints = {}, cache(get_type_hints)
    for name, recipe in recipes().items():
        networks = get_args(hints(type(recipe))["network"])
        small = dataclasses.replace(recipe, network="mlp" if "mlp" in networks else recipe.network)
        options = [getattr(recipe, option, None) for option in ("elbo", "objective", "variant")]
        chosen.setdefault((recipe.name, *options, getattr(recipe, "labels", 0) > 0), (name, small))
    return dict(chosen.values())


@pytest.fixture(scope="module")
def datasets():
    """Data sets by what decides them."""
    return {}


@pytest.mark.parametrize("name", variants())
def test_the_weights_of_every_objective_are_those_of_its_loss(name, datasets):
    recipe = without_download(name, variants()[name])
    data = load(recipe, datasets)
    model, guide = (half.double() for half in recipe.pair(data))
    objective = recipe.training_objective(guide, data.train)
    at_end = objective.at(1.0) if isinstance(objective, Scheduled) else objective
    batches = islice(recipe.batches(data, size=8, steps=8).epoch(0), 8)
    assert_weights_are_the_losss([lambda batch=batch: at_end(model, guide, **batch) for batch in batches])
