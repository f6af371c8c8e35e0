"""Predictive checks and calibration of a run: tables, checks.json and pictures; draws for ArviZ."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_models import plots
from pyro_models.base.errors import UserError
from pyro_models.base.files import replace, write
from pyro_models.base.names import X_SITES
from pyro_models.base.seeds import derived_seed
from pyro_models.checking import (
    LEVEL,
    Check,
    Statistic,
    as_arviz,
    calibrate,
    check,
    checks_table,
    replicate,
    standard_statistics,
    statistics_of,
)
from pyro_models.checking.replicates import as_drawn, in_parts, is_binary
from pyro_models.metrics import eval_mode
from pyro_models.objectives import Arguments, Program
from pyro_models.report.pictures import Format, write_figure
from pyro_models.runs import Run

REFERENCE = 5000  # training data, spread over all of them, that statistics compare with
AT_ONCE = 1000
BINS = 24  # of the histograms of the page
SIMULATIONS = 1000  # data that a guide is calibrated with


def write_checks(
    run: Run, *, split: str, data: int, replicates: int, seed: int, more: Mapping[str, Statistic], form: Format = "png"
) -> str:
    """Check a run's story and calibrate its guide; write checks.json and figures/check-*.png.

    Args:
        run: a finished run.
        split: train, validation or test.
        data: how many at most, drawn from the split by the seed.
        replicates: of them, prior and posterior predictive each.
        seed: of all noise.
        more: statistics of x beside the standard ones, by name.
        form: svg or pdf writes figures in these beside PNG.

    Returns:
        the checks and a verdict, in Markdown.

    Raises:
        UserError: the recipe cannot generate data, a statistic fails, or a file cannot be written.
    """
    if reason := run.recipe.unanswered.get("replicates"):
        raise UserError(reason)
    pair, whole = (run.model, run.guide), run.dataset.parts[split]
    with eval_mode(*pair, seed=derived_seed(seed, "data")):
        part = whole[torch.randperm(len(whole))[:data]]  # not the first ones: those of MNIST's test set are the neater
        batch = run.recipe.batch(run.dataset, part)
        statistics, unit = _standard(run)
    for site in statistics.keys() & set(X_SITES):
        statistics[site] |= more
    checks = check(*pair, batch, statistics, replicates=replicates, seed=seed, batch_size=AT_ONCE)
    simulated = {name: value[torch.arange(SIMULATIONS) % len(part)] for name, value in batch.items()}
    ranks = calibrate(*pair, simulated, seed=seed)
    results = [result for each in checks for result in each.against.values()]
    content = {
        "split": split,
        "data": len(part),
        "replicates": replicates,
        "simulations": SIMULATIONS,
        "seed": seed,
        "unit": unit,
        "failed": sum(result["two_sided"] <= LEVEL for result in results),
        "expected_to_fail": round(LEVEL * len(results), 2),
        "checks": [each.as_json() | _histogram(each) for each in checks],
        "calibration": [{"latent": each.latent, "p": each.p, "counts": each.counts} for each in ranks],
    }
    write(run.folder / "checks.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    (run.folder / "figures").mkdir(exist_ok=True)
    title = f"{len(part)} {split} data, {unit}"
    pictures = {"statistics": plots.checks(checks, f"{title}; {replicates} replicates"), "ranks": plots.ranks(ranks)}
    if not run.dataset.is_table:
        with eval_mode(*pair, seed=seed):
            means = [in_parts(run.model, guide, batch, AT_ONCE).drawn["x"].mean(0) for guide in (None, run.guide)]
        pictures["pixel-means"] = plots.pixel_means([batch["x"].mean(0), *means], title)
    for name, picture in pictures.items():
        write_figure(picture, run.folder / "figures" / f"check-{name}.png", form)
    off = [f"{each.latent} (p = {each.p:.2g})" for each in ranks if each.p <= LEVEL]
    verdict = (
        f"{content['failed']} of {len(results)} checks fail at 5 %, marked *; of a true model "
        f"at most {content['expected_to_fail']} would on average ({title}; {replicates} replicates).\n"
        f"The ranks of {len(off)} of {len(ranks)} latents are not uniform at 5 % ({SIMULATIONS} simulated data): "
        f"{', '.join(off) or 'none'}."
    )
    return f"{checks_table(checks)}\n\n{verdict}\n{run.folder / 'checks.json'}, {run.folder}/figures/check-*.png"


def _histogram(check: Check) -> dict[str, Any]:
    """Return how many replicates lie in each of some bins, beside the data: of a discrepancy, less the data's."""
    shift = 0.0 if check.realised is None else check.realised
    observed = check.observed if check.realised is None else 0.0
    drawn = {given: (values - shift).numpy() for given, values in check.replicated.items()}
    if not drawn:
        return {}
    every = np.concatenate([[observed], *drawn.values()])
    edges = np.linspace(every.min(), every.max() + 1e-9, BINS + 1)
    counts = {given: np.histogram(values, edges)[0].tolist() for given, values in drawn.items()}
    return {"histogram": {"low": edges[0], "high": edges[-1], "data": observed, **counts}}


def _standard(run: Run) -> tuple[dict[str, dict[str, Statistic]], str]:
    """Return the statistics that go with the values at a run's sites, and the unit of its data."""
    reference = run.dataset.train[:: -(-len(run.dataset.train) // REFERENCE)]
    once = in_parts(run.model, run.guide, run.recipe.batch(run.dataset, reference), AT_ONCE)
    train = {name: as_drawn(value, once.drawn[name]) for name, value in once.observed.items()}
    unit = "standardised columns" if run.dataset.is_table else f"{run.recipe.pixels} pixels"
    if any(train[site] is not once.observed[site] for site in train.keys() & set(X_SITES)):
        unit += " drawn black or white"
    first = replicate(run.model, run.guide, run.recipe.batch(run.dataset, reference[:2]))
    train |= {name: value for name, value in once.latents.items() if is_binary(value)}
    return standard_statistics(train, run.recipe.site_names(run.dataset), first.likelihood), unit


def check_program(
    model: Program,
    guide: Program | None,
    data: Arguments,
    *,
    replicates: int,
    seed: int,
    more: Mapping[str, Statistic],
    arviz: Path | None = None,
) -> str:
    """Check any pair on its own data, with statistics that suit the values at each observed site.

    Args:
        model, guide: the pair; without a guide prior replicates alone are drawn.
        data: what both are called with.
        replicates: prior and posterior predictive each.
        seed: of all noise.
        more: statistics of each observed site beside the standard ones, by name.
        arviz: a netCDF file to write draws to.

    Returns:
        the checks and a verdict, in Markdown.

    Raises:
        UserError: what `checking.check` refuses, or the program observes nothing.
    """
    with eval_mode(model, *([guide] if guide else []), seed=seed):
        first = replicate(model, guide, data)
        values = {name: as_drawn(value, first.drawn[name]) for name, value in first.observed.items()}
    if not values:
        raise UserError("the model observes nothing: check it with the data that it was fitted to")
    statistics = {site: {**named, **more} for site, named in statistics_of(values, first.likelihood).items()}
    checks = check(model, guide, data, statistics, replicates=replicates, seed=seed)
    results = [result for each in checks for result in each.against.values()]
    text = (
        f"{checks_table(checks)}\n\n{sum(result['two_sided'] <= LEVEL for result in results)} of {len(results)} checks "
        f"fail at 5 %, marked * ({replicates} replicates)."
    )
    if arviz:
        prior = any("prior" in each.replicated for each in checks)
        replace(arviz, as_arviz(model, guide, data, seed=seed, prior=prior).to_netcdf)
        text += f"\n{arviz}"
    return text


def write_arviz(run: Run, path: Path, *, split: str = "test", seed: int = 0) -> None:
    """Write draws for the first 50 data of a split to a netCDF file, for ArviZ.

    Raises:
        UserError: ArviZ is not installed, or the file cannot be written.
    """
    data = run.recipe.batch(run.dataset, run.dataset.parts[split][:50])
    replace(path, as_arviz(run.model, run.guide, data, seed=seed).to_netcdf)
