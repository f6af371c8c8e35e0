"""Every command but training from a checkout: `python -m pyro_models VERB ...`, installed as `pyro-stories`."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_models.base.errors import UserError, nearest
from pyro_models.base.files import read_json, write
from pyro_models.base.markdown import markdown
from pyro_models.base.names import FEWEST_REPLICATES, MEGABYTES
from pyro_models.recipes.options import Parser

PROG = "pyro-stories"
FORMATS = {
    "text": ".txt",
    "markdown": ".md",
    "latex": ".tex",
    "mermaid": ".mmd",
    "dot": ".dot",
    "svg": ".svg",
    "html": ".html",
}


def train(words: Sequence[str]) -> int:
    """Train a recipe, like train.py."""
    from pyro_models.cli.train import main

    return main(words, f"{PROG} train")


def report(words: Sequence[str]) -> int:
    """Draw the pictures and the page of a finished run again."""
    parser = _on_a_run("report", report.__doc__)
    parser.add_argument(
        "--megabytes", type=float, default=MEGABYTES, metavar="N", help="of the page at most (default: 6)"
    )
    given = parser.parse_args(words)
    if not 0 < given.megabytes < 1e3:
        parser.error(f"--megabytes must be above 0 and below 1000, not {given.megabytes:g}")
    from pyro_models.report.outputs import write_pictures
    from pyro_models.report.page import refresh
    from pyro_models.runs.folder import open_run

    run = open_run(given.run, data_dir=given.data_dir, device=given.device)
    if run.metrics:
        write_pictures(run)
    else:
        print(f"{given.run} holds no checkpoint.pt: the pictures stay as they are", file=sys.stderr)
    refresh(run, given.megabytes)
    print(given.run / "report.html")
    return 0


def likelihood(words: Sequence[str]) -> int:
    """Estimate log p(x) of the test data by importance sampling, and what keeps the bound below it."""
    parser = _on_a_run("likelihood", likelihood.__doc__)
    parser.add_argument("--samples", type=int, default=500, metavar="K", help="codes drawn for each datum")
    parser.add_argument("--gap", type=int, default=100, metavar="N", help="data whose gap is split; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise")
    given = parser.parse_args(words)
    for name, least in (("samples", 2), ("gap", 2 if given.gap else 0), ("seed", 0)):
        if getattr(given, name) < least:
            parser.error(f"--{name} {getattr(given, name)} is less than {least}")
    from pyro_models.report.outputs import write_likelihood
    from pyro_models.report.page import refresh
    from pyro_models.runs.folder import open_run

    run = open_run(given.run, data_dir=given.data_dir, device=given.device)
    print(write_likelihood(run, given.samples, given.gap, given.seed))
    refresh(run)
    return 0


def check(words: Sequence[str]) -> int:
    """Check a finished run: replicates against data, and the guide against its story."""
    parser = _on_a_run("check", check.__doc__)
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test", help="(default: test)")
    fewest = {"data": (1000, 2), "replicates": (100, FEWEST_REPLICATES), "seed": (0, 0)}
    for name, (default, _) in fewest.items():
        of = {"data": "at most, drawn from the split", "replicates": "of each sort", "seed": "of all noise"}[name]
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{of} (default: {default})")
    of_x = "one more of x, a function from [n, *shape] to [n] or to one number"
    parser.add_argument("--statistic", action="append", default=[], metavar="MODULE:FUNCTION", help=of_x)
    parser.add_argument("--arviz", type=Path, metavar="FILE.nc", help="where to write draws for 50 data, for ArviZ")
    given = parser.parse_args(words)
    _at_least(parser, given, {name: low for name, (_, low) in fewest.items()})
    from pyro_models.checking.statistics import load
    from pyro_models.report.outputs import write_arviz, write_checks
    from pyro_models.report.page import refresh
    from pyro_models.runs.folder import open_run

    more = {spec: load(spec) for spec in given.statistic}
    run = open_run(given.run, data_dir=given.data_dir, device=given.device)
    if not run.recipe.generative:
        raise UserError(f"the {run.recipe.name} of {given.run} cannot make x up: there are no replicates to check")
    if given.arviz:
        write_arviz(run, given.arviz, split=given.split, seed=given.seed)
    options = {name: getattr(given, name) for name in ("split", *fewest)}
    print(write_checks(run, **options, more=more))
    refresh(run)
    return 0


def sample(words: Sequence[str]) -> int:
    """Draw images from a finished run, given some attributes."""
    parser = _on_a_run("sample", sample.__doc__)
    parser.add_argument(
        "--given",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="what to show, as digit=2 side=left",
    )
    parser.add_argument("--count", type=int, default=16, metavar="N", help="how many images (default: 16)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    given = parser.parse_args(words)
    _at_least(parser, given, {"count": 1, "seed": 0})
    from pyro_models.report.outputs import write_samples
    from pyro_models.runs.folder import open_run

    run = open_run(given.run, data_dir=given.data_dir, device=given.device)
    print(write_samples(run, given.given, given.count, given.seed))
    return 0


def story(words: Sequence[str]) -> int:
    """Tell a recipe, or that of a run, as a story: read off the program itself."""
    parser = Parser(prog=f"{PROG} story", description=story.__doc__)
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe, and its options as for training, or a run folder")
    parser.add_argument("--format", choices=FORMATS, help="(default: what --out ends in, else text)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default: print it)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the data sets")
    given, options = parser.parse_known_args(words)
    from pyro_models.cli.train import parse
    from pyro_models.recipes.registry import from_json

    folder = Path(given.recipe)
    if (folder / "recipe.json").is_file():
        if options:
            parser.error(f"{options[0]}: the run in {folder} has the options that it has")
        recipe = from_json(read_json(folder / "recipe.json"))
    elif folder.is_dir() or len(folder.parts) > 1:
        parser.error(f"{folder} is no run folder: it holds no recipe.json")
    else:
        recipe, _ = parse([given.recipe, *options], f"{PROG} story")
    from pyro_models.reading.printer import story_of

    dataset = recipe.load(given.data_dir)
    recipe.check_data(dataset)
    suffix = given.out.suffix if given.out else ".txt"
    form = given.format or next((form for form, end in FORMATS.items() if end == suffix), None)
    if form is None:
        parser.error(f"--out {given.out}: say --format, or let it end in {', '.join(FORMATS.values())}")
    told = getattr(story_of(recipe, dataset), form)
    if given.out:
        write(given.out, told + "\n")
    print(given.out or told)
    return 0


def compare(words: Sequence[str]) -> int:
    """Compare estimators on the weights of a finished run: bound, gradient noise, time."""
    parser = _on_a_run("compare", compare.__doc__)
    parser.add_argument("--elbo", metavar="A,B,...", help="which (default: a few that the recipe takes)")
    parser.add_argument("--particles", type=int, default=5, metavar="N", help="of iwae, renyi, rws and dreg")
    parser.add_argument("--draws", type=int, default=30, metavar="N", help="of each gradient")
    parser.add_argument("--batches", type=int, default=3, metavar="N", help="of training data, the first of an epoch")
    given = parser.parse_args(words)
    for name in ("particles", "draws", "batches"):
        if (getattr(given, name) < 2 and name != "batches") or getattr(given, name) < 1:
            parser.error(f"--{name} {getattr(given, name)} is too few")
    from pyro_models.report.outputs import write_comparison
    from pyro_models.runs.folder import open_run

    run = open_run(given.run, data_dir=given.data_dir, device=given.device)
    some = "trace,mean-field,graph,enum" if run.recipe.kinds else "trace,mean-field"
    names = list(dict.fromkeys((given.elbo or some).split(",")))
    print(write_comparison(run, names, given.particles, given.draws, given.batches))
    return 0


def results(words: Sequence[str]) -> int:
    """Print the test figures of some finished runs as tables, in Markdown."""
    parser = Parser(prog=f"{PROG} results", description=results.__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished runs")
    runs = [read_json(folder / "results.json") for folder in parser.parse_args(words).runs]
    rows = {"kinds_used": _of_kinds, "f1": _of_a_classifier, "classifier_accuracy": _of_attributes, "mse": _of_a_bound}
    of_each: dict[str, list[dict[str, str]]] = {name: [] for name in rows}
    for run in runs:
        name = next(name for name in rows if name in run["test"])
        of_each[name].append({"command": f"`{run['command']}`"} | rows[name](run, run.get("seeds", [run])))
    tables = [table for table in of_each.values() if table]
    print("\n\n".join(markdown(table) for table in tables))
    return 0


def _of_a_classifier(run: dict[str, Any], seeds: list[dict[str, Any]]) -> dict[str, str]:
    """Means over the seeds and every value; the validation data are the article's held-back ones in its split."""
    accuracy, f1 = _over_seeds("accuracy", "accuracy", run, seeds, 100, 2), _over_seeds("f1", "f1", run, seeds, 1, 4)
    return accuracy | f1 | {"f1 (validation)": f"{run['validation']['f1']:.4f}"} | _minutes(run, seeds)


def _of_kinds(run: dict[str, Any], seeds: list[dict[str, Any]]) -> dict[str, str]:
    """Means over the seeds, every accuracy, and that of scikit-learn's Gaussian mixture where it was fitted."""
    mixtures = [seed.get("gaussian_mixture", {}) for seed in seeds]
    others = [100 * mixture["accuracy"] for mixture in mixtures if "accuracy" in mixture]
    return (
        _over_seeds("accuracy", "accuracy", run, seeds, 100, 1)
        | {
            "GaussianMixture": f"{sum(others) / len(others):.1f}" if others else "",
            "purity": _figure(run, "purity", 100, 1),
            "nmi": _figure(run, "nmi", 1, 3),
            "ari": _figure(run, "ari", 1, 3),
            "exact elbo": _figure(run, "elbo_exact", 1, 2),
        }
        | _minutes(run, seeds)
    )


def _of_attributes(run: dict[str, Any], seeds: list[dict[str, Any]]) -> dict[str, str]:
    """Means over the seeds and every value, in per cent."""
    right = _over_seeds("correctness, all given", "correctness", run, seeds, 100, 1)
    varied = _over_seeds("coverage, one given", "coverage_1", run, seeds, 100, 1)
    return (
        right
        | varied
        | {"classifier": _figure(run, "classifier_accuracy", 100, 1), "log p(x) (samples)": _evidence(run)}
        | _minutes(run, seeds)
    )


def _of_a_bound(run: dict[str, Any], seeds: list[dict[str, Any]]) -> dict[str, str]:
    return {
        "likelihood": run["units"]["elbo"].removeprefix("nats per image, "),
        "elbo": _figure(run, "elbo", 1, 2),
        "mse": _figure(run, "mse", 1, 5),
        "log p(x) (samples)": _evidence(run),
        "minutes": f"{run['seconds'] / 60 / len(seeds):.0f}",
    }


def _figure(run: dict[str, Any], name: str, factor: float, digits: int) -> str:
    return f"{factor * run['test'][name]:.{digits}f}" if name in run["test"] else ""


def _over_seeds(
    title: str, name: str, run: dict[str, Any], seeds: list[dict[str, Any]], factor: float, digits: int
) -> dict[str, str]:
    """The mean of a figure, and beside it every value."""
    each = ", ".join(_figure(seed, name, factor, digits) for seed in seeds if name in seed["test"])
    return {title: _figure(run, name, factor, digits), f"{title.split(',')[0]} of each seed": each}


def _evidence(run: dict[str, Any]) -> str:
    found = run.get("log_likelihood")
    return f"{found['mean']:.2f} ({found['samples']})" if found else ""


def _minutes(run: dict[str, Any], seeds: list[dict[str, Any]]) -> dict[str, str]:
    return {"minutes a run": f"{run['seconds'] / 60 / len(seeds):.1f}"}


def recipes(words: Sequence[str]) -> int:
    """Print the table of recipes, in Markdown."""
    Parser(prog=f"{PROG} recipes", description=recipes.__doc__).parse_args(words)
    from pyro_models.recipes.registry import table

    print(table())
    return 0


VERBS = {verb.__name__: verb for verb in (train, story, report, sample, check, likelihood, compare, results, recipes)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for and return the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words or words[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {name:<13}{verb.__doc__}" for name, verb in VERBS.items())
        print(f"usage: {PROG} VERB ...\n\nverbs:\n{verbs}\n\n`{PROG} VERB --help` says more.")
        return 0 if words else 2
    if words[0] not in VERBS:
        print(f"{PROG}: unknown verb {words[0]!r}: {nearest(words[0], VERBS)}", file=sys.stderr)
        return 2
    try:
        return VERBS[words[0]](words[1:])
    except UserError as error:
        print(f"{PROG} {words[0]}: {error}", file=sys.stderr)
        return error.exit_code


def _at_least(parser: Parser, given: Namespace, lows: dict[str, int]) -> None:
    """Refuse options below their lowest values."""
    for name, low in lows.items():
        if getattr(given, name) < low:
            parser.error(f"--{name} must be at least {low}, not {getattr(given, name)}")


def _on_a_run(verb: str, doc: str | None) -> Parser:
    parser = Parser(prog=f"{PROG} {verb}", description=doc)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the data sets")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
