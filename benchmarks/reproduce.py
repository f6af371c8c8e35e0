"""Train what reproduce.toml lists, as many at a time as there are cores, and write RESULTS.md and the README's rows.

Each training has one thread and a folder of its own, from which it goes on after any interruption. What a training
measured stays in results.json, also without its folder, until one of the same command and seed replaces it; with
`--tables` it joins what other machines measured.
"""

import argparse
import csv
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pyro_models.base.errors import UserError  # noqa: E402
from pyro_models.base.files import read_json, write  # noqa: E402
from pyro_models.base.markdown import markdown  # noqa: E402
from pyro_models.cli.train import parse  # noqa: E402
from pyro_models.recipes import Recipe, from_json  # noqa: E402
from pyro_models.runs.results import NUMBER, row, with_spread  # noqa: E402

LIST, KEPT, PAGE = (ROOT / "benchmarks" / name for name in ("reproduce.toml", "results.json", "RESULTS.md"))
README = ROOT / "README.md"
PYTHON = sys.executable
UNKNOWN_MINUTES = 30.0  # of a training that was never timed, for the time left
LOWER = ("mse",)  # columns whose smaller values are the better
Listed = dict[str, Any]
Kept = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Job:
    """One training of a listed run."""

    run: Listed
    seed: int
    folder: Path
    quick: bool = False

    @cached_property
    def recipe(self) -> Recipe:
        recipe, _ = parse([*shlex.split(self.run["command"].format_map(self.sources())), "--seed", str(self.seed)])
        return tenth(recipe) if self.quick else recipe

    def sources(self) -> dict[str, Path]:
        """Return the folders of the runs that the command names, of the same seed."""
        out = self.folder.parents[1]
        return {name: out / name / self.folder.name for name in re.findall(r"{(.+?)}", self.run["command"])}

    def can_start(self, others: Iterable["Job"]) -> bool:
        """Return whether the runs that the command names are finished, and none of them is among the others."""
        sources, unfinished = self.sources().values(), {job.folder for job in others}
        return all((folder / "results.json").is_file() and folder not in unfinished for folder in sources)

    def begun(self) -> bool:
        """Return whether the folder holds this recipe: a default that changed since makes it another."""
        path = self.folder / "recipe.json"
        try:
            return path.is_file() and from_json(read_json(path)) == self.recipe
        except UserError:  # an option that there was then is gone
            return False

    def epochs(self) -> list[dict[str, str]]:
        """Return the rows of metrics.csv, of the epochs made."""
        path = self.folder / "metrics.csv"
        if not (self.begun() and path.is_file()):
            return []
        with path.open() as file:
            return list(csv.DictReader(file))

    def results(self) -> dict[str, Any]:
        """Return the contents of results.json; while there is none, the scores of the last epoch; or nothing."""
        path = self.folder / "results.json"
        if self.begun() and path.is_file():
            return read_json(path)
        if not (epochs := self.epochs()):
            return {}
        last = {name: float(value) for name, value in epochs[-1].items() if value and name != "unit"}
        parts = {
            part: {name.removeprefix(f"{part}_"): value for name, value in last.items() if name.startswith(part)}
            for part in ("test", "validation")
        }
        if not parts["test"]:  # its test data are evaluated at its end
            return {}
        seconds = sum(float(epoch["seconds"]) + float(epoch["evaluation_seconds"]) for epoch in epochs)
        return {"recipe": self.recipe.name, "seed": self.seed, "seconds": seconds, "units": defaultdict(str), **parts}

    def commands(self) -> list[list[str]]:
        """Return the commands that are left."""
        results, commands, out = self.results(), [], ["--out", str(self.folder)]
        if "command" not in results:
            words = shlex.split(self.recipe.command())[2:]
            again = [self.recipe.name, *out, "--resume"] if self.begun() else [*words, *out, "--overwrite"]
            commands.append([PYTHON, str(ROOT / "train.py"), *again])
        samples = -(-self.run.get("samples", 0) // (10 if self.quick else 1))
        if samples and results.get("log_likelihood", {}).get("samples") != samples:
            options = ["--samples", str(samples), "--gap", str(self.run.get("gap", 0))]
            commands.append([PYTHON, "-m", "pyro_models", "likelihood", str(self.folder), *options])
        return commands


def tenth(recipe: Recipe) -> Recipe:
    """Return the recipe with a tenth of its epochs, or steps; at least one epoch."""
    if recipe.epochs >= 10 or recipe.steps is None:
        return dataclasses.replace(recipe, epochs=max(1, recipe.epochs // 10))
    return dataclasses.replace(recipe, epochs=1, steps=max(1, recipe.steps * recipe.epochs // 10))


def listed(only: Sequence[str] = ()) -> list[Listed]:
    """Return the runs of the list that some words choose; without words, all.

    A word is the name of a run or of a table, or, where there is none of that name, the beginning of names.
    """
    runs = tomllib.loads(LIST.read_text())["run"]
    chosen = []
    for word in only:
        found = [run for run in runs if word in (run["name"], run["table"])]
        found = found or [run for run in runs if run["name"].startswith(word) or run["table"].startswith(word)]
        if not found:
            raise SystemExit(f"no run and no table is called {word}, or begins so")
        chosen += found
    return [run for run in runs if run in chosen or not only]


def jobs_of(runs: Iterable[Listed], out: Path, quick: bool = False) -> list[Job]:
    """Return the trainings of runs: the first seed of each, then the second of each, and so on."""
    jobs = [Job(run, k, out / run["name"] / f"seed-{k}", quick) for run in runs for k in range(1, run["seeds"] + 1)]
    return sorted(jobs, key=lambda job: job.seed)


def train(jobs: Sequence[Job], at_once: int, kept: Kept, update: Callable[[], None]) -> bool:
    """Train what is not finished, `at_once` at a time; `update` after each. Return whether all went well."""
    waiting: list[Job] = [job for job in jobs if job.commands()]
    running: dict[subprocess.Popen[bytes], Job] = {}
    failed: list[Job] = []
    try:
        while waiting or running:
            ready = [job for job in waiting if job.can_start([*waiting, *running.values()])]
            for job in ready[: at_once - len(running)]:
                waiting.remove(job)
                running[start(job)] = job
                print(progress(jobs, list(running.values()), waiting, failed, at_once, kept), flush=True)
            if not running:
                names = ", ".join(f"{job.run['name']}, seed {job.seed}" for job in waiting)
                print(f"not begun, for want of the runs that they start from: {names}", flush=True)
                return False
            time.sleep(0.1)
            for process in [process for process in running if process.poll() is not None]:
                job = running.pop(process)
                if process.returncode:
                    failed.append(job)
                    print(f"failed: {job.run['name']}, seed {job.seed}: see {job.folder}.log", flush=True)
                update()
    except KeyboardInterrupt:
        print("stopping; the same command goes on from here", flush=True)
        for process in running:
            process.wait()
        update()
        raise SystemExit(130) from None
    return not failed


def start(job: Job) -> "subprocess.Popen[bytes]":
    """Start the commands that are left of a training, one after the other, with one thread and a log."""
    job.folder.mkdir(parents=True, exist_ok=True)
    script = " && ".join(shlex.join(words) for words in job.commands())
    with Path(f"{job.folder}.log").open("ab") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(["sh", "-c", script], env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def progress(
    jobs: Sequence[Job], running: Sequence[Job], waiting: Sequence[Job], failed: Sequence[Job], at_once: int, kept: Kept
) -> str:
    """Return a table of what is done, runs and is left, and of the minutes left."""

    def minutes(parts: Iterable[Job]) -> float:
        total = 0.0
        for job in parts:
            entry = kept.get(job.run["name"])
            whole = shown(entry)["minutes"] if entry else job.run.get("minutes", UNKNOWN_MINUTES)
            total += float(whole) * (0.1 if job.quick else 1.0) * (1 - len(job.epochs()) / job.recipe.epochs)
        return total / at_once

    rows = []
    for name in dict.fromkeys(job.run["name"] for job in jobs):
        every, now, later, broken = (
            [job for job in part if job.run["name"] == name] for part in (jobs, running, waiting, failed)
        )
        epochs = ", ".join(f"{len(job.epochs())} of {job.recipe.epochs} epochs" for job in now)
        done = len(every) - len(now) - len(later) - len(broken)
        counts = {"done": done, "running": epochs or 0, "left": len(later), "failed": len(broken)}
        rows.append(
            {"run": name}
            | {title: str(count) for title, count in counts.items()}
            | {"minutes left": f"{minutes([*now, *later]):.0f}"}
        )
    return f"{markdown(rows)}\n\nabout {minutes([*running, *waiting]) / 60:.1f} hours left, {at_once} at a time\n"


# Figures: of each run of the list results.json keeps what its trainings measured, one by one, so that those of
# several days and machines make one mean; what was measured before the list existed is kept as means over seeds.


def measured(job: Job) -> Kept | None:
    """Return what a training measured, or has so far; None before its first epoch."""
    results = job.results()
    if not results:
        return None
    cells = {title: cell for title, cell in row(results | {"command": ""}).items() if cell}
    minutes, _ = cells.pop("minutes a run"), cells.pop("command")
    epochs = job.epochs()
    for score, numbers in job.run.get("curve", {}).items():
        title = f"{score.replace('_', ' ')} after {', '.join(map(str, numbers))} epochs"
        cells[title] = ", ".join(f"{float(epochs[k - 1][score]):.4f}" for k in numbers if k <= len(epochs))
    if gap := results.get("log_likelihood", {}).get("gap"):
        cells["effective"] = f"{results['log_likelihood']['effective']['median']:.2%}"
        cells["gap"] = f"{gap['amortisation']['mean']:.2f} + {gap['approximation']['mean']:.2f}"
    part = f"after {len(epochs)} of {job.recipe.epochs} epochs" if job.commands() else ""
    return {"seeds": [job.seed], "part": part, "cells": cells, "minutes": minutes, "measured": how(job)}


def how(job: Job) -> str:
    """Return when, with which versions and on what machine a training was made."""
    results, path = job.results(), job.folder / "results.json"
    made = date.fromtimestamp((path if path.is_file() else job.folder / "metrics.csv").stat().st_mtime)
    words = [str(made), *(f"{name} {version}" for name, version in results.get("versions", {}).items())]
    if machine := results.get("machine"):
        words.append(
            f"{machine['threads']} thread of {machine['cores']} cores {machine['processor']}, {machine['device']}"
        )
    return ", ".join(words)


def keep(kept: Kept, runs: Iterable[Listed], out: Path, quick: bool = False) -> Kept:
    """Return what is kept, with what the folders hold in place of earlier trainings of the same command and seed.

    Means over seeds stay until each of these seeds is there; a training that is not over, while no other one is.
    """
    new = dict(kept)
    for run in runs:
        found = [entry for job in jobs_of([run], out, quick) if (entry := measured(job))]
        before = kept.get(run["name"], {})
        earlier = before["runs"] if before.get("command") == run["command"] else []
        every = [*earlier, *found]
        over = {tuple(entry["seeds"]): entry for entry in every if not entry["part"]}
        alone = {seed for seeds in over if len(seeds) == 1 for seed in seeds}
        stay = [over[seeds] for seeds in sorted(over) if len(seeds) == 1 or not alone.issuperset(seeds)]
        if every:
            new[run["name"]] = {"command": run["command"], "runs": stay or (found or every)[:1]}
    return new


def shown(entry: Kept) -> Kept:
    """Return what the tables show of a run: means over its seeds, kept as such or of the trainings one by one."""
    first, *others = runs = entry["runs"]
    for run in runs:
        if len(run["seeds"]) > 1 or not others:
            return run
    titles = [title for title in first["cells"] if all(title in run["cells"] for run in others)]
    return {
        "seeds": [seed for run in runs for seed in run["seeds"]],
        "part": first["part"],
        "cells": {title: over_seeds([run["cells"][title] for run in runs]) for title in titles},
        "minutes": f"{fmean(float(run['minutes']) for run in runs):.1f}",
        "measured": "; ".join(dict.fromkeys(run["measured"] for run in runs)),
    }


def over_seeds(cells: Sequence[str]) -> str:
    """Return the cell of several seeds: the mean of each number, and where one differs, its spread and each cell."""
    columns = list(zip(*(NUMBER.findall(cell) for cell in cells), strict=True))
    differ = sum(len(set(column)) > 1 for column in columns)
    left = iter(columns)

    def mean(found: re.Match[str]) -> str:
        return f"{fmean(map(float, next(left))):.{len(found[0].partition('.')[2])}f}"

    text = NUMBER.sub(mean, cells[0])
    return with_spread(text, cells) if differ == 1 else text


# Tables


def table(name: str, runs: Sequence[Listed], kept: Kept) -> str:
    """Return a table of the page: what was measured, beside the source; runs that were not made yet too."""
    rows, letters = [], legend(runs, kept)
    for run in (run for run in runs if run["table"] == name):
        entry = shown(kept[run["name"]]) if run["name"] in kept else {"cells": {}, "seeds": []}
        part = [
            entry.get("part"),
            f"{len(entry['seeds'])} of {run['seeds']} seeds" if len(entry["seeds"]) < run["seeds"] else "",
        ]
        when = [*(letters[way] for way in ways(entry)), *part] if entry["seeds"] else ["not made"]
        rows.append(
            {"run": f"`{run['name']}`", "command": command(run, run["seeds"])}
            | entry["cells"]
            | {"theirs": theirs(run), "reached": reached(run, entry["cells"])}
            | {"minutes a run": entry.get("minutes", ""), "measured": ", ".join(filter(None, when))}
        )
    last = ("theirs", "reached", "minutes a run", "measured")
    titles = [title for row in rows for title, cell in row.items() if cell and title not in last]
    return markdown([{title: row.get(title, "") for title in dict.fromkeys([*titles, *last])} for row in rows])


def command(run: Listed, seeds: int) -> str:
    words = re.sub("{(.+?)}", r"runs/\1", run["command"])
    return f"`python train.py {words}{f' --seeds {seeds}' if seeds > 1 else ''}`"


def theirs(run: Listed) -> str:
    figures = ", ".join(f"{title} {value}" for title, value in run.get("theirs", {}).items())
    return f"{figures} ({run['source']})" if figures else ""


def reached(run: Listed, cells: dict[str, str]) -> str:
    """Return whether ours are as good as theirs, or behind by no more than the tolerance, and the note of the run."""
    behind = [
        (float(cells[title].split()[0]) - value) * (1 if title.startswith(LOWER) else -1)
        for title, value in run.get("theirs", {}).items()
        if title in cells and isinstance(value, int | float)
    ]
    answer, tolerance = "", run.get("tolerance", 0.0)
    if behind:
        answer = "yes" if max(behind) <= 0 else f"within {tolerance:g}" if max(behind) <= tolerance else "no"
    return ": ".join(filter(None, (answer, run.get("note"))))


def ways(entry: Kept) -> list[str]:
    """Return when, with which versions and on what machines a run that is shown was made."""
    return entry["measured"].split("; ")


def legend(runs: Iterable[Listed], kept: Kept) -> dict[str, str]:
    """Return a number for each way in which figures were measured."""
    every = dict.fromkeys(way for run in runs if run["name"] in kept for way in ways(shown(kept[run["name"]])))
    return {way: f"[{number}]" for number, way in enumerate(every, 1)}


def page(text: str, runs: Sequence[Listed], kept: Kept) -> str:
    """Return RESULTS.md with what stands between `<!-- table: NAME -->` and `<!-- end -->` made anew."""

    def fill(found: re.Match[str]) -> str:
        numbered = "\n".join(f"- {number} {way}" for way, number in legend(runs, kept).items())
        inside = numbered if found[1] == "measured" else table(found[1], runs, kept)
        return f"<!-- table: {found[1]} -->\n\n{inside}\n\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def readme(text: str, runs: Sequence[Listed], kept: Kept) -> str:
    """Return README.md with its table of results made anew, of the runs that have a `readme` and are finished."""
    rows = []
    for run in (run for run in runs if "readme" in run and run["name"] in kept):
        entry = shown(kept[run["name"]])
        if entry["part"]:
            continue
        numbers = {title: cell.partition(" ")[0] for title, cell in entry["cells"].items()}
        rows.append({"command": command(run, len(entry["seeds"])), "result": run["readme"].format_map(numbers)})
    return re.sub(r"\| command \| result \|\n(\|.*\n)+", lambda _: markdown(rows) + "\n", text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks/reproduce.py", description=__doc__)
    add = parser.add_argument
    only = "runs and tables of these names, or that begin so; default: all"
    add("--only", nargs="+", default=[], metavar="WORD", help=only)
    add("--quick", action="store_true", help="a tenth of each training, in a table of its own, OUT/quick/RESULTS.md")
    add("--tables", action="store_true", help="train nothing: write the tables of what the folders hold")
    add("--at-once", type=int, default=os.cpu_count(), metavar="N", help="trainings at a time; default: one a core")
    add("--out", type=Path, default=ROOT / "build/reproduce", help="folder of the runs; default: build/reproduce")
    given = parser.parse_args(arguments)
    every, runs = listed(), listed(given.only)
    out = (given.out / "quick" if given.quick else given.out).resolve()  # as a command names another run's folder

    def update() -> None:
        kept = keep({} if given.quick else read_json(KEPT), runs, out, given.quick)  # which others may write too
        if given.quick:
            names = [*dict.fromkeys(run["table"] for run in runs), "measured"]
            marks = "\n\n".join(f"<!-- table: {name} --><!-- end -->" for name in names)
            write(out / "RESULTS.md", page(f"# Quick results: a tenth of each training\n\n{marks}\n", runs, kept))
        else:
            write(KEPT, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
            write(PAGE, page(PAGE.read_text(), every, kept))
            write(README, readme(README.read_text(), every, kept))

    out.mkdir(parents=True, exist_ok=True)
    good = given.tables or train(jobs_of(runs, out, given.quick), given.at_once, read_json(KEPT), update)
    update()
    print(f"tables: {out / 'RESULTS.md' if given.quick else PAGE}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
