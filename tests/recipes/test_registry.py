"""Recipes of other packages, found by their entry points."""

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

from pyro_models.recipes import RECIPES, VAERecipe
from pyro_models.recipes.registry import GROUP, OURS, with_others


@dataclass(frozen=True)
class OwnRecipe(VAERecipe):
    """A recipe of one's own."""

    name: ClassVar[str] = "own"


def point(name, value):
    return EntryPoint(name, value, GROUP)


def test_a_recipe_is_found_by_its_entry_point():
    found = with_others([point("own", f"{__name__}:OwnRecipe")])
    assert found["own"] is OwnRecipe
    assert [*found] == [*(recipe.name for recipe in OURS), "own"]
    assert set(RECIPES) >= {recipe.name for recipe in OURS}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nowhere:Recipe", "No module named 'nowhere'"),
        (f"{__name__}:point", "it is no dataclass of pyro_models.recipes.Recipe"),
        ("pyro_models.recipes:VAERecipe", "there is a recipe 'vae' already"),
    ],
)
def test_one_that_cannot_be_used_is_named_and_left_out(value, reason):
    with pytest.warns(UserWarning, match=r"the recipe mine \(.*\) is left out: ") as warned:
        assert [*with_others([point("mine", value)])] == [recipe.name for recipe in OURS]
    assert reason in str(warned[0].message)
