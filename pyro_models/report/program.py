"""What torch does to a tensor, written down so that a page can do it again without Python."""

import base64
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pyro_models.base.errors import UserError

LARGE = 10_000  # numbers in a weight; what is smaller, as a grid of pixels, stays exact
BLOCK = 64  # numbers of 8 bits that share a scale


class Recorder(TorchDispatchMode):
    """Write down each operation of torch (ATen) on some tensors, and on what comes of them.

    All else is a constant. A view is no operation: it is read by its strides out of the memory that it shares. Control
    flow is recorded as it went, and so must not depend on values.

    Args:
        inputs: where to start from, by name; contiguous.
        bits: of each number in a large constant: 32, 16 or 8. The operations run with these too, so that their results
            are what the page will compute.

    Raises:
        UserError: an operation asks for values, or writes into a part of a tensor.
    """

    def __init__(self, inputs: Mapping[str, Tensor], bits: int = 32):
        super().__init__()
        self.bits = bits
        self.rounded: dict[Any, Tensor] = {}
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
            args, kwargs = tree_map(self._rounded, (args, kwargs or {}))
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

    def _rounded(self, value: Any) -> Any:
        """Return a large constant as its bits hold it, and all else as it is."""
        exact = not isinstance(value, Tensor) or value.numel() < LARGE or not value.is_floating_point()
        if self.bits == 32 or exact or _address(value) in self.memory:
            return value
        key = _key(value)
        if key not in self.rounded:
            self.kept.append(value)
            self.rounded[key] = unpacked(packed(value, self.bits), value.shape).to(value)
        return self.rounded[key]

    def _refer(self, value: Any) -> Any:
        """Return what stands for an argument: of a tensor, in whose memory it lies and how."""
        if isinstance(value, list | tuple):
            return [self._refer(item) for item in value]
        if not isinstance(value, Tensor):
            return value if isinstance(value, int | float | str | None) else str(value)
        reference: dict[str, Any] = {"shape": list(value.shape)}
        if _address(value) not in self.memory:
            if (key := _key(value)) not in self.known:
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
        constants = {number: value for number, value in self.constants.items() if number in needed}
        return {
            "calls": [{"number": number} | call for number, call in self.calls.items() if number in needed],
            "constants": {
                number: packed(value, self.bits if value.numel() >= LARGE else 32)
                for number, value in constants.items()
            },
            "outputs": references,
        }


def packed(value: Tensor, bits: int = 32) -> dict[str, str]:
    """Return numbers as base64 of little-endian ones, by their type.

    They are float16 where that loses nothing or 16 bits are wanted, else float32; of 8 bits each is a whole number
    times the scale, in float16, of its block of 64.
    """
    single = value.detach().to("cpu", torch.float32)
    if bits == 8:
        blocks = F.pad(single.flatten(), (0, -value.numel() % BLOCK)).reshape(-1, BLOCK)
        scales = (blocks.abs().amax(1, keepdim=True) / 127).half().clamp(min=2**-24)
        steps = (blocks / scales.float()).round().clamp(-127, 127).flatten()[: value.numel()]
        return {"int8": _base64(steps, "<i1"), "scales": _base64(scales, "<f2")}
    kind = "float16" if bits == 16 or torch.equal(single.half().float(), single) else "float32"
    return {kind: _base64(single, {"float16": "<f2", "float32": "<f4"}[kind])}


def unpacked(numbers: Mapping[str, str], shape: Sequence[int]) -> Tensor:
    """Return the numbers that `packed` wrote, in float32: [*shape]."""
    kind, text = next(iter(numbers.items()))
    dtype = {"int8": "<i1", "float16": "<f2", "float32": "<f4"}[kind]
    values = torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype).astype("f4"))
    if kind == "int8":
        scales = unpacked({"float16": numbers["scales"]}, [-1])
        values = values * scales.repeat_interleave(BLOCK)[: len(values)]
    return values.reshape(*shape)


def _base64(value: Tensor, dtype: str) -> str:
    return base64.b64encode(value.numpy().astype(dtype).tobytes()).decode()


def _key(value: Tensor) -> Any:
    return _address(value), value.storage_offset(), value.shape, value.stride(), value._version


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _is_whole(value: Tensor) -> bool:
    """Whether a tensor is all of its memory, in order."""
    return value.is_contiguous() and value.untyped_storage().nbytes() == value.numel() * value.element_size()
