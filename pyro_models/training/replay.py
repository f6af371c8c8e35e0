"""A graph of a step as a CUDA graph: the same kernels, which a GPU starts by itself after one call."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from pyro_models.base.errors import first_line
from pyro_models.training.capture import ATEN, Graph, Uncapturable, is_random

TAKE_SCALARS = {ATEN.index_put.default, ATEN.index_put_.default}  # of the host, beside the pointwise operations
COPY_SCALARS = {ATEN.where.self, ATEN.copy_.default}  # though they are pointwise


def replayed(graph: Graph, moving: list[Tensor]) -> Graph:
    """Return the graph as a CUDA graph, after a run of it; inputs that move are copied to where the first ones lay.

    Args:
        graph: of a step that is trained on one GPU.
        moving: what it is called with.

    Raises:
        Uncapturable: it waits for the GPU, or copies from the host.
    """
    device = graph.inputs[0].device
    copies = [each.to(device, copy=True) for each in moving]

    def record() -> tuple[list[int], torch.cuda.CUDAGraph, list[Tensor | None]]:
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.no_grad(), torch.cuda.graph(recorded):
            values = graph.run(*graph.inputs, *copies)
        return _addresses(graph.inputs), recorded, values

    def run(*inputs: Tensor) -> list[Tensor | None]:
        if last[0][0] != _addresses(graph.inputs):  # an optimiser has put a parameter elsewhere
            last[0] = record()
        for copy, tensor in zip(copies, inputs[len(graph.inputs) :], strict=True):
            copy.copy_(tensor, non_blocking=True)
        _, recorded, values = last[0]
        recorded.replay()
        return values

    try:
        with torch.cuda.device(device), torch.no_grad():
            graph.run(*graph.inputs, *copies)  # makes what kernels keep from run to run
        last = [record()]
    except Exception as error:  # whatever torch raises of an operation that no CUDA graph holds
        raise Uncapturable(first_line(error)) from error
    return replace(graph, run=run)


def _addresses(tensors: list[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def with_constants_on(device: torch.device, graph: Graph) -> Graph:
    """Return the graph with those constants on a GPU that it would copy there from the host, and wait for."""
    module: Any = graph.run.__self__  # type: ignore[attr-defined]
    put_constants(module, device)
    return replace(graph, run=module.forward)


def put_constants(module: fx.GraphModule, device: torch.device) -> None:
    """Put constants on a device where its kernels cannot take them from the host as arguments."""
    known: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(module, str(node.target)).clone()
        if node.op != "call_function" or is_random(node):
            continue
        if _is_on_host(node) and all(each in known for each in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
        elif not _is_on_host(node):
            for each in node.all_input_nodes:
                if each in known and isinstance(known[each], Tensor) and not _takes(node, known[each]):
                    name = f"constant_{len(list(module.buffers()))}"
                    module.register_buffer(name, known[each].to(device))
                    with module.graph.inserting_before(node):
                        node.replace_input_with(each, module.graph.get_attr(name))
    module.graph.eliminate_dead_code()
    module.recompile()


def _is_on_host(node: fx.Node) -> bool:
    tensors = [each for each in tree_leaves(node.meta.get("val")) if isinstance(each, Tensor)]
    return bool(tensors) and all(each.device.type == "cpu" for each in tensors)


def _takes(node: fx.Node, constant: Tensor) -> bool:
    """Whether an operation takes a number of the host as an argument of its kernel."""
    target: Any = node.target
    is_pointwise = torch.Tag.pointwise in getattr(target, "tags", ()) and target not in COPY_SCALARS
    return constant.dim() == 0 and (is_pointwise or target in TAKE_SCALARS)
