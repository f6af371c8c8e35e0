"""Several runs in one folder: of one recipe from several seeds, with mean and spread, or of a grid of its options."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pyro_models.base.errors import UserError
from pyro_models.base.files import read_json, write
from pyro_models.base.markdown import markdown
from pyro_models.base.names import command
from pyro_models.recipes import Recipe
from pyro_models.runs.folder import Run, is_over, next_folder
from pyro_models.runs.options import RunOptions
from pyro_models.runs.results import row
from pyro_models.runs.trainer import train
from pyro_models.training import checkpoint

PARTS = ("test", "validation")
OF_A_SEED = ("gaussian_mixture", "log_likelihood", "classes")


def train_seeds(recipe: Recipe, options: RunOptions, publish: Callable[[Run], Any]) -> Path:
    """Train from `options.seeds` seeds on, each in its own folder of the run folder, and write results.json over them.

    With `options.resume`, finished seeds stay as they are.

    Args:
        recipe: what to train; its seed is the first.
        options: where.
        publish: called with each finished run.

    Raises:
        UserError: as `train`; or torchrun started this.
    """
    seeds = range(recipe.seed, recipe.seed + options.seeds)
    recipes = {f"seed-{seed}": replace(recipe, seed=seed) for seed in seeds}
    folder = options.out or next_folder(recipe)
    again = f"{command('train')} {recipe.name} --out {folder} --resume --seeds {options.seeds}"
    written = _train_each(folder, recipes, options, publish, "seed-*", again, recipe)
    results = summary(written) | {"command": f"{recipe.command()} --seeds {options.seeds}"}
    write(folder / "results.json", json.dumps(results, indent=2) + "\n")
    for name, spread in results["spread"].items():
        values = ", ".join(f"{run['test'][name]:.4g}" for run in results["seeds"])
        print(f"{name}: {results['test'][name]:.4g} +- {spread:.2g} over {len(written)} seeds ({values})")
    return folder


def sweep(
    recipe: Recipe, grid: Mapping[str, Recipe], options: RunOptions, publish: Callable[[Run], Any]
) -> tuple[Path, str]:
    """Train the recipes of a grid, each in a folder of its own, and tabulate their scores.

    Finished runs stay as they are with `options.resume`.

    Args:
        recipe: what the grid is around.
        grid: recipes by what sets them apart, as `latent_dim=2,beta=1`.
        options: where.
        publish: called with each finished run.

    Returns:
        the folder, and the table, which sweep.md in it holds too; sweep.json holds the scores.

    Raises:
        UserError: as `train_seeds`.
    """
    folder = options.out or next_folder(recipe)
    again = "the same command, with `resume=True`"
    written = _train_each(folder, grid, replace(options, out=folder), publish, "*=*", again, recipe)
    rows = []
    for name, results in zip(grid, written, strict=True):
        scores = {title: cell for title, cell in row(results).items() if title != "command"}
        rows.append(dict(pair.split("=", 1) for pair in name.split(",")) | scores)
    text = markdown(rows)
    write(folder / "sweep.md", text + "\n")
    runs = [{"folder": name, "results": results} for name, results in zip(grid, written, strict=True)]
    write(folder / "sweep.json", json.dumps(runs, indent=2) + "\n")
    return folder, text


def _train_each(
    folder: Path,
    recipes: Mapping[str, Recipe],
    options: RunOptions,
    publish: Callable[[Run], Any],
    pattern: str,
    again: str,
    first: Recipe,
) -> list[dict[str, Any]]:
    """Train recipes one after the other, each in a folder of its name, and return the results of all.

    Args:
        folder: that of all.
        recipes: by the name of their folder.
        options: where; with `resume`, finished runs stay as they are, and with `overwrite`, folders go.
        publish: called with each finished run.
        pattern: of the names of their folders.
        again: the command that continues.
        first: the recipe whose options the folder of all holds.
    """
    if "RANK" in os.environ:
        raise UserError("several runs are trained one after the other: leave torchrun out, or train one at a time")
    if (folder / "checkpoint.pt").exists() or (folder / "model.safetensors").exists():
        raise UserError(f"{folder} holds a single run: give another `out`")
    if options.overwrite:
        for old in folder.glob(f"{pattern}/recipe.json"):
            shutil.rmtree(old.parent)
    written = []
    for name, recipe in recipes.items():
        out = folder / name
        if not (options.resume and _is_finished(out, recipe)):
            try:
                run = train(recipe, replace(options, out=out))
            except UserError as error:
                if error.exit_code != 130:
                    raise
                raise UserError(f"stopped; continue with: {again}", 130) from None
            assert run is not None
            publish(run)
        write(folder / "recipe.json", json.dumps(first.as_json(), indent=2) + "\n")
        written.append(read_json(out / "results.json"))
    return written


def _is_finished(folder: Path, recipe: Recipe) -> bool:
    if not all((folder / name).is_file() for name in ("results.json", "checkpoint.pt")):
        return False
    return is_over(recipe, checkpoint.load(folder / "checkpoint.pt")["metrics"])


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Average the results of several runs.

    Returns:
        the first one's entries, but in `test` and `validation` the means, in `spread` the standard deviation of each
        test score over the runs, in `seconds` the sum, and in `seeds` each run's own scores.
    """
    first, several = results[0], len(results) > 1
    means = {part: {name: fmean(run[part][name] for run in results) for name in first[part]} for part in PARTS}
    spread = {name: stdev(run["test"][name] for run in results) if several else 0.0 for name in first["test"]}
    seeds = [{key: run[key] for key in ("seed", *PARTS, "seconds", *OF_A_SEED) if key in run} for run in results]
    seconds = round(sum(run["seconds"] for run in results), 2)
    common = {name: value for name, value in first.items() if name not in ("seed", *OF_A_SEED)}
    return {**common, **means, "spread": spread, "seconds": seconds, "seeds": seeds}
