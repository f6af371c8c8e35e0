"""Pages beside those of finished runs: one that compares several, and one of a run that is still training."""

import html
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from pyro_models.base.errors import UserError
from pyro_models.base.files import read_json, write
from pyro_models.data import to_float
from pyro_models.recipes import Recipe, from_json
from pyro_models.report.charts import Curve, chart, legend
from pyro_models.report.page import page, pictures
from pyro_models.report.training import curves, film, read_metrics
from pyro_models.report.words import score_name
from pyro_models.runs.results import row
from pyro_models.training import checkpoint

SHOWN = ("reconstructions", "prior-samples", "samples", "clusters", "completions", "images-from", "latent-map")
COLOURS = 6  # of curves
LATEST = 10  # epochs, by whose mean duration the rest is estimated


class Finished(NamedTuple):
    """A finished run, or several of one recipe that differ in their seed.

    Attributes:
        folder: where.
        recipe: its options.
        results: the contents of results.json.
        metrics: the rows of metrics.csv, of each seed.
        figures: the folder of its pictures, or of the first seed's.
    """

    folder: Path
    recipe: dict[str, Any]
    results: dict[str, Any]
    metrics: list[list[dict[str, float]]]
    figures: Path


def read_finished(folder: Path) -> Finished:
    """Read what the overview takes of a run folder, or of one that holds a folder for each seed.

    Raises:
        UserError: it holds no finished run.
    """
    if not (folder / "recipe.json").is_file():
        raise UserError(f"{folder} is no run folder: it holds no recipe.json")
    each = sorted(folder.glob("seed-*")) or [folder]
    recipe, results = read_json(folder / "recipe.json"), read_json(folder / "results.json")
    return Finished(folder, recipe, results, [read_metrics(seed) for seed in each], each[0] / "figures")


def write_overview(folders: Sequence[Path], out: Path, megabytes: float) -> None:
    """Write a page that compares finished runs: their options and scores, validation curves and pictures.

    Args:
        folders: of the runs.
        out: the file.
        megabytes: what it may take; pictures that do not fit are left out.

    Raises:
        UserError: a folder holds no finished run, or the file cannot be written.
    """
    runs = [read_finished(folder) for folder in folders]
    sections = {"Runs": _tables(runs, out.parent), "Curves": _overlaid(runs)}
    used = sum(len(text) for text in sections.values()) + 60_000
    sections["Pictures"] = _side_by_side(runs, int(megabytes * 1e6) - used)
    body = "\n".join(f'<section id="{name.lower()}"><h2>{name}</h2>{text}</section>' for name, text in sections.items())
    write(out, page(f"{len(runs)} runs", "", sections, body))


def _name(run: Finished) -> str:
    return run.folder.name or str(run.folder)


def _tables(runs: Sequence[Finished], beside: Path) -> str:
    """Return a table of the runs of each recipe."""
    names = dict.fromkeys(run.recipe["recipe"] for run in runs)
    return "".join(_table([run for run in runs if run.recipe["recipe"] == name], beside) for name in names)


def _table(runs: Sequence[Finished], beside: Path) -> str:
    """Return a row for each run of a recipe: its data, the options that differ from another's, its scores, minutes."""
    options: list[dict[str, Any]] = [{**run.recipe, "seed": _seeds(run)} for run in runs]
    shown = {"recipe", "data", "epochs"}
    differ = [key for key in options[0] if key not in shown and len({str(each.get(key)) for each in options}) > 1]
    rows = []
    for run, each in zip(runs, options, strict=True):
        link = html.escape(os.path.relpath(run.folder / "report.html", beside), quote=True)
        scores = row(run.results)
        del scores["command"]
        cells = {"run": f'<a href="{link}">{html.escape(_name(run))}</a>'}
        cells |= {key: html.escape(str(each.get(key, ""))) for key in sorted(shown)}
        cells |= {key.replace("_", " "): html.escape(str(each.get(key, ""))) for key in differ}
        rows.append(
            cells | {html.escape(score_name(key)): html.escape(value) for key, value in scores.items() if value}
        )
    names = list(dict.fromkeys(name for each in rows for name in each))
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    lines = "".join("<tr>" + "".join(f"<td>{each.get(name, '')}</td>" for name in names) + "</tr>" for each in rows)
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _seeds(run: Finished) -> Any:
    seeds = run.results.get("seeds")
    return ", ".join(str(each["seed"]) for each in seeds) if seeds else run.recipe["seed"]


def _overlaid(runs: Sequence[Finished]) -> str:
    """Return a chart of the validation ELBO for each unit, as those of other units do not compare; seeds as a band."""
    charts: dict[str, list[Curve]] = {}
    for number, run in enumerate(runs):
        evaluated = [[row for row in rows if "validation_elbo" in row] for rows in run.metrics]
        common = list(zip(*evaluated, strict=False))  # of each epoch that all seeds have
        if not common:
            continue
        values = [[row["validation_elbo"] for row in rows] for rows in common]
        spread = [stdev(each) for each in values] if len(evaluated) > 1 else None
        x = [rows[0]["epoch"] for rows in common]
        curve = Curve(_name(run), x, [fmean(each) for each in values], spread, number % COLOURS)
        charts.setdefault(run.results["units"]["elbo"], []).append(curve)
    title = f"validation {score_name('elbo')}"
    figures = (
        f"<figure><figcaption>{title}<small>{html.escape(unit)}</small></figcaption>{chart(title, each)}{legend(each)}"
        "</figure>"
        for unit, each in charts.items()
    )
    return f'<div class="charts">{"".join(figures)}</div><p>Bands are one standard deviation over the seeds.</p>'


def _side_by_side(runs: Sequence[Finished], room: int) -> str:
    """Return the pictures that most runs have, a row for each sort of them."""
    parts = []
    for stem in SHOWN:
        drawn = [(run, sorted(run.figures.glob(f"[0-9][0-9]-{stem}*.png"))) for run in runs]
        for run, paths in drawn:
            text = pictures(paths[:1], f"{stem.replace('-', ' ')}: {_name(run)}")
            if paths and len(text) < room:
                room -= len(text)
                parts.append(text)
    return f'<div class="charts">{"".join(parts)}</div>'


def write_live(folder: Path, data_dir: Path | None, seconds: int) -> str:
    """Write report.html of a run that is training: its curves, latest reconstructions, and the time left.

    Args:
        folder: of the run.
        data_dir: the folder of the data sets.
        seconds: after which a browser loads the page again.

    Returns:
        how far the run is, in a line.

    Raises:
        UserError: the folder holds no run, or the file cannot be written.
    """
    if not (folder / "recipe.json").is_file():
        raise UserError(f"{folder} is no run folder: it holds no recipe.json")
    recipe, rows = from_json(read_json(folder / "recipe.json")), read_metrics(folder)
    what = f"epoch {len(rows)} of {recipe.epochs}"
    if rows:
        each = fmean(row["seconds"] + row["evaluation_seconds"] for row in rows[-LATEST:])
        what += f", about {(recipe.epochs - len(rows)) * each / 60:.1f} minutes left"
    body = curves(rows, {}) if rows else "<p>No epoch is recorded yet.</p>"
    head = f'<meta http-equiv="refresh" content="{seconds}">\n'
    write(folder / "report.html", page(_title(recipe), what, (), body + _latest(folder, recipe, data_dir), head))
    return what


def _title(recipe: Recipe) -> str:
    return f"{recipe.name} on {recipe.data}, training"


def _latest(folder: Path, recipe: Recipe, data_dir: Path | None) -> str:
    """Return the film of the reconstructions that the checkpoint holds by now."""
    if not (folder / "checkpoint.pt").is_file():
        return ""
    frames = checkpoint.load(folder / "checkpoint.pt")["frames"]
    if not frames["images"]:
        return ""
    originals = to_float(recipe.load(data_dir).test.x[frames["examples"]], recipe.pixels)
    return film(originals, frames)
