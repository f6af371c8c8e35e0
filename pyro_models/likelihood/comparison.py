"""Estimators compared at the same weights on the same batches, by many draws of each gradient."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from pyro_models.base.markdown import markdown
from pyro_models.metrics.evaluation import eval_mode
from pyro_models.objectives import Objective


@dataclass(frozen=True)
class Comparison:
    """The bound, the gradient and the time of an estimator at some weights.

    Attributes:
        bound: its mean over the draws and batches, nats per datum.
        error: the standard error of that mean over the draws.
        variance: for each group of parameters, the variance of the gradient over the draws, summed over the group.
        signal_to_noise: for each group, |mean gradient| / sqrt(variance), averaged over the batches; infinite where the
            gradient has no noise.
        milliseconds: of one step, forward and backward, the median over the draws.
    """

    bound: float
    error: float
    variance: dict[str, float]
    signal_to_noise: dict[str, float]
    milliseconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the attributes; an infinite ratio becomes None, as JSON has no infinity."""
        ratios = {name: ratio if math.isfinite(ratio) else None for name, ratio in self.signal_to_noise.items()}
        return asdict(self) | {"signal_to_noise": ratios}


def compare(
    model: nn.Module,
    guide: nn.Module,
    estimators: Mapping[str, Objective],
    batches: list[dict[str, Tensor]],
    *,
    draws: int = 50,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Draw the gradient of each estimator's loss many times on the same batches; the estimators take turns.

    The pair is in evaluation mode throughout, so that dropout adds no noise that is not the estimator's; its weights do
    not change.

    Args:
        model, guide: the pair.
        estimators: by name.
        batches: what the pair is called with.
        draws: of each gradient on each batch, 2 or more.
        seed: of the noise.

    Returns:
        a `Comparison` for each estimator.

    >>> from guides import VAEGuide
    >>> from pyro_models import VAE, distributions, objectives
    >>> model = VAE(torch.nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2)
    >>> guide = VAEGuide(torch.nn.Linear(4, 4))
    >>> estimators = {"trace": objectives.trace, "mean-field": objectives.mean_field}
    >>> comparisons = compare(model, guide, estimators, [{"x": torch.zeros(7, 4)}], draws=5)
    >>> list(comparisons["mean-field"].variance)
    ['decoder', 'encoder']
    """
    groups = dict(parameter_groups(model, guide))
    tallies = {name: [Tally(groups) for _ in batches] for name in estimators}
    times: dict[str, list[float]] = {name: [] for name in estimators}
    parameters = [parameter for group in groups.values() for parameter in group]
    device = parameters[0].device
    with eval_mode(model, guide, seed=seed), torch.enable_grad():
        for draw in range(-1, draws):  # the first, which warms up, does not count
            for k, batch in enumerate(batches):
                for name, estimator in estimators.items():
                    start = _clock(device)
                    terms = estimator(model, guide, **batch)
                    gradients = torch.autograd.grad(terms["loss"], parameters, materialize_grads=True)
                    seconds = _clock(device) - start
                    if draw >= 0:
                        tallies[name][k].add(float(next(terms[b] for b in BOUNDS if b in terms)), gradients)
                        times[name].append(1000 * seconds)
    return {name: _summary(tallies[name], times[name]) for name in estimators}


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


BOUNDS = ("iwae", "renyi", "elbo")  # the term that an estimator bounds with, the tightest first


def parameter_groups(model: nn.Module, guide: nn.Module) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """Yield the parameters of each part of the pair, by the name of the part."""
    for program in (model, guide):
        for name, part in program.named_children():
            parameters = list(part.parameters())
            if parameters:
                yield name, parameters


class Tally:
    """Sums over draws of the gradients of one batch, and of their squared lengths, for each group of parameters."""

    def __init__(self, groups: Mapping[str, list[nn.Parameter]]):
        self.sizes = {name: len(group) for name, group in groups.items()}
        self.sums: dict[str, Tensor] = {}
        self.squares = dict.fromkeys(groups, 0.0)
        self.bounds: list[float] = []

    def add(self, bound: float, gradients: Sequence[Tensor]) -> None:
        """Add a draw: its bound, and the gradients of all parameters in the order of the groups."""
        self.bounds.append(bound)
        remaining = iter(gradients)
        for name, size in self.sizes.items():
            flat = torch.cat([next(remaining).flatten() for _ in range(size)]).double()
            self.sums[name] = self.sums[name].add_(flat) if name in self.sums else flat
            self.squares[name] += float(flat.square().sum())

    def moments(self, name: str) -> tuple[float, float]:
        """Return unbiased estimates of the squared length of a group's mean gradient, and of its variance."""
        n, square = len(self.bounds), float(self.sums[name].square().sum())
        variance = max(0.0, (self.squares[name] - square / n) / (n - 1))
        if variance < 1e-12 * self.squares[name] / n:
            variance = 0.0  # nothing but rounding
        return max(0.0, square / n**2 - variance / n), variance


def _summary(tallies: list[Tally], times: list[float]) -> Comparison:
    bounds = torch.tensor([tally.bounds for tally in tallies], dtype=torch.float64).mean(0)  # of each draw
    moments = {name: [tally.moments(name) for tally in tallies] for name in tallies[0].sizes}
    return Comparison(
        float(bounds.mean()),
        float(bounds.std() / len(bounds) ** 0.5),
        {name: fmean(noise for _, noise in each) for name, each in moments.items()},
        {
            name: fmean((signal / noise) ** 0.5 if noise else math.inf for signal, noise in each)
            for name, each in moments.items()
        },
        median(times),
    )


def comparison_table(comparisons: Mapping[str, Comparison], bounds_of: Mapping[str, str | None] | None = None) -> str:
    """Return comparisons as a Markdown table.

    Args:
        comparisons: by estimator.
        bounds_of: by estimator, the model whose log-density it bounds, where that is not the story.

    >>> comparison = Comparison(-99.0, 0.1, {"encoder": 2.0}, {"encoder": 3.0}, milliseconds=5.0)
    >>> print(comparison_table({"trace": comparison}))
    | estimator | bound of | bound | ms a step | variance, encoder | signal / noise, encoder |
    | --- | --- | --- | --- | --- | --- |
    | trace | the story | -99.00 +- 0.10 | 5.0 | 2 | 3 |
    """
    rows = []
    for name, comparison in comparisons.items():
        bound = f"{comparison.bound:.2f} +- {comparison.error:.2f}"
        row = {"estimator": name, "bound of": (bounds_of or {}).get(name) or "the story", "bound": bound}
        row["ms a step"] = f"{comparison.milliseconds:.1f}"
        for group, variance in comparison.variance.items():
            row[f"variance, {group}"] = f"{variance:.3g}"
            row[f"signal / noise, {group}"] = f"{comparison.signal_to_noise[group]:.3g}"
        rows.append(row)
    return markdown(rows)
