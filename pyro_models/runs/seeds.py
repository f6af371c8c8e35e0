"""Several runs in one folder: of one recipe from several seeds, with mean and spread, or of a grid of its options."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    written = list(_train_each(folder, recipes.items(), options, publish, "seed-*", again, recipe).values())
    results = summary(written) | {"command": f"{recipe.command()} --seeds {options.seeds}"}
    write(folder / "results.json", json.dumps(results, indent=2) + "\n")
    for name, spread in results["spread"].items():
        values = ", ".join(f"{run['test'][name]:.4g}" for run in results["seeds"])
        print(f"{name}: {results['test'][name]:.4g} +- {spread:.2g} over {len(written)} seeds ({values})")
    return folder


def sweep(
    recipe: Recipe, grid: Iterable[tuple[str, Recipe]], options: RunOptions, publish: Callable[[Run], Any]
) -> tuple[Path, str]:
    """Train the recipes of a grid, each in a folder of its own, and tabulate their scores.

    A recipe whose training diverges has no row.

    Finished runs stay as they are with `options.resume`.

    Args:
        recipe: what the grid is around.
        grid: what sets a recipe apart, as `latent_dim=2,beta=1`, and the recipe; made one after the other.
        options: where.
        publish: called with each finished run.

    Returns:
        the folder, and the table, which sweep.md in it holds too; sweep.json holds the scores.

    Raises:
        UserError: as `train_seeds`; or every training diverged.
    """
    folder = options.out or next_folder(recipe)
    again = "the same command, with `resume=True`"
    written = _train_each(folder, grid, replace(options, out=folder), publish, "*=*", again, recipe, lenient=True)
    if not written:
        raise UserError(f"no training in {folder} came to its end: give other values", 1)
    rows = []
    for name, results in written.items():
        scores = {title: cell for title, cell in row(results).items() if title != "command"}
        rows.append(dict(pair.split("=", 1) for pair in name.split(",")) | scores)
    text = markdown(rows)
    write(folder / "sweep.md", text + "\n")
    runs = [{"folder": name, "results": results} for name, results in written.items()]
    write(folder / "sweep.json", json.dumps(runs, indent=2) + "\n")
    return folder, text


@dataclass(frozen=True)
class Values:
    """The values of an option that a search is among: a list, or a range, on a logarithmic scale where it can be."""

    name: str
    ends: Sequence[str]
    is_range: bool

    @classmethod
    def read(cls, name: str, text: str) -> "Values":
        """Read `A,B,...` or `A..B`.

        Raises:
            UserError: a range is not of two numbers, the lower first.
        """
        if ".." not in text:
            return cls(name, text.split(","), False)
        ends = text.split("..")
        try:
            low, high = map(float, ends)
        except ValueError:
            low, high = 1.0, 0.0
        if not low < high < float("inf"):
            raise UserError(f"`over`: {name}={text} is no range: give the lower number first, as {name}=1e-4..1e-2")
        return cls(name, ends, True)

    def proposed(self, trial: Any) -> str:
        """Return the value that a trial of optuna proposes."""
        if not self.is_range:
            return trial.suggest_categorical(self.name, list(self.ends))
        low, high = self.ends
        if low.isdigit() and high.isdigit():
            return str(trial.suggest_int(self.name, int(low), int(high), log=int(low) > 0))
        return f"{trial.suggest_float(self.name, float(low), float(high), log=float(low) > 0):.4g}"


def search(
    recipe: Recipe,
    space: Mapping[str, Values],
    of: Callable[[Sequence[tuple[str, str]]], tuple[str, Recipe]],
    trials: int,
    options: RunOptions,
    publish: Callable[[Run], Any],
) -> tuple[Path, str]:
    """Train the recipes that optuna proposes one after the other, by the bound of the validation data, as `sweep` does.

    Args:
        recipe: what the search is around; proposals depend on its seed.
        space: the values of each option.
        of: from values of the options to the name and the recipe of `sweep`.
        trials: how many.
        options: where.
        publish: called with each finished run.

    Returns:
        as `sweep`, and after the table a line on the best.

    Raises:
        UserError: optuna is missing, the recipe has no bound, or as `sweep`.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("`trials` are proposed by a package: pip install 'pyro-stories[search]'") from None
    if reason := recipe.unanswered.get("log-likelihood"):
        raise UserError(f"`trials` are chosen by the bound of validation data: {reason}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=recipe.seed % 2**32))
    folder = options.out or next_folder(recipe)

    def proposed() -> Iterator[tuple[str, Recipe]]:
        trained = set()
        for _ in range(trials):
            trial = study.ask()
            name, each = of([(option, values.proposed(trial)) for option, values in space.items()])
            trial.set_user_attr("name", name)
            if name not in trained:
                yield name, each
            trained.add(name)
            results = folder / name / "results.json"
            bound = read_json(results)["validation"] if results.is_file() else {}
            value = bound.get("elbo_exact", bound.get("elbo"))
            study.tell(trial, value, state=None if value is not None else optuna.trial.TrialState.FAIL)

    _, text = sweep(recipe, proposed(), replace(options, out=folder), publish)
    best = study.best_trial
    return folder, f"{text}\nbest bound of validation data, {best.value:.2f}: {folder / best.user_attrs['name']}"


def _train_each(
    folder: Path,
    recipes: Iterable[tuple[str, Recipe]],
    options: RunOptions,
    publish: Callable[[Run], Any],
    pattern: str,
    again: str,
    first: Recipe,
    lenient: bool = False,
) -> dict[str, dict[str, Any]]:
    """Train recipes one after the other, each in a folder of its name, and return the results of all by that.

    Args:
        folder: that of all.
        recipes: with the name of their folder.
        options: where; with `resume`, finished runs stay as they are, and with `overwrite`, folders go.
        publish: called with each finished run.
        pattern: of the names of their folders.
        again: the command that continues.
        first: the recipe whose options the folder of all holds.
        lenient: whether a training that goes wrong is left out, and not an error.
    """
    if "RANK" in os.environ:
        raise UserError("several runs are trained one after the other: leave torchrun out, or train one at a time")
    if (folder / "checkpoint.pt").exists() or (folder / "model.safetensors").exists():
        raise UserError(f"{folder} holds a single run: give another `out`")
    if options.overwrite:
        for old in folder.glob(f"{pattern}/recipe.json"):
            shutil.rmtree(old.parent)
    written = {}
    for name, recipe in recipes:
        out = folder / name
        if not (options.resume and _is_finished(out, recipe)):
            try:
                run = train(recipe, replace(options, out=out))
            except UserError as error:
                if lenient and error.exit_code == 1:
                    print(f"{name}: {error}")
                    continue
                if error.exit_code != 130:
                    raise
                raise UserError(f"stopped; continue with: {again}", 130) from None
            assert run is not None
            publish(run)
        write(folder / "recipe.json", json.dumps(first.as_json(), indent=2) + "\n")
        written[name] = read_json(out / "results.json")
    return written


def _is_finished(folder: Path, recipe: Recipe) -> bool:
    if not all((folder / name).is_file() for name in ("results.json", "checkpoint.pt")):
        return False
    return is_over(recipe, checkpoint.load(folder / "checkpoint.pt")["metrics"])


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Average the results of several runs.

    Returns:
        the first one's entries, but in `test` and `validation` the means, in `spread` the standard deviation of each
        test score over the runs, in `seconds` the sum, in `gaussian_mixture` and `log_likelihood` the means of their
        numbers where each run has them, and in `seeds` each run's own scores.
    """
    first, several = results[0], len(results) > 1
    means = {part: {name: fmean(run[part][name] for run in results) for name in first[part]} for part in PARTS}
    spread = {name: stdev(run["test"][name] for run in results) if several else 0.0 for name in first["test"]}
    seeds = [{key: run[key] for key in ("seed", *PARTS, "seconds", *OF_A_SEED) if key in run} for run in results]
    seconds = round(sum(run["seconds"] for run in results), 2)
    common = {name: value for name, value in first.items() if name not in ("seed", *OF_A_SEED)}
    for name in (name for name in OF_A_SEED[:2] if all(name in run for run in results)):
        numbers = [key for key, value in first[name].items() if isinstance(value, int | float)]
        columns = {key: [run[name][key] for run in results] for key in numbers}
        common[name] = {key: each[0] if len(set(each)) == 1 else fmean(each) for key, each in columns.items()}
    return {**common, **means, "spread": spread, "seconds": seconds, "seeds": seeds}
