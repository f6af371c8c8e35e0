"""What the commands write into a run's folder beside its page: pictures, comparisons, checks, samples, likelihoods."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from torch import Tensor

from pyro_models import plots
from pyro_models.base.errors import UserError
from pyro_models.base.files import read_json, replace, write
from pyro_models.base.names import WEIGHTED
from pyro_models.base.seeds import derived_seed
from pyro_models.checking.calibration import calibrate
from pyro_models.checking.inference_data import as_arviz
from pyro_models.checking.predictive import LEVEL, check, checks_table
from pyro_models.checking.replicates import as_drawn, in_parts, is_binary, still
from pyro_models.checking.statistics import Statistic, standard
from pyro_models.data import Batches, batch_of
from pyro_models.likelihood.comparison import compare, table
from pyro_models.likelihood.importance import evidence
from pyro_models.likelihood.inference_gap import gap
from pyro_models.metrics.attributes import asked_for, imagined_by, said
from pyro_models.metrics.evaluation import evaluation
from pyro_models.recipes.pictures import PICTURES

if TYPE_CHECKING:
    from pyro_models.runs.folder import Run

REFERENCE = 5000  # training data, spread over all of them, that statistics compare with
AT_ONCE = 1000
SIMULATIONS = 1000  # data that a guide is calibrated with


def write_pictures(run: "Run") -> None:
    """Write the recipe's pictures to the run's folder `figures`, in the recipe's order.

    Raises:
        UserError: the run kept no reconstructions (its checkpoint is gone), or a picture cannot be written.
    """
    if not run.metrics:
        raise UserError(f"{run.folder} holds no checkpoint.pt, from which the pictures are drawn")
    folder = run.folder / "figures"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[0-9][0-9]-*.*"):
        old.unlink()
    number = 0
    for name in run.recipe.figures:
        with evaluation(run.model, run.guide, seed=run.recipe.seed):
            pictures = PICTURES[name](run)
        for title, picture in pictures.items():
            number += 1
            stem = folder / f"{number:02d}-{title.replace('/', '-')}"
            if isinstance(picture, FuncAnimation):
                replace(stem.with_suffix(".gif"), partial(picture.save, writer=PillowWriter(fps=6), dpi=60))
            else:
                replace(stem.with_suffix(".png"), partial(picture.savefig, dpi=110))


def write_comparison(run: "Run", names: list[str], particles: int, draws: int, batches: int) -> str:
    """Compare estimators, all at beta 1, at a run's weights, and write compare.json and figures/compare.png.

    Returns:
        the table, in Markdown.

    Raises:
        UserError: the run's recipe does not take one of the estimators.
    """
    recipe: Any = run.recipe
    if not recipe.elbo:
        raise UserError(f"{recipe.name} has no bound to estimate: its likelihood is exact")
    unit = recipe.unit(run.dataset)
    estimators, of = {}, {}
    for name in names:
        one: Any = dataclasses.replace(
            recipe,
            elbo=name,
            beta=1.0,
            particles=particles if name in WEIGHTED else 1,
            alpha=recipe.alpha if name == "renyi" else type(recipe).alpha,
        )
        estimators[name] = one.bound()
        of[name] = one.bound_of
    cutter = Batches(run.dataset.train, recipe.pixels, recipe.batch_size, recipe.seed, attributes=run.attributes)
    with evaluation(run.model, run.guide):  # the same noise in dynamic pixels each time
        cutting = list(islice(cutter.epoch(0), batches))
    found = compare(run.model, run.guide, estimators, cutting, draws=draws)
    written = {name: one.as_json() | {"bound_of": of[name]} for name, one in found.items()}
    content = json.dumps({"unit": unit, "estimators": written}, indent=2, allow_nan=False)
    write(run.folder / "compare.json", content + "\n")
    picture = plots.estimator_comparison(
        {name: (one.bound, one.error) for name, one in found.items()},
        {name: one.signal_to_noise for name, one in found.items()},
        {name: one.milliseconds for name, one in found.items()},
        unit,
    )
    replace(run.folder / "figures" / "compare.png", partial(picture.savefig, dpi=110))
    return f"{table(found, of.__getitem__)}\n\nbounds in {unit}; {run.folder / 'figures' / 'compare.png'}"


def write_checks(
    run: "Run", *, split: str, data: int, replicates: int, seed: int, more: Mapping[str, Statistic]
) -> str:
    """Check a run's story and calibrate its guide; write checks.json and figures/check-*.png.

    Args:
        run: of a generative recipe.
        split: train, validation or test.
        data: how many at most, drawn from the split by the seed.
        replicates: of them, prior and posterior predictive each.
        seed: of all noise.
        more: statistics of x beside the standard ones, by name.

    Returns:
        what came of it, in Markdown.

    Raises:
        UserError: a statistic does not do, or a file cannot be written.
    """
    pair, whole = (run.model, run.guide), run.dataset.parts[split]
    with still(*pair, seed=derived_seed(seed, "data")):
        part = whole[torch.randperm(len(whole))[:data]]  # not the first ones: those of MNIST's test set are the neater
        batch = batch_of(part, run.recipe.pixels, run.attributes)
        statistics, unit = _standard(run)
    statistics["x"] |= more
    checks = check(*pair, batch, statistics, replicates=replicates, seed=seed, batch_size=AT_ONCE)
    simulated = {name: value[torch.arange(SIMULATIONS) % len(part)] for name, value in batch.items()}
    ranks = calibrate(*pair, simulated, seed=seed)
    results = [result for one in checks for result in one.against.values()]
    content = {
        "split": split,
        "data": len(part),
        "replicates": replicates,
        "simulations": SIMULATIONS,
        "seed": seed,
        "unit": unit,
        "failed": sum(result["two_sided"] <= LEVEL for result in results),
        "expected_to_fail": round(LEVEL * len(results), 2),
        "checks": [one.as_json() for one in checks],
        "calibration": [{"latent": one.latent, "p": one.p, "counts": one.counts} for one in ranks],
    }
    write(run.folder / "checks.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    (run.folder / "figures").mkdir(exist_ok=True)
    title = f"{len(part)} {split} data, {unit}"
    pictures = {"statistics": plots.checks(checks, f"{title}; {replicates} replicates"), "ranks": plots.ranks(ranks)}
    if not run.dataset.is_table:
        with still(*pair, seed=seed):
            told = [in_parts(run.model, guide, batch, AT_ONCE).drawn["x"].mean(0) for guide in (None, run.guide)]
        pictures["pixel-means"] = plots.pixel_means([batch["x"].mean(0), *told], title)
    for name, picture in pictures.items():
        replace(run.folder / "figures" / f"check-{name}.png", partial(picture.savefig, dpi=110))
    off = [f"{one.latent} (p = {one.p:.2g})" for one in ranks if one.p <= LEVEL]
    verdict = (
        f"{content['failed']} of {len(results)} checks fail at 5 %, marked *; of a right story "
        f"at most {content['expected_to_fail']} would on average ({title}; {replicates} replicates).\n"
        f"The ranks of {len(off)} of {len(ranks)} latents are not uniform at 5 % ({SIMULATIONS} simulated data): "
        f"{', '.join(off) or 'none'}."
    )
    return f"{checks_table(checks)}\n\n{verdict}\n{run.folder / 'checks.json'}, {run.folder}/figures/check-*.png"


def _standard(run: "Run") -> tuple[dict[str, dict[str, Statistic]], str]:
    """Return the statistics that go with what a run's sites hold, and what the values of its data are."""
    some = run.dataset.train[:: -(-len(run.dataset.train) // REFERENCE)]
    once = in_parts(run.model, run.guide, batch_of(some, run.recipe.pixels, run.attributes), AT_ONCE)
    train = {name: as_drawn(value, once.drawn[name]) for name, value in once.observed.items()}
    unit = "standardised columns" if run.dataset.is_table else f"{run.recipe.pixels} pixels"
    unit += "" if train["x"] is once.observed["x"] else " drawn black or white"
    train |= {name: value for name, value in once.latents.items() if is_binary(value)}
    names = {f"y{i}": [f"{one.name}={v}" for v in one.values[-one.size :]] for i, one in enumerate(run.attributes, 1)}
    return standard(train, {"x": run.dataset.columns, **names}), unit


def write_arviz(run: "Run", path: Path, *, split: str = "test", seed: int = 0) -> None:
    """Write draws for the first 50 data of a split to a netCDF file, for ArviZ.

    Raises:
        UserError: ArviZ is not installed, or the file cannot be written.
    """
    data = batch_of(run.dataset.parts[split][:50], run.recipe.pixels, run.attributes)
    replace(path, as_arviz(run.model, run.guide, data, seed=seed).to_netcdf)


def write_samples(run: "Run", given: Sequence[str], count: int, seed: int) -> Path:
    """Draw images given some attributes, as NAME=VALUE words, and write them as one picture.

    Returns:
        the file: `samples`, and what was given, in the run's folder `figures`.

    Raises:
        UserError: the story has no attributes, or the words do not do (see `asked_for`).
    """
    if not run.attributes:
        raise UserError(f"the story of {run.recipe.name} tells of no attributes that could be given")
    asked = asked_for(run.attributes, given)
    x = imagined_by(run, asked.expand(count, -1), seed=seed)
    columns = math.ceil(count**0.5)
    blank = x.new_zeros(-count % columns, *x.shape[1:])
    title = f"given {said(run.attributes, asked[0])} ({run.recipe.pixels} pixels)"
    picture = plots.image_grid(torch.cat([x.clamp(0, 1), blank]), columns, title)
    path = run.folder / "figures" / f"samples-{said(run.attributes, asked[0]).replace(' ', '-')}.png"
    replace(path, partial(picture.savefig, dpi=110))
    return path


def write_likelihood(run: "Run", samples: int, gap_of: int, seed: int) -> str:
    """Estimate log p(x) of a run's test data, and split the gap below it for the first `gap_of` of them.

    Writes likelihood.npz, with the values of each datum, and `log_likelihood` in results.json.

    Returns:
        what to say of it.

    Raises:
        UserError: the recipe's story is no density of x.
    """
    if not run.recipe.generative:
        raise UserError(f"the {run.recipe.name} of {run.folder} is no density of x: it has no log p(x) to estimate")
    test = run.dataset.test
    options: dict[str, Any] = {"attributes": run.attributes, "samples": samples, "seed": seed}
    found = evidence(run.model, run.guide, test, run.recipe.pixels, **options)
    share = (found.effective / samples).double()
    effective = {"mean": share.mean().item(), "median": share.median().item(), "smallest": share.min().item()}
    estimate: dict[str, Any] = {
        **_mean(found.log_p),
        "monte_carlo_error": found.error.square().sum().sqrt().item() / len(test),
        "samples": samples,
        "effective": effective,
        "below_10": int((found.effective < 10).sum()),
        "seed": seed,
        "unit": run.recipe.unit(run.dataset) + (", attributes left out" if run.attributes else ""),
    }
    said = (
        f"log p(x) = {_said(estimate)} (standard error) {estimate['unit']}, {len(test)} test data, {samples} samples\n"
        f"Monte-Carlo error of that mean: {estimate['monte_carlo_error']:.4f}\n"
        "effective share of the samples: "
        + ", ".join(f"{name} {value:.2%}" for name, value in effective.items())
        + f"; fewer than 10 samples for {estimate['below_10']} data\n"
    )
    each = {"log_p": found.log_p, "effective": found.effective, "error": found.error}
    if gap_of:
        parted = gap(run.model, run.guide, test[:gap_of], run.recipe.pixels, **options)
        each |= {f"gap_{name}": values for name, values in parted.items()}
        parts = {name: _mean(values) for name, values in parted.items()}
        estimate["gap"] = parts | {"data": len(parted["gap"])}
        said += (
            f"log p(x) - elbo of the first {len(parted['gap'])}: {_said(parts['gap'])}, of which a better guide of its "
            f"family would gain {_said(parts['amortisation'])}, and {_said(parts['approximation'])} would stay\n"
        )
    path = run.folder / "likelihood.npz"
    arrays: dict[str, Any] = {name: values.cpu().numpy() for name, values in each.items()}
    replace(path, lambda beside: np.savez(beside, **arrays))
    written = read_json(run.folder / "results.json") | {"log_likelihood": estimate}
    write(run.folder / "results.json", json.dumps(written, indent=2) + "\n")
    return said + f"of each datum: {path}"


def _mean(values: Tensor) -> dict[str, float]:
    values = values.double()
    return {"mean": values.mean().item(), "standard_error": values.std().item() / len(values) ** 0.5}


def _said(estimate: dict[str, float]) -> str:
    return f"{estimate['mean']:.2f} +- {estimate['standard_error']:.2f}"
