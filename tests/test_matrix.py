"""Every tool on every program of `tests.programs`: right against Pyro or a closed form, or refused with words.

The table below says which cells are refused, and in which words; every other cell has to work. How a value is held
against Pyro's, `tests.programs.measure` says: at the same seed where the draws come in the same order, in expectation
elsewhere, with few draws here and many in a `long` run.
"""

import inspect
import re
import warnings

import pytest

from pyro_models.objectives import ESTIMATORS
from tests.programs import PROGRAMS
from tests.programs.measure import TOOLS, Bench, attempt, counted, measures

DRAWS = 8
"""Of each estimator where values agree in expectation: a factor, a missing term and a wrong sign show."""
MANY = 200
ALL = tuple(PROGRAMS)


def starting(*beginnings: str) -> tuple[str, ...]:
    """The programs whose names begin in one of these ways."""
    return tuple(name for name in PROGRAMS if name.startswith(beginnings))


REFUSALS: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = ()
"""Programs, columns, and a pattern of the words in which the cells are refused."""
EXPECTED = {(name, column): words for names, columns, words in REFUSALS for name in names for column in columns}


def test_the_table_names_programs_and_columns_that_there_are():
    assert {name for name, _ in EXPECTED} <= set(PROGRAMS)
    assert {column for _, column in EXPECTED} <= {*ESTIMATORS, *TOOLS}


def examine(name, columns, draws):
    """Return the cells of a program that came out otherwise than the table says, in words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pyro's own estimators, which the references run
        bench = Bench(PROGRAMS[name](), draws)
        measured = measures(bench)
        outcomes = {column: attempt(measured[column]) for column in columns}
    names = {*counted(bench.trace), *counted(bench.guided), *bench.pair.kwargs, *parameters_of(bench.pair.model)}
    failures = []
    for column, outcome in outcomes.items():
        words = EXPECTED.get((name, column))
        if words is None and outcome.kind != "works":
            failures.append(f"{column}: {outcome.kind}, {outcome.words}")
        if words is not None and (outcome.kind != "refused" or not re.search(words, outcome.words)):
            failures.append(f"{column}: {outcome.kind}, {outcome.words}; expected to be refused: {words}")
        if outcome.kind == "refused" and not any(
            f"'{each}'" in outcome.words or f"`{each}`" in outcome.words for each in names
        ):
            failures.append(f"{column}: refused in words that name no site: {outcome.words}")
    return failures


def parameters_of(model):
    try:
        return set(inspect.signature(model).parameters)
    except (TypeError, ValueError):
        return set()


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_estimator_is_pyros_or_says_why_not(name):
    assert examine(name, list(ESTIMATORS), DRAWS) == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_tool_is_right_or_says_why_not(name):
    assert examine(name, list(TOOLS), DRAWS) == []


@pytest.mark.long
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_cell_with_many_draws(name):
    assert examine(name, [*ESTIMATORS, *TOOLS], MANY) == []


def test_the_matrix_holds_a_program_of_each_shape():
    """Of each kind of latents, guides and plates that the tools tell apart."""
    tags = set()
    for build in PROGRAMS.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags |= build().tags
    assert tags >= {
        "amortised", "auto", "auxiliary", "batch-norm", "condition", "crossed", "discrete", "dist-mask", "expand",
        "factor", "flow", "global", "improper", "integers", "local", "mask", "methods", "model-enum", "nested",
        "no-plate", "order", "reparam", "scale", "scored", "sequential", "subsample",
    }  # fmt: skip
    assert len(PROGRAMS) >= 40
