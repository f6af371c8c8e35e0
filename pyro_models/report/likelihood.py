"""The evidence of a run's test data and its inference gap: results.json, likelihood.npz and a few sentences."""

import json
import warnings
from typing import Any

import numpy as np
from torch import Tensor

from pyro_models.base.errors import UserError
from pyro_models.base.files import read_json, replace, write
from pyro_models.base.seeds import derived_seed
from pyro_models.likelihood import NoClosedFamily, UntrustedEstimate, evidence, gap
from pyro_models.metrics import eval_mode
from pyro_models.objectives import Arguments, Program
from pyro_models.runs import Run


def write_likelihood(run: Run, samples: int, gap_of: int, seed: int) -> str:
    """Estimate log p(x) of a run's test data, and split the gap below it for the first `gap_of` of them.

    Writes likelihood.npz, with the values of each datum, and `log_likelihood` in results.json.

    Args:
        run: a finished run.
        samples: of each datum.
        gap_of: how many data; 0 leaves the gap out.
        seed: of the noise.

    Returns:
        the estimates, in a few lines.

    Raises:
        UserError: the recipe's story is no density of x, or the run has no results.json yet.
    """
    recipe, test = run.recipe, run.dataset.test
    if reason := recipe.unanswered.get("log-likelihood"):
        raise UserError(reason)
    results = read_json(run.folder / "results.json")  # before minutes are spent
    with eval_mode(run.model, run.guide, seed=derived_seed(seed, "data")):
        data = recipe.batch(run.dataset, test)
    options: dict[str, Any] = {"target": recipe.target, "samples": samples, "seed": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrustedEstimate)  # the text says it
        result = evidence(run.model, run.guide, data, **options)
    share = (result.effective / samples).double()
    effective = {"mean": share.mean().item(), "median": share.median().item(), "smallest": share.min().item()}
    estimate: dict[str, Any] = {
        **_mean(result.log_p),
        "monte_carlo_error": result.error.square().sum().sqrt().item() / len(test),
        "samples": samples,
        "effective": effective,
        "below_10": int((result.effective < 10).sum()),
        "untrusted": int(result.untrusted.sum()),
        "seed": seed,
        "unit": recipe.unit_of("log_likelihood", run.dataset),
    }
    text = (
        f"log {recipe.density} = {_in_words(estimate)} (standard error) {estimate['unit']}, {len(test)} test data, "
        f"{samples} samples\n"
        f"Monte-Carlo error of that mean: {estimate['monte_carlo_error']:.4f}\n"
        "effective share of the samples: "
        + ", ".join(f"{name} {value:.2%}" for name, value in effective.items())
        + f"; fewer than 10 samples for {estimate['below_10']} data\n"
    )
    if estimate["untrusted"]:
        text += f"{result.doubts}\n"
    each = {name: getattr(result, name) for name in ("log_p", "effective", "error", "pareto_k")}
    if gap_of:
        try:
            split = gap(run.model, run.guide, {name: values[:gap_of] for name, values in data.items()}, **options)
        except NoClosedFamily as error:
            text += f"the gap below log {recipe.density} is not split: {error}\n"
        else:
            each |= {f"gap_{name}": values for name, values in split.items()}
            parts = {name: _mean(values) for name, values in split.items()}
            estimate["gap"] = parts | {"data": len(split["gap"])}
            gained, stays = (_in_words(parts[name]) for name in ("amortisation", "approximation"))
            text += (
                f"log {recipe.density} - elbo of the first {len(split['gap'])}: {_in_words(parts['gap'])}, of which a "
                f"better guide of its family would gain {gained}, and {stays} would stay\n"
            )
    path = run.folder / "likelihood.npz"
    arrays: dict[str, Any] = {name: values.cpu().numpy() for name, values in each.items()}
    replace(path, lambda beside: np.savez(beside, **arrays))
    write(run.folder / "results.json", json.dumps(results | {"log_likelihood": estimate}, indent=2) + "\n")
    return text + f"of each datum: {path}"


def likelihood_of_program(model: Program, guide: Program, data: Arguments, *, samples: int, seed: int) -> str:
    """Estimate log p of all observed sites of any pair, for each datum or of the whole.

    Args:
        model, guide: the pair.
        data: what both are called with.
        samples: of each datum.
        seed: of the noise.

    Returns:
        the estimate, in a few lines.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrustedEstimate)  # the text says it
        result = evidence(model, guide, data, samples=samples, seed=seed)
    count = len(result.log_p)
    what = "nats, of the whole: latents are shared" if count == 1 else f"nats per datum, {count} data"
    each = f"{_in_words(_mean(result.log_p))} (standard error)" if count > 1 else f"{result.log_p.item():.3f}"
    lines = [
        f"log p = {each} {what}, {samples} samples",
        f"Monte-Carlo error: {result.error.square().sum().sqrt() / count:.4f}",
        f"effective share of the samples: {(result.effective / samples).mean():.2%}",
    ]
    return "\n".join([*lines, *([result.doubts] if result.untrusted.any() else [])])


def _mean(values: Tensor) -> dict[str, float]:
    values = values.double()
    return {"mean": values.mean().item(), "standard_error": values.std().item() / len(values) ** 0.5}


def _in_words(estimate: dict[str, float]) -> str:
    return f"{estimate['mean']:.2f} +- {estimate['standard_error']:.2f}"
