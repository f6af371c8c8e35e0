"""From which sources each element of each tensor is computed, while a program runs."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

FIRST = ("cat", "stack", "clone", "_to_copy", "repeat", "flip", "roll", "tril", "triu", "diag_embed", "constant_pad_nd")
MOVES = {  # by operation, the positions of the arguments whose elements are moved; all others say where to
    **dict.fromkeys((*FIRST, "index", "index_select", "gather", "masked_select", "take"), (0,)),
    **dict.fromkeys(("copy_", "select_scatter", "slice_scatter"), (0, 1)),
    **dict.fromkeys(("index_put", "index_put_"), (0, 2)),
    **dict.fromkeys(("scatter", "scatter_"), (0, 3)),
    "where": (1, 2),
}
LINEAR = {"sum", "mean", "cumsum", "mm", "bmm", "mv", "dot", "addmm", "baddbmm"}
LIKE_SUMS = {"logsumexp", "amax", "amin"}
LIKE = {f"{name}_like" for name in ("zeros", "ones", "empty", "full", "rand", "randn", "randint")}
OF_SHAPE = LIKE | {"new_zeros", "new_ones", "new_empty", "new_empty_strided", "new_full", "zero_", "is_same_size"}
LEAVE_TORCH = {"numpy", "__array__", "tolist", "__dlpack__", "storage", "untyped_storage", "data_ptr"}
OF_LISTS = {"tensor": 0, "as_tensor": 0, "new_tensor": 1, "new": 1, "Tensor": 0, "FloatTensor": 0}
Source = tuple[str, str]
"""A kind, as `site` or `input`, and a name."""


class Tags(NamedTuple):
    """What an element is computed from.

    Attributes:
        sources: all of these, places in an index and masks included.
        origin: the source that the element is a number of, or a function of with others as its offset, factor or place.
        copied: whether it is that number itself, moved.
    """

    sources: frozenset[Source] = frozenset()
    origin: Source | None = None
    copied: bool = False


class Tracking(TorchDispatchMode):
    """Follow sources through the operations of torch (ATen), element by element.

    Each storage of a tensor that depends on a source has numbers beside it, one an element, which point to `Tags`. So
    views share them, and what is written in place is seen by all of them. Operations that move elements move these
    numbers; those of one element at a time join them; sums and products of matrices join along what they add up; of all
    others each result depends on each element of each argument.

    Attributes:
        lost: the sources of values that are looked at outside torch (`if`, `.item()`, numpy), each with the `time` of
            the first look.
        time: set by the owner.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[Tags] = [Tags()]
        self.numbers: dict[Tags, int] = {Tags(): 0}
        self.memory: dict[
            int, tuple[StorageWeakRef, int, int | Tensor]
        ] = {}  # storage: the size of an element, numbers
        self.lost: dict[Source, int] = {}
        self.copies: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # storage: the copy of a view, it, what it is of
        self.time = 0
        self.paused = False
        self.stack = ExitStack()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Tell torch that nothing is compiled here: it would import its compiler to see to that, for seconds."""
        return False

    def __enter__(self) -> "Tracking":
        self.stack.enter_context(_Calls(self))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.stack.close()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Follow nothing in the meantime."""
        paused, self.paused = self.paused, True
        try:
            with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
                yield
        finally:
            self.paused = paused

    def tag(self, value: Tensor, source: Source) -> None:
        """Make a tensor a source of its own."""
        self._write(value, self._number(Tags(frozenset({source}), source, True)))

    def add(self, value: Tensor, sources: Collection[Source]) -> None:
        """Add sources to those of each element of a tensor."""
        with self.pause():
            self._write(value, self._with(value, sources))

    def of(self, *values: Any) -> Tags:
        """Return what tensors, or structures of them, are computed from, all elements together."""
        with self.pause():
            numbers = {n for value in _tensors(values) for n in self._unique(self._read(value))}
        return _joined([self.tags[n] for n in sorted(numbers)], True) if numbers else Tags()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what is called, and join tags as it joins numbers."""
        kwargs, tensors = kwargs or {}, _tensors((args, kwargs))
        name = func.overloadpacket.__name__
        if self.paused or not tensors:
            return func(*args, **kwargs)
        before = [self._read(tensor) for tensor in tensors]
        if all(isinstance(numbers, int) and numbers == 0 for numbers in before):
            return func(*args, **kwargs)
        storages = {_key(tensor) for tensor in tensors}
        out = func(*args, **kwargs)
        if func._schema.is_mutable:
            pairs = zip(func._schema.arguments, args, strict=False)
            results = [t for argument, arg in pairs if _is_written(argument) for t in _tensors(arg)]
            results += [t for a in func._schema.arguments if _is_written(a) for t in _tensors(kwargs.get(a.name))]
        else:
            results = [tensor for tensor in _tensors(out) if _key(tensor) not in storages]  # the others are views
        if name in OF_SHAPE:
            for result in results:
                self._write(result, 0)
        elif not _tensors(out):
            self._lose(before)
        elif results:
            for result, numbers in zip(results, self._joined(func, name, args, before, results), strict=True):
                self._write(result, numbers)
        if func._schema.is_mutable:
            for result in results:
                self._write_through(result)
        return out

    def at_place(self, name: str, func: Any, value: Tensor, index: Any, *new: Any) -> Any:
        """Read or write at a computed place, `x[k]`, where torch takes the number out of a tensor k.

        What is read depends on all elements; it is a copy then, and what is written to that is written to the element.
        """
        with self.pause():
            places = [i for i in _tensors(index) if _is_place(i) and self._unique(self._read(i)) != [0]]
            index = tree_map(lambda i: int(i) if _is_place(i) else i, index)
        out = func(value, index, *new)
        if places and name == "__setitem__":
            self.add(value, self.of(places, *new).sources)
        elif places:
            out, view, elements = out.clone(), out, self.of(value)
            self.copies[_key(out)] = out, view, value
            with self.pause():
                self._write(out, self._number(elements._replace(sources=elements.sources | self.of(places).sources)))
        return out

    def _write_through(self, written: Tensor) -> None:
        """Write what was written to the copy of an element to that too: any of them may be meant."""
        if _key(written) in self.copies:
            copy, view, value = self.copies[_key(written)]
            with self.pause():
                view.copy_(copy)
            self.add(value, self.of(copy).sources)
            self._write_through(value)

    def _joined(
        self, func: Any, name: str, args: Any, before: list[int | Tensor], results: list[Tensor]
    ) -> Sequence[int | Tensor]:
        """Return the numbers of the results of an operation."""
        uniform = all(isinstance(numbers, int) for numbers in before)
        if name in MOVES:
            moved = {i for i, arg in enumerate(args) if i in MOVES[name]}
            others = _tensors([arg for i, arg in enumerate(args) if i not in moved])
            if all(self._unique(self._read(other)) == [0] for other in others):
                data = [tree_map(self._full, arg) if i in moved else arg for i, arg in enumerate(args)]
                if name == "constant_pad_nd":
                    data[2:] = [0]
                if name in ("clone", "_to_copy"):
                    return [data[0]]
                written = func(*data)
                return [data[0] if func._schema.is_mutable else written]
        if torch.Tag.pointwise in func.tags and len(results) == 1:
            return [self._elementwise(name, before)]
        if name in LINEAR | LIKE_SUMS and not uniform:
            return [self._along_sums(func if name in LINEAR else torch.ops.aten.sum.dim_IntList, args)]
        if name in MOVES and MOVES[name] == (0,):  # as x[k]: any of its elements, at a place that is computed
            elements = self.of(args[0])
            return [self._number(elements._replace(sources=elements.sources | self.of(others).sources))]
        if name in MOVES and MOVES[name][0] == 0:  # as x[k] = y: any of its elements is a new one now, or none
            return [self._with(args[0], self.of(args[1:]).sources)]
        tags = [self.tags[n] for numbers in before for n in self._unique(numbers)]
        return [self._number(_joined(tags))] * len(results)

    def _elementwise(self, name: str, before: list[int | Tensor]) -> int | Tensor:
        """Join the numbers of elements that are computed with each other."""

        def join(numbers: Sequence[int]) -> int:
            tags = [self.tags[n] for n in numbers]
            if name in ("where", "masked_fill"):
                tags = tags[1:] + tags[:1]
            return self._number(_with_origin(name.rstrip("_"), tags))

        if all(isinstance(numbers, int) for numbers in before):
            return join(before)  # type: ignore[arg-type]
        columns = torch.stack(torch.broadcast_tensors(*map(torch.as_tensor, before)))
        return self._by_column(columns, join)

    def _along_sums(self, func: Any, args: Any) -> Tensor:
        """Join the numbers of elements that a sum, or a product of matrices, adds up."""
        leaves, spec = tree_flatten(args)
        at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        full = {i: self._full(leaves[i]) for i in at}
        known = sorted({n for numbers in full.values() for n in self._unique(numbers)} - {0})
        rows = []
        for number in known:
            parts: Any = 0
            for i in at:
                ones = {j: (full[j] == number if j == i else torch.ones_like(full[j])).double() for j in at}
                parts = parts + func(*tree_unflatten([ones.get(j, leaf) for j, leaf in enumerate(leaves)], spec))
            rows.append((parts > 0) * number)
        return self._by_column(
            torch.stack(rows), lambda numbers: self._number(_joined([self.tags[n] for n in numbers]))
        )

    def _by_column(self, columns: Tensor, join: Callable[[Sequence[int]], int]) -> Tensor:
        """Apply a function to each of [k, *shape] numbers, once to those that are the same: [*shape]."""
        different, inverse = columns.reshape(len(columns), -1).unique(dim=1, return_inverse=True)
        return torch.tensor([join(column) for column in different.T.tolist()])[inverse].reshape(columns.shape[1:])

    def _with(self, value: Tensor, sources: Collection[Source]) -> Tensor:
        """Return the numbers of a tensor, sources added to each."""
        added = Tags(frozenset(sources))
        return self._by_column(
            self._full(value)[None], lambda numbers: self._number(_with_origin("where", [self.tags[numbers[0]], added]))
        )

    def _number(self, tags: Tags) -> int:
        if tags not in self.numbers:
            self.numbers[tags] = len(self.tags)
            self.tags.append(tags)
        return self.numbers[tags]

    def _unique(self, numbers: int | Tensor) -> list[int]:
        return [numbers] if isinstance(numbers, int) else numbers.unique().tolist()

    def _lose(self, before: Sequence[int | Tensor]) -> None:
        for numbers in before:
            for n in self._unique(numbers):
                for source in self.tags[n].sources:
                    self.lost.setdefault(source, self.time)

    def _read(self, value: Tensor) -> int | Tensor:
        """Return the number of all elements, or those of each."""
        if value.layout is not torch.strided or (key := _key(value)) not in self.memory:
            return self._number(Tags(frozenset({("weights", "")}))) if value.requires_grad and value.is_leaf else 0
        _, size, numbers = self.memory[key]
        if isinstance(numbers, int):
            return numbers
        if value.element_size() != size:  # the memory read as another type
            return self._number(_joined([self.tags[n] for n in self._unique(numbers)]))
        return numbers.as_strided(value.shape, value.stride(), value.storage_offset())

    def _full(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        numbers = self._read(value)
        return torch.full(value.shape, numbers) if isinstance(numbers, int) else numbers

    def _write(self, value: Tensor, numbers: int | Tensor) -> None:
        """Set the number of all elements, or those of each."""
        if value.layout is not torch.strided:
            return
        if isinstance(numbers, Tensor) and numbers.numel() and bool((numbers == numbers.flatten()[0]).all()):
            numbers = int(numbers.flatten()[0])
        storage, key = value.untyped_storage(), _key(value)
        length = storage.nbytes() // value.element_size()
        if isinstance(numbers, int) and value.numel() == length:
            self.memory[key] = (StorageWeakRef(storage), value.element_size(), numbers)
            return
        _, size, old = self.memory.get(key, (None, value.element_size(), 0))
        if size != value.element_size():
            old = self._number(_joined([self.tags[n] for n in self._unique(old)]))
        if isinstance(old, int):
            old = torch.full((length,), old)
        shape = [size if step else 1 for size, step in zip(value.shape, value.stride(), strict=True)]  # if expanded
        part = old.as_strided(shape, value.stride(), value.storage_offset())
        part.copy_(numbers[tuple(map(slice, shape))] if isinstance(numbers, Tensor) else torch.tensor(numbers))
        self.memory[key] = (StorageWeakRef(storage), value.element_size(), old)


class _Calls(TorchFunctionMode):
    """See what ATen does not: where tensors leave torch, and where a tensor is made of a list of numbers."""

    def __init__(self, tracking: Tracking):
        super().__init__()
        self.tracking = tracking

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs, tracking = getattr(func, "__name__", ""), kwargs or {}, self.tracking
        if tracking.paused:
            return func(*args, **kwargs)
        if name in ("__getitem__", "__setitem__") and any(map(_is_place, _tensors(args[1:2]))):
            return tracking.at_place(name, func, *args)
        if name in LEAVE_TORCH:
            with tracking.pause():
                tracking._lose([tracking._read(tensor) for tensor in _tensors(args)])
                return func(*args, **kwargs)
        if name in ("mul", "pow", "__mul__", "__rmul__", "__pow__") and any(
            type(arg) is float and arg == 0.0 for arg in args
        ):  # as Pyro's reparameterisers write what is not used
            with tracking.pause():
                return func(*args, **kwargs)
        out = func(*args, **kwargs)
        if name in OF_LISTS and len(args) > OF_LISTS[name]:
            with tracking.pause():
                data = args[OF_LISTS[name]]
                leaves = tree_leaves(data) if isinstance(data, list | tuple) else []
                if any(isinstance(leaf, Tensor) for leaf in leaves):
                    numbers = [
                        tracking._unique(tracking._read(leaf))[0] if isinstance(leaf, Tensor) else 0 for leaf in leaves
                    ]
                    if len(numbers) == out.numel():
                        tracking._write(out, torch.tensor(numbers).reshape(out.shape))
        return out


def _joined(tags: Sequence[Tags], copied: bool = False) -> Tags:
    """Join the tags of what is computed together; the origin stays where it is the same of all that have one."""
    origins = {each.origin for each in tags if each.sources}
    sources = frozenset().union(*(each.sources for each in tags))
    if len(origins) == 1 and None not in origins:
        return Tags(sources, origins.pop(), copied and all(each.copied for each in tags))
    return Tags(sources)


def _with_origin(name: str, tags: Sequence[Tags]) -> Tags:
    """Join the tags of one element's operands: an offset, or a factor without sources, changes no origin."""
    sources = frozenset().union(*(each.sources for each in tags))
    first = next((each for each in tags if each.origin and each.origin[0] == "input"), None)
    if first is None or name not in ("add", "sub", "rsub", "div", "where", "masked_fill"):
        return _joined(tags)
    return Tags(sources, first.origin)


def _is_place(value: Any) -> bool:
    """Whether torch reads a part of an index as a number."""
    is_mask = isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8)
    return isinstance(value, Tensor) and not value.ndim and not value.is_floating_point() and not is_mask


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in nested lists, tuples and dictionaries; this is called for each operation."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for part in value if not isinstance(part, int | float | str) for tensor in _tensors(part)]


def _key(value: Tensor) -> int:
    return value.untyped_storage()._cdata if value.layout is torch.strided else id(value)
