"""The training loop: a generator that yields after each epoch; logging and saving are left to its caller."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_models.base.errors import UserError, nearest
from pyro_models.base.seeds import seed_noise
from pyro_models.objectives import (
    ESTIMATORS,
    Objective,
    Program,
    Scheduled,
    frozen_statistics,
    gpus_of,
    is_of_pyro,
    modules_of,
)
from pyro_models.training.processes import average, average_gradients
from pyro_models.training.sources import Source, as_source
from pyro_models.training.steps import Compile, Steps, objective_at

LEARNING_RATE = 1e-3  # of Adam, where no optimiser is given
MakeOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Epoch:
    """The results of an epoch.

    Attributes:
        number: counted from 1.
        seconds: wall-clock time.
        terms: each term of the objective, averaged over the steps, in nats per datum.
        compiled: whether its last step was compiled, as those that follow will be.
    """

    number: int
    seconds: float
    terms: dict[str, float]
    compiled: bool = False


class NonFiniteTerm(FloatingPointError):
    """A term of the objective, or a weight, became infinite or NaN."""


def fit(
    model: Program,
    guide: Program,
    data: Any,
    objective: str | Objective | Scheduled = "trace",
    optimizer: torch.optim.Optimizer | MakeOptimizer | None = None,
    *,
    epochs: int,
    batch_size: int | None = None,
    done: int = 0,
    seed: int = 0,
    learning_rate: float | Callable[[float], float] | None = None,
    compile: Compile = "auto",
) -> Iterator[Epoch]:
    """Train any model and its guide, one epoch for each `next`.

    All is trained on which the objective depends: the parameters of modules, and those of `pyro.param`. The noise of an
    epoch is seeded by (seed, epoch, process). A run resumed from the weights and the optimiser state at the end of an
    epoch is therefore identical to an uninterrupted one, bit for bit on the CPU. Under an initialised
    `torch.distributed` the gradients are averaged over the processes. Torch's global random state is set; of Pyro's
    global parameter store, only what the pair asks of it by `pyro.param` or `pyro.module` changes.

    >>> import pyro.distributions as dist
    >>> from pyro.infer.autoguide import AutoNormal
    >>> def regression(x, y):
    ...     slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
    >>> x = torch.linspace(-1.0, 1.0, 50)
    >>> guide = AutoNormal(regression)
    >>> for epoch in fit(regression, guide, {"x": x, "y": 2 * x}, epochs=200, learning_rate=0.1):
    ...     pass
    >>> round(guide.median()["slope"].item())
    2

    Args:
        model, guide: functions, modules or methods, called with the items of a batch.
        data: a dictionary of keyword arguments, a tuple of positional ones or a tensor, which each step sees whole, or
            `batch_size` rows of, which may lie in a `numpy.memmap`; a `TensorDataset`, a `Split` or `Batches`; or a
            `DataLoader`, a list or whatever else has a length and iterates over batches, each of which is a dictionary,
            a tuple or a tensor.
        objective: the name of an estimator, the loss, or a schedule of losses.
        optimizer: over the parameters of both; or from the list of all parameters to one, such as
            `partial(torch.optim.SGD, lr=0.1)`; None takes Adam. One that has modes, as schedule-free ones have, is in
            `train` while an epoch runs and in `eval` when it is yielded.
        epochs: the last epoch to run.
        batch_size: rows in a batch; None takes all at once.
        done: the number of epochs already run.
        seed: of the noise, the order of rows and the first values of parameters that the pair makes when it first runs.
        learning_rate: a number, which Adam takes in place of 0.001 where no `optimizer` is given; or from the fraction
            of the run that is over, in [0, 1), to the learning rate, of any optimiser.
        compile: `on` compiles the steps, whose values are then rounded otherwise; `graph` runs each as a graph of
            tensors, which changes no bit; `off` runs the programs; `auto` takes the fastest where the first steps show
            that it pays before the run ends. Steps that have no graph are named by a warning, and run as they are.

    Raises:
        NonFiniteTerm: a term, or a weight, is infinite or NaN; the message names the term and the step.
        UserError: the data cannot be cut into batches of which the objective is a mean; nothing is to be trained; or an
            optimiser is given beside a learning rate for Adam.
    """
    if optimizer is not None and isinstance(learning_rate, float | int):
        raise UserError(f"`learning_rate={learning_rate:g}` is Adam's: give the optimiser its own, or a schedule here")
    if isinstance(objective, str):
        if objective not in ESTIMATORS:
            raise UserError(f"`objective={objective}` is no estimator: {nearest(objective, ESTIMATORS)}")
        objective = ESTIMATORS[objective]
    run_model, run_guide = program(model), program(guide)
    source = as_source(run_model, run_guide, data, batch_size, seed)
    if not isinstance(optimizer, torch.optim.Optimizer):
        fixed = learning_rate if isinstance(learning_rate, float | int) else LEARNING_RATE
        make = optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=fixed))
        optimizer = make(_trainable(run_model, run_guide, objective_at(objective, 0.0), source, seed))
    return _epochs(run_model, run_guide, source, objective, optimizer, epochs, done, seed, learning_rate, compile)


def _epochs(
    model: Program,
    guide: Program,
    source: Source,
    objective: Objective | Scheduled,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    done: int,
    seed: int,
    learning_rate: float | Callable[[float], float] | None,
    compile: Compile,
) -> Iterator[Epoch]:
    store = _OwnParameters(model, guide)

    def plain(objective: Objective, args: Any, kwargs: Any) -> dict[str, Tensor]:
        terms = objective(model, guide, *args, **kwargs)
        store.add_new_to(optimizer)
        optimizer.zero_grad()
        terms["loss"].backward()
        return terms

    def update() -> None:
        average_gradients(optimizer)
        optimizer.step()

    run_step = Steps(model, guide, objective, optimizer, compile, plain, update)
    for epoch in range(done, epochs):
        start = time.perf_counter()
        seed_noise(seed, "noise", epoch, source.rank)
        for half in (model, guide):
            if isinstance(owner := getattr(half, "__self__", half), nn.Module):
                owner.train()
        _switch(optimizer, "train")
        names: list[str] = []
        history = torch.empty(0)  # one tensor: many small ones kept among a step's large ones would fragment the heap
        steps = len(source)
        run_step.begin_epoch()
        with store:
            for step, call in enumerate(source.epoch(epoch)):
                progress = (epoch + step / steps) / epochs
                if callable(learning_rate):
                    _set(optimizer, learning_rate(progress))
                with pyro.validation_enabled(epoch == done and step == 0):
                    terms = run_step(call, progress, progress + 1.0 / (steps * epochs))
                if step == 0:
                    names, history = list(terms), terms["loss"].new_zeros(steps, len(terms))
                history[step] = torch.stack([terms.get(name, history.new_zeros(())).detach() for name in names])
        means = _averages(names, history, optimizer, epoch + 1)  # timed too, as it waits for the device
        _switch(optimizer, "eval")
        yield Epoch(epoch + 1, time.perf_counter() - start, means, run_step.way == "compiled")


class _OwnParameters:
    """The parameter store while an epoch runs: parameters of modules do not stay there, those of `pyro.param` do.

    A module that is called leaves its parameters in the store by their names, and a second one with the same names
    would share them.
    """

    def __init__(self, *programs: Program):
        self.store = pyro.get_param_store()
        self.programs = programs

    def __enter__(self) -> "_OwnParameters":
        self.before = set(self.store.keys())
        self.known = len(self.before)
        return self

    def __exit__(self, *exception: Any) -> None:
        owned = {id(parameter) for module in modules_of(*self.programs) for parameter in module.parameters()}
        for name in set(self.store.keys()) - self.before:
            if id(_unconstrained(self.store[name])) in owned and "$$$" not in name:  # that is of `pyro.module`
                del self.store[name]

    def add_new_to(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimiser train what `pyro.param` has made since the last call."""
        if len(self.store.keys()) == self.known:
            return
        self.known = len(self.store.keys())
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        values = [_unconstrained(self.store[name]) for name in self.store.keys() - self.before]
        if new := [value for value in values if id(value) not in trained]:
            optimizer.add_param_group({"params": new})


def _unconstrained(value: Any) -> Tensor:
    return value.unconstrained()


def _trainable(model: Program, guide: Program, objective: Objective, source: Source, seed: int) -> list[Tensor]:
    """Return what the objective depends on and can be trained, after a first run, which makes what is made lazily.

    Raises:
        UserError: there is nothing.
    """
    modules = modules_of(model, guide)
    with (
        torch.random.fork_rng(gpus_of(parameters(*modules))),
        _OwnParameters(model, guide),
        ExitStack() as frozen,
        poutine.trace(param_only=True) as recorded,
    ):
        seed_noise(seed, "initial values")
        for module in modules:
            frozen.enter_context(frozen_statistics(module))
        args, kwargs = next(iter(source.epoch(0)))
        loss = objective(model, guide, *args, **kwargs)["loss"]
    owners: list[Any] = [getattr(half, "__self__", half) for half in (model, guide)]
    own = [owner for owner in owners if isinstance(owner, nn.Module)]
    reachable = [parameter for parameter in parameters(*modules_of(model, guide)) if parameter.requires_grad]
    slopes = torch.autograd.grad(loss, reachable, allow_unused=True) if loss.requires_grad and reachable else []
    kept = {id(parameter) for parameter in parameters(*own)}
    kept |= {id(parameter) for parameter, slope in zip(reachable, slopes, strict=False) if slope is not None}
    nodes: list[Any] = list(recorded.trace.nodes.values())
    stored = [_unconstrained(node["value"]) for node in nodes if node["type"] == "param"]
    trained = [parameter for parameter in reachable if id(parameter) in kept] + stored
    trained = list({id(parameter): parameter for parameter in trained if parameter.requires_grad}.values())
    if not trained:
        raise UserError("there is nothing to train: the pair has no module with parameters and no pyro.param")
    return trained


def program(half: Program) -> Program:
    """Return a callable that runs a model or a guide without a `pyro.param` message for each parameter.

    Calling a PyroModule sends these messages, which nothing here reads and which take a tenth of a small network's
    step; calling its `forward` sends none. A module with constrained parameters or sampled weights (`PyroParam`,
    `PyroSample`), and one of Pyro's own classes (`AutoGuide`), needs its call, and is returned as it is; so are
    functions.
    """
    if not isinstance(half, nn.Module):
        return half
    parts = [part for part in half.modules() if isinstance(part, PyroModule)]
    needs_call = any(part._pyro_samples or part._pyro_params or is_of_pyro(part) for part in parts)
    return half if needs_call else half.forward


def _switch(optimizer: torch.optim.Optimizer, mode: str) -> None:
    """Put an optimiser into a mode, if it has one: those without a schedule evaluate at other weights than they train.

    Defazio et al., The road less scheduled, 2024.
    """
    if callable(switch := getattr(optimizer, mode, None)):
        switch()


def _set(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _averages(names: list[str], history: Tensor, optimizer: torch.optim.Optimizer, epoch: int) -> dict[str, float]:
    """Average each term over the steps and the processes, after checking that all terms and weights are finite."""
    table = average(history)
    for step, row in enumerate(table.tolist()):
        bad = [f"{name} became {value}" for name, value in zip(names, row, strict=True) if not math.isfinite(value)]
        if bad:
            raise NonFiniteTerm(f"{', '.join(reversed(bad))} in step {step + 1} of epoch {epoch}")
    if not all(bool(p.isfinite().all()) for group in optimizer.param_groups for p in group["params"]):
        raise NonFiniteTerm(f"the weights became infinite or NaN in step {len(history)} of epoch {epoch}")
    return dict(zip(names, table.mean(0).tolist(), strict=True))


def parameters(*modules: nn.Module) -> list[Tensor]:
    """Return the parameters of all modules, each once, even if several modules share it.

    >>> layer = nn.Linear(2, 3)
    >>> len(parameters(layer, nn.Sequential(layer)))
    2
    """
    return list(dict.fromkeys(parameter for module in modules for parameter in module.parameters()))
