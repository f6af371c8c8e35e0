"""One recipe trained from several seeds, and the mean and the spread of its scores."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pyro_models.base.errors import UserError
from pyro_models.base.files import read_json, write
from pyro_models.recipes import Recipe
from pyro_models.runs.folder import Run, next_folder
from pyro_models.runs.options import RunOptions
from pyro_models.runs.trainer import train

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
    if "RANK" in os.environ:
        raise UserError("`seeds` trains one run after the other: leave torchrun out, or give one `seed` at a time")
    folder = options.out or next_folder(recipe)
    if (folder / "checkpoint.pt").exists() or (folder / "model.safetensors").exists():
        raise UserError(f"{folder} holds a single run: give another `out`, or leave `seeds` out")
    if options.overwrite:
        for old in folder.glob("seed-*/recipe.json"):
            shutil.rmtree(old.parent)
    written = []
    for seed in range(recipe.seed, recipe.seed + options.seeds):
        out = folder / f"seed-{seed}"
        if not (options.resume and _is_finished(out, recipe.epochs)):
            try:
                run = train(replace(recipe, seed=seed), replace(options, out=out))
            except UserError as error:
                if error.exit_code != 130:
                    raise
                words = f"python train.py {recipe.name} --out {folder} --resume --seeds {options.seeds}"
                raise UserError(f"stopped; continue with: {words}", exit_code=130) from None
            assert run is not None
            publish(run)
        write(folder / "recipe.json", json.dumps(recipe.as_json(), indent=2) + "\n")
        written.append(read_json(out / "results.json"))
    results = summary(written) | {"command": f"{recipe.command()} --seeds {options.seeds}"}
    write(folder / "results.json", json.dumps(results, indent=2) + "\n")
    for name, spread in results["spread"].items():
        values = ", ".join(f"{run['test'][name]:.4g}" for run in results["seeds"])
        print(f"{name}: {results['test'][name]:.4g} +- {spread:.2g} over {len(written)} seeds ({values})")
    return folder


def _is_finished(folder: Path, epochs: int) -> bool:
    return (folder / "results.json").is_file() and read_json(folder / "results.json")["epochs"] == epochs


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
