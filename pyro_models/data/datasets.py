"""Data sets: images as bytes and tables as standardised rows, split into training, validation and test data."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_models.base.errors import UserError, first_line
from pyro_models.base.names import COMPOSED, DATA_DIR_VARIABLE, SOURCES, TABLES, PixelMode, SplitName, check_name
from pyro_models.base.names import data_dir as folder_of
from pyro_models.base.seeds import derived_seed
from pyro_models.data import tables
from pyro_models.data.attributes import (
    MNIST_A,
    SIDES,
    Attribute,
    attributes_of_array,
    combinations,
    left_or_right,
    mnist_a,
)

SPLIT_SEED = 0  # the same for all runs, whatever their seed: test data are never trained on


@dataclass(frozen=True)
class Split:
    """Data with their labels and attributes, if any; indexing selects rows of all of them.

    >>> split = Split(torch.zeros(5, 2), labels=torch.arange(5))
    >>> len(split), split[:2].labels.tolist()
    (5, [0, 1])

    Attributes:
        x: images as bytes, [n, channel, height, width], or rows of a table as floats, [n, columns].
        labels: integers, [n], or None.
        attributes: indices of the values of each attribute, integers, [n, attributes], -1 where missing; or None.
    """

    x: Tensor
    labels: Tensor | None = None
    attributes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> "Split":
        return self._each(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> "Split":
        """Return the split on `device`."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Split":
        tensors = (self.x, self.labels, self.attributes)
        return Split(*(None if tensor is None else change(tensor) for tensor in tensors))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Dataset:
    """A data set in three disjoint splits.

    Attributes:
        name: as given to `load`.
        pixels: the pixel mode.
        train: to fit with.
        validation: to choose options by.
        test: to report final results on, and for nothing else.
        columns: the names of a table's columns, which have mean 0 and standard deviation 1 over its training rows.
        attributes: those whose indices the splits hold, in their order.
        all_combinations: training images in all combinations of attributes, where some are held out of training: a
            classifier that judges generated images has to know them all.
    """

    name: str
    pixels: PixelMode
    train: Split
    validation: Split
    test: Split
    columns: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    all_combinations: Split | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[channel, height, width], or [columns]."""
        return tuple(self.train.x.shape[1:])

    @property
    def is_table(self) -> bool:
        """Whether the data are rows of a table."""
        return bool(self.columns)

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the data set on `device`."""
        return replace(
            self.each(lambda _, part: part.to(device)),
            all_combinations=self.all_combinations and self.all_combinations.to(device),
        )

    @property
    def parts(self) -> dict[str, Split]:
        """The splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def each(self, change: Callable[[str, Split], Split]) -> "Dataset":
        """Return the data set with `change(name, split)` in place of each split."""
        parts: dict[str, Any] = {name: change(name, part) for name, part in self.parts.items()}
        return replace(self, **parts)


def load(
    name: str = "digits",
    *,
    data_dir: Path | None = None,
    pixels: PixelMode = "grey",
    split: SplitName = "official",
    source: str | None = None,
) -> Dataset:
    """Load a data set by name, or your own images or table from a file.

    >>> digits = load("digits")
    >>> digits.shape, len(digits.train), len(digits.validation), len(digits.test)
    ((1, 28, 28), 1372, 125, 300)

    Args:
        name: `digits` (1,797 images, no download); `mnist`, `fashion-mnist` or `kmnist` (downloaded by torchvision on
            first use); `attributes` or `mnist-a` (made from digits, see `attributes.left_or_right` and
            `attributes.mnist_a`); `blobs`, `moons`, `pinwheel` (generated); `wine`, `iris` (no download); or a file:

            - images: .npy, or .npz with `images` and optionally `labels`; bytes, or floats in [0, 1], which are
              rounded to bytes; [n, height, width] or [n, channel, height, width]. A .npz file may hold `attributes`,
              integers [n, attributes] whose columns are indices 0, 1, ..., -1 where missing, and `attribute_names`.
              Without these, labels that are 0, 1, ..., each at least once, become the only attribute;
            - a table: .csv or .parquet, .npy of shape [n, columns], or .npz with `table` and optionally `labels`.
        data_dir: the folder of downloads; None takes the environment variable PYRO_MODELS_DATA, else `./datasets`.
        pixels: the pixel mode, see `pyro_models.base.names.PixelMode`.
        split: `official`; or `article`, of the article on virtual adversarial training, whose test images are 10,000 of
            the 60,000 training images, which are `validation` here; of `mnist-a` also `iid`, which is the official
            one, and `compositional`, whose validation and test have combinations of attributes that training lacks.
        source: the images that `attributes` (default: digits) or `mnist-a` (default: mnist) are made from.

    Returns:
        The data set, which depends on these arguments alone. Its test split is that of the data set's authors where
        there is one, else a random sixth; validation is a random twelfth of the rest, both with a fixed seed.

    Raises:
        UserError: the name is unknown, files are missing or damaged, values are not pixels, or the split or the source
            does not exist for this data set.
    """
    check_name(name)
    _check_split(name, split, source)
    attributes: tuple[Attribute, ...] = ()
    if name in COMPOSED:
        return _composed(name, load(source or COMPOSED[name], data_dir=data_dir), pixels, split == "compositional")
    if name == "digits":
        train, test = _hold_out(_digits(), 1 / 6)
    elif name in _TORCHVISION:
        train, test = _torchvision(name, folder_of(data_dir))
    elif name in TABLES:
        return _table(name, tables.TABLES[name]())
    elif Path(name).suffix in (".csv", ".parquet"):
        return _table(name, tables.read(Path(name)))
    else:
        arrays = _arrays(Path(name))
        if "table" in arrays:
            return _table(name, _columns(arrays, name))
        whole, attributes = _own(arrays, name)
        train, test = _hold_out(whole, 1 / 6)
    if split == "article":
        stay, held_out = split_by_sklearn(len(train), 50_000, seed=42)
        train, validation = train[stay], train[held_out]
    else:
        train, validation = _hold_out(train, 1 / 12)
    dataset = Dataset(name, pixels, train, validation, test, attributes=attributes)
    return _binarised(dataset if attributes else _with_labels_as_attribute(dataset))


def _check_split(name: str, split: SplitName, source: str | None) -> None:
    """Check that the split and the source exist for the data set."""
    if split == "article" and name not in _TORCHVISION:
        raise UserError(f"`split=article` goes with the 60,000 training images of mnist, not with {name}")
    valid = ["official", *["article"] * (name in _TORCHVISION), *["iid", "compositional"] * (name == "mnist-a")]
    if split == "compositional" and name != "mnist-a":
        raise UserError(f"`split=compositional` goes with the attributes of mnist-a, not with {name}")
    if split not in valid:
        raise UserError(f"unknown `split` {split!r} of {name}: choose from {', '.join(valid)}")
    if source is not None and name not in COMPOSED:
        raise UserError(
            f"`source` goes with {' and '.join(COMPOSED)}, which are made from other images, not with {name}"
        )
    if source not in (None, *SOURCES):
        raise UserError(f"unknown `source` {source!r}: {name} can be made from {' or '.join(SOURCES)}")


def _composed(name: str, source: Dataset, pixels: PixelMode, compositional: bool) -> Dataset:
    """Make each part of `attributes` or `mnist-a` from the same part of its source."""
    allowed = combinations(compositional=compositional, seed=derived_seed(SPLIT_SEED, "combinations"))

    def make(part: str, digits: Split, poses: torch.Tensor, copies: int | None = None) -> Split:
        seed, labels = derived_seed(SPLIT_SEED, f"{name} {part}"), torch.as_tensor(digits.labels)
        if name == "attributes":
            x, indices = left_or_right(digits.x, labels, seed=seed)
            return Split(x, indices[:, 1] + 1, indices)
        x, indices = mnist_a(digits.x, labels, allowed=poses, seed=seed, copies=copies)
        return Split(x, indices[:, 0], indices)

    made = source.each(lambda part, digits: make(part, digits, allowed[part]))
    made = replace(made, name=name, pixels=pixels, attributes=SIDES if name == "attributes" else MNIST_A)
    if compositional:
        made = replace(made, all_combinations=make("judges", source.train, torch.ones_like(allowed["train"]), copies=2))
    return made if name == "mnist-a" else _binarised(made)  # mnist-a is binary already


def _with_labels_as_attribute(dataset: Dataset) -> Dataset:
    """Make labels the only attribute of a data set, if they are 0, 1, ..., each at least once."""
    labels = [part.labels for part in dataset.parts.values() if part.labels is not None]
    values = torch.cat(labels).unique() if labels else torch.arange(0)
    if len(values) < 2 or not torch.equal(values, torch.arange(len(values))):
        return dataset
    attribute = Attribute("digit" if dataset.name in SOURCES else "label", tuple(map(str, values.tolist())))
    labelled = dataset.each(lambda _, part: replace(part, attributes=torch.as_tensor(part.labels)[:, None]))
    return replace(labelled, attributes=(attribute,))


def _binarised(dataset: Dataset) -> Dataset:
    """Threshold the pixels, or draw them once, under the pixel modes that do so."""
    if dataset.pixels not in _BINARISED:
        return dataset
    binarise = _BINARISED[dataset.pixels]
    return dataset.each(lambda name, part: replace(part, x=binarise(part.x, name)))


def _table(name: str, table: tables.Table) -> Dataset:
    """Split a table and standardise its columns by those of the training rows."""
    columns, labels = table
    rows = torch.from_numpy(np.stack(list(columns.values()), axis=1))
    whole = Split(rows, None if labels is None else torch.from_numpy(labels.astype(np.int64)))
    train, test = _hold_out(whole, 1 / 6)
    train, validation = _hold_out(train, 1 / 12)
    loc, scale = train.x.mean(0), train.x.std(0, correction=0)
    for column, deviation in zip(columns, scale.tolist(), strict=True):
        if not 0 < deviation < math.inf:
            raise UserError(f"{name}: column {column!r} has a standard deviation of {deviation} over the training rows")
    train, validation, test = (replace(part, x=((part.x - loc) / scale).float()) for part in (train, validation, test))
    return Dataset(name, "grey", train, validation, test, tuple(columns))


def _columns(arrays: dict[str, np.ndarray], source: str) -> tables.Table:
    """Check the table of a .npy or .npz file."""
    rows = arrays["table"]
    if rows.ndim != 2:
        raise UserError(f"{source}: a table must be [n, columns], not {list(rows.shape)}")
    columns = {f"x[{k}]": column for k, column in enumerate(rows.T)}
    if "labels" in arrays:
        if arrays["labels"].shape != rows.shape[:1]:
            raise UserError(f"{source}: {len(rows)} rows but labels of shape {list(arrays['labels'].shape)}")
        columns[tables.LABEL] = arrays["labels"]
    return tables.of_columns(columns, source)


def _hold_out(split: Split, share: float) -> tuple[Split, Split]:
    """Split at random with a fixed seed: the rest, and the held-out share."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = round(len(split) * share)
    return split[order[held_out:]], split[order[:held_out]]


def split_by_sklearn(n: int, first: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split the indices 0 to n - 1 by scikit-learn's `train_test_split`: `first` of them, and the others."""
    from sklearn.model_selection import train_test_split

    if first == n:
        return torch.arange(n), torch.arange(0)
    parts = train_test_split(np.arange(n), train_size=first, test_size=n - first, random_state=seed)
    return torch.from_numpy(parts[0]), torch.from_numpy(parts[1])


def _threshold(images: Tensor, part: str) -> Tensor:
    return (images > 127).to(torch.uint8) * 255


def _static(images: Tensor, part: str) -> Tensor:
    generator = torch.Generator().manual_seed(derived_seed(SPLIT_SEED, part))
    draws = torch.randint(0, 255, images.shape, dtype=torch.uint8, generator=generator)
    return (draws < images).to(torch.uint8) * 255


_BINARISED: dict[str, Callable[[Tensor, str], Tensor]] = {"static": _static, "threshold": _threshold}


@cache  # nothing changes it: splits of it are copies
def _digits() -> Split:
    """Scikit-learn's 8x8 digits of 17 grey levels, resized to 28x28."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images / 16.0).unsqueeze(1)
    large = F.interpolate(small, size=(28, 28), mode="bicubic", align_corners=False)
    return Split(_as_bytes(large.clamp(0, 1), "digits"), torch.from_numpy(digits.target).long())


_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


def _torchvision(name: str, folder: Path) -> tuple[Split, Split]:
    """Read the authors' training and test images from `folder`, downloading them if necessary."""
    import_torchvision()
    from torchvision import datasets

    source = getattr(datasets, _TORCHVISION[name])
    try:
        parts = [source(root=folder, train=train, download=True) for train in (True, False)]
    except Exception as error:  # torchvision raises exceptions of half a dozen classes
        raw = folder / source.__name__ / "raw"
        if len(list(raw.glob("*-ubyte"))) == 4:
            raise UserError(
                f"{name}: the files in {raw} are damaged ({first_line(error)}); "
                "delete that folder to download them again"
            ) from None
        raise UserError(
            f"{name}: not in {folder / source.__name__} and it cannot be downloaded ({first_line(error)}); set "
            f"`data_dir` or {DATA_DIR_VARIABLE} to the folder that holds it, or use `data=digits`"
        ) from None
    for part in parts:
        if len(part.data) != len(part.targets):
            raise UserError(f"{name}: {len(part.data)} images but {len(part.targets)} labels in {folder}")
    train, test = (Split(part.data.unsqueeze(1).contiguous(), part.targets.long()) for part in parts)
    return train, test


def import_torchvision() -> None:
    """Import torchvision.

    Raises:
        UserError: torch and torchvision are incompatible builds.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        raise UserError(
            f"torchvision does not fit torch {torch.__version__} (one is built for CUDA, the other for the "
            "CPU): uninstall both, then install them in one command from one index"
        ) from None


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a .npy or .npz file; nothing is unpickled."""
    try:
        with path.open("rb") as file:
            content: Any = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"table" if content.ndim == 2 else "images": content}
            return dict(content)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        reason = "not a .npy or .npz file of plain numbers" if "pickle" in str(error) else first_line(error)
        raise UserError(f"{path}: cannot be read ({reason})") from None


def _own(arrays: dict[str, np.ndarray], path: str) -> tuple[Split, tuple[Attribute, ...]]:
    """Check images, and labels and attributes if there are any."""
    if "images" not in arrays:
        raise UserError(f"{path}: no array named 'images' or 'table', only {sorted(arrays)}")
    images, labels = arrays["images"], arrays.get("labels")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise UserError(
            f"{path}: pixels must be bytes or floats in [0, 1], not {images.dtype} (for bytes: .astype('uint8'))"
        )
    shape = images.shape if images.ndim == 4 else (*images.shape[:1], 1, *images.shape[1:])
    if len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise UserError(
            f"{path}: images must be [n, height, width] or [n, channel, height, width] with 1 or 3 channels, "
            f"not {list(images.shape)}"
        )
    if len(images) < 24:
        raise UserError(f"{path}: {len(images)} images are too few to split: give at least 24")
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        raise UserError(f"{path}: labels must be {len(images)} integers, not {labels.dtype} {list(labels.shape)}")
    indices, names = arrays.get("attributes"), arrays.get("attribute_names")
    attributes = () if indices is None else attributes_of_array(indices, names, len(images), path)
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
    pixels = torch.from_numpy(np.ascontiguousarray(images)).reshape(shape)
    integers = (None if array is None else torch.from_numpy(array.astype(np.int64)) for array in (labels, indices))
    return Split(_as_bytes(pixels, path), *integers), attributes


def _as_bytes(images: Tensor, source: str) -> Tensor:
    """Return bytes as they are, and floats in [0, 1] rounded to bytes."""
    if images.dtype == torch.uint8:
        return images
    if not images.isfinite().all():
        raise UserError(f"{source}: {int((~images.isfinite()).sum())} pixels are NaN or infinite")
    if images.min() < 0 or images.max() > 1:
        raise UserError(f"{source}: float pixels must lie in [0, 1], not [{images.min():g}, {images.max():g}]")
    return (images * 255).round().to(torch.uint8)
