"""One page that holds all there is of a run, and needs nothing else."""

import base64
import html
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from pyro_models.base.errors import UserError
from pyro_models.base.files import read_json, write
from pyro_models.base.names import MEGABYTES
from pyro_models.report.explorer import explorer
from pyro_models.runs import Run


def write_page(run: Run, megabytes: float = MEGABYTES) -> None:
    """Write report.html anew from what the run folder holds by now: one file that needs nothing else.

    Args:
        run: a run whose folder holds results.json.
        megabytes: what the page may take; an explorer that does not fit is left out, and the page says so.

    Raises:
        UserError: there is no results.json, or the page cannot be written.
    """
    results = read_json(run.folder / "results.json")
    pictures = sorted((run.folder / "figures").glob("[0-9][0-9]-*.*"))
    sections = {
        "Story": run.recipe.story(run.dataset).html,
        "Explorer": "",
        "Results": _results(run, results),
        "Checks": _checks(run),
        "Curves": _pictures([path for path in pictures if "learning-curves" in path.name]),
        "Pictures": _pictures([path for path in pictures if "learning-curves" not in path.name]),
        "Command": _command(run, results),
    }
    used = sum(len(text.encode()) for text in sections.values()) + 50_000  # the frame around them is smaller
    sections["Explorer"] = _explorer(run, int(megabytes * 1e6) - used)
    content = {
        "title": html.escape(f"{run.recipe.name} on {run.recipe.data}"),
        "style": _file("report.css"),
        "contents": " ".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections),
        "sections": "\n".join(
            f'<section id="{name.lower()}"><h2>{name}</h2>\n{text}\n</section>' for name, text in sections.items()
        ),
    }
    write(run.folder / "report.html", _filled("report.html", content))


def _file(name: str) -> str:
    return (files("pyro_models.report") / "assets" / name).read_text()


def _filled(name: str, content: dict[str, str]) -> str:
    return Template(_file(name)).substitute(content)


def _explorer(run: Run, room: int) -> str:
    """Return the explorer, or why there is none."""
    try:
        data, description = explorer(run, room)
    except UserError as error:
        return f"<p>There is no explorer: {html.escape(str(error))}.</p>"
    content = {"said": html.escape(description), "data": data.replace("<", "\\u003c")}
    return _filled("explorer.html", content | {"script": _file("program.js") + _file("explorer.js")})


def _results(run: Run, results: dict[str, Any]) -> str:
    """Return the final figures, and the log-likelihood or the command for it."""
    test, validation, units = f"test ({results['images']['test']})", results["validation"], results["units"]
    rows = []
    for name, value in results["test"].items():
        beside = f"{validation[name]:.4f}" if name in validation else ""
        rows.append({"name": name, test: f"{value:.4f}", "validation": beside, "unit": units[name]})
    if estimate := results.get("log_likelihood"):
        mean = f"{estimate['mean']:.4f} ± {estimate['standard_error']:.4f}"
        unit = f"{estimate['unit']}, {estimate['samples']} samples"
        rows.append({"name": f"log {run.recipe.density}", test: mean, "validation": "", "unit": unit})
        more = [
            {f"of log {run.recipe.density}": name, "": value}
            for name, value in _flat(estimate).items()
            if name != "unit"
        ]
        command = _verb(run, "likelihood", "--samples", str(estimate["samples"]))
        return f"{_table(rows)}\n<h3>The likelihood</h3>\n{_table(more)}\n<p>{command}</p>"
    answerable = run.recipe.unanswered.get("log-likelihood") is None
    return _table(rows) + (
        f"<p>For log {html.escape(run.recipe.density)}: {_verb(run, 'likelihood')}</p>" if answerable else ""
    )


def _checks(run: Run) -> str:
    """Return checks.json as tables, and the pictures of the checks; or the command that makes them."""
    if reason := run.recipe.unanswered.get("replicates"):
        return f"<p>{html.escape(reason)}.</p>"
    if not (run.folder / "checks.json").exists():
        return f"<p>For predictive checks: {_verb(run, 'check')}</p>"
    content = read_json(run.folder / "checks.json")
    tables = [rows for rows in content.values() if isinstance(rows, list)]
    single = {name: value for name, value in content.items() if not isinstance(value, list)}
    pictures = sorted((run.folder / "figures").glob("check-*.png"))
    return "\n".join([_table([single]), _pictures(pictures), *map(_table, tables)])


def _verb(run: Run, verb: str, *options: str) -> str:
    words = ["python", "-m", "pyro_models", verb, str(run.folder), *options]
    return f"<code>{html.escape(shlex.join(words))}</code>"


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as a table with a column for each name in any of them."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    cells = ("".join(f"<td>{html.escape(row.get(name, ''))}</td>" for name in names) for row in flat)
    body = "\n".join(f"<tr>{line}</tr>" for line in cells)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _flat(row: dict[str, Any], above: str = "") -> dict[str, str]:
    """Return what a row says, by name; the names of nested rows are joined to the one above, and lists left out."""
    cells: dict[str, str] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            cells |= _flat(value, f"{above}{name} ")
        elif not isinstance(value, list):
            cells[above + name] = f"{value:.4g}" if isinstance(value, float) else str(value)
    return cells


def _pictures(paths: Sequence[Path]) -> str:
    figures = []
    for path in paths:
        caption = html.escape(path.stem.lstrip("0123456789-").replace("-", " "))
        source = f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"
        figures.append(f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>')
    return "\n".join(figures)


def _command(run: Run, results: dict[str, Any]) -> str:
    options = ", ".join(f"{name} = {value}" for name, value in run.recipe.as_json().items())
    return (
        f"<p>Trained for {results['epochs']} epochs in {results['seconds']} seconds, with</p>\n"
        f"<pre>{html.escape(results['command'])}</pre>\n"
        f"<details><summary>every option</summary><p>{html.escape(options)}</p></details>"
    )
