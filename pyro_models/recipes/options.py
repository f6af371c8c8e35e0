"""Command-line options from the fields of frozen dataclasses, with one-line errors."""

import argparse
import dataclasses
import difflib
import math
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from pyro_models.base.errors import UserError, nearest


def option(default: Any, help: str, low: float = -math.inf, high: float = math.inf) -> Any:
    """Declare a field with its help text and, for numbers, the bounds within which it makes sense."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high})


def flag(field: str) -> str:
    """Return the command-line spelling of a field's name."""
    return "--" + field.replace("_", "-")


def check(options: Any) -> None:
    """Check the fields of a dataclass instance against their types, choices and bounds.

    Raises:
        UserError: for the first one that does not do; NaN lies outside all bounds.
    """
    hints = get_type_hints(type(options))
    for field in dataclasses.fields(options):
        name, value, hint = flag(field.name), getattr(options, field.name), hints[field.name]
        low, high = field.metadata["low"], field.metadata["high"]
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                raise UserError(f"{name}: unknown value {value!r}: {nearest(str(value), get_args(hint))}")
            continue
        if not isinstance(value, hint) and not (isinstance(value, int) and hint is float):
            raise UserError(f"{name} must be of type {getattr(hint, '__name__', hint)}, not {value!r}")
        if isinstance(value, int | float) and not low <= value <= high:
            bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
            raise UserError(f"{name} must be {bounds}, not {value:g}")


@dataclass(frozen=True)
class Place:
    """Where a run happens; nothing here changes what is learned, so none of it is part of the recipe."""

    out: Path | None = option(None, "run folder (default: runs/RECIPE-DATA-NUMBER)")
    overwrite: bool = option(False, "replace the run in an existing run folder")
    resume: bool = option(False, "continue the run in --out, with the options that it has")
    data_dir: Path | None = option(None, "folder of the data sets (else $PYRO_MODELS_DATA, else ./datasets)")
    seeds: int = option(1, "how many runs, each with the next seed; with more than one, their mean and spread", 1, 1000)
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto takes a GPU when there is one")

    def __post_init__(self) -> None:
        check(self)


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one line, the nearest valid name, and exit code 2."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print the one line and leave."""
        self.exit(2, f"{self.prog}: {message}\n")

    def parse_args(self, arguments: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse, and name the nearest option where one is unknown."""
        parsed, unknown = self.parse_known_args(arguments, namespace)
        if unknown:
            word = unknown[0].split("=")[0]
            names = [name[2:] for name in self._option_string_actions if name.startswith("--")]
            close = difflib.get_close_matches(word.lstrip("-"), names, n=1)
            self.error(f"unknown option {word!r}: " + (f"did you mean '--{close[0]}'?" if close else "see --help"))
        return parsed


def add_options(parser: Parser, options: Any) -> None:
    """Add an option for each field of a dataclass instance, whose values are the defaults."""
    group = parser.add_argument_group(f"{type(options).__name__.removesuffix('Recipe').lower()} options")
    hints = get_type_hints(type(options))
    for field in dataclasses.fields(options):
        default, help, hint = getattr(options, field.name), field.metadata["help"], hints[field.name]
        if hint is bool:
            action = argparse.BooleanOptionalAction if default else "store_true"
            group.add_argument(flag(field.name), action=action, default=default, help=help)
            continue
        if default is not None:
            help = f"{help} (default: {default})"
        convert, metavar = _converter(hint)
        group.add_argument(flag(field.name), type=convert, metavar=metavar, default=default, help=help)


def read(words: Sequence[str], options: Any) -> dict[str, Any]:
    """Read words of the command line into the fields of a dataclass instance, whose values are the defaults."""
    parser = Parser(add_help=False)
    add_options(parser, options)
    return vars(parser.parse_args(words))


def _converter(hint: Any) -> tuple[Any, str]:
    """Return the function that reads a value of type `hint`, and the word for it in the help; `check` does the rest."""
    reads: dict[Any, tuple[Any, str]] = {
        int: (_whole, "N"),
        float: (_number, "R"),
        str: (str, "NAME"),
        Path: (Path, "DIR"),
    }
    if get_origin(hint) is Literal:
        return str, "{" + ",".join(get_args(hint)) + "}"
    if isinstance(hint, types.UnionType):
        convert, metavar = reads[next(part for part in get_args(hint) if part is not type(None))]
        return (lambda word: None if word == "none" else convert(word)), metavar
    return reads[hint]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, not {word!r}") from None


def _whole(word: str) -> int:
    value = _number(word)
    if not math.isfinite(value) or value != int(value):
        raise argparse.ArgumentTypeError(f"expected a whole number, not {word!r}")
    return int(word) if word.lstrip("+-").isdigit() else int(value)
