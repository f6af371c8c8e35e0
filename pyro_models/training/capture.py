"""A training step as one graph of tensors: draws, terms and gradients, without the programs that they come from.

A step of any pair is traced on stand-ins that hold no numbers, so that a step which reads a value back to the host has
no graph. Inputs of the graph are parameters, buffers, the batch, and those numbers of the objective that move over a
run, such as a temperature; all else is fixed in it. A batch of another shape, an objective of another form, or a change
in what the pair holds between two epochs, leads to another graph. Before its first use a graph has to agree with the
step as it is, on the same batch with the same noise: in terms, gradients, buffers, and the random state afterwards.

Run operation by operation, a graph gives the very bits of the step. Compiled by Inductor, which fuses the elementwise
ones, it rounds otherwise; torch then draws the noise ahead of the compiled part, in the order of the step.
"""

import copy
import logging
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import pyro
import torch
import torch.distributed as dist
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_models.base.errors import first_line
from pyro_models.objectives import Objective, Program, is_of_pyro, modules_of
from pyro_models.objectives.programs import is_filled, reachable

ATEN = torch.ops.aten
LIKE = {ATEN.empty_like.default, ATEN.rand_like.default, ATEN.randn_like.default, ATEN.new_empty.default}
CONTAINERS = (Mapping, list, tuple, set, frozenset, partial, types.FunctionType, types.MethodType)
ADAM = "exp_avg", "exp_avg_sq", "step"  # what it keeps of each weight
PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, types.MethodType)

log = logging.getLogger("pyro_models")


class Uncapturable(Exception):
    """A step has no graph that computes the same, for the reason in the message."""


@torch.library.custom_op("pyro_models::get_random_state", mutates_args=())
def _get_random_state() -> Tensor:
    return torch.default_generator.get_state()


@torch.library.custom_op("pyro_models::set_random_state", mutates_args=())
def _set_random_state(state: Tensor) -> None:
    torch.default_generator.set_state(state)


_get_random_state.register_fake(lambda: torch.empty(len(torch.default_generator.get_state()), dtype=torch.uint8))
_set_random_state.register_fake(lambda state: None)
RANDOM_STATE = torch.ops.pyro_models.get_random_state.default, torch.ops.pyro_models.set_random_state.default
for _operation in RANDOM_STATE:
    fx.node.has_side_effect(_operation)


def walk(thing: Any, leaf: Callable[[Any], Any], within: tuple[int, ...] = ()) -> Any:
    """Rebuild containers, partials and functions with `leaf` of everything else that they hold.

    >>> values = []
    >>> walk({"a": [1.0, "b"], "c": partial(round, 2.5)}, lambda each: values.append(each) or each)["a"], values
    ([1.0, 'b'], [1.0, 'b', <built-in function round>, 2.5])
    """
    if id(thing) in within:
        return leaf(thing)
    go = partial(walk, leaf=leaf, within=(*within, id(thing)))
    if isinstance(thing, Mapping):
        return {key: go(value) for key, value in thing.items()}
    if type(thing) in (list, tuple):
        return type(thing)(map(go, thing))
    if type(thing) is partial:
        return partial(go(thing.func), *map(go, thing.args), **go(thing.keywords))
    if type(thing) is types.FunctionType and all(map(is_filled, thing.__closure__ or ())):
        leaf(thing.__code__)
        cells = tuple(types.CellType(go(cell.cell_contents)) for cell in thing.__closure__ or ())
        made = types.FunctionType(thing.__code__, thing.__globals__, thing.__name__, go(thing.__defaults__), cells)
        made.__kwdefaults__ = go(thing.__kwdefaults__)
        made.__dict__.update(thing.__dict__)
        return made
    return leaf(thing)


def leaves(thing: Any) -> list[Any]:
    """Return the leaves that `walk` meets."""
    values: list[Any] = []

    def keep(each: Any) -> Any:
        values.append(each)
        return each

    walk(thing, keep)
    return values


def state_of(*programs: Any) -> list[Any]:
    """Return what a pair holds and could change from one step to the next: flags, numbers, functions, tensors."""
    values: list[Any] = [*_PYRO_STACK, torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()]
    values += [torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")]
    owned = {id(tensor) for tensor in tensors_of(*programs)}
    visited: dict[int, Any] = {}
    queue = list(programs)
    while queue:
        each = queue.pop()
        if each is None or type(each) in (bool, int, float, str):  # the commonest first, of thousands
            values.append(each)
        elif type(each) in (dict, OrderedDict) and not each:
            continue
        elif isinstance(each, Tensor):
            values += [each, each.requires_grad, None if id(each) in owned else each._version]
        elif isinstance(each, nn.Module) and id(each) not in visited:
            of_pyro = is_of_pyro(each)  # such a guide makes plates anew in each call
            queue += [each.training, each._parameters, each._buffers, each._modules] if of_pyro else vars(each).values()
            visited[id(each)] = each
        elif id(each) not in visited:
            own = type(each).__module__.split(".")[0] not in sys.stdlib_module_names
            children = list(reachable(each)) if own or isinstance(each, CONTAINERS) else []
            queue += children
            if children:
                visited[id(each)] = each
            elif not isinstance(each, CONTAINERS):
                values.append(each)
    return values


def same(ours: list[Any], theirs: list[Any]) -> bool:
    """Return whether two lists hold the same objects, or equal ones where these are plain."""
    return len(ours) == len(theirs) and all(map(_same, ours, theirs))


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, PLAIN) and bool(a == b))


def tensors_of(*programs: Any) -> list[Tensor]:
    """Return the parameters and buffers of the modules that programs reach, and of Pyro's store."""
    modules = modules_of(*programs)
    values = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    stored: list[Any] = list(pyro.get_param_store().values())
    values += [value.unconstrained() for value in stored]
    return list({id(tensor): tensor for tensor in values}.values())


@contextmanager
def _replaced(programs: tuple[Any, ...], stand_ins: dict[int, Tensor]) -> Iterator[None]:
    """Put other tensors, by identity, in the place of parameters and buffers, and of those in Pyro's store."""
    parts = [part for module in modules_of(*programs) for part in module.modules()]
    tables = [table for part in parts for table in (part._parameters, part._buffers)]
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = [(table, dict(table)) for table in tables]
    store = pyro.get_param_store()
    state = store.get_state()
    params: Any = {name: stand_ins.get(id(value), value) for name, value in state["params"].items()}
    try:
        for table, values in kept:
            table.update({name: stand_ins.get(id(value), value) for name, value in values.items()})
        with store.scope({"params": params, "constraints": state["constraints"]}):
            yield
    finally:
        for table, values in kept:
            table.update(values)


@contextmanager
def _recorded_random_state() -> Iterator[None]:
    """Let the graph hold how a step sets torch's random state; refuse what it cannot hold."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise Uncapturable("it seeds a random generator, or sets the random state of a GPU")

    patched: dict[tuple[Any, str], Any] = {
        (torch, "get_rng_state"): _get_random_state,
        (torch, "set_rng_state"): _set_random_state,
    }
    patched |= dict.fromkeys([(torch, "manual_seed"), (torch, "seed"), (torch.cuda, "set_rng_state")], refuse)
    kept = {(owner, name): getattr(owner, name) for owner, name in patched}
    try:
        for (owner, name), function in patched.items():
            setattr(owner, name, function)
        yield
    finally:
        for (owner, name), function in kept.items():
            setattr(owner, name, function)


@dataclass
class Graph:
    """The graph of a step.

    Attributes:
        run: from `inputs`, the tensors of the batch and the moving numbers to the terms and the gradients.
        inputs: parameters and buffers.
        names: of the terms.
        trained: what the gradients are of; a tensor on which the loss does not depend has None.
        compiled: whether Inductor compiled it.
        stepped: whether it makes the optimiser's step too.
    """

    run: Callable[..., list[Tensor | None]]
    inputs: list[Tensor]
    names: list[str]
    trained: list[Tensor]
    compiled: bool = False
    stepped: bool = False

    def __call__(self, moving: list[Tensor]) -> dict[str, Tensor]:
        """Run it, and leave the gradients where an optimiser expects them."""
        with torch.no_grad():
            values = self.run(*self.inputs, *moving)
        for tensor, gradient in zip(self.trained, values[len(self.names) :], strict=True):
            tensor.grad = gradient
        return dict(zip(self.names, values, strict=False))  # type: ignore[arg-type]


def trace(
    model: Program, guide: Program, objective: Objective, call: Any, moves: set[int], trained: list[Tensor]
) -> Graph:
    """Trace a step into a graph of the operations of torch.

    Args:
        model, guide: the pair.
        objective: of this step.
        call: positional and keyword arguments of the pair.
        moves: which of the numbers in `leaves(objective)` are inputs.
        trained: the parameters.

    Raises:
        Uncapturable: the step reads a value, or for another reason.
    """
    programs = (model, guide, objective)
    owned = tensors_of(*programs)
    if not {id(tensor) for tensor in trained} <= {id(tensor) for tensor in owned}:
        raise Uncapturable("it trains a tensor that is in no module")
    for each in leaves(call):
        if not (each is None or isinstance(each, (Tensor, *PLAIN))):
            raise Uncapturable(f"it is called with a {type(each).__name__}, which may change")
    names: list[str] = []

    def step(*tensors: Tensor) -> list[Tensor | None]:
        stand_ins = {id(tensor): stand_in for tensor, stand_in in zip(owned, tensors, strict=False)}
        given = iter(tensors[len(owned) :])
        args, kwargs = walk(call, lambda each: next(given) if isinstance(each, Tensor) else each)
        position = count()
        here = walk(objective, lambda each: next(given) if next(position) in moves else each) if moves else objective
        with _replaced(programs, stand_ins), pyro.validation_enabled(False):
            terms = here(model, guide, *args, **kwargs)
            parameters = [stand_ins[id(tensor)] for tensor in trained]
            gradients = torch.autograd.grad(terms["loss"], parameters, allow_unused=True)
        names[:] = terms
        return [*(term.detach() for term in terms.values()), *map(_own, gradients, parameters)]

    inputs = [*owned, *moving(objective, call, moves)]
    try:
        with _recorded_random_state():
            module = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    except Exception as error:  # whatever torch, Pyro or the programs raise on tensors without values
        raise Uncapturable(_reason(error)) from error
    _tidy(module)
    return Graph(module.forward, owned, names, trained)


def moving(objective: Objective, call: Any, moves: set[int]) -> list[Tensor]:
    """Return what a graph is given anew in each step: the tensors of the batch, and the numbers that move."""
    tensors = [each for each in leaves(call) if isinstance(each, Tensor)]
    numbers = leaves(objective) if moves else []
    return tensors + [torch.tensor(number) for k, number in enumerate(numbers) if k in moves]


def _own(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """A gradient as `backward` leaves it: with the layout of the parameter, and in memory of its own."""
    if gradient is None or (gradient._base is None and gradient.stride() == parameter.stride()):
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _reason(error: Exception) -> str:
    text = f"{type(error).__name__}: {first_line(error)}"
    reads = ("DataDependent", "GuardOnDataDependent", "_local_scalar_dense", ".numpy()", "data pointer", "tolist")
    return f"it reads a value of a tensor ({text})" if any(word in text for word in reads) else text


def _tidy(module: fx.GraphModule) -> None:
    """Take out operations that compute nothing."""
    for node in module.graph.nodes:
        if node.target in (ATEN.alias.default, ATEN.detach.default):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def compiled(graph: Graph, optimizer: torch.optim.Optimizer) -> Graph:
    """Return the graph as Inductor compiles it when it first runs, its noise drawn by torch ahead of that.

    With a plain Adam on the CPU it makes the optimiser's step too, while gradients are in the processor's cache. The
    optimiser has to have its state before it runs.

    Raises:
        Uncapturable: its noise depends on data, and the random state is set between the draws.
    """
    module: Any = graph.run.__self__  # type: ignore[attr-defined]
    noise, rest = _without_noise(module)
    if noise is None and any(node.target in RANDOM_STATE for node in rest.graph.nodes):
        raise Uncapturable("its noise depends on data, and it sets the random state between the draws")
    state_of_adam = _with_adam(graph, rest, optimizer) if _is_plain_adam(optimizer) else None
    faster = torch.compile(rest, fullgraph=True, dynamic=False, options={"fallback_random": True})
    drawn, state = noise or list, state_of_adam or list

    def run(*inputs: Tensor) -> list[Tensor | None]:
        values: list[Tensor | None] = faster(*inputs, *drawn(), *state())
        return values

    return replace(graph, run=run, compiled=True, stepped=state_of_adam is not None)


def _is_plain_adam(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimiser's step is that of Adam on the CPU, in one process, with nothing around it."""
    off = ("weight_decay", "amsgrad", "maximize", "capturable", "differentiable")
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks or "step" in vars(optimizer)
    return (
        type(optimizer) is torch.optim.Adam
        and not (hooks or dist.is_initialized())
        and not any(group[name] for group in optimizer.param_groups for name in off)
        and all(weight.device.type == "cpu" for group in optimizer.param_groups for weight in group["params"])
    )


def _with_adam(graph: Graph, module: fx.GraphModule, optimizer: torch.optim.Optimizer) -> Callable[[], list[Tensor]]:
    """Put Adam's step into a graph that returns gradients (Kingma and Ba, 2015, algorithm 1).

    Returns:
        what returns the further inputs that it takes in each step.
    """
    body, tracer = module.graph, fx.proxy.GraphAppendingTracer(module.graph)
    weights = [node for node in body.nodes if node.op == "placeholder"][: len(graph.inputs)]
    start = next(node for node in body.nodes if node.op != "placeholder")
    output: Any = next(iter(reversed(body.nodes)))
    nodes = {id(tensor): node for tensor, node in zip(graph.inputs, weights, strict=True)}
    values, count = output.args[0], len(graph.names)
    slopes = {id(tensor): node for tensor, node in zip(graph.trained, values[count:], strict=True) if node is not None}
    groups = [(group, [p for p in group["params"] if id(p) in slopes]) for group in optimizer.param_groups]

    def given(name: str) -> Any:
        with body.inserting_before(start):
            return fx.Proxy(body.placeholder(name), tracer)

    for number, (group, trained) in enumerate(groups):
        size, root, (beta1, beta2) = given(f"size_{number}"), given(f"root_{number}"), group["betas"]
        for k, weight in enumerate(trained):
            mean, square, steps = (given(f"{name}_{number}_{k}") for name in ADAM)
            with body.inserting_before(output):
                value, slope = (fx.Proxy(each[id(weight)], tracer) for each in (nodes, slopes))
                mean.lerp_(slope, 1.0 - beta1)
                square.mul_(beta2).addcmul_(slope, slope, value=1.0 - beta2)
                value.sub_(size * mean / (square.sqrt() / root + group["eps"]))
                steps.add_(1.0)
    module.recompile()

    def state() -> list[Tensor]:
        tensors = []
        for group, trained in groups:
            steps = float(optimizer.state[trained[0]]["step"]) + 1.0 if trained else 1.0
            corrections = [1.0 - beta**steps for beta in group["betas"]]
            tensors += [torch.tensor(float(group["lr"]) / corrections[0]), torch.tensor(corrections[1] ** 0.5)]
            tensors += [optimizer.state[weight][name] for weight in trained for name in ADAM]
        return tensors

    return state


def _without_noise(module: fx.GraphModule) -> tuple[Callable[[], list[Tensor]] | None, fx.GraphModule]:
    """Split a graph into one that draws its noise and one that takes that as further inputs.

    Returns:
        None and the whole, where no noise is drawn, or the distribution of some of it depends on the inputs.
    """
    rest = copy.deepcopy(module)
    for node in rest.graph.nodes:
        if node.target in LIKE:  # depends on the shape of its input alone
            value = node.meta["val"]
            with rest.graph.inserting_before(node):
                options = {"dtype": value.dtype, "device": value.device}
                shape = tuple(value.shape), tuple(value.stride())
                node.args = rest.graph.call_function(ATEN.empty_strided.default, shape, options), *node.args[1:]
    drawn = [node for node in rest.graph.nodes if _is_random(node)]
    needed = set(drawn)
    for node in reversed(rest.graph.nodes):
        if node in needed:
            needed |= set(node.all_input_nodes)
    if not drawn or any(node.op == "placeholder" for node in needed):
        return None, module
    ahead, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in rest.graph.nodes:
        if node in needed:
            copies[node] = ahead.node_copy(node, copies.__getitem__)
    given = [node for node in drawn if any(user not in needed for user in node.users)]
    ahead.output([copies[node] for node in given])
    first = next(node for node in rest.graph.nodes if node.op != "placeholder")
    for node in given:
        with rest.graph.inserting_before(first):
            node.replace_all_uses_with(rest.graph.placeholder(node.name), lambda user: user not in needed)
    for node in reversed(rest.graph.nodes):
        if node in needed and not node.users:
            rest.graph.erase_node(node)
    rest.recompile()
    return fx.GraphModule(module, ahead).forward, rest


def _is_random(node: fx.Node) -> bool:
    return node.target in RANDOM_STATE or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
