"""A net under every refactoring: first weights, one step and the options of each recipe, as they were written down.

Published figures, and runs that resume, depend on the order in which random numbers are drawn. After a change that is
meant to move a number, `python -m tests.recipes.test_fingerprints` writes the table anew; say in the commit what moved.
"""

import dataclasses
import json
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import get_args, get_type_hints

import pyro
import pytest
import torch

from pyro_models.base.errors import UserError
from pyro_models.base.seeds import derived_seed
from pyro_models.objectives import Scheduled
from pyro_models.recipes import RECIPES
from pyro_models.training.loop import parameters

TABLE = Path(__file__).with_name("fingerprints.json")
DATA = {"mnist": "digits", "mnist-a": "attributes"}  # what stands in for data that would be downloaded
SMALL = {"batch_size": 16, "seed": 3}
LABELLED = 30


@cache
def recipes():
    """Every recipe with its presets, its networks, its estimators, its objectives and with labels, by a name."""
    found = {}
    for name, kind in RECIPES.items():
        found[f"{name} default"] = kind()
        for preset in kind.presets:
            found[f"{name} {preset}"] = kind.preset(preset)
        hints = get_type_hints(kind)
        for network in get_args(hints["network"]):
            found[f"{name} {network} network"] = kind(network=network)
        for elbo in get_args(hints.get("elbo")):
            many = {"particles": 3} if elbo in ("iwae", "renyi", "rws", "dreg") else {}
            many |= {"attribute_weight": 1.0} if name == "jmvae" and many else {}
            try:
                found[f"{name} {elbo}"] = kind(elbo=elbo, **many)
            except UserError:  # an estimator that is not for this recipe
                continue
        if "labels" in hints and kind().labels == 0:
            found[f"{name} labelled"] = kind(labels=LABELLED)
        for objective in get_args(hints.get("objective")):
            found[f"{name} {objective}"] = kind(objective=objective)
    found = {name: recipe for name, recipe in found.items() if name.endswith(" default") or recipe != type(recipe)()}
    return {
        name: dataclasses.replace(recipe, data=DATA.get(recipe.data, recipe.data), **SMALL)
        for name, recipe in found.items()
    }


def without_download(name, recipe):
    """The same on data that come with scikit-learn, or are made of these."""
    if name.endswith(" table"):
        recipe = dataclasses.replace(recipe, data="blobs")
    if getattr(recipe, "source", "") == "mnist":
        recipe = dataclasses.replace(recipe, source="digits")
    if getattr(recipe, "split", "") == "article":
        recipe = dataclasses.replace(recipe, split="official")
    return recipe


def fingerprint(recipe, data):
    """The shapes of the first weights, a projection of them, and losses and gradients' norms of two steps."""
    torch.set_default_dtype(torch.float32)
    recipe.check_data(data)
    torch.manual_seed(derived_seed(recipe.seed, "weights"))
    model, guide = recipe.pair(data)
    weights = parameters(model, guide)
    batches = recipe.batches(data, steps=None)
    objective = recipe.training_objective(guide, data.train)
    optimizer = torch.optim.Adam(weights, lr=recipe.learning_rate)
    found = {"shapes": str([list(weight.shape) for weight in weights]), "weights": projected(weights)}
    torch.manual_seed(derived_seed(recipe.seed, "noise", 0, 0))
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        for step, batch in enumerate(islice(batches.epoch(0), 2)):
            current = objective.at(0.5) if isinstance(objective, Scheduled) else objective
            terms = current(model, guide, **batch)
            optimizer.zero_grad()
            terms["loss"].backward()
            slopes = [weight.grad for weight in weights if weight.grad is not None]
            norm = torch.stack([slope.norm() for slope in slopes]).norm()
            found[f"step {step + 1}"] = [terms["loss"].item(), norm.item()]
            optimizer.step()
    return found


def projected(weights):
    flat = torch.cat([weight.detach().flatten() for weight in weights]).double()
    return float((flat * cosines(len(flat))).sum()), float(flat.square().sum())


@lru_cache(1)  # recipes of one network follow each other
def cosines(count):
    return torch.arange(count).cos()


def options():
    """From each recipe to the names of its options and their defaults."""
    return {name: dataclasses.asdict(kind()) for name, kind in RECIPES.items()}


WRITTEN = json.loads(TABLE.read_text()) if TABLE.exists() else {"recipes": {}, "options": {}}


@pytest.fixture(scope="module")
def loaded():
    """Data sets by what decides them."""
    return {}


def load(recipe, loaded):
    key = (recipe.data, recipe.pixels, getattr(recipe, "source", None))
    if key not in loaded:
        loaded[key] = recipe.load(None)
    return loaded[key]


@pytest.mark.parametrize("name", WRITTEN["recipes"])
def test_first_weights_and_steps_are_as_they_were(name, loaded):
    recipe = without_download(name, recipes()[name])
    now, before = fingerprint(recipe, load(recipe, loaded)), WRITTEN["recipes"][name]
    assert now["shapes"] == before["shapes"]
    for key in now.keys() - {"shapes"}:
        assert now[key] == pytest.approx(before[key], rel=1e-3), key


def test_every_recipe_is_in_the_table():
    assert recipes().keys() == WRITTEN["recipes"].keys()


def test_options_and_their_defaults_are_as_they_were():
    assert json.loads(json.dumps(options())) == WRITTEN["options"]


if __name__ == "__main__":
    seen: dict = {}
    rows = {}
    for name, recipe in recipes().items():
        recipe = without_download(name, recipe)
        rows[name] = fingerprint(recipe, load(recipe, seen))
    TABLE.write_text(json.dumps({"recipes": rows, "options": options()}, indent=1) + "\n")
