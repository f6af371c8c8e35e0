"""The training loop: a generator that yields after each epoch; logging and saving are left to its caller."""

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
    """The results of an epoch.

    Attributes:
        number: counted from 1.
        seconds: wall-clock time.
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
    """Train a model and its guide, one epoch for each `next`.

    The noise of an epoch is seeded by (seed, epoch, process). A run resumed from the weights and the optimiser state at
    the end of an epoch is therefore identical to an uninterrupted one, bit for bit on the CPU. Under an initialised
    `torch.distributed` the gradients are averaged over the processes. Torch's global random state is set; Pyro's
    global parameter store is left as it was.

    >>> from guides.vae import VAEGuide
    >>> from pyro_models import nn
    >>> from pyro_models.data import Split
    >>> from pyro_models.distributions import bernoulli
    >>> from pyro_models.objectives import trace
    >>> from pyro_models.vae import VAE
    >>> model = VAE(nn.decoder(nn.mlp(2, 16), (1, 4, 4)), bernoulli, latent_dim=2)
    >>> guide = VAEGuide(nn.encoder(nn.mlp(16, 4), (1, 4, 4)))
    >>> images = Split(torch.ones(20, 1, 4, 4))
    >>> batches = Batches(images, size=10, to_batch=lambda rows: {"x": rows.x})
    >>> optimizer = torch.optim.Adam(parameters(model, guide))
    >>> for epoch in fit(model, guide, trace, optimizer, batches, epochs=2):
    ...     print(epoch.number, sorted(epoch.terms))
    1 ['elbo', 'kl', 'loss', 'reconstruction']
    2 ['elbo', 'kl', 'loss', 'reconstruction']

    Args:
        model, guide: called with the items of a batch as keyword arguments.
        objective: the loss, or a schedule of losses.
        optimizer: over the parameters of both.
        batches: of the training data.
        epochs: the last epoch to run.
        done: the number of epochs already run.
        seed: of the noise.
        learning_rate: from the fraction of the run that is over, in [0, 1), to the learning rate; None keeps the
            optimiser's.

    Raises:
        NonFiniteTerm: a term, or a weight, is infinite or NaN; the message names the term and the step.
    """
    run_model, run_guide = program(model), program(guide)
    for epoch in range(done, epochs):
        start = time.perf_counter()
        torch.manual_seed(derived_seed(seed, "noise", epoch, batches.rank))
        model.train()
        guide.train()
        names: list[str] = []
        history = torch.empty(0)  # one tensor: many small ones kept among a step's large ones would fragment the heap
        with pyro.get_param_store().scope():  # else a second pair in the process would share this one's parameters
            for step, batch in enumerate(batches.epoch(epoch)):
                progress = (epoch + step / len(batches)) / epochs
                if learning_rate is not None:
                    _set(optimizer, learning_rate(progress))
                current = objective.at(progress) if isinstance(objective, Scheduled) else objective
                with pyro.validation_enabled(epoch == done and step == 0):
                    terms = current(run_model, run_guide, **batch)
                optimizer.zero_grad()
                terms["loss"].backward()
                average_gradients(optimizer)
                optimizer.step()
                if step == 0:
                    names, history = list(terms), terms["loss"].new_empty(len(batches), len(terms))
                history[step] = torch.stack([terms[name].detach() for name in names])
        means = _averages(names, history, optimizer, epoch + 1)  # timed too, as it waits for the device
        yield Epoch(epoch + 1, time.perf_counter() - start, means)


def program(module: nn.Module) -> Callable[..., Any]:
    """Return a callable that runs a model or a guide without a `pyro.param` message for each parameter.

    Calling a PyroModule sends these messages, which nothing here reads and which take a tenth of a small network's
    step; calling its `forward` sends none. A module that samples its weights (`PyroSample`) does so when it is called,
    and is returned as it is.
    """
    parts = [part for part in module.modules() if isinstance(part, PyroModule)]
    return module if any(part._pyro_samples for part in parts) else module.forward


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
