"""Batches cut from tensors that already sit on the device."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_models.base.names import PixelMode
from pyro_models.base.seeds import derived_seed
from pyro_models.data.attributes import Attribute, encoded
from pyro_models.data.datasets import Split


def to_float(x: Tensor, pixels: PixelMode) -> Tensor:
    """Turn bytes [batch, *image] into floats in [0, 1]; `dynamic` draws each pixel anew. Rows of tables stay.

    A byte v becomes 1 with probability v / 255 exactly: v of the 255 equally likely bytes lie below it.
    """
    if x.is_floating_point():
        return x.to(torch.get_default_dtype())
    if pixels == "dynamic":
        draws = torch.randint(0, 255, x.shape, dtype=torch.uint8, device=x.device)
        return (draws < x).to(torch.get_default_dtype())
    return x.to(torch.get_default_dtype()).div_(255)


def batch_of(split: Split, pixels: PixelMode, attributes: tuple[Attribute, ...] = ()) -> dict[str, Tensor]:
    """Cut all of a split into `x`, [n, *shape], and `y1`, `y2`, ... for its attributes, if given: [n, size], or NaN.

    Raises:
        ValueError: attributes of a split that has no codes of them.
    """
    x = to_float(split.x, pixels)
    if not attributes:
        return {"x": x}
    if split.attributes is None:
        raise ValueError("a split without attributes")
    return {"x": x} | encoded(attributes, split.attributes)


@dataclass(frozen=True)
class Batches:
    """Shuffled batches of one split, all of one size.

    The order depends on the seed and the epoch alone. What is left over when the split is cut into whole
    batches waits for another epoch's order. Of several processes, each takes its share of every batch. An epoch of
    more steps than that goes round the split again, in another order each time.

    Attributes:
        split: where to cut from.
        pixels: the pixel mode.
        size: images in a batch, over all processes.
        seed: of the order.
        rank, processes: which share this is, and of how many.
        labelled: data whose labels each step sees, in every process all of them; where they are more than a batch, a
            batch of them, shared out.
        kinds: how many labels there are.
        steps: in an epoch; None makes as many as the split has whole batches.
        attributes: of the split, where a batch is to hold them.
    """

    split: Split
    pixels: PixelMode
    size: int
    seed: int = 0
    rank: int = 0
    processes: int = 1
    labelled: Split | None = None
    kinds: int = 0
    steps: int | None = None
    attributes: tuple[Attribute, ...] = ()

    def __len__(self) -> int:
        return len(self.split) // self.size if self.steps is None else self.steps

    def epoch(self, number: int) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of an epoch, `size / processes` data each.

        They hold `x`, [batch, *shape]; `y1`, `y2`, ..., [batch, size], NaN where missing, of the attributes; and of
        the labelled data `labelled_x` and one-hot `labelled_y`.
        """
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", number))
        rounds = -(-len(self) * self.size // len(self.split))
        orders = [torch.randperm(len(self.split), generator=generator) for _ in range(rounds)]
        order = torch.cat(orders).to(self.split.x.device)
        share = self.size // self.processes
        split = replace(self.split, labels=None, attributes=self.split.attributes if self.attributes else None)
        for start in range(self.rank * share, len(self) * self.size, self.size):
            batch = batch_of(split[order[start : start + share]], self.pixels, self.attributes)
            yield batch if self.labelled is None else batch | self._known(self.labelled, generator)

    def _known(self, some: Split, generator: torch.Generator) -> dict[str, Tensor]:
        if len(some) > self.size:
            share = self.size // self.processes
            mine = torch.randperm(len(some), generator=generator)[self.rank * share :][:share]
            some = some[mine.to(some.x.device)]
        x = to_float(some.x, self.pixels)
        return {"labelled_x": x, "labelled_y": F.one_hot(some.labels, self.kinds).to(x)}  # type: ignore[arg-type]
