"""Images with attributes: what is known of an image beside its pixels, and two sets of digits made to have some."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_models.base.errors import UserError, nearest


@dataclass(frozen=True)
class Attribute:
    """Something that is one of a few values.

    Attributes:
        name: what it is called.
        values: what it can be; their order makes the codes 0, 1, ...
    """

    name: str
    values: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many numbers say it: one bit of two values, else one for each."""
        return 1 if len(self.values) == 2 else len(self.values)

    def encode(self, codes: Tensor) -> Tensor:
        """Turn codes [n], -1 where missing, into floats [n, size]: a bit or one-hot, and NaN where missing."""
        kinds = torch.arange(len(self.values), device=codes.device)[-self.size :]  # of two values the second
        y = (codes[..., None] == kinds).to(torch.get_default_dtype())
        return y.masked_fill(codes[..., None] < 0, math.nan)

    def code(self, value: str) -> int:
        """Return the code of a value.

        Raises:
            UserError: there is no such value; the message lists them all.
        """
        if value in self.values:
            return self.values.index(value)
        choice, hint = "choose from " + ", ".join(self.values), nearest(value, self.values)
        raise UserError(f"unknown {self.name} {value!r}: {hint if hint == choice else f'{hint} {choice}'}")


def one_hot_attributes(attributes: tuple[Attribute, ...], codes: Tensor) -> dict[str, Tensor]:
    """Encode codes [n, attributes] for their sites `y1`, `y2`, ...: [n, size] each, NaN where missing."""
    return {f"y{i}": attribute.encode(codes[:, i - 1]) for i, attribute in enumerate(attributes, 1)}


SIDES = (Attribute("side", ("left", "right")), Attribute("digit", ("1", "2")))
MNIST_A = (
    Attribute("digit", tuple(map(str, range(10)))),
    Attribute("scale", ("big", "small")),
    Attribute("orientation", ("counter-clockwise", "upright", "clockwise")),
    Attribute("location", ("top-left", "top-right", "bottom-left", "bottom-right")),
)
POSES = (2, 3, 4)
"""How many values scale, orientation and location have."""
SHARES = {"train": 204, "validation": 12, "test": 24}
"""How many of the 240 combinations each part of a compositional split has: 85, 5 and 10 %, as `mnist_a` says."""
COPIES = 10
CANVAS = 64
TURNED = 40
"""Wide enough for 28 pixels turned by 45 degrees."""


def beside(images: Tensor, labels: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """Put each 1 and each 2 to the left or to the right, at random, on a canvas twice as wide.

    Args:
        images: bytes, [n, channel, height, width]; those of other digits are left out.
        labels: their digits, [n].
        seed: of the sides.

    Returns:
        images [m, channel, height, 2 * width], and codes of `SIDES`, [m, 2].
    """
    chosen = (labels == 1) | (labels == 2)
    images, digit = images[chosen], labels[chosen] - 1
    side = torch.randint(0, 2, digit.shape, generator=torch.Generator().manual_seed(seed))
    halves = [images * (side == half)[:, None, None, None] for half in (0, 1)]
    return torch.cat(halves, -1), torch.stack([side, digit], -1)


def combinations(*, compositional: bool, seed: int) -> dict[str, Tensor]:
    """Return which combinations of attributes the images of each part of `mnist-a` may have.

    Args:
        compositional: whether each combination is in one part alone: 204 of the 240 in training, 12 in validation and
            24 in the test part; else all are in all parts.
        seed: of the order in which combinations are dealt out.

    Returns:
        By the part's name, true or false, [digits, poses]; a pose is a scale, an orientation and a location.
    """
    shape = (len(MNIST_A[0].values), math.prod(POSES))
    if not compositional:
        return {part: torch.ones(shape, dtype=torch.bool) for part in SHARES}
    order = torch.randperm(math.prod(shape), generator=torch.Generator().manual_seed(seed))
    drawn = zip(SHARES, order.split(list(SHARES.values())), strict=True)
    return {part: torch.isin(torch.arange(len(order)), some).reshape(shape) for part, some in drawn}


def mnist_a(
    images: Tensor, labels: Tensor, *, allowed: Tensor, seed: int, copies: int | None = None
) -> tuple[Tensor, Tensor]:
    """Scale, turn and place each digit at random on a black canvas, ten times.

    Vedantam, Fischer, Huang and Murphy, Generative Models of Visually Grounded Imagination, 2018. The recipe is that
    of their code, google/joint_vae (datasets/mnist_attributes/partition_labels.py and create_dataset.py,
    scripts/create_affine_mnist.sh):

    - scale: of the 28 pixels, Normal(0.9, 0.1) is big and Normal(0.6, 0.1) is small, drawn again outside [0.4, 1];
    - orientation: Normal(45, 10) degrees, or its negative, drawn again beyond 90, or none at all;
    - location: a whole pixel about the middle of a quadrant shifted by 4 pixels to its corner, standard deviation 4,
      drawn again until the box around the turned digit lies on the canvas;
    - 64 x 64 pixels, each 0 or 255, drawn once and for all with the grey level as the probability;
    - ten copies of each image, 700,000 of MNIST, their attributes drawn uniformly;
    - 85, 5 and 10 % for training, validation and test: of the images (iid), or of the 240 combinations.

    Ours: a part's images are made from the source's images of that part alone (theirs mix them: one digit can be in
    all three parts), so that the shares are the source's; a held-out split gives each digit the combinations its part
    has (theirs drops the others' images); the draws; and one bilinear resampling in place of two bicubic ones.

    Args:
        images: bytes, [n, 1, 28, 28].
        labels: their digits, [n].
        allowed: the combinations to draw from, true or false, [digits, poses]; digits that have none are left out.
        seed: of all draws.
        copies: other than ten.

    Returns:
        images [m, 1, 64, 64], bytes of 0 or 255, each source image once before any comes again; and codes of
        `MNIST_A`, [m, 4].
    """
    generator = torch.Generator().manual_seed(seed)
    index = allowed.any(1)[labels].nonzero()[:, 0].repeat(copies or COPIES)
    pose = allowed.double()[labels[index]].multinomial(1, generator=generator)[:, 0]
    scale, orientation, location = torch.unravel_index(pose, POSES)
    size = _normal(0.9 - 0.3 * scale.double(), 0.1, 0.4, 1.0, generator)
    angle = (1 - orientation) * _normal(torch.full_like(size, 45), 10, -90, 90, generator).deg2rad()
    reach = (14 * size * (angle.cos().abs() + angle.sin().abs())).ceil()  # from the box's middle to its sides
    middle = 12 + 40 * torch.stack([location // 2, location % 2]).double()  # row and column
    row, column = _normal(middle, 4, reach, CANVAS - reach, generator).round().long()

    made = torch.empty(len(index), 1, CANVAS, CANVAS, dtype=torch.uint8)
    turn = torch.stack([angle.cos(), angle.sin()]).float() / (14 * size).float()
    for some in torch.arange(len(index)).split(500):
        patch = _turned(images[index[some]], *turn[:, some, None, None])
        ink = torch.rand(patch.shape, dtype=torch.float32, generator=generator) < patch
        made[some[0] : some[-1] + 1, 0] = _pasted(ink, row[some], column[some])
    return made, torch.stack([labels[index], scale, orientation, location], -1)


def _normal(loc: Tensor, scale: float, low: Tensor | float, high: Tensor | float, generator: torch.Generator) -> Tensor:
    """Draw from Normal(loc, scale) as if again and again until it lies in [low, high], by the inverse of its cdf."""
    below, above = (torch.special.ndtr((bound - loc) / scale) for bound in (low, high))
    uniform = torch.rand(loc.shape, dtype=loc.dtype, generator=generator)
    drawn = loc + scale * torch.special.ndtri(below + (above - below) * uniform)
    return drawn.clamp(low, high)  # type: ignore[arg-type]  # far out the inverse is not exact


def _turned(images: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn images counter-clockwise and scale them.

    Args:
        images: bytes, [n, 1, 28, 28].
        cos, sin: of the angle, in half widths of the image per pixel of the result, [n, 1, 1].

    Returns:
        grey levels in [0, 1], [n, TURNED, TURNED].
    """
    right = torch.arange(TURNED, dtype=torch.float32) - (TURNED - 1) / 2
    down = right[:, None]
    grid = torch.stack([cos * right - sin * down, sin * right + cos * down], -1)  # affine_grid takes four times as long
    return F.grid_sample(images.float() / 255, grid, align_corners=False)[:, 0]


def _pasted(ink: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Put patches, true or false, with their middles at a row and a column of black canvases, bytes."""
    margin = TURNED // 2
    canvas = torch.zeros(len(ink), CANVAS + TURNED, CANVAS + TURNED, dtype=torch.uint8)
    cells = torch.arange(TURNED)
    rows, columns = row[:, None, None] + cells[:, None], column[:, None, None] + cells
    canvas[torch.arange(len(ink))[:, None, None], rows, columns] = ink.to(torch.uint8) * 255
    return canvas[:, margin:-margin, margin:-margin]


def of_array(codes: np.ndarray, names: np.ndarray | None, count: int, source: str) -> tuple[Attribute, ...]:
    """Check the attributes of a .npz file: codes, [n, attributes], and their names, else y1, y2, ...

    Raises:
        UserError: they are not whole numbers of -1 or more for `count` images; a name too few; a constant attribute.
    """
    if codes.ndim != 2 or len(codes) != count or codes.shape[1] == 0 or codes.dtype.kind not in "iu":
        wanted = f"whole numbers [{count}, attributes]"
        raise UserError(f"{source}: attributes must be {wanted}, not {codes.dtype} {list(codes.shape)}")
    if codes.min() < -1:
        raise UserError(f"{source}: attributes must be 0, 1, ..., or -1 where missing, not {codes.min()}")
    if names is None:
        names = np.array([f"y{k}" for k in range(1, codes.shape[1] + 1)])
    if names.shape != codes.shape[1:] or names.dtype.kind != "U" or len(np.unique(names)) < len(names):
        wanted = f"{codes.shape[1]} different strings"
        raise UserError(f"{source}: attribute_names must be {wanted}, not {names.dtype} {names.tolist()}")
    highest = codes.max(0).tolist()
    for name, high in zip(names.tolist(), highest, strict=True):
        if not 0 < high < count:
            raise UserError(f"{source}: attribute {name!r} goes up to {high}: number its values 0, 1, ..., two or more")
    return tuple(
        Attribute(name, tuple(map(str, range(high + 1)))) for name, high in zip(names.tolist(), highest, strict=True)
    )
