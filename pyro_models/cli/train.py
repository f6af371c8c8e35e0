"""The command line of `train.py`: parsed before torch is imported, so that `--help` and mistakes are quick."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pyro_models.base.errors import UserError, nearest
from pyro_models.base.files import read_json
from pyro_models.recipes.base import Recipe
from pyro_models.recipes.options import Parser, Place, add_options, flag
from pyro_models.recipes.registry import RECIPES, from_json


def parse(arguments: Sequence[str], prog: str = "train.py") -> tuple[Recipe, Place]:
    """Read a recipe and a place from command-line words; a mistake ends the program with exit code 2."""
    if not arguments or arguments[0] in ("-h", "--help"):
        recipes = "\n".join(f"  {name:<13}{recipe.__doc__}" for name, recipe in RECIPES.items())
        print(f"usage: {prog} RECIPE [options]\n\nrecipes:\n{recipes}\n\n`{prog} RECIPE --help` lists its options.")
        raise SystemExit(0 if arguments else 2)
    name, words = arguments[0], arguments[1:]
    parser = Parser(prog=f"{prog} {name}")
    try:
        if name not in RECIPES:
            raise UserError(f"unknown recipe {name!r}: {nearest(name, RECIPES)}")
        parser.description = RECIPES[name].__doc__
        defaults, resumed = _defaults(name, words)
        add_options(parser, defaults)
        add_options(parser, Place())
        parser.add_argument("--preset", metavar="NAME", help="options to start from: " + _presets(name))
        values = vars(parser.parse_args(words))
        place = Place(**{field.name: values.pop(field.name) for field in dataclasses.fields(Place)})
        values.pop("preset")
        recipe = RECIPES[name](**values)
        if resumed:
            _check_same(defaults, recipe, place)
    except UserError as error:
        parser.error(str(error))
    return recipe, place


def main(arguments: Sequence[str] | None = None, prog: str = "train.py") -> int:
    """Train what the command line asks for and return the exit code."""
    recipe, place = parse(sys.argv[1:] if arguments is None else arguments, prog)
    try:
        if place.seeds > 1:
            from pyro_models.runs.seeds import train_seeds as train
        else:
            from pyro_models.runs.folder import train

        train(recipe, place)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"{prog}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\n{prog}: stopped before training began", file=sys.stderr)
        return 130
    return 0


def _presets(name: str) -> str:
    return ", ".join(RECIPES[name].presets) or "this recipe has none"


def _defaults(name: str, words: Sequence[str]) -> tuple[Recipe, bool]:
    """Return the recipe that the options change: the class's, a preset's, or that of the run to resume."""
    first = Parser(add_help=False)
    first.add_argument("--preset")
    first.add_argument("--out", type=Path)
    first.add_argument("--resume", action="store_true")
    first.add_argument("--overwrite", action="store_true")
    first.add_argument("--seeds")
    given, _ = first.parse_known_args(words)
    if given.resume:
        return _saved(name, given), True
    return RECIPES[name].preset(given.preset) if given.preset else RECIPES[name](), False


def _saved(name: str, given: argparse.Namespace) -> Recipe:
    """Read the recipe of the run to resume."""
    if given.overwrite:
        raise UserError("--resume continues a run and --overwrite replaces it: give one of them")
    if given.preset:
        raise UserError("--resume continues a run with the options that it has: leave --preset out")
    if given.out is None:
        raise UserError("--resume needs --out, the folder of the run to continue")
    if list(given.out.glob("seed-*")) and given.seeds in (None, "1"):
        raise UserError(f"{given.out} holds runs of several seeds: say --seeds N")
    if not (given.out / "recipe.json").is_file():
        raise UserError(f"nothing to resume in {given.out}: it holds no recipe.json")
    recipe = from_json(read_json(given.out / "recipe.json"))
    if recipe.name != name:
        raise UserError(f"the run in {given.out} is of the recipe {recipe.name}, not {name}")
    return recipe


def _check_same(saved: Recipe, recipe: Recipe, place: Place) -> None:
    """Refuse to resume with another recipe; only the number of epochs may change, and only under a constant rate."""
    was, now = saved.as_json(), recipe.as_json()
    if saved.epochs != recipe.epochs and saved.paced:
        raise UserError(
            "--epochs cannot change under --schedule cosine, stages or --final-temperature, which it has paced so far"
        )
    for key in was:
        if key != "epochs" and was[key] != now[key]:
            raise UserError(f"{flag(key)} is {was[key]} for the run in {place.out}, not {now[key]}: it cannot change")
