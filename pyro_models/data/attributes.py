"""Attributes of images, and two data sets of digits that have several."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_models.base.errors import UserError, nearest
from pyro_models.data.cells import MOST_CATEGORIES, of_labels


@dataclass(frozen=True)
class Attribute:
    """A categorical attribute.

    >>> scale = Attribute("scale", ("big", "medium", "small"))
    >>> scale.one_hot(torch.tensor([2, -1]))
    tensor([[0., 0., 1.],
            [nan, nan, nan]])
    >>> scale.index("small")
    2

    Attributes:
        name: its name.
        values: the names of its values, whose indices are 0, 1, ...
    """

    name: str
    values: tuple[str, ...]

    @property
    def size(self) -> int:
        """The size of its encoding: 1, a bit, for two values, else one number for each value."""
        return 1 if len(self.values) == 2 else len(self.values)

    def one_hot(self, indices: Tensor) -> Tensor:
        """Encode indices [n], -1 where missing, as floats [n, size]: a bit or one-hot, and NaN where missing."""
        columns = torch.arange(len(self.values), device=indices.device)[-self.size :]  # of two values the second
        y = (indices[..., None] == columns).to(torch.get_default_dtype())
        return y.masked_fill(indices[..., None] < 0, math.nan)

    def index(self, value: str) -> int:
        """Return the index of a value.

        Raises:
            UserError: there is no such value; the message lists all values.
        """
        if value in self.values:
            return self.values.index(value)
        choice, hint = "choose from " + ", ".join(self.values), nearest(value, self.values)
        raise UserError(f"unknown {self.name} {value!r}: {hint if hint == choice else f'{hint} {choice}'}")


def one_hot_attributes(attributes: tuple[Attribute, ...], indices: Tensor) -> dict[str, Tensor]:
    """Encode indices [n, attributes] as values of the sites `y1`, `y2`, ..., [n, size] each, NaN where missing.

    >>> one_hot_attributes((Attribute("side", ("left", "right")),), torch.tensor([[1], [0]]))
    {'y1': tensor([[1.],
            [0.]])}
    """
    return {f"y{i}": attribute.one_hot(indices[:, i - 1]) for i, attribute in enumerate(attributes, 1)}


SIDES = (Attribute("side", ("left", "right")), Attribute("digit", ("1", "2")))
MNIST_A = (
    Attribute("digit", tuple(map(str, range(10)))),
    Attribute("scale", ("big", "small")),
    Attribute("orientation", ("counter-clockwise", "upright", "clockwise")),
    Attribute("location", ("top-left", "top-right", "bottom-left", "bottom-right")),
)
POSES = (2, 3, 4)
"""The numbers of values of scale, orientation and location."""
SHARES = {"train": 204, "validation": 12, "test": 24}
"""The numbers of the 240 combinations in each part of a compositional split: 85, 5 and 10 %, see `mnist_a`."""
COPIES = 10
CANVAS = 64
RAND = 2**24
"""Steps of the random numbers in [0, 1), to which grey levels are rounded: how torch adds up does not show then."""
ROTATED = 40
"""Height and width of a patch that holds 28 x 28 pixels rotated by 45 degrees."""


def left_or_right(images: Tensor, labels: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """Place each image of a 1 or a 2 in the left or the right half, at random, of a canvas twice as wide.

    Args:
        images: bytes, [n, channel, height, width]; images of other digits are dropped.
        labels: the digits, [n].
        seed: of the random sides.

    Returns:
        images [m, channel, height, 2 * width], and indices of `SIDES`, [m, 2].
    """
    chosen = (labels == 1) | (labels == 2)
    images, digit = images[chosen], labels[chosen] - 1
    side = torch.randint(0, 2, digit.shape, generator=torch.Generator().manual_seed(seed))
    halves = [images * (side == half)[:, None, None, None] for half in (0, 1)]
    return torch.cat(halves, -1), torch.stack([side, digit], -1)


def combinations(*, compositional: bool, seed: int) -> dict[str, Tensor]:
    """Return the combinations of attributes that each part of `mnist-a` may have.

    Args:
        compositional: whether each combination belongs to one part alone: 204 of the 240 to training, 12 to validation
            and 24 to test; else every part has all of them.
        seed: of the random assignment.

    Returns:
        From the part's name to a mask [digits, poses]; a pose is a scale, an orientation and a location.
    """
    shape = (len(MNIST_A[0].values), math.prod(POSES))
    if not compositional:
        return {part: torch.ones(shape, dtype=torch.bool) for part in SHARES}
    order = torch.randperm(math.prod(shape), generator=torch.Generator().manual_seed(seed))
    assigned = zip(SHARES, order.split(list(SHARES.values())), strict=True)
    return {part: torch.isin(torch.arange(len(order)), members).reshape(shape) for part, members in assigned}


def mnist_a(
    images: Tensor, labels: Tensor, *, allowed: Tensor, seed: int, copies: int | None = None
) -> tuple[Tensor, Tensor]:
    """Make `mnist-a`: scale, rotate and place each digit at random on a black canvas, ten times.

    Vedantam, Fischer, Huang and Murphy, Generative Models of Visually Grounded Imagination, 2018. The procedure is
    that of their code, google/joint_vae (datasets/mnist_attributes/partition_labels.py and create_dataset.py,
    scripts/create_affine_mnist.sh):

    - scale: of the 28 pixels, Normal(0.9, 0.1) is big and Normal(0.6, 0.1) is small, truncated to [0.4, 1];
    - orientation: Normal(45, 10) degrees, or its negative, truncated to [-90, 90], or 0;
    - location: a whole pixel about the middle of a quadrant shifted by 4 pixels to its corner, standard deviation 4,
      truncated so that the box around the rotated digit lies on the canvas;
    - 64 x 64 pixels, each 0 or 255, drawn once with the grey level as the probability;
    - ten copies of each image, 700,000 of MNIST, their attributes drawn uniformly;
    - 85, 5 and 10 % for training, validation and test: of the images (iid), or of the 240 combinations.

    Differences: a part's images are made from the source's images of that part alone (in theirs, one digit can be in
    all three parts), so that the parts have the source's sizes; in a compositional split each digit gets the
    combinations of its part (theirs drops the images of others); random numbers; and one bilinear resampling in place
    of two bicubic ones.

    Args:
        images: bytes, [n, 1, 28, 28].
        labels: the digits, [n].
        allowed: the mask of combinations to draw from, [digits, poses]; digits without any are dropped.
        seed: of all random numbers.
        copies: of each image; None makes ten.

    Returns:
        images [m, 1, 64, 64], bytes of 0 or 255, in `copies` passes over the source images; and indices of `MNIST_A`,
        [m, 4].
    """
    generator = torch.Generator().manual_seed(seed)
    index = allowed.any(1)[labels].nonzero()[:, 0].repeat(copies or COPIES)
    reached = allowed.double()[labels[index]].cumsum(1)  # `multinomial` draws others in other versions of torch
    uniform = torch.rand(len(index), 1, dtype=torch.float64, generator=generator)
    pose = torch.searchsorted(reached, uniform * reached[:, -1:], right=True)[:, 0]
    scale, orientation, location = torch.unravel_index(pose, POSES)
    size = _normal(0.9 - 0.3 * scale.double(), 0.1, 0.4, 1.0, generator)
    angle = (1 - orientation) * _normal(torch.full_like(size, 45), 10, -90, 90, generator).deg2rad()
    reach = (14 * size * (angle.cos().abs() + angle.sin().abs())).ceil()  # from the box's middle to its sides
    middle = 12 + 40 * torch.stack([location // 2, location % 2]).double()  # row and column
    row, column = _normal(middle, 4, reach, CANVAS - reach, generator).round().long()

    made = torch.empty(len(index), 1, CANVAS, CANVAS, dtype=torch.uint8)
    rotation = torch.stack([angle.cos(), angle.sin()]) / (14 * size)
    for rows in torch.arange(len(index)).split(500):
        patch = _rotated(images[index[rows]], *rotation[:, rows, None, None])
        ink = torch.rand(patch.shape, dtype=torch.float32, generator=generator) < (patch * RAND).round() / RAND
        made[rows[0] : rows[-1] + 1, 0] = _pasted(ink, row[rows], column[rows])
    return made, torch.stack([labels[index], scale, orientation, location], -1)


def _normal(loc: Tensor, scale: float, low: Tensor | float, high: Tensor | float, generator: torch.Generator) -> Tensor:
    """Draw from Normal(loc, scale) truncated to [low, high], by the inverse of its cdf."""
    below, above = (torch.special.ndtr((bound - loc) / scale) for bound in (low, high))
    uniform = torch.rand(loc.shape, dtype=loc.dtype, generator=generator)
    drawn = loc + scale * torch.special.ndtri(below + (above - below) * uniform)
    return drawn.clamp(low, high)  # type: ignore[arg-type]  # far out the inverse is not exact


def _rotated(images: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate images counter-clockwise and scale them.

    Args:
        images: bytes, [n, 1, 28, 28].
        cos, sin: of the angle, in half widths of the image per pixel of the result, [n, 1, 1].

    Returns:
        grey levels in [0, 1], [n, ROTATED, ROTATED].
    """
    right = torch.arange(ROTATED, dtype=torch.float64) - (ROTATED - 1) / 2
    down = right[:, None]
    grid = torch.stack([cos * right - sin * down, sin * right + cos * down], -1)  # affine_grid takes four times as long
    return F.grid_sample(images.double() / 255, grid, align_corners=False)[:, 0]


def _pasted(ink: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Paste boolean patches, centred at a row and a column, into black canvases of bytes."""
    margin = ROTATED // 2
    canvas = torch.zeros(len(ink), CANVAS + ROTATED, CANVAS + ROTATED, dtype=torch.uint8)
    cells = torch.arange(ROTATED)
    rows, columns = row[:, None, None] + cells[:, None], column[:, None, None] + cells
    canvas[torch.arange(len(ink))[:, None, None], rows, columns] = ink.to(torch.uint8) * 255
    return canvas[:, margin:-margin, margin:-margin]


def attributes_of_array(indices: np.ndarray, names: np.ndarray | None, n: int, source: str) -> tuple[Attribute, ...]:
    """Check attributes, [n, attributes]: indices of values, or their names; and their own names, else y1, y2, ...

    Raises:
        UserError: they are not integers of -1 or more, and no text, for `n` data; names are missing or equal; an
            attribute is constant.
    """
    if indices.ndim != 2 or len(indices) != n or indices.shape[1] == 0 or indices.dtype.kind not in "iuOUS":
        expected = f"integers or text [{n}, attributes]"
        raise UserError(f"{source}: attributes must be {expected}, not {indices.dtype} {list(indices.shape)}")
    if indices.dtype.kind in "iu" and indices.min() < -1:
        raise UserError(f"{source}: attributes must be 0, 1, ..., or -1 where missing, not {indices.min()}")
    if names is None:
        names = np.array([f"y{k}" for k in range(1, indices.shape[1] + 1)])
    if names.shape != indices.shape[1:] or names.dtype.kind != "U" or len(np.unique(names)) < len(names):
        expected = f"{indices.shape[1]} different strings"
        raise UserError(f"{source}: attribute_names must be {expected}, not {names.dtype} {names.tolist()}")
    if indices.dtype.kind not in "iu":
        titles = [f"{source}: attribute {name!r}" for name in names.tolist()]
        values = [of_labels(column, title)[1] for column, title in zip(indices.T, titles, strict=True)]
        for title, each in zip(titles, values, strict=True):
            if not 1 < len(each) <= MOST_CATEGORIES:
                raise UserError(f"{title} has {len(each)} different values: give 2 to {MOST_CATEGORIES}")
        return tuple(map(Attribute, names.tolist(), values))
    highest = indices.max(0).tolist()
    for name, high in zip(names.tolist(), highest, strict=True):
        if not 0 < high < n:
            raise UserError(
                f"{source}: attribute {name!r} goes up to {high}: its values must be 0, 1, ..., two or more"
            )
    return tuple(
        Attribute(name, tuple(map(str, range(high + 1)))) for name, high in zip(names.tolist(), highest, strict=True)
    )


def indices_of_attributes(attributes: tuple[Attribute, ...], values: np.ndarray, source: str) -> np.ndarray:
    """Return the indices of the values of attributes, [n, attributes], that are such indices or the values' names.

    >>> side = Attribute("side", ("left", "right"))
    >>> indices_of_attributes((side,), np.array([["right"], ["NA"]]), "mine").tolist()
    [[1], [-1]]

    Raises:
        UserError: there are more or fewer attributes, or one has no such value.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "OUS" or values.ndim != 2 or values.shape[1] != len(attributes):
        return values
    titles = [f"{source}: attribute {each.name!r}" for each in attributes]
    columns = zip(values.T, titles, attributes, strict=True)
    return np.stack([of_labels(column, title, each.values)[0] for column, title, each in columns], 1)
