"""Command lines from the fields of frozen dataclasses, with one-line errors."""

import argparse
import difflib
import math
import re
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pyro_models.base.names import HUB
from pyro_models.recipes import flag
from pyro_models.recipes.options import SEEDS, bounds, options_of, types_of


def in_flags(message: str) -> str:
    """Spell the options of a message as on the command line: `seed` is --seed, `scale=0.5` is --scale 0.5.

    >>> in_flags("give another `data_dir`, or `overwrite=True`, or `stratified=False`")
    'give another --data-dir, or --overwrite, or --no-stratified'
    """

    def spell(match: re.Match[str]) -> str:
        name, value = match.groups()
        if value in (None, "True"):
            return flag(name)
        return flag(f"no_{name}") if value == "False" else f"{flag(name)} {value}"

    return re.sub(r"`(\w+)(?:=([^`]*))?`", spell, message)


def is_program(word: str) -> bool:
    """Return whether a word of the command line names a program, and not a recipe or a run folder.

    >>> is_program("schools:model,schools:guide"), is_program("runs/vae-digits-1"), is_program("vae")
    (True, False, False)
    """
    return ":" in word and not word.startswith(HUB) and not Path(word).exists()


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one line, the nearest valid name, and exit code 2."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print the one line and leave."""
        message = re.sub(r"^argument (\S+): must be", r"\1 must be", message)
        self.exit(2, f"{self.prog}: {in_flags(message)}\n")

    def parse_args(self, arguments: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse, and name the nearest option where one is unknown."""
        parsed, unknown = self.parse_known_args(arguments, namespace)
        if unknown:
            word = unknown[0].split("=")[0]
            names = [name[2:] for name in self._option_string_actions if name.startswith("--")]
            close = difflib.get_close_matches(word.lstrip("-"), names, n=1)
            self.error(f"unknown option {word!r}: " + (f"did you mean '--{close[0]}'?" if close else "see --help"))
        return parsed

    def add_numbers(self, options: dict[str, tuple[int, int, str]]) -> None:
        """Add an option for each whole number: by name, its default, its lowest value and its meaning."""
        for name, (default, low, meaning) in options.items():
            high = SEEDS if name == "seed" else math.inf
            help = f"{meaning} (default: {default}; {bounds(low, high)})"
            self.add_argument(flag(name), type=_within(low, high), default=default, metavar="N", help=help)


def add_options(parser: Parser, title: str, options: Any) -> None:
    """Add a group with an option for each field of a dataclass instance, whose values are the defaults."""
    group = parser.add_argument_group(title)
    hints = types_of(options.__class__)
    for field in options_of(options):
        default, hint = getattr(options, field.name), hints[field.name]
        help = in_flags(field.metadata["help"]).replace("%", "%%")
        if hint is bool:
            action = argparse.BooleanOptionalAction if default else "store_true"
            group.add_argument(flag(field.name), action=action, default=default, help=help)
            continue
        notes = [] if default is None else [f"default: {default}"]
        if limits := bounds(field.metadata["low"], field.metadata["high"]):
            notes.append(limits)
        help += f" ({'; '.join(notes)})" if notes else ""
        convert, metavar = _converter(hint)
        group.add_argument(flag(field.name), type=convert, metavar=metavar, default=default, help=help)


def _converter(hint: Any) -> tuple[Any, str]:
    """Return the function that reads a value of type `hint`, and the word for it in the help; `check` does the rest."""
    converters: dict[Any, tuple[Any, str]] = {
        int: (_whole, "N"),
        float: (_number, "R"),
        str: (str, "NAME"),
        Path: (Path, "DIR"),
        Any: (str, "NAME"),
    }
    if get_origin(hint) is Literal:
        return str, "{" + ",".join(get_args(hint)) + "}"
    if isinstance(hint, types.UnionType):
        convert, metavar = converters[next(part for part in get_args(hint) if part is not type(None))]
        return (lambda word: None if word == "none" else convert(word)), metavar
    return converters[hint]


def _within(low: float, high: float) -> Any:
    """Return the function that reads a whole number within bounds."""

    def read(word: str) -> int:
        value = _whole(word)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be {bounds(low, high)}, not {word}")
        return value

    return read


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
