"""Estimators compared along a training: which bound each of them reaches in which time."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
from torch import Tensor

from pyro_models.base.errors import UserError, first_line
from pyro_models.base.markdown import markdown
from pyro_models.likelihood.comparison import objectives_of
from pyro_models.likelihood.importance import UntrustedEstimate, evidence
from pyro_models.metrics.evaluation import eval_mode
from pyro_models.objectives import ESTIMATORS, Arguments, Objective, Program, arguments, elbos, run_pair
from pyro_models.training.capture import tensors_of
from pyro_models.training.loop import Epoch, MakeOptimizer, fit

SPACING = 1.3  # from one point of a curve to the next in seconds: early ones are close, and evaluating costs little
ENDLESS = 10**9  # epochs


@dataclass(frozen=True)
class TrainingCurve:
    """What a pair that an estimator trains has reached, over the time.

    Attributes:
        seconds: of training, without the evaluations; the first is 0.
        elbo: at these times, nats per datum, the discrete sites summed over.
        log_p: log p by importance sampling at these times, nats per datum: a lower bound in expectation, which is loose
            while the guide is poor.
        refused: why the estimator does not train the pair; None where it does.
    """

    seconds: list[float] = field(default_factory=list)
    elbo: list[float] = field(default_factory=list)
    log_p: list[float] = field(default_factory=list)
    refused: str | None = None


def compare_training(
    model: Program,
    guide: Program,
    data: Any,
    evaluated: Arguments,
    estimators: Mapping[str, Objective] | Iterable[str] = tuple(ESTIMATORS),
    *,
    seconds: float = 30.0,
    batch_size: int | None = None,
    optimizer: MakeOptimizer | None = None,
    learning_rate: float | None = None,
    samples: int = 100,
    seed: int = 0,
) -> dict[str, TrainingCurve]:
    """Train a pair with each estimator from its present weights, for as many seconds each; then it is as before.

    The estimators take turns, an epoch at a time, whoever is behind, so that a busy machine slows all of them alike.

    Args:
        model, guide: the pair: modules, functions or methods.
        data: what is trained on, as `fit` takes it.
        evaluated: what the pair is called with when its bounds are measured, validation data for instance.
        estimators: objectives by name, or the names of estimators; all by default.
        seconds: of training, for each.
        batch_size, optimizer, learning_rate: as `fit` takes them.
        samples: of log p for each datum; a tenth of them for the ELBO.
        seed: of the order and the noise.

    Returns:
        a curve for each estimator.

    Raises:
        UserError: an estimator's name is unknown, or the pair cannot be evaluated.

    >>> import torch, pyro.distributions as dist
    >>> from pyro.infer.autoguide import AutoNormal
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> x = torch.randn(20)
    >>> curves = compare_training(model, AutoNormal(model), x, x, ["mean-field", "dreg"], seconds=0.1)
    >>> curves["dreg"].seconds[0], curves["dreg"].elbo[-1] > curves["dreg"].elbo[0]
    (0.0, True)
    """
    args, kwargs = arguments(evaluated)
    objectives, store = objectives_of(estimators), pyro.get_param_store()
    curves = {name: TrainingCurve() for name in objectives}
    spent = dict.fromkeys(objectives, 0.0)
    epochs: dict[str, Iterator[Epoch]] = {}

    def measure(name: str) -> None:
        with eval_mode(model, guide, seed=seed), warnings.catch_warnings():
            warnings.simplefilter("ignore", UntrustedEstimate)  # which most are of a guide not yet trained
            elbo = elbos(model, guide, *args, particles=max(1, samples // 10), **kwargs).mean()
            log_p = evidence(model, guide, evaluated, samples=samples, seed=seed).log_p.mean()
        curve = curves[name]
        curve.seconds.append(spent[name])
        curve.elbo.append(float(elbo))
        curve.log_p.append(float(log_p))

    with eval_mode(model, guide, seed=seed):
        run_pair(model, guide, *args, **kwargs)
        made = store.get_state()  # with the parameters that are made lazily
    with store.scope(made):
        tensors = [tensor.detach() for tensor in tensors_of(model, guide)]
        before = [tensor.clone() for tensor in tensors]
        states = dict.fromkeys(objectives, before)
        try:
            for name, objective in objectives.items():
                try:
                    epochs[name] = fit(
                        model,
                        guide,
                        data,
                        objective,
                        optimizer,
                        epochs=ENDLESS,
                        batch_size=batch_size,
                        seed=seed,
                        learning_rate=learning_rate,
                        compile="off",  # trying it would take much of the seconds, and not the same of each
                    )
                except UserError as error:
                    curves[name] = TrainingCurve(refused=first_line(error))
                else:
                    measure(name)
            while behind := [name for name in epochs if spent[name] < seconds]:
                name = min(behind, key=spent.__getitem__)
                _copy(states[name], tensors)
                spent[name] += next(epochs[name]).seconds
                if spent[name] >= min(seconds, SPACING * curves[name].seconds[-1]):
                    measure(name)
                states[name] = [tensor.clone() for tensor in tensors]
        finally:
            _copy(before, tensors)
    return curves


def training_table(curves: Mapping[str, TrainingCurve]) -> str:
    """Return the last points of training curves as a Markdown table.

    >>> print(training_table({"trace": TrainingCurve([0.0, 9.0], [-9.0, -2.0], [-8.0, -1.5])}))
    | estimator | seconds | elbo | log p |
    | --- | --- | --- | --- |
    | trace | 9 | -2.00 | -1.50 |
    """
    rows = []
    for name, curve in curves.items():
        row = {"estimator": name, "seconds": "-", "elbo": curve.refused or "", "log p": ""}
        if not curve.refused:
            row |= {"seconds": f"{curve.seconds[-1]:.0f}"}
            row |= {"elbo": f"{curve.elbo[-1]:.2f}", "log p": f"{curve.log_p[-1]:.2f}"}
        rows.append(row)
    return markdown(rows)


def _copy(values: list[Tensor], tensors: list[Tensor]) -> None:
    for value, tensor in zip(values, tensors, strict=True):
        tensor.copy_(value)
