"""The loop: one visible one, which yields at the end of each epoch and leaves the rest to its caller."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_models.base.seeds import derived_seed
from pyro_models.data import Batches
from pyro_models.objectives import Objective, Scheduled
from pyro_models.training.processes import average, average_gradients


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images came to.

    Attributes:
        number: counted from 1.
        seconds: wall-clock time of the pass.
        terms: each term of the objective, averaged over the steps, in nats per datum.
    """

    number: int
    seconds: float
    terms: dict[str, float]


class NonFiniteTerm(FloatingPointError):
    """A term of the objective, or a weight, became infinite or NaN."""


def fit(
    model: nn.Module,
    guide: nn.Module,
    objective: Objective | Scheduled,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    *,
    epochs: int,
    done: int = 0,
    seed: int = 0,
    learning_rate: Callable[[float], float] | None = None,
) -> Iterator[Epoch]:
    """Train the pair, one epoch for each `next`.

    The noise of an epoch follows from (seed, epoch, process), so that a run that goes on from the weights and
    optimiser state at the end of an epoch is the run that was never interrupted, to the bit on the CPU.
    Under an initialised `torch.distributed` the gradients are averaged over the processes. Torch's global
    random state is set; Pyro's global parameter store is not touched.

    Args:
        model, guide: the pair; both are called with a batch's items as keyword arguments.
        objective: what to minimise, or how that changes over the run.
        optimizer: over the parameters of both.
        batches: of the training images.
        epochs: the last epoch to run.
        done: how many epochs the weights have seen.
        seed: of the noise.
        learning_rate: from the fraction of the run that is over, in [0, 1), to the step size; None leaves the
            optimiser's.

    Raises:
        NonFiniteTerm: a term, or a weight, is infinite or NaN; the message names the term and the step.
    """
    tell, infer = program(model), program(guide)
    for epoch in range(done, epochs):
        start = time.perf_counter()
        torch.manual_seed(derived_seed(seed, "noise", epoch, batches.rank))
        model.train()
        guide.train()
        names: list[str] = []
        history = torch.empty(0)  # a table: small tensors kept among a step's large ones would split up the heap
        with pyro.get_param_store().scope():  # or a second pair in the process would be given this one's parameters
            for step, batch in enumerate(batches.epoch(epoch)):
                progress = (epoch + step / len(batches)) / epochs
                if learning_rate is not None:
                    _set(optimizer, learning_rate(progress))
                current = objective.at(progress) if isinstance(objective, Scheduled) else objective
                with pyro.validation_enabled(epoch == done and step == 0):
                    terms = current(tell, infer, **batch)
                optimizer.zero_grad()
                terms["loss"].backward()
                average_gradients(optimizer)
                optimizer.step()
                if step == 0:
                    names, history = list(terms), terms["loss"].new_empty(len(batches), len(terms))
                history[step] = torch.stack([terms[name].detach() for name in names])
        means = _averages(names, history, optimizer, epoch + 1)  # waits for the device, so before the clock is read
        yield Epoch(epoch + 1, time.perf_counter() - start, means)


def program(half: nn.Module) -> Callable[..., Any]:
    """Return what runs a story or a guide without announcing each of its parameters to Pyro.

    Calling a PyroModule sends a `pyro.param` message for each parameter, which nothing here reads and which takes a
    tenth of a small net's step; its `forward` sends none. A module that draws its own weights (`PyroSample`) needs the
    call to draw them, and keeps it.
    """
    parts = [part for part in half.modules() if isinstance(part, PyroModule)]
    return half if any(part._pyro_samples for part in parts) else half.forward


def _set(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _averages(names: list[str], history: Tensor, optimizer: torch.optim.Optimizer, epoch: int) -> dict[str, float]:
    """Average each term over the steps and the processes, once it is sure that all, and the weights, are finite."""
    table = average(history)
    for step, row in enumerate(table.tolist()):
        bad = [f"{name} became {value}" for name, value in zip(names, row, strict=True) if not math.isfinite(value)]
        if bad:
            raise NonFiniteTerm(f"{', '.join(reversed(bad))} in step {step + 1} of epoch {epoch}")
    if not all(bool(p.isfinite().all()) for group in optimizer.param_groups for p in group["params"]):
        raise NonFiniteTerm(f"the weights became infinite or NaN in step {len(history)} of epoch {epoch}")
    return dict(zip(names, table.mean(0).tolist(), strict=True))


def parameters(*modules: nn.Module) -> list[Tensor]:
    """Return the parameters of all modules, each once, however many of them share it."""
    return list(dict.fromkeys(parameter for module in modules for parameter in module.parameters()))
