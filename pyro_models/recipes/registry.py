"""The list of recipes: the command line, its help, the README's table and the tests all come from it."""

import dataclasses
import warnings
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_args, get_type_hints

from pyro_models.base.errors import UserError, first_line, nearest
from pyro_models.base.markdown import markdown
from pyro_models.recipes.autoencoder import AutoencoderRecipe
from pyro_models.recipes.base import Recipe
from pyro_models.recipes.classifier import ClassifierRecipe
from pyro_models.recipes.cvae import CVAERecipe
from pyro_models.recipes.gmvae import GMVAERecipe
from pyro_models.recipes.hvae import HVAERecipe
from pyro_models.recipes.jmvae import JMVAERecipe
from pyro_models.recipes.vae import VAERecipe

GROUP = "pyro_models.recipes"
"""The group of entry points under which other packages offer recipes of their own."""
OURS = (VAERecipe, AutoencoderRecipe, GMVAERecipe, ClassifierRecipe, JMVAERecipe, CVAERecipe, HVAERecipe)


def with_others(points: Iterable[EntryPoint]) -> dict[str, type[Recipe]]:
    """Return the recipes by name: ours, and those of entry points; one that cannot be used is named by a warning."""
    recipes: dict[str, type[Recipe]] = {recipe.name: recipe for recipe in OURS}
    for point in points:
        try:
            recipe = point.load()
        except Exception as error:  # of a package that runs when it is imported
            warnings.warn(f"the recipe {point.name} ({point.value}) is left out: {first_line(error)}", stacklevel=2)
            continue
        if not (isinstance(recipe, type) and issubclass(recipe, Recipe) and dataclasses.is_dataclass(recipe)):
            problem = "it is no dataclass of pyro_models.recipes.Recipe"
        elif recipe.name in recipes:
            problem = f"there is a recipe {recipe.name!r} already"
        else:
            recipes[recipe.name] = recipe
            continue
        warnings.warn(f"the recipe {point.name} ({point.value}) is left out: {problem}", stacklevel=2)
    return recipes


RECIPES = with_others(entry_points(group=GROUP))


def from_json(content: dict[str, Any]) -> Recipe:
    """Make the recipe that `Recipe.as_json` wrote.

    Raises:
        UserError: it names an unknown recipe or option.
    """
    fields = dict(content)
    name = str(fields.pop("recipe", None))
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}: {nearest(name, RECIPES)}")
    known = [field.name for field in dataclasses.fields(RECIPES[name])]
    if unknown := sorted(fields.keys() - set(known)):
        raise UserError(f"the recipe {name} has no option {unknown[0]!r}: {nearest(unknown[0], known)}")
    return RECIPES[name](**fields)


def table() -> str:
    """Return the recipes as a Markdown table."""
    return markdown(
        [
            {
                "recipe": f"`{name}`",
                "what it is": str(recipe.__doc__),
                "networks": ", ".join(get_args(get_type_hints(recipe).get("network"))),
                "presets": ", ".join(recipe.presets),
            }
            for name, recipe in RECIPES.items()
        ]
    )
