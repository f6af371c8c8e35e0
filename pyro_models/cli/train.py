"""The verbs that train, and `train.py`: parsed before torch is imported, so that `--help` and mistakes are quick."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyro_models import __version__, report, runs
from pyro_models.base.errors import UserError, nearest
from pyro_models.base.files import read_json
from pyro_models.base.names import command, program
from pyro_models.cli.parser import Parser, add_options, in_flags
from pyro_models.recipes import RECIPES, Recipe, from_json
from pyro_models.recipes.options import SEEDS, command_words, flag, options_of
from pyro_models.runs.options import RunOptions

NEXT = {"replicates": "check", "log-likelihood": "likelihood"}
"""The verbs that put a question which a recipe answers."""


def parse(arguments: Sequence[str], prog: str = "train.py") -> tuple[Recipe, RunOptions]:
    """Read a recipe and the options of its run from command-line words; a mistake ends the program with exit code 2."""
    if list(arguments) == ["--version"]:
        print(f"pyro-stories {__version__}")
        raise SystemExit(0)
    if not arguments or arguments[0] in ("-h", "--help"):
        recipes = "\n".join(f"  {name:<13}{(recipe.__doc__ or '').splitlines()[0]}" for name, recipe in RECIPES.items())
        print(f"usage: {prog} RECIPE [options]\n\nrecipes:\n{recipes}\n\n`{prog} RECIPE --help` lists its options.")
        raise SystemExit(0 if arguments else 2)
    if arguments[0] == "--recipe" and len(arguments) > 1:  # whose file names the recipe
        arguments = [_name_in(arguments[1], prog), *arguments]
    name, words = arguments[0], arguments[1:]
    parser = Parser(prog=f"{prog} {name}", formatter_class=argparse.RawDescriptionHelpFormatter)
    try:
        if name not in RECIPES:
            raise UserError(f"unknown recipe {name!r}: {nearest(name, RECIPES)}")
        parser.description = textwrap.fill(RECIPES[name].__doc__ or "", 100)
        parser.epilog = _presets(RECIPES[name])
        defaults, resumed = _defaults(name, words)
        add_options(parser, f"options of the recipe {name}", defaults)
        add_options(parser, "options of the run", RunOptions())
        presets = ", ".join(RECIPES[name].presets) or "this recipe has none"
        parser.add_argument(
            "--preset", metavar="NAME", help=f"start from the options of a preset, listed below: {presets}"
        )
        parser.add_argument(
            "--recipe", metavar="FILE", help="start from the options in a .json file, as recipe.json of a run folder"
        )
        values = vars(parser.parse_args(words))
        options = RunOptions(**{field.name: values.pop(field.name) for field in dataclasses.fields(RunOptions)})
        values = {key: value for key, value in values.items() if key not in ("preset", "recipe")}
        recipe = dataclasses.replace(defaults, **values)
        if resumed:
            _check_same(defaults, recipe, options)
        else:
            recipe.check_source()
        if recipe.seed + options.seeds - 1 > SEEDS:
            raise UserError(f"`seeds={options.seeds}` from `seed={recipe.seed}` on go beyond the highest seed, {SEEDS}")
    except UserError as error:
        parser.error(str(error))
    return recipe, options


def main(arguments: Sequence[str] | None = None, prog: str = "train.py") -> int:
    """Train as the command line says, write the report, and return the exit code."""
    recipe, options = parse(sys.argv[1:] if arguments is None else arguments, prog)

    def work() -> None:
        if options.seeds == 1:
            run = runs.train(recipe, options)
            if run is not None:  # else another process writes it
                _publish(run)
            return
        folder = runs.train_seeds(recipe, options, _publish)
        print(f"run folder: {folder}\nnext: {command('results')} {shlex.quote(str(folder))}")

    return _carried_out(work, recipe, prog)


def sweep(words: Sequence[str]) -> int:
    """Train a recipe with every combination of some options' values, or by a search, and tabulate the scores."""
    prog = f"{program()} sweep"
    parser = Parser(prog=prog, description=sweep.__doc__)
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe, and its options as for training")
    parser.add_argument(
        "--over",
        nargs="+",
        action="extend",
        required=True,
        metavar="OPTION=A,B,...",
        help="values to combine, as latent_dim=2,5,10 beta=1,4; with --trials also ranges, as learning_rate=1e-4..1e-2",
    )
    parser.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="search by N trainings, which optuna proposes by the bound of the validation data, in ranges on a "
        "logarithmic scale (default: train every combination; needs the extra `search`)",
    )
    given, rest = parser.parse_known_args(words)
    bare = [word for word in rest if word != "--resume"]
    recipe, options = parse([given.recipe, *bare], prog)
    options = dataclasses.replace(options, resume="--resume" in rest)
    if options.seeds > 1:
        parser.error("`seeds` goes with `train`: sweep over them, as seed=1,2,3")
    axes = []
    for word in given.over:
        name, _, values = word.partition("=")
        name, known = name.replace("-", "_"), [field.name for field in options_of(recipe)]
        if not values or name not in known:
            parser.error(f"--over {word}: " + ("give OPTION=A,B,..." if not values else nearest(name, known)))
        axes.append((name, values))
    if len({name for name, _ in axes}) < len(axes):
        parser.error("--over names an option twice")

    def of(choice: Sequence[tuple[str, str]]) -> tuple[str, Recipe]:
        more = [each for name, value in choice for each in _words(name, value, getattr(recipe, name))]
        return ",".join(f"{name}={value}" for name, value in choice), parse([given.recipe, *bare, *more], prog)[0]

    if given.trials is None:
        if ranges := [f"{name}={values}" for name, values in axes if ".." in values]:
            parser.error(f"--over {ranges[0]}: a range goes with --trials N, a search")
        grid = [of(choice) for choice in itertools.product(*[[(n, each) for each in v.split(",")] for n, v in axes])]
    else:
        if given.trials < 1:
            parser.error(f"--trials must be at least 1, not {given.trials}")
        try:
            space = {name: runs.Values.read(name, values) for name, values in axes}
        except UserError as error:
            parser.error(str(error))
        for end in (0, -1):
            of([(name, values.ends[end]) for name, values in space.items()])

    def work() -> None:
        if given.trials is None:
            folder, table = runs.sweep(recipe, grid, options, _publish)
        else:
            folder, table = runs.search(recipe, space, of, given.trials, options, _publish)
        print(f"{table}\nrun folder: {folder}")

    return _carried_out(work, recipe, prog)


def _words(name: str, value: str, now: Any) -> list[str]:
    """Return the words that set an option: a flag, and its value where it has one."""
    if not isinstance(now, bool):
        return [flag(name), value]
    return [] if (value.lower() == "true") == now else [flag(f"no_{name}" if now else name)]


def _carried_out(work: Callable[[], None], recipe: Recipe, prog: str) -> int:
    """Announce training, train, and return the exit code."""
    first = os.environ.get("RANK", "0") == "0"
    try:
        if first:
            print(f"{recipe.name} on {recipe.data}: loading torch and the data ...", flush=True)
        work()
    except UserError as error:
        if first:
            print(f"{prog}: {in_flags(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\n{prog}: stopped; no training is lost that a run folder's checkpoint.pt holds", file=sys.stderr)
        return 130
    return 0


def _publish(run: runs.Run) -> None:
    """Write the report, and say where all is and what to do next."""
    folder = shlex.quote(str(run.folder))
    runs.say(run.folder, "drawing pictures ...")
    report.publish(run)
    seconds = sum(row["seconds"] + row["evaluation_seconds"] for row in run.metrics)
    runs.say(run.folder, f"trained: {len(run.metrics)} epochs in {seconds:.3g} s")
    runs.say(run.folder, f"run folder: {run.folder}")
    runs.say(run.folder, f"report: {(run.folder / 'report.html').resolve().as_uri()}")
    unanswered = run.recipe.unanswered
    verbs = [verb for question, verb in NEXT.items() if question not in unanswered]
    verbs = verbs or ["predict" if "explorer" in unanswered else "encode"]  # without a latent there are classes
    longer = f"{command('train')} {run.recipe.name} --out {folder} --resume --epochs N"
    runs.say(run.folder, f"next: {'; '.join(f'{command(verb)} {folder}' for verb in verbs)}; {longer}")


def _name_in(path: str, prog: str) -> str:
    try:
        return str(read_json(Path(path)).get("recipe"))
    except UserError as error:
        Parser(prog=prog).error(str(error))


def _presets(recipe: type[Recipe]) -> str | None:
    """Describe the presets of a recipe: whose setting each is, and what it sets."""
    if not recipe.presets:
        return None
    defaults, text = vars(recipe()), "presets:"
    for name in recipe.presets:
        words = shlex.join(command_words(vars(recipe.preset(name)), defaults))
        for line, indent in ((f"{name}: {in_flags(recipe.sources.get(name, ''))}", 2), (words, 6)):
            text += "\n" + textwrap.fill(
                line, 100, initial_indent=" " * indent, subsequent_indent=" " * 6, break_on_hyphens=False
            )
    return text


def _defaults(name: str, words: Sequence[str]) -> tuple[Recipe, bool]:
    """Return the recipe that the options change: the class's, a preset's, a file's, or that of the run to resume."""
    first = Parser(add_help=False)
    first.add_argument("--preset")
    first.add_argument("--recipe", type=Path)
    first.add_argument("--out", type=Path)
    first.add_argument("--resume", action="store_true")
    first.add_argument("--overwrite", action="store_true")
    first.add_argument("--seeds")
    given, _ = first.parse_known_args(words)
    if given.resume:
        return _saved(name, given), True
    if given.recipe:
        if given.preset:
            raise UserError("`recipe` and `preset` both say what to start from: give one of them")
        return _of_file(name, given.recipe), False
    return RECIPES[name].preset(given.preset) if given.preset else RECIPES[name](), False


def _saved(name: str, given: argparse.Namespace) -> Recipe:
    """Read the recipe of the run to resume."""
    if given.overwrite:
        raise UserError("`resume` continues a run and `overwrite` replaces it: give one of them")
    if given.preset or given.recipe:
        what = "preset" if given.preset else "recipe"
        raise UserError(f"`resume` continues a run with the options that it has: leave `{what}` out")
    if given.out is None:
        raise UserError("`resume` needs `out`, the folder of the run to continue")
    if list(given.out.glob("seed-*")) and given.seeds in (None, "1"):
        raise UserError(f"{given.out} holds runs of several seeds: give `seeds=N`")
    if not (given.out / "recipe.json").is_file():
        raise UserError(f"nothing to resume in {given.out}: it holds no recipe.json")
    return _of_file(name, given.out / "recipe.json")


def _of_file(name: str, path: Path) -> Recipe:
    """Read a recipe from a file like recipe.json, which may leave out options, and the recipe's name."""
    recipe = from_json({"recipe": name} | read_json(path))
    if not isinstance(recipe, RECIPES[name]):
        raise UserError(f"{path} is of the recipe {recipe.name}, not {name}")
    return recipe


def _check_same(saved: Recipe, recipe: Recipe, options: RunOptions) -> None:
    """Refuse to resume with another recipe; only `epochs` may change, and with it `learning_rate`."""
    was, now = saved.as_json(), recipe.as_json()
    free = {"epochs", "learning_rate"} if was["epochs"] != now["epochs"] else {"epochs"}
    for key in was.keys() - free:
        if was[key] != now[key]:
            raise UserError(f"`{key}` is {was[key]} for the run in {options.out}, not {now[key]}: it cannot change")
