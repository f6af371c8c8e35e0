"""A user's own programs on the command line: MODULE:MODEL,MODULE:GUIDE, their data and their trained parameters."""

import csv
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_models.base.errors import UserError, first_line, nearest
from pyro_models.base.names import imported
from pyro_models.metrics import eval_mode
from pyro_models.objectives import Program, modules_of


def load_pair(
    spec: str, data: Path | None, params: Path | None = None, *, trained: bool = False
) -> tuple[Program, Program | None, dict[str, Any]]:
    """Load a model, its guide where there is one, and what both are called with.

    Args:
        spec: MODULE:MODEL or MODULE:MODEL,MODULE:GUIDE; modules are looked for in the working folder first. A guide may
            be a class of AutoGuides, as pyro.infer.autoguide:AutoNormal, which is made for the model.
        data: a .npz file with an array for each argument, or a .csv file with a column for each; an array without
            dimensions is passed as a Python number or text. None where the model takes no arguments.
        params: trained parameters: the parameter store (`pyro.get_param_store().save`), or the state dict of the pair's
            modules, or those of the model and the guide by these names.
        trained: whether to refuse an AutoGuide without `params`.

    Raises:
        UserError: any of these cannot be loaded, or they do not fit together.
    """
    words = spec.split(",")
    if len(words) > 2:
        raise UserError(f"{spec!r}: give MODULE:MODEL or MODULE:MODEL,MODULE:GUIDE")
    model, *others = [imported(word) for word in words]
    _check_program(model, words[0])
    guide = others[0] if others else None
    if inspect.isclass(guide) and issubclass(guide, AutoGuide):
        if trained and params is None:
            raise UserError(f"{words[1]} is made here and not trained: give its parameters, `params=FILE`")
        guide = guide(model)
    if guide is not None:
        _check_program(guide, words[1])
    arguments = read_arguments(data, model) if data else {}
    for program, word in zip([model, guide], words, strict=False):
        _check_takes(program, word, arguments)
    if params:
        _load_params(params, model, guide, arguments)
    return model, guide, arguments


def _check_program(program: Any, word: str) -> None:
    if inspect.isclass(program) or not callable(program):
        what = "a class: name an instance of it" if inspect.isclass(program) else "no function, method or module"
        raise UserError(f"{word} is {what}")


def _signature(program: Any) -> inspect.Signature:
    """Return the arguments of a program; an AutoGuide takes its model's."""
    if isinstance(program, AutoGuide):
        return _signature(program.model)
    return inspect.signature(program.forward if isinstance(program, torch.nn.Module) else program)


def _check_takes(program: Any, word: str, arguments: dict[str, Any]) -> None:
    try:
        signature = _signature(program)
    except (TypeError, ValueError):  # of a callable that does not tell
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        given = ", ".join(arguments) or "no arguments"
        raise UserError(f"{word}{signature} does not take the arrays of the data, {given}: {error}") from None


def read_arguments(path: Path, model: Program) -> dict[str, Any]:
    """Read arguments by name from a .npz or a .csv file.

    The columns of a .csv file that have names of the model's arguments are passed under these, whole numbers as
    integers; where none has, and the model needs one argument, it gets the whole table, [rows, columns].

    Raises:
        UserError: the file cannot be read, or holds what is no number.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: _argument(name, arrays[name]) for name in arrays.files}
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                names, *rows = [row for row in csv.reader(file) if row]
                return _of_table(path, names, rows, model)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or first_line(error)}") from None
    except (ValueError, IndexError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from None
    raise UserError(f"`data={path}`: give a .npz file with an array for each argument, or a .csv file")


def _argument(name: str, array: np.ndarray) -> Any:
    if array.ndim == 0:
        return array.item()
    if array.dtype.kind not in "biuf":
        raise UserError(f"the array {name!r} of the data is of {array.dtype}: give numbers")
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if array.dtype.kind == "f":
        return tensor.to(torch.get_default_dtype())
    return tensor if array.dtype.kind == "b" else tensor.long()


def _of_table(path: Path, names: list[str], rows: list[list[str]], model: Program) -> dict[str, Any]:
    columns = {name.strip(): [row[k].strip() for row in rows] for k, name in enumerate(names)}
    parameters = _signature(model).parameters
    taken = {name: cells for name, cells in columns.items() if name in parameters}
    if taken:
        return {name: _numbers(path, name, cells) for name, cells in taken.items()}
    needed = [each.name for each in parameters.values() if each.default is inspect.Parameter.empty]
    if len(needed) != 1:
        advice = nearest(next(iter(columns)), parameters)
        raise UserError(f"no column of {path} is an argument of the model, {', '.join(parameters)}: {advice}")
    numbers = [_numbers(path, name, cells).to(torch.get_default_dtype()) for name, cells in columns.items()]
    return {needed[0]: torch.stack(numbers, -1)}


def _numbers(path: Path, name: str, cells: list[str]) -> Tensor:
    """Convert the cells of a column: integers where all are, else floating point, with NaN where a cell is empty."""
    try:
        if all(cell.lstrip("+-").isdigit() for cell in cells):
            return torch.tensor([int(cell) for cell in cells])
        return torch.tensor([float(cell or "nan") for cell in cells])
    except ValueError as error:
        raise UserError(f"the column {name!r} of {path} holds no number: {first_line(error)}") from None


class _FromStore(Messenger):
    """Copy loaded parameters into the modules that register them (`pyro.module`, `PyroModule`) under their names."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[str] = set()

    def _pyro_post_param(self, msg: Any) -> None:
        self.used.add(msg["name"])
        own = msg["args"][1] if len(msg["args"]) > 1 else None
        if isinstance(own, torch.nn.Parameter) and own.shape == msg["value"].shape:
            own.data.copy_(msg["value"].data)


def _load_params(path: Path, model: Program, guide: Program | None, arguments: dict[str, Any]) -> None:
    """Load parameters from a file into the parameter store, or into modules.

    Raises:
        UserError: the file cannot be read without running code from it, or its parameters are not the pair's.
    """
    known: list[Any] = [kind for kind in vars(constraints).values() if inspect.isclass(kind)]
    known += [type(kind) for kind in vars(constraints).values() if isinstance(kind, constraints.Constraint)]
    try:
        with torch.serialization.safe_globals(known):
            state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many for a file that is none of its own
        raise UserError(f"`params={path}` cannot be loaded ({first_line(error)})") from None
    if not isinstance(state, dict):
        raise UserError(f"`params={path}` holds {type(state).__name__}: save a parameter store or a state dict")
    programs = {"model": model} | ({} if guide is None else {"guide": guide})
    if state.keys() == {"params", "constraints"}:
        pyro.get_param_store().set_state(state)  # type: ignore[arg-type]
        _run(programs.values(), arguments, handler := _FromStore())
        if unused := sorted(set(state["params"]) - handler.used):
            raise UserError(f"`params={path}`: no program has the parameter {unused[0]!r}")
        return
    _run(programs.values(), arguments, Messenger())  # an AutoGuide makes its parameters now
    if state.keys() <= {"model", "guide"}:
        for name, of_module in state.items():
            _load_into(modules_of(programs.get(name)), of_module, path)
    else:
        _load_into(modules_of(*programs.values()), state, path)


def _run(programs: Any, arguments: dict[str, Any], handler: Messenger) -> None:
    for program in programs:
        with eval_mode(program), pyro.poutine.trace(), handler:
            program(**arguments)


def _load_into(modules: list[torch.nn.Module], state: dict[str, Tensor], path: Path) -> None:
    """Load a state dict into the one module that has its names."""
    fitting = [module for module in modules if module.state_dict().keys() == state.keys()]
    if len(fitting) != 1:
        names = ", ".join(list(state)[:3])
        raise UserError(
            f"`params={path}`: {len(fitting)} modules of the programs have its parameters, {names}, ...; save "
            "{'model': model.state_dict(), 'guide': guide.state_dict()}, or the parameter store"
        )
    try:
        fitting[0].load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"`params={path}`: {first_line(error)}") from None
