"""One page that holds all there is of a run, and needs nothing else."""

import base64
import html
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from pyro_models.base.errors import UserError
from pyro_models.base.files import read_json, write
from pyro_models.base.names import MEGABYTES
from pyro_models.checking import LEVEL
from pyro_models.data import to_float
from pyro_models.report.charts import histogram
from pyro_models.report.explorer import explorer
from pyro_models.report.training import curves, film, read_metrics
from pyro_models.report.verdict import bounded, replicated, trained, verdict
from pyro_models.report.words import count, number, score_name
from pyro_models.runs import Run

DRAWN_BY_THE_PAGE = ("learning-curves", "reconstructions", "check-statistics")
BROAD = 2  # width by height of a picture
FIRST_CHECKS = 15  # statistics that are shown at once: all of images
AGAINST_LABELS = ("confusion", "scores-of-classes", "labelled", "adversaries")
CAPTIONS = {
    "check-pixel-means": "the mean of each pixel, of the data and of replicates",
    "check-ranks": "calibration of the guide: a line above the band says that its draws are too high, one below it too "
    "low, and one that rises above it and then falls below it that they are too close together",
    "compare": "at these weights: bound, signal to noise of the gradient, and time of a step, by estimator",
    "compare-training": "the bounds of validation data that each estimator reaches, against the time",
}


def write_page(run: Run, megabytes: float = MEGABYTES) -> None:
    """Write report.html anew from what the run folder holds by now: one file that needs nothing else.

    Args:
        run: a run whose folder holds results.json.
        megabytes: what the page may take; an explorer that does not fit is left out, and the page says so.

    Raises:
        UserError: there is no results.json, or the page cannot be written.
    """
    folder, recipe = run.folder, run.recipe
    results, rows = read_json(folder / "results.json"), read_metrics(folder)
    checks = read_json(folder / "checks.json") if (folder / "checks.json").exists() else None
    check_command, likelihood_command = _verb(run, "check"), _verb(run, "likelihood")
    answers = [
        trained(run, rows, results),
        replicated(checks, recipe.unanswered.get("replicates"), check_command),
        bounded(run, results, likelihood_command),
    ]
    figures = sorted((folder / "figures").glob("*.png"))
    of_run = [path for path in figures if path.stem[:2].isdigit() and not _is(path, DRAWN_BY_THE_PAGE)]
    against_labels = [path for path in of_run if _is(path, AGAINST_LABELS)]
    made = [path for path in figures if path.stem.startswith("samples-")]
    sections = {
        "Story": run.recipe.story(run.dataset).html.replace("<pre>", '<pre tabindex="0">'),  # a phone scrolls it
        "Training": curves(rows, results["units"]) + _film(run, figures) + pictures(against_labels),
        "Checks": _checks(checks, figures, recipe.unanswered.get("replicates"), check_command),
        "Bound": _bound(run, results, likelihood_command) + _comparison(run, figures),
        "Explorer": "",
        "Pictures": pictures([*(path for path in of_run if path not in against_labels), *made]),
        "Command": _command(run, results),
    }
    used = sum(len(text.encode()) for text in sections.values()) + 80_000  # the frame around them is smaller
    sections["Explorer"] = _explorer(run, int(megabytes * 1e6) - used)
    titles = {
        "Story": "What does it say?",
        "Training": "Is it trained?",
        "Checks": "Does it look like the data?",
        "Bound": "How good is the bound?",
        "Explorer": "What can it make?",
        "Pictures": "Pictures",
        "Command": "How was it made?",
    }
    body = verdict(answers) + "\n".join(
        f'<section id="{name.lower()}"><h2>{titles[name]}</h2>\n{text}\n</section>' for name, text in sections.items()
    )
    sizes = results["images"]
    what = f"{count(results['epochs'], 'epoch')}, {_minutes(results['seconds'])}; {sizes['test']} test data"
    write(folder / "report.html", page(f"{recipe.name} on {recipe.data}", what, sections, body))


def page(title: str, what: str, sections: Iterable[str], body: str, head: str = "") -> str:
    """Return a whole page.

    Args:
        title: of the page.
        what: a line below it.
        sections: the names of its sections, for the contents.
        body: HTML.
        head: more HTML for its head.
    """
    return filled(
        "report.html",
        {
            "title": html.escape(title),
            "what": html.escape(what),
            "head": head,
            "style": asset("report.css"),
            "contents": " ".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections),
            "body": body,
            "film": asset("film.js"),
        },
    )


def asset(name: str) -> str:
    """Return the text of a file that pages are made of."""
    return (files("pyro_models.report") / "assets" / name).read_text()


def filled(name: str, content: Mapping[str, str]) -> str:
    """Return such a file with its placeholders filled."""
    return Template(asset(name)).substitute(content)


def _is(path: Path, stems: Sequence[str]) -> bool:
    return path.stem.lstrip("0123456789-").startswith(tuple(stems))


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _film(run: Run, figures: Sequence[Path]) -> str:
    """Return the reconstructions of all epochs that were kept, else the picture of them."""
    if not run.frames["images"]:
        return pictures([path for path in figures if _is(path, ("reconstructions",))])
    try:
        originals = to_float(run.dataset.test.x[run.frames["examples"]], run.recipe.pixels)
    except UserError as error:
        return f"<p>There are no reconstructions: {html.escape(str(error))}.</p>"
    return film(originals, run.frames)


def _explorer(run: Run, room: int) -> str:
    """Return the explorer, or why there is none."""
    try:
        data, description = explorer(run, room)
    except UserError as error:
        return f"<p>There is no explorer: {html.escape(str(error))}.</p>"
    content = {"said": html.escape(description), "data": data.replace("<", "\\u003c")}
    return filled("explorer.html", content | {"script": asset("program.js") + asset("explorer.js")})


def _bound(run: Run, results: dict[str, Any], command: str) -> str:
    """Return the final scores by their units, and the log-likelihood or the command for it."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for name, value in results["test"].items():
        beside = number(results["validation"][name]) if name in results["validation"] else ""
        groups.setdefault(results["units"][name], []).append((html.escape(score_name(name)), beside, number(value)))
    density, estimate = html.escape(f"log {run.recipe.density}"), results.get("log_likelihood")
    if estimate:
        value = f"{number(estimate['mean'])} ± {number(estimate['standard_error'])}"
        groups.setdefault(estimate["unit"], []).append((f"{density}, {estimate['samples']} samples", "", value))
    body = "".join(_of_unit(html.escape(unit), rows) for unit, rows in groups.items())
    head = '<tr><td></td><th scope="col">validation</th><th scope="col">test</th></tr>'
    table = f'<div class="wide" tabindex="0"><table class="numbers"><thead>{head}</thead>{body}</table></div>'
    if not estimate:
        return table if run.recipe.unanswered.get("log-likelihood") else f"{table}<p>For {density}: {command}</p>"
    return table + _estimate(estimate, density, _verb(run, "likelihood", "--samples", str(estimate["samples"])))


def _of_unit(unit: str, rows: Sequence[tuple[str, str, str]]) -> str:
    """Return scores of one unit, which stands once: above several of them, or below the name of one."""
    head = f'<tr><th class="unit" scope="rowgroup" colspan="3">{unit}</th></tr>' if unit and len(rows) > 1 else ""
    below = f"<small>{unit}</small>" if unit and len(rows) == 1 else ""
    lines = (f'<tr><th scope="row">{name}{below}</th><td>{v}</td><td>{t}</td></tr>' for name, v, t in rows)
    return f"<tbody>{head}{''.join(lines)}</tbody>"


def _estimate(estimate: Mapping[str, Any], density: str, command: str) -> str:
    """Return how the log-likelihood was estimated, and what the gap below it is made of."""
    lines = []
    if "monte_carlo_error" in estimate:
        lines.append(f"The Monte-Carlo error of that mean is {number(estimate['monte_carlo_error'])} nats.")
    if "effective" in estimate:
        share = estimate["effective"]["mean"]
        lines.append(f"Of its samples {share:.1%} are effective; {estimate['below_10']} data have fewer than ten.")
    if gap := estimate.get("gap"):
        rows = {
            "ELBO": gap["elbo"],
            f"{density} − ELBO": gap["gap"],
            "amortisation: a better guide of its family would gain": gap["amortisation"],
            "approximation: no guide of its family would gain": gap["approximation"],
        }
        cells = "".join(
            f'<tr><th scope="row">{name}</th><td>{number(each["mean"])} ± {number(each["standard_error"])}</td></tr>'
            for name, each in rows.items()
        )
        lines.append(f"The gap, of the first {gap['data']} test data, in nats:")
        lines.append(f'<div class="wide" tabindex="0"><table class="numbers">{cells}</table></div>')
    return f"<h3>{density}</h3>\n<p>{' '.join(lines)}</p><p>{command}</p>".replace("<p><div", "<div")


def _comparison(run: Run, figures: Sequence[Path]) -> str:
    """Return the picture of estimators, or the command that makes it."""
    drawn = [path for path in figures if path.stem.startswith("compare")]
    if drawn:
        return f"<h3>Estimators</h3>{pictures(drawn)}"
    try:
        run.recipe.estimators((), 2)
    except UserError:
        return ""
    return f"<p>For estimators side by side: {_verb(run, 'compare')}</p>"


def _checks(content: Mapping[str, Any] | None, figures: Sequence[Path], unanswered: str | None, command: str) -> str:
    """Return a row for each statistic, those that fail first, and the pictures of the checks."""
    if unanswered:
        return f"<p>{html.escape(unanswered)}.</p>"
    if content is None:
        return f"<p>For predictive checks: {command}</p>"
    drawn = [path for path in figures if path.stem.startswith("check-") and not _is_drawn(path, content)]
    checks = sorted(content.get("checks", []), key=_lowest)
    several = len({each["site"] for each in checks}) > 1
    rows = [_check(each, several) for each in checks]
    notes: dict[str, list[str]] = {}
    for each in checks:
        for note in each.get("notes", {}).values():
            notes.setdefault(note, []).append(each["statistic"])
    head = "".join(f'<th scope="col">{name}</th>' for name in ("statistic", "data", "prior replicates", "posterior"))
    first, more = (
        f'<table class="checks"><thead><tr>{head}</tr></thead><tbody>{"".join(part)}</tbody></table>' if part else ""
        for part in (rows[:FIRST_CHECKS], rows[FIRST_CHECKS:])
    )
    if more:
        fail = sum(_lowest(each) <= LEVEL for each in checks[FIRST_CHECKS:])
        summary = f"{count(len(rows) - FIRST_CHECKS, 'more statistic')}, of which {fail} fail"
        more = f"<details><summary>{summary}</summary>{more}</details>"
    legend = (
        f"<p>{content['replicates']} replicates of {content['data']} {content['split']} data, {content['unit']}. "
        "Bars are replicates, the line is the data; p is the share of replicates that are not below the data. "
        "Prior replicates are what the story draws by itself, posterior ones what it draws at the data's latents.</p>"
        if "data" in content
        else ""
    )
    remarks = (f"<p>{html.escape(', '.join(of))}: {html.escape(note)}</p>" for note, of in notes.items())
    return "\n".join([legend, first, more, *remarks, pictures(drawn)])


def _is_drawn(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether the page draws the histograms of a picture itself."""
    return path.stem == "check-statistics" and all("histogram" in each for each in content.get("checks", []))


def _lowest(check: Mapping[str, Any]) -> float:
    return min((check[given]["two_sided"] for given in ("prior", "posterior") if given in check), default=2.0)


def _check(each: Mapping[str, Any], several: bool) -> str:
    name = html.escape(f"{each['site']}: {each['statistic']}" if several else each["statistic"])
    cells = []
    for given in ("prior", "posterior"):
        if given not in each:
            cells.append("<td></td>")
            continue
        result, drawn = each[given], ""
        if bins := each.get("histogram"):
            says = (
                f"{given} replicates {number(result['mean'])} ± {number(result['sd'])}, data {number(each['observed'])}"
            )
            drawn = histogram(bins[given], bins["low"], bins["high"], bins["data"], says)
        fails = ' class="fails"' if result["two_sided"] <= LEVEL else ""
        text = f"p = {result['p']:.2f} ± {result['error']:.2f}"
        cells.append(f'<td{fails} data-name="{given}">{drawn}<span>{text}{" ✗" * bool(fails)}</span></td>')
    return f'<tr><th scope="row">{name}</th><td>{number(each["observed"])}</td>{"".join(cells)}</tr>'


def _verb(run: Run, verb: str, *options: str) -> str:
    words = ["python", "-m", "pyro_models", verb, str(run.folder), *options]
    return f"<code>{html.escape(shlex.join(words))}</code>"


def pictures(paths: Sequence[Path], caption: str = "") -> str:
    """Return PNG files as figures, with the caption or else their names: HTML."""
    figures = []
    for path in paths:
        name = path.stem.lstrip("0123456789-")
        text = html.escape(caption or CAPTIONS.get(name, name.replace("-", " ")))
        source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        width, height = _size(path)
        broad, least = ("", "")
        if width > BROAD * height:  # a phone scrolls it, to show it large enough
            broad, least = ' class="broad" tabindex="0"', f' style="min-width: min(40rem, {width}px)"'
        image = f'<div{broad}><img{least} alt="{text}" src="{source}"></div>'
        figures.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
    return "\n".join(figures)


def _size(path: Path) -> tuple[int, int]:
    """Return the width and the height of a PNG file, from its header."""
    with path.open("rb") as file:
        header = file.read(24)
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def _command(run: Run, results: dict[str, Any]) -> str:
    options = "".join(
        f'<tr><th scope="row">{html.escape(name.replace("_", " "))}</th><td>{html.escape(str(value))}</td></tr>'
        for name, value in run.recipe.as_json().items()
    )
    table = f'<div class="wide" tabindex="0"><table>{options}</table></div>'
    return (
        f'<pre tabindex="0">{html.escape(results["command"])}</pre>\n'
        f"<details><summary>every option</summary>{table}</details>"
    )
