"""One recipe trained from several seeds, and what its figures come to."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pyro_models.base.errors import UserError
from pyro_models.base.files import read_json, write
from pyro_models.recipes.options import Place
from pyro_models.recipes.base import Recipe
from pyro_models.runs.folder import next_folder, train


def train_seeds(recipe: Recipe, place: Place) -> Path:
    """Train from `place.seeds` seeds on, each in its own folder of the run folder, and write results.json over them.

    With `place.resume`, finished seeds stay as they are.

    Raises:
        UserError: as `train`; or torchrun started this.
    """
    if "RANK" in os.environ:
        raise UserError("--seeds trains one run after the other: leave torchrun out, or give one --seed at a time")
    folder = place.out or next_folder(recipe)
    if (folder / "checkpoint.pt").exists() or (folder / "model.safetensors").exists():
        raise UserError(f"{folder} holds a single run: give another --out, or leave --seeds out")
    if place.overwrite:
        for old in folder.glob("seed-*/recipe.json"):
            shutil.rmtree(old.parent)
    written = []
    for seed in range(recipe.seed, recipe.seed + place.seeds):
        out = folder / f"seed-{seed}"
        if not (place.resume and _finished(out, recipe.epochs)):
            try:
                train(replace(recipe, seed=seed), replace(place, out=out))
            except UserError as error:
                if error.exit_code != 130:
                    raise
                words = f"python train.py {recipe.name} --out {folder} --resume --seeds {place.seeds}"
                raise UserError(f"stopped; go on with: {words}", exit_code=130) from None
        write(folder / "recipe.json", json.dumps(recipe.as_json(), indent=2) + "\n")
        written.append(read_json(out / "results.json"))
    results = summary(written) | {"command": f"{recipe.command()} --seeds {place.seeds}"}
    write(folder / "results.json", json.dumps(results, indent=2) + "\n")
    for name, spread in results["spread"].items():
        values = ", ".join(f"{run['test'][name]:.4g}" for run in results["seeds"])
        print(f"{name}: {results['test'][name]:.4g} +- {spread:.2g} over {len(written)} seeds ({values})")
    print(f"run folder: {folder}")
    return folder


def _finished(folder: Path, epochs: int) -> bool:
    return (folder / "results.json").is_file() and read_json(folder / "results.json")["epochs"] == epochs


def summary(written: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up the results of several runs.

    Returns:
        the first one's entries, but in `test` and `validation` the means, in `spread` the standard deviation of each
        test figure over the runs, in `seconds` the sum, and in `seeds` each run's own figures.
    """
    first, several = written[0], len(written) > 1
    splits = {split: {name: fmean(run[split][name] for run in written) for name in first[split]} for split in PARTS}
    spread = {name: stdev(run["test"][name] for run in written) if several else 0.0 for name in first["test"]}
    seeds = [{key: run[key] for key in ("seed", *PARTS, "seconds", *EXTRAS) if key in run} for run in written]
    seconds = round(sum(run["seconds"] for run in written), 2)
    common = {name: value for name, value in first.items() if name not in ("seed", *EXTRAS)}
    return {**common, **splits, "spread": spread, "seconds": seconds, "seeds": seeds}


PARTS = ("test", "validation")
EXTRAS = ("gaussian_mixture", "log_likelihood", "classes")
