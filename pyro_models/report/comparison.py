"""Estimators compared at the weights of a run: a table, compare.json and a picture."""

import json
from collections.abc import Sequence
from functools import partial
from itertools import islice

from pyro_models import plots
from pyro_models.base.errors import UserError, nearest
from pyro_models.base.files import replace, write
from pyro_models.likelihood import compare, comparison_table
from pyro_models.metrics import eval_mode
from pyro_models.objectives import ESTIMATORS, Arguments, Program
from pyro_models.runs import Run


def comparison_of_program(
    model: Program, guide: Program, data: Arguments, names: Sequence[str], particles: int, draws: int
) -> str:
    """Compare estimators on any pair and its data.

    Args:
        model, guide: the pair.
        data: what both are called with.
        names: of the estimators; empty takes all.
        particles: of the estimators that weight several.
        draws: of each gradient.

    Returns:
        the table, in Markdown.

    Raises:
        UserError: a name is no estimator's.
    """
    estimators = {}
    for name in names or ESTIMATORS:
        if name not in ESTIMATORS:
            raise UserError(f"{name!r} is no estimator: {nearest(name, ESTIMATORS)}")
        weighted = name in ("iwae", "renyi", "rws", "dreg")
        estimators[name] = partial(ESTIMATORS[name], particles=particles) if weighted else ESTIMATORS[name]
    comparisons = compare(model, guide, data, estimators, draws=draws)
    data_of = max((each.data for each in comparisons.values() if not each.refused), default=1)
    unit = "nats, of the whole: latents are shared" if data_of == 1 else f"nats per datum, {data_of} data"
    return f"{comparison_table(comparisons)}\n\nbounds in {unit}"


def write_comparison(run: Run, names: Sequence[str], particles: int, draws: int, batches: int) -> str:
    """Compare estimators, all at beta 1, at a run's weights, and write compare.json and figures/compare.png.

    Args:
        run: a finished run.
        names: of the estimators; empty takes a few that the recipe takes.
        particles: of the estimators that weight several.
        draws: of each gradient.
        batches: of training data, the first of an epoch.

    Returns:
        the table, in Markdown.

    Raises:
        UserError: the run's recipe does not take one of the estimators.
    """
    recipe = run.recipe
    estimators = recipe.estimators(names, particles)
    bounds_of = {name: bound_of or "the story" for name, (_, bound_of) in estimators.items()}
    cutter = recipe.batches(run.dataset, steps=None)
    with eval_mode(run.model, run.guide):  # the same noise in dynamic pixels each time
        data = list(islice(cutter.epoch(0), batches))
    objectives = {name: objective for name, (objective, _) in estimators.items()}
    comparisons = compare(run.model, run.guide, data, objectives, draws=draws)
    unit = recipe.unit(run.dataset)
    written = {name: each.as_json() | {"bound_of": bounds_of[name]} for name, each in comparisons.items()}
    content = json.dumps({"unit": unit, "estimators": written}, indent=2, allow_nan=False)
    write(run.folder / "compare.json", content + "\n")
    picture = plots.estimator_comparison(
        {name: (each.bound, each.error) for name, each in comparisons.items()},
        {name: each.signal_to_noise for name, each in comparisons.items()},
        {name: each.milliseconds for name, each in comparisons.items()},
        unit,
    )
    path = run.folder / "figures" / "compare.png"
    replace(path, partial(picture.savefig, dpi=110))
    return f"{comparison_table(comparisons, bounds_of)}\n\nbounds in {unit}; {path}"
