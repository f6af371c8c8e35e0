"""The command line of `train.py`: parsed before torch is imported, so that `--help` and mistakes are quick."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pyro_models import report, runs
from pyro_models.base.errors import UserError, nearest
from pyro_models.base.files import read_json
from pyro_models.cli.parser import Parser, add_options, in_flags
from pyro_models.recipes import RECIPES, Recipe, from_json
from pyro_models.runs.options import RunOptions


def parse(arguments: Sequence[str], prog: str = "train.py") -> tuple[Recipe, RunOptions]:
    """Read a recipe and the options of its run from command-line words; a mistake ends the program with exit code 2."""
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
        add_options(parser, f"options of the recipe {name}", defaults)
        add_options(parser, "options of the run", RunOptions())
        presets = ", ".join(RECIPES[name].presets) or "this recipe has none"
        parser.add_argument("--preset", metavar="NAME", help=f"start from the options of a preset: {presets}")
        values = vars(parser.parse_args(words))
        options = RunOptions(**{field.name: values.pop(field.name) for field in dataclasses.fields(RunOptions)})
        values.pop("preset")
        recipe = RECIPES[name](**values)
        if not resumed:
            recipe.check_source()
        if resumed:
            _check_same(defaults, recipe, options)
    except UserError as error:
        parser.error(str(error))
    return recipe, options


def main(arguments: Sequence[str] | None = None, prog: str = "train.py") -> int:
    """Train as the command line says, write the report, and return the exit code."""
    recipe, options = parse(sys.argv[1:] if arguments is None else arguments, prog)
    try:
        if options.seeds > 1:
            folder = runs.train_seeds(recipe, options, _publish)
        else:
            run = runs.train(recipe, options)
            if run is None:  # another process writes it
                return 0
            _publish(run)
            folder = run.folder
        print(f"run folder: {folder}")
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"{prog}: {in_flags(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\n{prog}: stopped; no training is lost that a run folder's checkpoint.pt holds", file=sys.stderr)
        return 130
    return 0


def _publish(run: runs.Run) -> None:
    report.publish(run)
    print(f"report: {run.folder / 'report.html'}")


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
        raise UserError("`resume` continues a run and `overwrite` replaces it: give one of them")
    if given.preset:
        raise UserError("`resume` continues a run with the options that it has: leave `preset` out")
    if given.out is None:
        raise UserError("`resume` needs `out`, the folder of the run to continue")
    if list(given.out.glob("seed-*")) and given.seeds in (None, "1"):
        raise UserError(f"{given.out} holds runs of several seeds: give `seeds=N`")
    if not (given.out / "recipe.json").is_file():
        raise UserError(f"nothing to resume in {given.out}: it holds no recipe.json")
    recipe = from_json(read_json(given.out / "recipe.json"))
    if not isinstance(recipe, RECIPES[name]):
        raise UserError(f"the run in {given.out} is of the recipe {recipe.name}, not {name}")
    return recipe


def _check_same(saved: Recipe, recipe: Recipe, options: RunOptions) -> None:
    """Refuse to resume with another recipe; only the number of epochs may change, and only without a schedule."""
    was, now = saved.as_json(), recipe.as_json()
    if saved.epochs != recipe.epochs and saved.fixes_epochs:
        raise UserError("`epochs` cannot change: the schedule of the run so far depends on it")
    for key in was:
        if key != "epochs" and was[key] != now[key]:
            raise UserError(f"`{key}` is {was[key]} for the run in {options.out}, not {now[key]}: it cannot change")
