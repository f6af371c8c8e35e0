"""Pyro programs as they come: functions, modules, methods, partials; what they are called with and what they hold."""

import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

Program = Callable[..., Any]
"""A model or a guide: any callable with sample sites."""
Arguments = Mapping[str, Any] | tuple[Any, ...] | Any
"""What a pair is called with: a mapping of keyword arguments, a tuple of positional ones, or the only argument."""


def arguments(data: Arguments) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the keyword arguments that `data` stands for.

    >>> arguments({"x": 1}), arguments((1, 2)), arguments(3)
    (((), {'x': 1}), ((1, 2), {}), ((3,), {}))
    """
    if isinstance(data, Mapping):
        return (), dict(data)
    return (data, {}) if isinstance(data, tuple) else ((data,), {})


def gpus_of(tensors: Iterable[Tensor]) -> list[int]:
    """Return the numbers of the GPUs that tensors lie on, each once, in order.

    >>> gpus_of(nn.Linear(1, 1).parameters())
    []
    """
    return sorted({tensor.device.index for tensor in tensors if tensor.is_cuda})


def modules_of(*programs: Any) -> list[nn.Module]:
    """Return the modules that programs can reach, each once; submodules are not listed beside their parent.

    These are the programs themselves, the object that a method belongs to and its attributes, what a function closes
    over, takes by default, or reads by a global name, the arguments of a partial, and the items of containers there.

    >>> network = nn.Linear(1, 1)
    >>> def model(x):
    ...     return network(x)
    >>> modules_of(model, partial(model, 2))
    [Linear(in_features=1, out_features=1, bias=True)]
    """
    modules: dict[int, nn.Module] = {}
    visited: dict[int, Any] = {}  # holds what was visited, so that no id is used twice
    queue = list(programs)
    for each in queue:  # which grows meanwhile
        if id(each) in visited:
            continue
        visited[id(each)] = each
        if isinstance(each, nn.Module):
            modules[id(each)] = each
        else:
            queue += reachable(each)
    inner = {id(part) for module in modules.values() for part in module.modules() if part is not module}
    return [module for module in modules.values() if id(module) not in inner]


def is_of_pyro(module: nn.Module) -> bool:
    """Return whether a module is of a class that Pyro makes guides of: its parameters come with its first call.

    >>> from pyro.infer.autoguide import AutoNormal
    >>> is_of_pyro(AutoNormal(lambda: None)), is_of_pyro(nn.Linear(1, 1))
    (True, False)
    """
    return any(base.__module__.startswith(("pyro.infer", "pyro.contrib")) for base in type(module).__mro__)


def reachable(thing: Any) -> Iterable[Any]:
    """What a thing that is no module leads to."""
    if isinstance(thing, partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if inspect.ismethod(thing):
        return [thing.__self__, thing.__func__]
    if inspect.isfunction(thing):
        cells = [cell.cell_contents for cell in thing.__closure__ or () if is_filled(cell)]
        if _library(thing.__module__):  # what a handler wraps is in its closure; its globals are the library's
            return cells
        known = [thing.__globals__[name] for name in _names(thing.__code__) if name in thing.__globals__]
        return [*cells, *known, *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
    if isinstance(thing, list | tuple | set | frozenset):
        return thing
    if isinstance(thing, Mapping):
        return thing.values()
    if isinstance(thing, type | types.ModuleType) or _library(type(thing).__module__, "torch", "builtins", "logging"):
        return []  # a logger leads to all handlers of the process, which lead anywhere
    return [*getattr(thing, "__dict__", {}).values()]


def _library(module: str | None, *names: str) -> bool:
    return str(module).split(".")[0] in (names or ("torch", "pyro", "builtins"))


def _names(code: types.CodeType) -> set[str]:
    """The names that a function reads, and those that the functions in it read."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*inner)


def is_filled(cell: types.CellType) -> bool:
    """Return whether a variable that a function closes over has a value."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
