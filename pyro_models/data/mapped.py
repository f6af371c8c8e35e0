"""Images that stay in their file: what does not fit in memory is read a batch at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGE = 2**31  # bytes of a .npy file above which its images stay in it


@dataclass(frozen=True)
class MappedRows:
    """Rows of a memory-mapped array in the place of a tensor of bytes: indexing selects, and `load` reads them.

    >>> rows = MappedRows(np.arange(12, dtype=np.uint8).reshape(6, 2), torch.arange(6), torch.from_numpy)
    >>> len(rows), rows.shape, rows[torch.tensor([4, 1])].load().tolist()
    (6, (6, 2), [[8, 9], [2, 3]])

    Attributes:
        source: the array, [n, ...].
        index: which of its rows.
        convert: from rows of the array to bytes.
        device: where loaded rows go.
    """

    source: np.ndarray
    index: Tensor
    convert: Callable[[np.ndarray], Tensor]
    device: torch.device = torch.device("cpu")

    dtype = torch.uint8

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Any) -> "MappedRows":
        return replace(self, index=self.index[index.cpu() if isinstance(index, Tensor) else index])

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, *image]."""
        return (len(self), *self[:1].load().shape[1:])

    def to(self, device: torch.device | str) -> "MappedRows":
        """Return the rows, which go to `device` when they are loaded."""
        return replace(self, device=torch.device(device))

    def split(self, size: int) -> Iterator["MappedRows"]:
        """Yield the rows a part at a time."""
        return (self[first : first + size] for first in range(0, len(self), size))

    def is_floating_point(self) -> bool:
        """Return False: they are bytes."""
        return False

    def then(self, change: Callable[[Tensor], Tensor]) -> "MappedRows":
        """Return the rows, changed when they are loaded."""
        return replace(self, convert=lambda rows: change(self.convert(rows)))

    def load(self) -> Tensor:
        """Read the rows: bytes [n, *image]."""
        order = self.index.numpy()
        return self.convert(np.ascontiguousarray(self.source[order])).to(self.device)
