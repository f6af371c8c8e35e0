"""What a training loop goes through: batches, whatever form the data come in."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from pyro_models.base.errors import UserError, first_line
from pyro_models.base.seeds import derived_seed
from pyro_models.data import Batches, Split, batch_of
from pyro_models.objectives import Program, arguments, frozen_statistics, modules_of, run_pair
from pyro_models.objectives.draws import data_plate, reads_other_rows

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call of a pair."""


class Source(Protocol):
    """Batches of each epoch, for one of several processes."""

    @property
    def rank(self) -> int:
        """Return the number of the process."""

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""

    def epoch(self, number: int) -> Iterator[Call]:
        """Yield the batches of an epoch."""


@dataclass(frozen=True)
class OfBatches:
    """The batches of a `Batches`."""

    batches: Batches

    @property
    def rank(self) -> int:
        """Return that of the batches."""
        return self.batches.rank

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int) -> Iterator[Call]:
        """Yield them."""
        return (((), batch) for batch in self.batches.epoch(number))


@dataclass(frozen=True)
class Listed:
    """Batches from a `DataLoader`, or from a list, which is gone through in its own order each time."""

    batches: Any
    rank: int = 0

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int) -> Iterator[Call]:
        """Yield them as arguments."""
        for batch in self.batches:
            yield arguments(tuple(batch) if isinstance(batch, list) else batch)


@dataclass(frozen=True)
class Rows:
    """Shuffled batches of rows of some arguments; the others are the same in each batch."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    length: int
    size: int
    seed: int
    rank: int = 0

    def __len__(self) -> int:
        return self.length // self.size

    def epoch(self, number: int) -> Iterator[Call]:
        """Yield whole batches, in an order of this epoch's own."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", number))
        order = torch.randperm(self.length, generator=generator)
        for step in range(len(self)):
            yield self.rows(order[step * self.size : (step + 1) * self.size])

    def rows(self, index: Tensor) -> Call:
        """Return the arguments with these rows of each tensor that has as many."""
        return tuple(self._take(value, index) for value in self.args), {
            name: self._take(value, index) for name, value in self.kwargs.items()
        }

    def _take(self, value: Any, index: Tensor) -> Any:
        if _length(value) != self.length:
            return value
        if isinstance(value, np.ndarray):
            return torch.from_numpy(np.ascontiguousarray(value[index.numpy()]))  # a copy, also of what lies in a file
        return value[index.to(value.device)]


def as_source(model: Program, guide: Program, data: Any, batch_size: int | None, seed: int) -> Source:
    """Return the batches of the forms of data that `fit` takes.

    Raises:
        UserError: the data can be read only once, or cannot be cut into batches of which the objective is a mean.
    """
    if isinstance(data, Split):
        size = len(data) if batch_size is None else batch_size
        data = Batches(data, size=size, to_batch=lambda rows: batch_of(rows, pixels="grey"), seed=seed)
    if isinstance(data, Batches):
        return OfBatches(data)
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Mapping | tuple | Tensor) or data is None:
        call = arguments(() if data is None else data)
        return Listed([call[1] or call[0]]) if batch_size is None else _in_rows(model, guide, *call, batch_size, seed)
    if batch_size is not None:
        raise UserError("`batch_size` goes with data in one piece: a DataLoader or a list has batches of its own")
    if isinstance(data, Iterator) or not isinstance(data, Iterable):
        raise UserError(f"`data` of type {type(data).__name__} can be read once, if at all: give a list of batches")
    try:
        len(data)  # type: ignore[arg-type]
    except TypeError:
        raise UserError(
            f"`data` of type {type(data).__name__} has no length: give it the number of its batches"
        ) from None
    return Listed(data)


def _in_rows(model: Program, guide: Program, args: Any, kwargs: Any, size: int, seed: int) -> Source:
    length = max((_length(value) for value in [*args, *kwargs.values()]), default=0)
    if not 0 < size <= length:
        raise UserError(f"`batch_size={size}`: the longest argument has {length} rows")
    source = Rows(args, kwargs, length, size, seed)
    some_args, some_kwargs = source.rows(torch.arange(size))
    with torch.no_grad(), torch.random.fork_rng(), ExitStack() as frozen:
        for module in modules_of(model, guide):
            frozen.enter_context(frozen_statistics(module))
        try:
            p, q = run_pair(model, guide, *some_args, **some_kwargs)
        except Exception as error:
            raise UserError(f"`batch_size`: the pair does not run on {size} rows: {first_line(error)}") from error
    plate = data_plate([*p.items(), *q.items()], None)
    if plate is None:
        shared = next((name for name, site in q.items() if not site.frames), "of the guide")
        raise UserError(
            f"`batch_size`: site {shared!r} is shared by all data, and the objective of some rows is not that of all: "
            "leave it out, or let the model subsample in its plate (`subsample_size`)"
        )
    if plate.size != size or plate.full_size not in (None, size):
        raise UserError(
            f"`batch_size`: plate {plate.name!r} has {plate.size} elements with {size} rows: give the data whole"
        )
    site = reads_other_rows(
        model, guide, lambda first, last: source.rows(torch.arange(first, last)), min(length, max(size, 4))
    )
    if site:
        raise UserError(f"`batch_size`: site {site!r} depends in a row on the others: give the data whole")
    return source


def _length(value: Any) -> int:
    return len(value) if isinstance(value, Tensor | np.ndarray) and value.ndim else 0
