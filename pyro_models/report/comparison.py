"""Estimators compared at the weights of a run or along a training: a table, a .json file and a picture."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

import torch
from matplotlib.figure import Figure

from pyro_models import plots
from pyro_models.base.files import write
from pyro_models.base.names import WEIGHTED
from pyro_models.likelihood import (
    Comparison,
    TrainingCurve,
    compare,
    compare_training,
    comparison_table,
    training_table,
)
from pyro_models.likelihood.comparison import objectives_of
from pyro_models.metrics import eval_mode
from pyro_models.objectives import ESTIMATORS, Arguments, Objective, Program
from pyro_models.report.pictures import Format, write_figure
from pyro_models.runs import Run

VALIDATION = 500  # data on which the bounds of a training are measured


def comparison_of_program(
    model: Program, guide: Program, data: Arguments, names: Sequence[str], particles: Sequence[int], draws: int
) -> str:
    """Compare estimators on any pair and its data.

    Args:
        model, guide: the pair.
        data: what both are called with.
        names: of the estimators; empty takes all.
        particles: of the estimators that weight several; with several numbers each is compared with each.
        draws: of each gradient.

    Returns:
        the table, in Markdown.

    Raises:
        UserError: a name is no estimator's.
    """
    objectives = {name: each for name, (each, _) in _variants(_of_any_pair, names, particles).items()}
    comparisons = compare(model, guide, data, objectives, draws=draws)
    data_of = max((each.data for each in comparisons.values() if not each.refused), default=1)
    unit = "nats, of the whole: latents are shared" if data_of == 1 else f"nats per datum, {data_of} data"
    return f"{comparison_table(comparisons)}\n\nbounds in {unit}"


def training_comparison_of_program(
    model: Program, guide: Program, data: Arguments, names: Sequence[str], particles: Sequence[int], seconds: float
) -> str:
    """Train any pair with each estimator from its present weights, and return what each reaches, in Markdown.

    Args and errors as `comparison_of_program`, and
        seconds: of training, for each.
    """
    objectives = {name: each for name, (each, _) in _variants(_of_any_pair, names, particles).items()}
    curves = compare_training(model, guide, data, data, objectives, seconds=seconds)
    return f"{training_table(curves)}\n\nbounds in nats, of the data trained on"


def write_comparison(
    run: Run, names: Sequence[str], particles: Sequence[int], draws: int, batches: int, form: Format = "png"
) -> str:
    """Compare estimators, all at beta 1, at a run's weights, and write compare.json and figures/compare.png.

    Args:
        run: a finished run.
        names: of the estimators; empty takes a few that the recipe takes.
        particles: of the estimators that weight several; with several numbers each is compared with each.
        draws: of each gradient.
        batches: of training data, the first of an epoch.
        form: svg or pdf writes the figure in these beside PNG.

    Returns:
        the table, in Markdown.

    Raises:
        UserError: the run's recipe does not take one of the estimators.
    """
    estimators = _variants(run.recipe.estimators, names, particles)
    bounds_of = {name: bound_of or "the story" for name, (_, bound_of) in estimators.items()}
    cutter = run.recipe.batches(run.dataset, steps=None)
    with eval_mode(run.model, run.guide):  # the same noise in dynamic pixels each time
        data = list(islice(cutter.epoch(0), batches))
    objectives = {name: objective for name, (objective, _) in estimators.items()}
    comparisons = compare(run.model, run.guide, data, objectives, draws=draws)
    unit = run.recipe.unit(run.dataset)
    written = {name: each.as_json() | {"bound_of": bounds_of[name]} for name, each in comparisons.items()}
    path = _write(run, "compare", {"unit": unit, "estimators": written}, picture_of(comparisons, unit), form)
    return f"{comparison_table(comparisons, bounds_of)}\n\nbounds in {unit}; {path}"


def picture_of(comparisons: Mapping[str, Comparison], unit: str) -> Figure:
    """Draw bounds, signal-to-noise ratios and times of the estimators that have them."""
    known = {name: each for name, each in comparisons.items() if not each.refused}
    return plots.estimator_comparison(
        {name: (each.bound, each.error) for name, each in known.items()},
        {name: each.signal_to_noise for name, each in known.items()},
        {name: each.milliseconds for name, each in known.items()},
        unit,
    )


def write_training_comparison(
    run: Run, names: Sequence[str], particles: Sequence[int], seconds: float, form: Format = "png"
) -> str:
    """Train a run's pair afresh with each estimator, and write compare-training.json and figures/compare-training.png.

    The bound alone is trained, at beta 1 and with no term beside it, and measured on validation data.

    Args and errors as `write_comparison`, and
        seconds: of training, for each.
    """
    recipe, dataset = run.recipe, run.dataset
    objectives = {name: each for name, (each, _) in _variants(recipe.estimators, names, particles).items()}
    torch.manual_seed(recipe.seed)
    curves = compare_training(
        *recipe.pair(dataset),
        recipe.batches(dataset),
        recipe.batch(dataset, dataset.validation[:VALIDATION]),
        objectives,
        seconds=seconds,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
    )
    unit = recipe.unit(dataset)
    written = {"unit": unit, "estimators": {name: asdict(curve) for name, curve in curves.items()}}
    path = _write(run, "compare-training", written, training_picture(curves, unit), form)
    return f"{training_table(curves)}\n\nbounds of validation data in {unit}; {path}"


def training_picture(curves: Mapping[str, TrainingCurve], unit: str) -> Figure:
    """Draw the bounds that estimators reach against the seconds of training."""
    known = {name: curve for name, curve in curves.items() if not curve.refused}
    panels = {
        title: {name: (curve.seconds, getattr(curve, field)) for name, curve in known.items()}
        for field, title in (("elbo", "elbo"), ("log_p", "log p, by importance sampling"))
    }
    return plots.lines(panels, "seconds of training", unit)


Estimators = dict[str, tuple[Objective, str | None]]


def _variants(
    estimators: Callable[[Sequence[str], int], Estimators], names: Sequence[str], particles: Sequence[int]
) -> Estimators:
    """Return estimators by name; those that weight particles once for each number of them."""
    return {
        f"{name} of {count}" if name in WEIGHTED and len(particles) > 1 else name: estimator
        for count in particles
        for name, estimator in estimators(names, count).items()
    }


def _of_any_pair(names: Sequence[str], particles: int) -> Estimators:
    chosen = objectives_of(names or ESTIMATORS)
    return {
        name: (partial(each, particles=particles) if name in WEIGHTED else each, None) for name, each in chosen.items()
    }


def _write(run: Run, name: str, content: dict[str, Any], picture: Figure, form: Format) -> str:
    write(run.folder / f"{name}.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    return str(write_figure(picture, run.folder / "figures" / f"{name}.png", form))
