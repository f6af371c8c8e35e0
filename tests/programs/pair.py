"""What a program of the matrix is: a pair, what it is called with, and what is known of it in closed form."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

PROGRAMS: dict[str, Callable[[], "Pair"]] = {}
"""By name, what builds a pair anew; filled by `program`."""


@dataclass(frozen=True)
class Pair:
    """A model, a guide, and what both are called with.

    Attributes:
        model, guide: called as model(*args, **kwargs).
        args, kwargs: as Pyro's estimators take them.
        log_p: the log evidence in closed form, nats: of each datum [n], or of the whole, a scalar.
        posterior: means of latent sites under the posterior, in closed form.
        exact: whether the guide is the posterior, so that every bound is the evidence.
        nesting: `max_plate_nesting` of Pyro's estimators, where a run with enumerated sites cannot show it.
        tags: what is special about it, for a test to select by.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    log_p: Tensor | None = None
    posterior: Mapping[str, Tensor] = field(default_factory=dict)
    exact: bool = False
    nesting: int | None = None
    tags: frozenset[str] = frozenset()


def program(build: Callable[[], Pair]) -> Callable[[], Pair]:
    """Enter a function that builds a pair into `PROGRAMS`, under its own name."""
    assert build.__name__ not in PROGRAMS, build.__name__
    PROGRAMS[build.__name__] = build
    return build
