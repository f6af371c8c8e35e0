"""Data of one split as tensors, with what belongs to each datum."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Data with their labels, attributes and ids, if any; indexing selects rows of all of them.

    >>> split = Split(torch.zeros(5, 2), labels=torch.tensor([0, 1, -1, 1, 0]))
    >>> len(split), split[:3].labels.tolist(), len(split.labelled())
    (5, [0, 1, -1], 4)

    Attributes:
        x: images as bytes, [n, channel, height, width], or rows of a table as floats, [n, columns].
        labels: indices of classes, integers, [n], -1 where the label is not known; or None.
        attributes: indices of the values of each attribute, integers, [n, attributes], -1 where missing; or None.
        ids: what names each datum in its source, [n]: the id column, the path of an image, or the row's number; or
            None.
    """

    x: Tensor
    labels: Tensor | None = None
    attributes: Tensor | None = None
    ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> "Split":
        rows = index.cpu().numpy() if isinstance(index, Tensor) else index
        return self._each(lambda tensor: tensor[index], None if self.ids is None else self.ids[rows])

    def to(self, device: torch.device | str) -> "Split":
        """Return the split on `device`."""
        return self._each(lambda tensor: tensor.to(device), self.ids)

    def labelled(self) -> "Split":
        """Return the data whose label is known: all of them, where the split is labelled throughout."""
        if self.labels is None:
            return self[:0]
        known = self.labels >= 0
        return self if known.all() else self[known]

    def with_rows_of(self, other: "Split") -> "Split":
        """Return the data of both, these first; both have labels, attributes and ids, or neither has."""

        def both(name: str) -> Any:
            ours, theirs = getattr(self, name), getattr(other, name)
            return None if ours is None else torch.cat([ours, theirs])

        ids = None if self.ids is None or other.ids is None else np.concatenate([self.ids, other.ids])
        return Split(both("x"), both("labels"), both("attributes"), ids)

    def _each(self, change: Callable[[Tensor], Tensor], ids: np.ndarray | None) -> "Split":
        def changed(tensor: Tensor | None) -> Any:
            return None if tensor is None else change(tensor)

        return Split(changed(self.x), changed(self.labels), changed(self.attributes), ids)
