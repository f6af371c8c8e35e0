"""Learning-rate schedules: functions of the fraction of the run that is over, from 0 to 1; and optimisers by name."""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pyro_models.base.errors import UserError, first_line, nearest
from pyro_models.base.names import imported, parse_call


def cosine(peak: float) -> Callable[[float], float]:
    """Return the schedule from `peak` to 0 along half a cosine (Loshchilov and Hutter, 2017, without restarts).

    >>> [round(cosine(0.1)(progress), 3) for progress in (0.0, 0.5, 1.0)]
    [0.1, 0.05, 0.0]
    """
    return lambda progress: peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def stages(peak: float) -> Callable[[float], float]:
    """Return the schedule from `peak` to a tenth of it in eight stages, each three times as long as the last.

    >>> [round(stages(0.1)(progress), 3) for progress in (0.0, 0.1, 0.9)]
    [0.1, 0.019, 0.01]

    Burda, Grosse and Salakhutdinov, 2016, section 5: 3^i passes at 0.001 * 10^(-i / 7), i = 0, ..., 7, which are
    (3^8 - 1) / 2 = 3,280 passes.
    """
    return lambda progress: peak * 10 ** (-int(math.log(1.0 + (3**8 - 1) * progress, 3)) / 7)


def schedule_of(spec: str, peak: float, epochs: int) -> Callable[[float], float] | None:
    """Return the schedule of a name: `cosine`, `stages`, or one of `torch.optim.lr_scheduler`; None of `constant`.

    A scheduler, of torch or MODULE:CLASS, is run once without a model, a step after each epoch, and the step sizes are
    noted. A resumed run so needs no state of it.

    >>> halved = schedule_of("StepLR(step_size=2, gamma=0.5)", 0.1, epochs=4)
    >>> [halved((epoch + 0.5) / 4) for epoch in range(4)]
    [0.1, 0.1, 0.05, 0.05]

    Raises:
        UserError: there is no such schedule, its options do not do, or it needs to see how training goes.
    """
    ours = {"constant": None, "cosine": cosine(peak), "stages": stages(peak)}
    if spec in ours:
        return ours[spec]
    if "ReduceLROnPlateau" in spec:
        raise UserError(f"`schedule={spec}` depends on how training goes: use `early_stopping`")
    made, options = _class_of("schedule", spec, torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler)
    optimizer = torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=peak, momentum=0.9)  # some change it
    sizes = []
    try:
        scheduler = made(optimizer, **options)
        for _ in range(epochs):
            sizes.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            if len(sizes) < epochs:
                scheduler.step()
    except Exception as error:  # of a class that may be anybody's
        raise UserError(f"`schedule={spec}`: {first_line(error)}") from None
    return lambda progress: sizes[min(int(progress * epochs + 1e-6), epochs - 1)]


def optimizer_of(spec: str, parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """Return the optimiser of a name in `torch.optim`, or MODULE:CLASS, with its own options, fused where it can be.

    >>> optimizer = optimizer_of("SGD(momentum=0.9)", [torch.zeros(1, requires_grad=True)], 0.1)
    >>> optimizer.param_groups[0]["momentum"], optimizer.param_groups[0]["lr"]
    (0.9, 0.1)

    Raises:
        UserError: there is no such optimiser, or its options do not do.
    """
    made, options = _class_of("optimizer", spec, torch.optim, torch.optim.Optimizer)
    fused = {"fused": True} if "fused" in inspect.signature(made).parameters else {}
    try:
        return made(parameters, **{"lr": learning_rate} | fused | options)
    except Exception as error:  # of a class that may be anybody's
        raise UserError(f"`optimizer={spec}`: {first_line(error)}") from None


def check_optimizer(spec: str, learning_rate: float) -> None:
    """Refuse an optimiser that does not step on dense gradients alone, by a trial on a matrix and a vector.

    >>> check_optimizer("AdamW(weight_decay=0.01)", 0.1)

    Raises:
        UserError: as `optimizer_of`; or its step asks for more, as that of LBFGS for the loss.
    """
    weights = [torch.zeros(shape, requires_grad=True) for shape in ((2, 2), (2,))]
    optimizer = optimizer_of(spec, weights, learning_rate)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    try:
        optimizer.step()
        optimizer.step()  # the first step of some only sets up their state
    except Exception as error:
        reason = f"does not train on dense gradients alone: {first_line(error)}"
        raise UserError(f"`optimizer={spec}` {reason}; use Adam") from None


def _class_of(option: str, spec: str, module: Any, base: type) -> tuple[Any, dict[str, Any]]:
    """Return a class of torch by its name, or of another module as MODULE:CLASS, and the options that come with it."""
    name, options = parse_call(spec)
    if ":" in name:
        made = imported(name, option, "CLASS")
        if not (inspect.isclass(made) and issubclass(made, base)):
            raise UserError(f"`{option}={name}` is no {base.__module__}.{base.__name__}: give the name of such a class")
        return made, options
    classes = {key: value for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)}
    if name not in classes or name == base.__name__:
        raise UserError(f"`{option}={name}` is not in torch: {nearest(name, classes.keys() - {base.__name__})}")
    return classes[name], options
