"""Batches as dicts of tensors, sliced from tensors that already sit on the device."""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from pyro_models.base.names import PixelMode
from pyro_models.base.seeds import derived_seed
from pyro_models.data.attributes import Attribute, one_hot_attributes
from pyro_models.data.labels import one_hot
from pyro_models.data.mapped import MappedRows
from pyro_models.data.split import Split

ToBatch = Callable[[Split], dict[str, Tensor]]
"""From rows of a split to the arguments that a model and its guide are called with."""


def to_float(x: Tensor | MappedRows, pixels: PixelMode) -> Tensor:
    """Convert bytes [batch, *image] to floats in [0, 1]; rows of a table, floats already, keep their values.

    Under the pixel mode `dynamic` each pixel is drawn anew: a byte v becomes 1 with probability v / 255 exactly, as v
    of the 255 equally likely bytes lie below it.

    >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8), "grey")
    tensor([0.0000, 0.2000, 1.0000])
    """
    if isinstance(x, MappedRows):
        x = x.load()
    if x.is_floating_point():
        return x.to(torch.get_default_dtype())
    if pixels == "dynamic":
        draws = torch.randint(0, 255, x.shape, dtype=torch.uint8, device=x.device)
        return (draws < x).to(torch.get_default_dtype())
    return x.to(torch.get_default_dtype()).div_(255)


def batch_of(
    split: Split, pixels: PixelMode, attributes: tuple[Attribute, ...] = (), classes: int = 0
) -> dict[str, Tensor]:
    """Convert a whole split to one batch.

    >>> split = Split(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), labels=torch.tensor([0, 2]))
    >>> batch = batch_of(split, "grey", classes=3)
    >>> {name: tuple(value.shape) for name, value in batch.items()}
    {'x': (2, 1, 8, 8), 'y': (2, 3)}

    Args:
        split: the data.
        pixels: the pixel mode.
        attributes: those of the data set, where a batch is to hold them.
        classes: how many labels there are, where a batch is to hold them.

    Returns:
        `x`, [n, *shape]; of attributes `y1`, `y2`, ..., [n, size], NaN where missing; of labels `y`, [n, classes].

    Raises:
        ValueError: attributes or labels of a split that has none.
    """
    batch = {"x": to_float(split.x, pixels)}
    if attributes:
        if split.attributes is None:
            raise ValueError("`attributes` are asked for, and the split has none")
        batch |= one_hot_attributes(attributes, split.attributes)
    if classes:
        if split.labels is None:
            raise ValueError("`classes` are asked for, and the split has no labels")
        batch["y"] = one_hot(split.labels, classes)
    return batch


@dataclass(frozen=True)
class Batches:
    """Shuffled batches of one split, all of one size.

    The order depends on the seed and the epoch alone. An epoch takes whole batches; the rows left over get their turn
    in other epochs, whose order differs. An epoch of more steps than the split has batches goes round it again, in
    another order each time. Of several processes, each takes its share of every batch.

    >>> split = Split(torch.arange(10.0)[:, None])
    >>> batches = Batches(split, size=4, to_batch=lambda rows: {"x": rows.x})
    >>> [tuple(batch["x"].shape) for batch in batches.epoch(0)]
    [(4, 1), (4, 1)]

    Attributes:
        split: the data.
        size: rows in a batch, over all processes.
        to_batch: from rows of the split to a batch.
        seed: of the order.
        rank, processes: which process this is, and of how many.
        steps: in an epoch; None makes as many as the split has whole batches.
        labelled: data with labels, which every step sees beside the others: all of them in every process or, where they
            are more than `size`, a batch of them, shared among the processes.
        to_labelled: from rows of `labelled` to their part of a batch, its names without `labelled_`; None takes
            `to_batch`.
    """

    split: Split
    _: KW_ONLY
    size: int
    to_batch: ToBatch
    seed: int = 0
    rank: int = 0
    processes: int = 1
    steps: int | None = None
    labelled: Split | None = None
    to_labelled: ToBatch | None = None

    def __len__(self) -> int:
        return len(self.split) // self.size if self.steps is None else self.steps

    def epoch(self, number: int) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of an epoch, `size / processes` rows each; what `to_labelled` returns as `labelled_...`."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", number))
        rounds = -(-len(self) * self.size // len(self.split))
        orders = [torch.randperm(len(self.split), generator=generator) for _ in range(rounds)]
        order = (torch.cat(orders) if rounds > 1 else orders[0]).to(self.split.x.device)
        share = self.size // self.processes
        for start in range(self.rank * share, len(self) * self.size, self.size):
            batch = self.to_batch(self.split[order[start : start + share]])
            yield batch if self.labelled is None else batch | self._labelled(self.labelled, generator)

    def _labelled(self, rows: Split, generator: torch.Generator) -> dict[str, Tensor]:
        if len(rows) > self.size:
            share = self.size // self.processes
            mine = torch.randperm(len(rows), generator=generator)[self.rank * share :][:share]
            rows = rows[mine.to(rows.x.device)]
        return {f"labelled_{name}": value for name, value in (self.to_labelled or self.to_batch)(rows).items()}
