"""Every command: `pyro-stories VERB ...`, the same as `python -m pyro_models VERB ...`."""

import math
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyro_models import __version__, checking, reading, recipes, report, runs
from pyro_models.base.errors import DataError, UserError, nearest
from pyro_models.base.files import read_json, write
from pyro_models.base.names import FEWEST_REPLICATES, MEGABYTES, program
from pyro_models.cli.parser import Parser, in_flags, is_program
from pyro_models.cli.train import main as train_main
from pyro_models.cli.train import parse, sweep

FORMATS = {
    "text": ".txt",
    "markdown": ".md",
    "latex": ".tex",
    "mermaid": ".mmd",
    "dot": ".dot",
    "svg": ".svg",
    "html": ".html",
}
RUN_OR_PROGRAM = "the folder of a finished run, or MODULE:MODEL,MODULE:GUIDE"
OF_DIFFERENCE = ("text", "svg", "html")
PARAMS = (
    "a program's trained parameters: a file of pyro.get_param_store().save, or of torch.save of a state dict, alone or "
    "under 'model' and 'guide' (default: as they are when the program is imported)"
)


def train(words: Sequence[str]) -> int:
    """Train a recipe, like train.py."""
    return train_main(words, f"{program()} train")


def report_verb(words: Sequence[str]) -> int:
    """Draw the pictures and the page of a finished run again; of several runs, write a page that compares them."""
    parser = _of_a_run("report", report_verb.__doc__)
    parser.add_argument("others", type=Path, nargs="*", metavar="RUN", help="runs to compare it with")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="page of several runs (default: index.html beside the first)"
    )
    _add_format(parser)
    parser.add_argument(
        "--megabytes",
        type=float,
        default=MEGABYTES,
        metavar="N",
        help=f"largest size of the page; what does not fit is left out (default: {MEGABYTES:g})",
    )
    given = parser.parse_args(words)
    if not 0 < given.megabytes < 1e3:
        parser.error(f"`megabytes` must be above 0 and below 1000, not {given.megabytes:g}")
    if given.out and not given.others:
        parser.error("`out` is the page of several runs: that of one is in its folder")
    if given.others:
        out = given.out or given.run.parent / "index.html"
        report.write_overview([given.run, *given.others], out, given.megabytes)
        print(out)
        return 0
    run = runs.open_run(given.run, data_dir=given.data_dir, device=given.device)
    if run.metrics:
        report.write_pictures(run, given.format)
    else:
        print(f"{given.run} holds no checkpoint.pt: the pictures stay as they are", file=sys.stderr)
    report.write_page(run, given.megabytes)
    print(given.run / "report.html")
    return 0


def watch(words: Sequence[str]) -> int:
    """Write the page of a run that is training every few seconds, until it is finished."""
    parser = _of_a_run("watch", watch.__doc__, "the folder of a run that is training")
    parser.add_numbers({"seconds": (5, 1, "seconds from one page to the next")})
    given = parser.parse_args(words)
    while not _is_finished(given.run):
        print(report.write_live(given.run, given.data_dir, given.seconds), flush=True)
        time.sleep(given.seconds)
    print(f"finished: {given.run / 'report.html'}")
    return 0


def _is_finished(folder: Path) -> bool:
    """Return whether a run has results, and has made no epoch since, as one that is trained further has."""
    path = folder / "results.json"
    return path.is_file() and len(report.read_metrics(folder)) <= read_json(path).get("epochs", math.inf)


def likelihood(words: Sequence[str]) -> int:
    """Estimate log p(x) of the test data by importance sampling, and split the gap between it and the bound."""
    parser = _of_a_run("likelihood", likelihood.__doc__, RUN_OR_PROGRAM)
    samples = (500, 2, "draws of the guide for each datum")
    split = (100, 0, "data of a run whose gap is split, 2 or more; 0: none")
    parser.add_numbers({"samples": samples, "gap": split, "seed": (0, 0, "seed of the noise")})
    _add_data_of_a_program(parser)
    given = parser.parse_args(words)
    if given.gap == 1:
        parser.error("`gap` must be 0 or at least 2, not 1")
    if pair := _program_of(given, parser, "gap"):
        print(report.likelihood_of_program(*pair, samples=given.samples, seed=given.seed))
        return 0
    run = runs.open_run(given.run, data_dir=given.data_dir, device=given.device)
    print(report.write_likelihood(run, given.samples, given.gap, given.seed))
    report.write_page(run)
    return 0


def check(words: Sequence[str]) -> int:
    """Check a run or a program of your own: replicated data against the data, and a run's guide: its calibration."""
    parser = _of_a_run("check", check.__doc__, "the folder of a finished run, or MODULE:MODEL[,MODULE:GUIDE]")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), default="test", help="data to check against (default: test)"
    )
    parser.add_argument(
        "--data",
        default="1000",
        metavar="N|FILE",
        help="of a run, number of data at most, drawn from the split (default: 1000); of a program, the .npz or .csv "
        "file with its arguments by name",
    )
    parser.add_argument("--params", type=Path, metavar="FILE", help=PARAMS)
    options = {
        "replicates": (100, FEWEST_REPLICATES, "number of replicates, prior and posterior predictive each"),
        "seed": (0, 0, "seed of the noise"),
    }
    parser.add_numbers(options)
    statistic = "a further statistic of x: a function from [n, *shape] to [n] or to one number; may be repeated"
    parser.add_argument("--statistic", action="append", default=[], metavar="MODULE:FUNCTION", help=statistic)
    parser.add_argument(
        "--arviz", type=Path, metavar="FILE.nc", help="also write draws for 50 data of a run, or all, for ArviZ"
    )
    _add_format(parser)
    given = parser.parse_args(words)
    statistics = {spec: checking.load_statistic(spec) for spec in given.statistic}
    values = {name: getattr(given, name) for name in options}
    if is_program(str(given.run)):
        from pyro_models.cli.programs import load_pair

        _refuse(given, parser, "with a run, not with a program", "split", "data_dir", "device", "format")
        pair = load_pair(str(given.run), Path(given.data) if given.data != "1000" else None, given.params, trained=True)
        print(report.check_program(*pair, **values, more=statistics, arviz=given.arviz))
        return 0
    if given.params:
        parser.error("`params` goes with a program: the weights of a run are in its folder")
    if not given.data.isdigit() or int(given.data) < 2:
        parser.error(f"`data` must be at least 2, not {given.data}")
    run = runs.open_run(given.run, data_dir=given.data_dir, device=given.device)
    data, form = int(given.data), given.format
    text = report.write_checks(run, split=given.split, data=data, **values, more=statistics, form=form)
    if given.arviz:
        report.write_arviz(run, given.arviz, split=given.split, seed=given.seed)
    print(text)
    report.write_page(run)
    return 0


def encode(words: Sequence[str]) -> int:
    """Write the latents of new data, the mean of q(z | x), to a file."""
    return _answer("encode", encode.__doc__, words)


def reconstruct(words: Sequence[str]) -> int:
    """Write the reconstructions of new data, in their own units, to a file or a folder of PNG files."""
    return _answer("reconstruct", reconstruct.__doc__, words)


def predict(words: Sequence[str]) -> int:
    """Write the cluster or the class of new data, with probabilities, to a file."""
    return _answer("predict", predict.__doc__, words, draws=True)


def score(words: Sequence[str]) -> int:
    """Write log p(x) of new data, each by itself, to a file: low where a datum is unlike the training data."""
    return _answer("score", score.__doc__, words, draws=True)


def impute(words: Sequence[str]) -> int:
    """Write new data with what is missing filled by its mean given the rest, and by its bounds."""
    return _answer("impute", impute.__doc__, words, draws=True, intervals=True)


def _answer(verb: str, doc: str | None, words: Sequence[str], *, draws: bool = False, intervals: bool = False) -> int:
    """Ask a run about data, and write the answers."""
    parser = _of_a_run(verb, doc)
    parser.add_argument(
        "--data", metavar="FILE", help="file of data, or folder of images (default: the test data of the run)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=".csv, .npz or .parquet; for images .npz or a folder"
    )
    if draws:
        parser.add_numbers({"samples": (100, 1, "draws for each datum"), "seed": (0, 0, "seed of the draws")})
    if intervals:
        text = "probability of the central interval whose bounds are written beside each value, as 0.9 (default: none)"
        parser.add_argument("--interval", type=float, metavar="P", help=text)
    given = parser.parse_args(words)
    options = {"samples": given.samples, "seed": given.seed} if draws else {}
    options |= {"interval": given.interval} if intervals else {}
    run = runs.open_run(given.run, data_dir=given.data_dir, device=given.device)
    print(report.write_answer(run, verb, given.data, given.out, **options))
    return 0


def sample(words: Sequence[str]) -> int:
    """Draw data from a finished run, given some attributes or not."""
    parser = _of_a_run("sample", sample.__doc__)
    parser.add_argument(
        "--given",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="attributes to condition on, as digit=2 side=left, or a cluster, as y=3",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=".csv, .npz or .parquet; for images .npz or a folder (default: one picture in the run's figures)",
    )
    parser.add_numbers({"count": (16, 1, "number of data to draw"), "seed": (0, 0, "seed of the draws")})
    given = parser.parse_args(words)
    run = runs.open_run(given.run, data_dir=given.data_dir, device=given.device)
    if given.out is None:
        print(report.write_samples(run, given.given, given.count, given.seed))
        with suppress(DataError):  # the page shows more than draws, and needs the data
            report.write_page(run)
    else:
        print(report.write_draws(run, given.given, given.count, given.seed, given.out))
    return 0


def story(words: Sequence[str]) -> int:
    """Print the story of a recipe, of a run or of a program: its factors and its objective, read off the program."""
    parser = Parser(prog=f"{program()} story", description=story.__doc__)
    what = "a run folder; a recipe, and its options as for training; or MODULE:MODEL[,MODULE:GUIDE] and --data FILE"
    parser.add_argument("recipe", metavar="RUN|RECIPE", help=what)
    parser.add_argument(
        "--format", choices=FORMATS, help="format of the story (default: what --out ends in, else text)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write the story to (default: print it)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder that the data sets are in")
    parser.add_argument("--overlay", action="store_true", help="draw the guide dashed on the nodes of the model (svg)")
    parser.add_argument(
        "--against",
        metavar="OTHER",
        help="show what differs from OTHER to the story, as text, svg or html: a recipe, a run or a program as above, "
        "its options within the quotes, as --against 'gmvae --clusters 20'",
    )
    given, options = parser.parse_known_args(words)
    suffix = given.out.suffix if given.out else ".txt"
    form = given.format or next((form for form, end in FORMATS.items() if end == suffix), None)
    if form is None:
        parser.error(f"`out={given.out}`: give `format`, or let it end in {', '.join(FORMATS.values())}")
    read = _story_of(given, options, parser)
    if given.against:
        if form not in OF_DIFFERENCE:
            parser.error(f"`against` is shown as {', '.join(OF_DIFFERENCE)}, not {form}")
        other, *others = shlex.split(given.against)
        given.recipe = other
        read = reading.Difference(_story_of(given, others, parser), read)
    elif given.overlay and form != "svg":
        parser.error("`overlay` is a picture: give `format=svg`, or `out=FILE.svg`")
    text = read.overlay if given.overlay and not given.against else getattr(read, form)
    if given.out:
        write(given.out, text + "\n")
    print(given.out or text)
    return 0


def _story_of(given: Any, options: list[str], parser: Parser) -> Any:
    """Read the story of a recipe, of the recipe of a run, or of a program."""
    if is_program(given.recipe):
        from pyro_models.cli.programs import load_pair

        of_program = Parser(prog=parser.prog)
        of_program.add_argument("--data", type=Path)
        model, guide, arguments = load_pair(given.recipe, of_program.parse_args(options).data)
        return reading.story(model, guide=guide, **arguments)
    folder = Path(given.recipe)
    if (folder / "recipe.json").is_file():
        if options:
            parser.error(f"{options[0]}: the run in {folder} has the options that it has")
        recipe = recipes.from_json(read_json(folder / "recipe.json"))
        dataset = runs.provenance(folder, recipe, given.data_dir).stand_in()
    elif folder.is_dir() or len(folder.parts) > 1:
        parser.error(f"{folder} is no run folder: it holds no recipe.json")
    else:
        recipe, _ = parse([given.recipe, *options], parser.prog)
        dataset = recipe.load(given.data_dir)
    recipe.check_data(dataset)
    return recipe.story(dataset)


def compare(words: Sequence[str]) -> int:
    """Compare estimators on the weights of a run, or of a program of your own: bound, gradient noise, time."""
    parser = _of_a_run("compare", compare.__doc__, RUN_OR_PROGRAM)
    parser.add_argument(
        "--elbo",
        metavar="A,B,...",
        help="estimators to compare (default: of a run, those of trace, mean-field, graph and enum that its recipe "
        "takes; of a program, all)",
    )
    parser.add_argument(
        "--particles",
        default="5",
        metavar="K,K,...",
        help="particles of iwae, renyi, rws and dreg; each of several numbers is compared (default: 5)",
    )
    options = {
        "draws": (30, 2, "draws of each gradient"),
        "batches": (3, 1, "batches of training data, the first of an epoch"),
    }
    parser.add_numbers(options)
    parser.add_argument(
        "--train",
        type=float,
        metavar="SECONDS",
        help="train with each estimator from the same first weights for so many seconds, and compare the bounds that "
        "they reach (default: compare at the weights as they are)",
    )
    _add_data_of_a_program(parser)
    _add_format(parser)
    given = parser.parse_args(words)
    names = list(dict.fromkeys(given.elbo.split(","))) if given.elbo else []
    particles = list(dict.fromkeys(given.particles.split(",")))
    if not all(each.isdigit() and int(each) >= 2 for each in particles):
        parser.error(f"`particles` must be whole numbers of at least 2, not {given.particles}")
    if given.train is not None and not 0 < given.train < 1e6:
        parser.error(f"`train` must be above 0 and below 1000000, not {given.train:g}")
    if given.train:
        _refuse(given, parser, "with estimators at the weights as they are, not with `train`", "draws", "batches")
    chosen = names, [int(each) for each in particles]
    if pair := _program_of(given, parser, "batches", "format", trained=given.train is None):
        if given.train:
            print(report.training_comparison_of_program(*pair, *chosen, given.train))
        else:
            print(report.comparison_of_program(*pair, *chosen, given.draws))
        return 0
    run = runs.open_run(given.run, data_dir=given.data_dir, device=given.device)
    if given.train:
        print(report.write_training_comparison(run, *chosen, given.train, given.format))
    else:
        print(report.write_comparison(run, *chosen, given.draws, given.batches, given.format))
    report.write_page(run)
    return 0


def export(words: Sequence[str]) -> int:
    """Write encoder, posterior and decoder of a run for other programs, by torch.export or as ONNX."""
    parser = _of_a_run("export", export.__doc__)
    parser.add_argument(
        "--format",
        choices=("torch", "onnx"),
        default="torch",
        help="format of the files: .pt2 of torch.export, or .onnx, which needs packages of its own (default: torch)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write to (default: export in the run folder)"
    )
    given = parser.parse_args(words)
    run = runs.open_run(given.run, data_dir=given.data_dir, device=given.device)
    print("\n".join(map(str, runs.export(run, given.out, given.format))))
    return 0


def push(words: Sequence[str]) -> int:
    """Copy a run with a model card, without its data, to a new folder or to the Hugging Face Hub."""
    parser = _of_a_run("push", push.__doc__)
    parser.add_argument("to", metavar="TO", help="new folder, or hub:USER/NAME (needs huggingface_hub)")
    given = parser.parse_args(words)
    run = runs.open_run(given.run, data_dir=given.data_dir, device=given.device)
    print(runs.push(run, given.to))
    return 0


def results(words: Sequence[str]) -> int:
    """Print the test scores of finished runs as tables, in Markdown, or write them to a file."""
    parser = Parser(prog=f"{program()} results", description=results.__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write the tables to (default: print them)")
    given = parser.parse_args(words)
    text = runs.tables(given.runs)
    if given.out:
        write(given.out, text + "\n")
    print(given.out or text)
    return 0


def recipes_verb(words: Sequence[str]) -> int:
    """Print the table of recipes, in Markdown."""
    Parser(prog=f"{program()} recipes", description=recipes_verb.__doc__).parse_args(words)
    print(recipes.table())
    return 0


VERBS = {
    "train": train,
    "sweep": sweep,
    "story": story,
    "report": report_verb,
    "watch": watch,
    "encode": encode,
    "reconstruct": reconstruct,
    "predict": predict,
    "score": score,
    "sample": sample,
    "impute": impute,
    "check": check,
    "likelihood": likelihood,
    "compare": compare,
    "export": export,
    "push": push,
    "results": results,
    "recipes": recipes_verb,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    name = program()
    if words == ["--version"]:
        print(f"pyro-stories {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {name:<13}{verb.__doc__}" for name, verb in VERBS.items())
        print(f"usage: {name} VERB ...\n\nverbs:\n{verbs}\n\n`{name} VERB --help` lists its options.")
        return 0 if words else 2
    if words[0] not in VERBS:
        print(f"{name}: unknown verb {words[0]!r}: {nearest(words[0], VERBS)}", file=sys.stderr)
        return 2
    try:
        return VERBS[words[0]](words[1:])
    except UserError as error:
        print(f"{name} {words[0]}: {in_flags(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\n{name} {words[0]}: stopped", file=sys.stderr)
        return 130


def _add_format(parser: Parser) -> None:
    parser.add_argument(
        "--format",
        choices=("png", "svg", "pdf"),
        default="png",
        help="svg or pdf: write figures in that format too, as papers need them (default: png alone)",
    )


def _add_data_of_a_program(parser: Parser) -> None:
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="of a program, the .npz or .csv file with its arguments by name"
    )
    parser.add_argument("--params", type=Path, metavar="FILE", help=PARAMS)


def _program_of(
    given: Any, parser: Parser, *of_a_run: str, trained: bool = True
) -> tuple[Any, Any, dict[str, Any]] | None:
    """Return model, guide and arguments where a program is named in place of a run, whose options are refused."""
    if not is_program(str(given.run)):
        if given.data or given.params:
            parser.error(f"`{'data' if given.data else 'params'}` goes with a program: a run has its own")
        return None
    from pyro_models.cli.programs import load_pair

    _refuse(given, parser, "with a run, not with a program", "data_dir", "device", *of_a_run)
    model, guide, arguments = load_pair(str(given.run), given.data, given.params, trained=trained)
    if guide is None:
        parser.error(f"{given.run}: name a guide too, as MODULE:MODEL,MODULE:GUIDE")
    return model, guide, arguments


def _refuse(given: Any, parser: Parser, where: str, *names: str) -> None:
    """Refuse options that go elsewhere, where others than their defaults are given."""
    for name in names:
        if getattr(given, name) != parser.get_default(name):
            parser.error(f"`{name}` goes {where}")


def _of_a_run(verb: str, doc: str | None, what: str = "the folder of a finished run, or hub:USER/NAME") -> Parser:
    parser = Parser(prog=f"{program()} {verb}", description=doc)
    parser.add_argument("run", type=Path, metavar="RUN", help=what)
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder that the data sets are in")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device to compute on (default: cpu)")
    return parser
