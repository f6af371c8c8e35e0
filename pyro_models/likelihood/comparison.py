"""Estimators compared at the same weights on the same batches, by many draws of each gradient."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_models.base.errors import UserError, first_line, nearest
from pyro_models.base.markdown import markdown
from pyro_models.metrics.evaluation import eval_mode
from pyro_models.objectives import ESTIMATORS, Arguments, Objective, Program, arguments, modules_of, run_pair


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
        megabytes: of the tensors that a step keeps for its backward pass, without the parameters.
        data: the number of data that the bound is a mean over; 1 where it is of the whole.
        refused: why the estimator has no value for the pair; the numbers are NaN then. None where it has one.
    """

    bound: float
    error: float
    variance: dict[str, float]
    signal_to_noise: dict[str, float]
    milliseconds: float
    megabytes: float = math.nan
    data: int = 1
    refused: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the attributes; an infinite ratio, or a number that does not exist, becomes None."""
        finite = lambda value: value if not isinstance(value, float) or math.isfinite(value) else None  # noqa: E731
        ratios = {name: finite(ratio) for name, ratio in self.signal_to_noise.items()}
        return {name: finite(value) for name, value in asdict(self).items()} | {"signal_to_noise": ratios}


def compare(
    model: Program,
    guide: Program,
    data: Arguments | list[Arguments],
    estimators: Mapping[str, Objective] | Iterable[str] = tuple(ESTIMATORS),
    *,
    draws: int = 50,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Draw the gradient of each estimator's loss many times on the same data; the estimators take turns.

    The pair is in evaluation mode throughout, so that dropout adds no noise that is not the estimator's; its weights do
    not change. An estimator that the pair does not take is in the result with the reason.

    Args:
        model, guide: the pair: modules, functions or methods.
        data: what the pair is called with, or a list of such batches.
        estimators: objectives by name, or the names of estimators; all by default.
        draws: of each gradient on each batch, 2 or more.
        seed: of the noise.

    Returns:
        a `Comparison` for each estimator.

    Raises:
        UserError: an estimator's name is unknown.

    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         k = pyro.sample("k", dist.Bernoulli(0.5))
    ...         pyro.sample("x", dist.Normal(3 * k, 1.0), obs=x)
    >>> def guide(x):
    ...     logit = pyro.param("logit", torch.tensor(0.1))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("k", dist.Bernoulli(logits=logit * x))
    >>> comparisons = compare(model, guide, torch.randn(20), ["graph", "enum", "iwae"], draws=20)
    >>> comparisons["enum"].variance["logit"] < comparisons["graph"].variance["logit"], comparisons["enum"].data
    (True, 20)
    >>> comparisons["iwae"].refused[:32]
    "site 'k' is not reparameterised:"
    >>> pyro.clear_param_store()
    """
    objectives = objectives_of(estimators)
    calls = [arguments(batch) for batch in (data if isinstance(data, list) else [data])]
    with eval_mode(model, guide, seed=seed), torch.enable_grad():
        run_pair(model, guide, *calls[0][0], **calls[0][1])  # makes the parameters that are made lazily
        groups = dict(parameter_groups(model, guide))
        parameters = [parameter for group in groups.values() for parameter in group]
        device = parameters[0].device if parameters else torch.device("cpu")
        tallies = {name: [Tally(groups) for _ in calls] for name in objectives}
        times: dict[str, list[float]] = {name: [] for name in objectives}
        results: dict[str, Comparison] = {}
        sizes: dict[str, int] = {}
        kept: dict[str, float] = {}
        for draw in range(-1, draws):  # the first, which warms up, does not count
            for k, (args, kwargs) in enumerate(calls):
                for name, objective in objectives.items():
                    if name in results:
                        continue
                    watch: AbstractContextManager[dict[int, int]]
                    watch = _kept_for_backward(parameters) if draw < 0 else nullcontext({})
                    start = _clock(device)
                    try:
                        with watch as storages:
                            terms = objective(model, guide, *args, **kwargs)
                    except ValueError as error:
                        nothing = dict.fromkeys(groups, math.nan)
                        results[name] = Comparison(
                            math.nan, math.nan, nothing, nothing, math.nan, refused=first_line(error)
                        )
                        continue
                    gradients = _gradients(terms["loss"], parameters)
                    seconds = _clock(device) - start
                    sizes[name] = getattr(terms, "data", None) or 1
                    if draw < 0:
                        kept[name] = max(kept.get(name, 0.0), sum(storages.values()) / 1e6)
                    else:
                        tallies[name][k].add(float(next(terms[b] for b in BOUNDS if b in terms)), gradients)
                        times[name].append(1000 * seconds)
    return {
        name: results.get(name) or _summary(tallies[name], times[name], kept[name], sizes[name]) for name in objectives
    }


@contextmanager
def _kept_for_backward(parameters: list[Tensor]) -> Iterator[dict[int, int]]:
    """Yield the bytes of each storage, by address, that a graph keeps, but for the parameters'."""
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    storages: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        yield storages


def objectives_of(estimators: Mapping[str, Objective] | Iterable[str]) -> Mapping[str, Objective]:
    """Return objectives by name, of themselves or of the names of estimators.

    Raises:
        UserError: a name is no estimator's.

    >>> list(objectives_of(["trace", "iwae"]))
    ['trace', 'iwae']
    """
    if isinstance(estimators, Mapping):
        return estimators
    names = list(estimators)
    if unknown := [name for name in names if name not in ESTIMATORS]:
        raise UserError(f"{unknown[0]!r} is no estimator: {nearest(unknown[0], ESTIMATORS)}")
    return {name: ESTIMATORS[name] for name in names}


def _gradients(loss: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    if not loss.requires_grad or not parameters:
        return tuple(torch.zeros_like(parameter) for parameter in parameters)
    return torch.autograd.grad(loss, parameters, materialize_grads=True)


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


BOUNDS = ("iwae", "renyi", "elbo")  # the term that an estimator bounds with, the tightest first


def parameter_groups(model: Program, guide: Program) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the parameters of a pair by the name of their part: of a module's children, or of `pyro.param`.

    Modules that a function or a method reaches are named by their classes.
    """
    owned: set[int] = set()
    for program in (model, guide):
        owner: Any = getattr(program, "__self__", program)
        modules = owner.named_children() if isinstance(owner, nn.Module) else _named(modules_of(program))
        for name, part in modules:
            parameters = [parameter for parameter in part.parameters() if id(parameter) not in owned]
            owned |= {id(parameter) for parameter in parameters}
            if parameters:
                yield name, list(parameters)
        if isinstance(owner, nn.Module):
            direct = [parameter for parameter in owner.parameters(recurse=False) if id(parameter) not in owned]
            owned |= {id(parameter) for parameter in direct}
            if direct:
                yield type(owner).__name__, list(direct)
    store = pyro.get_param_store()
    for name in store.keys():  # noqa: SIM118
        value: Any = store[name]
        if id(value.unconstrained()) not in owned:
            yield name, [value.unconstrained()]


def _named(modules: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    names: dict[str, int] = {}
    for module in modules:
        name = type(module).__name__
        names[name] = names.get(name, 0) + 1
        yield name if names[name] == 1 else f"{name} {names[name]}", module


class Tally:
    """Sums over draws of the gradients of one batch, and of their squared lengths, for each group of parameters."""

    def __init__(self, groups: Mapping[str, Sequence[Tensor]]):
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


def _summary(tallies: list[Tally], times: list[float], megabytes: float, data: int) -> Comparison:
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
        megabytes,
        data,
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
        if comparison.refused:
            rows.append({"estimator": name, "bound of": "-", "bound": comparison.refused})
            continue
        bound = f"{comparison.bound:.2f} +- {comparison.error:.2f}"
        row = {"estimator": name, "bound of": (bounds_of or {}).get(name) or "the story", "bound": bound}
        row["ms a step"] = f"{comparison.milliseconds:.1f}"
        for group, variance in comparison.variance.items():
            row[f"variance, {group}"] = f"{variance:.3g}"
            row[f"signal / noise, {group}"] = f"{comparison.signal_to_noise[group]:.3g}"
        rows.append(row)
    columns = max(rows, key=len)
    return markdown([{column: row.get(column, "") for column in columns} for row in rows])
