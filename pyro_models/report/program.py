"""What torch does to a tensor, written down so that a page can do it again without Python."""

import base64
from collections.abc import Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pyro_models.base.errors import UserError


class Recorder(TorchDispatchMode):
    """Write down each operation of torch (ATen) on some tensors, and on what comes of them.

    All else is a constant. A view is no operation: it is read by its strides out of the memory that it shares. Control
    flow is recorded as it went, and so must not depend on values.

    Args:
        inputs: where to start from, by name; contiguous.

    Raises:
        UserError: an operation asks for values, or writes into a part of a tensor.
    """

    def __init__(self, inputs: Mapping[str, Tensor]):
        super().__init__()
        self.numbers = count(1)
        self.memory: dict[int, Any] = {_address(value): name for name, value in inputs.items()}
        self.calls: dict[Any, dict[str, Any]] = {}
        self.constants: dict[Any, Tensor] = {}
        self.known: dict[Any, int] = {}
        self.kept: list[Any] = [inputs]  # or an address would be given out twice

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Do what is asked for, and write it down where it is done to what is followed."""
        followed = any(_address(tensor) in self.memory for tensor in _tensors((args, kwargs)))
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | (kwargs or {})
        if followed:  # what is referred to is the memory before the operation writes into it
            inputs = [self._refer(given.get(a.name, a.default_value)) for a in func._schema.arguments]
        out = func(*args, **(kwargs or {}))
        self.kept.append(out)
        if not followed:
            return out
        op, in_place = func.overloadpacket.__name__, func._schema.is_mutable
        if not _tensors(out):
            raise UserError(f"it looks at values ({op}), and what it does may depend on them")
        if in_place and not (op.endswith("_") and _is_whole(args[0])):
            raise UserError(f"it writes into a part of a tensor ({op})")
        if not in_place and all(_address(tensor) in self.memory for tensor in _tensors(out)):
            return out
        if not in_place:
            out = tree_map(lambda value: value.contiguous() if isinstance(value, Tensor) else value, out)
            self.kept.append(out)
        first, *others = _tensors(out)
        self.memory |= {_address(other): None for other in others if other.numel()}
        self.memory[_address(first)] = number = next(self.numbers)
        self.calls[number] = {"op": op.removesuffix("_"), "inputs": inputs, "shape": list(first.shape)}
        return out

    def _refer(self, value: Any) -> Any:
        """Return what stands for an argument: of a tensor, in whose memory it lies and how."""
        if isinstance(value, list | tuple):
            return [self._refer(item) for item in value]
        if not isinstance(value, Tensor):
            return value if isinstance(value, int | float | str | None) else str(value)
        reference: dict[str, Any] = {"shape": list(value.shape)}
        if _address(value) not in self.memory:
            key = (_address(value), value.storage_offset(), value.shape, value.stride(), value._version)
            if key not in self.known:
                self.known[key] = next(self.numbers)
                self.constants[self.known[key]] = value.clone(memory_format=torch.contiguous_format)
            return reference | {"of": self.known[key]}
        if (number := self.memory[_address(value)]) is None:
            raise UserError("it uses the second result of an operation")
        strides = {} if _is_whole(value) else {"stride": list(value.stride()), "offset": value.storage_offset()}
        return reference | {"of": number} | strides

    def program(self, outputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return, for JSON, all that gives the outputs.

        Returns:
            `calls` in order, each with its `number`, its `op`, its `inputs` by position and the `shape` of its
            result; `constants` by number, `packed`; `outputs` by name. A tensor is `shape` and `of`, the number or the
            input's name, with `stride` and `offset` unless it is the whole of that as it lies.
        """
        references = {name: self._refer(value) for name, value in outputs.items()}
        needed: set[Any] = set()
        left: list[Any] = [*references.values()]
        while left:
            reference = left.pop()
            left += reference if isinstance(reference, list) else []
            if isinstance(reference, dict) and reference["of"] not in needed:
                needed.add(reference["of"])
                left += self.calls.get(reference["of"], {}).get("inputs", [])
        return {
            "calls": [{"number": number} | call for number, call in self.calls.items() if number in needed],
            "constants": {number: packed(value) for number, value in self.constants.items() if number in needed},
            "outputs": references,
        }


def packed(value: Tensor) -> dict[str, str]:
    """Return numbers as base64 of little-endian floats, by their type: float16 where that loses nothing, or float32."""
    single = value.to("cpu", torch.float32)
    kind = "float16" if torch.equal(single.half().float(), single) else "float32"
    numbers = single.numpy().astype({"float16": "<f2", "float32": "<f4"}[kind])
    return {kind: base64.b64encode(numbers.tobytes()).decode()}


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _is_whole(value: Tensor) -> bool:
    """Whether a tensor is all of its memory, in order."""
    return value.is_contiguous() and value.untyped_storage().nbytes() == value.numel() * value.element_size()
