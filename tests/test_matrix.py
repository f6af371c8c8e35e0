"""Every tool on every program of `tests.programs`: right against Pyro or a closed form, or refused with words.

The table below says which cells are refused, and in which words; every other cell has to work. How a value is held
against Pyro's, `tests.programs.measure` says: at the same seed where the draws come in the same order, in expectation
elsewhere, with few draws here and many in a `long` run.
"""

import re
import warnings

import pytest

from pyro_models.objectives import ESTIMATORS
from tests.programs import PROGRAMS
from tests.programs.measure import TOOLS, WEIGHTED, Bench, attempt, measures, names_a_site

DRAWS = 3
"""Of each estimator where values agree in expectation: a factor, a missing term and a wrong sign show."""
MANY = 200


WITHOUT_ENUM = ("trace", "mean-field", "graph", *WEIGHTED)
BY_A_PATH = ("mean-field", "iwae", "renyi", "dreg")
"""The estimators that differentiate draws, and have no gradient of what is drawn without a path."""


REFUSALS: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (("model-enum",), WITHOUT_ENUM, "is latent in the model and not sampled by the guide"),
    (("discrete", "scored"), BY_A_PATH, "is not reparameterised"),
    (("cells_with_labels",), BY_A_PATH, "is not reparameterised"),
    (("cells_with_labels", "cells_without_labels"), ("rws",), "is scaled by 0.1: inside importance weights"),
    (("scaled_twice", "scaled_in_model", "plate_of_minibatch"), WEIGHTED, "is scaled by .*: inside importance weights"),
    (("scale", "plate_of_minibatch"), ("log_likelihood",), "is scaled by .*: inside importance weights"),
    (("regression_flow",), (*WEIGHTED, "log_likelihood"), "has a density at its own draws alone"),
    (("mixture_as_many",), ("enum",), "depends on a discrete site in plate 'clusters', in which it does not stand"),
    (("epidemic",), ("enum",), "Pyro cannot sum out 'new_0'"),
    (("chain_7", "prior_masked_out", "regression_delta"), ("rws",), "is a point, which has no density for rws"),
    (("coins",), ("calibrate",), "is computed from the arguments, and cannot be simulated there"),
    (("mixture_summed_out",), ("calibrate",), r"draws no latent site of the model: these are \['k'\]"),
    (("process_exact", "regression_maximum_likelihood"), ("calibrate",), "has no latent site to rank, as 'y' is obs"),
    (("process_sparse", "process_latent_inputs", "site_factor"), ("calibrate",), "no prior replicates: the factor"),
    (("process_variational",), ("calibrate",), "has no parameters of its own to fit to others"),
)
"""Programs or tags of programs, columns, and a pattern of the words in which the cells are refused."""
FAULTS: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = ()
"""Programs, columns, and what is wrong there: cells that are neither right nor refused yet, to be taken out here."""
TURNS = ("check", "calibrate", "arviz")
"""Columns of which each program takes one, in turn; a `long` run has all."""
SLOW = {(f"chain_{number}", "story") for number in range(7)}
"""Cells of a `long` run alone."""


def entry(table, name, tags, column):
    """The words of a table for a cell; None where it has none."""
    found = [words for names, columns, words in table if column in columns and {name, *tags} & {*names}]
    return found[0] if found else None


def examine(name, columns, draws, thorough=False):
    """Return the cells of a program that came out otherwise than the table says, in words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pyro's own estimators, which the references run
        bench = Bench(PROGRAMS[name](), draws, thorough)
        measured = measures(bench)
        outcomes = {column: attempt(measured[column]) for column in columns}
    failures = []
    for column, outcome in outcomes.items():
        words = entry(REFUSALS, name, bench.pair.tags, column)
        if entry(FAULTS, name, (), column):
            if outcome.kind == "works" and thorough:
                failures.append(f"{column} works: take it out of the faults")
            continue
        if words is None and outcome.kind != "works":
            failures.append(f"{column}: {outcome.kind}, {outcome.words}")
        if words is not None and (outcome.kind != "refused" or not re.search(words, outcome.words)):
            failures.append(f"{column}: {outcome.kind}, {outcome.words}; expected to be refused: {words}")
        if outcome.kind == "refused" and not names_a_site(outcome.words, bench):
            failures.append(f"{column}: refused in words that name no site: {outcome.words}")
    return failures


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_estimator_is_pyros_and_every_tool_right_or_says_why_not(name):
    turn = TURNS[list(PROGRAMS).index(name) % len(TURNS)]
    tools = [tool for tool in TOOLS if (tool == turn or tool not in TURNS) and (name, tool) not in SLOW]
    assert examine(name, [*ESTIMATORS, *tools], DRAWS) == []


@pytest.mark.long
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_cell_with_many_draws(name):
    assert examine(name, [*ESTIMATORS, *TOOLS], MANY, thorough=True) == []


def test_the_matrix_holds_a_program_of_each_shape_and_the_tables_name_what_there_is():
    """Of each kind of latents, guides and plates that the tools tell apart."""
    tags = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for build in PROGRAMS.values():
            tags |= build().tags
    assert tags >= {
        "amortised", "auto", "auxiliary", "batch-norm", "condition", "crossed", "discrete", "dist-mask", "expand",
        "factor", "flow", "global", "improper", "integers", "local", "mask", "methods", "model-enum", "nested",
        "no-plate", "order", "reparam", "scale", "scored", "sequential", "subsample",
    }  # fmt: skip
    assert len(PROGRAMS) >= 40
    for names, columns, _ in REFUSALS + FAULTS:
        assert {*names} <= {*PROGRAMS, *tags}
        assert {*columns} <= {*ESTIMATORS, *TOOLS}
