"""The list of recipes: the command line, its help, the README's table and the tests all come from it."""

from typing import Any, get_args, get_type_hints

from pyro_models.base.errors import UserError, nearest
from pyro_models.base.markdown import markdown
from pyro_models.recipes.autoencoder import AutoencoderRecipe
from pyro_models.recipes.base import Recipe
from pyro_models.recipes.classifier import ClassifierRecipe
from pyro_models.recipes.cvae import CVAERecipe
from pyro_models.recipes.gmvae import GMVAERecipe
from pyro_models.recipes.hvae import HVAERecipe
from pyro_models.recipes.jmvae import JMVAERecipe
from pyro_models.recipes.vae import VAERecipe

RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe
    for recipe in (VAERecipe, AutoencoderRecipe, GMVAERecipe, ClassifierRecipe, JMVAERecipe, CVAERecipe, HVAERecipe)
}


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
