"""Options: fields of frozen dataclasses, each with its help text, its type and its bounds."""

import dataclasses
import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pyro_models.base.errors import UserError, nearest

SEEDS = 2**32 - 1
"""The highest seed: scikit-learn takes no higher one."""


def option(default: Any, help: str, low: float = -math.inf, high: float = math.inf, *, shown: bool = True) -> Any:
    """Declare a field: its help text, the bounds within which a number makes sense, and whether a user sets it."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high, "shown": shown})


def options_of(options: Any) -> list[dataclasses.Field]:
    """Return the fields of a dataclass, or of an instance, that a user sets."""
    return [field for field in dataclasses.fields(options) if field.metadata["shown"]]


@cache  # evaluating the hints takes longer than all else of making a recipe
def types_of(options: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name."""
    return get_type_hints(options)


def bounds(low: float, high: float) -> str:
    """Describe the bounds of a number; nothing where there are none.

    >>> bounds(1, math.inf), bounds(0, 0.99), bounds(-math.inf, math.inf)
    ('at least 1', 'between 0 and 0.99', '')
    """
    if low == -math.inf:
        return ""
    return f"at least {low:.10g}" if high == math.inf else f"between {low:.10g} and {high:.10g}"


def flag(field: str) -> str:
    """Return the command-line spelling of a field's name."""
    return "--" + field.replace("_", "-")


def check(options: Any) -> None:
    """Check the fields of a dataclass instance against their types, choices and bounds.

    Raises:
        UserError: for the first one that does not do; NaN lies outside all bounds.
    """
    hints = types_of(options.__class__)
    for field in dataclasses.fields(options):
        name, value, hint = f"`{field.name}`", getattr(options, field.name), hints[field.name]
        low, high = field.metadata["low"], field.metadata["high"]
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                raise UserError(f"{name}: unknown value {value!r}: {nearest(str(value), get_args(hint))}")
            continue
        if hint is Any:
            continue
        if not isinstance(value, hint) and not (isinstance(value, int) and hint in (float, float | None)):
            raise UserError(f"{name} must be of type {getattr(hint, '__name__', hint)}, not {value!r}")
        if isinstance(value, int | float) and not low <= value <= high:
            raise UserError(f"{name} must be {bounds(low, high)}, not {value:.10g}")


def command_words(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Return the words of the command line for the values that differ from their defaults."""
    words: list[str] = []
    for field, value in values.items():
        if value == defaults[field]:
            continue
        if isinstance(value, bool):
            words.append(flag(field) if value else flag(f"no_{field}"))
        else:
            words += [flag(field), "none" if value is None else str(value)]
    return words
