"""Small programs of the shapes that people write, one file a family, and what each tool makes of them."""

from tests.programs import (  # noqa: F401
    chains,
    counts,
    dynamics,
    flows,
    images,
    masks,
    mixtures,
    plates,
    processes,
    regression,
    schools,
    sites,
    topics,
)
from tests.programs.pair import PROGRAMS, Pair

__all__ = ["PROGRAMS", "Pair"]
