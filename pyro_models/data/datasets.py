"""Data sets: images as bytes and tables as standardised rows, split into training, validation and test data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_models.base.errors import DataError, UserError, first_line
from pyro_models.base.names import COMPOSED, DATA_DIR_VARIABLE, SOURCES, TABLES, PixelMode, SplitName, check_name
from pyro_models.base.names import data_dir as folder_of
from pyro_models.base.seeds import derived_seed
from pyro_models.data import sources, tables
from pyro_models.data.attributes import MNIST_A, SIDES, Attribute, combinations, left_or_right, mnist_a
from pyro_models.data.preprocessing import SPLIT_SEED, Preprocessing, binarised, labels_of, notes_on
from pyro_models.data.sources import InMemory, Options, Raw
from pyro_models.data.split import Split

FEWEST = 24  # data that can be split


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
        classes: the names of the labels, in the order of their indices.
        preprocessing: what was done to the data, and is to be done to new ones.
        notes: what was worked out of the source and does not go without saying, a line each.
    """

    name: str
    pixels: PixelMode
    train: Split
    validation: Split
    test: Split
    columns: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    all_combinations: Split | None = field(default_factory=lambda: None)
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    notes: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the data are."""
        return self.train.x.device

    @property
    def class_count(self) -> int:
        """The number of classes, 0 without labels."""
        if self.preprocessing is not None:
            return len(self.classes)
        labels = [part.labels for part in self.parts.values() if part.labels is not None]
        return max((1 + int(each.max()) for each in labels), default=0)

    @property
    def shape(self) -> tuple[int, ...]:
        """[channel, height, width], or [columns]."""
        if self.preprocessing is not None:
            return self.preprocessing.shape
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


SPLITS = ("train", "validation", "test", "all_combinations")


class Deferred(Dataset):
    """A data set that is loaded when one of its splits is first asked for: all else is known without.

    Args:
        name: of the data.
        preprocessing: what was done to them.
        load: loads the data set; called once, if at all.
        device: where the splits go.
    """

    def __init__(
        self, name: str, preprocessing: Preprocessing, load: Callable[[], Dataset], device: torch.device | str = "cpu"
    ):
        known = {
            "name": name,
            "pixels": preprocessing.pixels,
            "columns": preprocessing.features,
            "attributes": preprocessing.attributes,
            "classes": preprocessing.classes,
            "preprocessing": preprocessing,
            "notes": (),
            "_load": load,
            "_device": torch.device(device),
        }
        for field_name, value in known.items():
            object.__setattr__(self, field_name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in SPLITS:
            raise AttributeError(f"a data set has no attribute {name!r}")
        loaded = self._load().to(self._device)
        for split in SPLITS:
            object.__setattr__(self, split, getattr(loaded, split))
        return getattr(loaded, name)

    @property
    def device(self) -> torch.device:
        """Where the data go when they are loaded."""
        return self._device

    def to(self, device: torch.device | str) -> "Deferred":
        """Return the data set on `device`."""
        preprocessing: Any = self.preprocessing
        return Deferred(self.name, preprocessing, self._load, device)


def stand_in(name: str, preprocessing: Preprocessing, sizes: Mapping[str, int]) -> Dataset:
    """Return a data set with as many data in each split, all of them 0, and every label and attribute in turn.

    A story is read on it where the data are gone: only their shapes count there.
    """

    def of_zeros(n: int) -> Split:
        turn = torch.arange(n)
        number = torch.float32 if preprocessing.is_table else torch.uint8
        x = torch.zeros(1, *preprocessing.shape, dtype=number).expand(n, *preprocessing.shape)
        attributes = [turn % len(each.values) for each in preprocessing.attributes]
        labels = turn % len(preprocessing.classes) if preprocessing.classes else None
        return Split(x, labels, torch.stack(attributes, -1) if attributes else None)

    parts = {part: of_zeros(n) for part, n in sizes.items()}
    return _of_parts(name, parts, preprocessing, binary=True)


def load(
    data: Any = "digits",
    *,
    data_dir: Path | None = None,
    pixels: PixelMode = "grey",
    split: SplitName = "official",
    source: str | None = None,
    validation_data: Any = None,
    test_data: Any = None,
    likelihood: str = "normal",
    **options: Any,
) -> Dataset:
    """Load a data set by name, or your own images or table from a file, a folder or memory.

    >>> digits = load("digits")
    >>> digits.shape, len(digits.train), len(digits.validation), len(digits.test)
    ((1, 28, 28), 1372, 125, 300)
    >>> load(np.random.default_rng(0).normal(size=(60, 3))).columns
    ('x[0]', 'x[1]', 'x[2]')

    Args:
        data: `digits` (1,797 images, no download); `mnist`, `fashion-mnist` or `kmnist` (downloaded by torchvision on
            first use); `attributes` or `mnist-a` (made from digits, see `attributes.left_or_right` and
            `attributes.mnist_a`); `blobs`, `moons`, `pinwheel` (generated); `wine`, `iris` (no download); or your own:

            - images: an array or a .npy file, [n, height, width] or with channels first or last; .npz with `images`
              and optionally `labels`, `ids`, `split`; a folder of image files, whose subfolders are their labels.
              What is white follows from the type and the range of the pixels: see `pyro_models.data.images`. A .npz
              file may hold `attributes`, integers [n, attributes] whose columns are indices 0, 1, ..., -1 where
              missing, and `attribute_names`. Without these, the labels become the only attribute;
            - a table: a data frame; a .csv, .tsv or .parquet file; an array or a .npy file [n, columns], or .npz with
              `table` and optionally `columns`, `labels`, `ids`, `split`.

            Labels are numbers or names; -1, NaN, None, blank and NA mean that a label is not known.
        data_dir: the folder of downloads; None takes the environment variable PYRO_MODELS_DATA, else `./datasets`.
        pixels: the pixel mode, see `pyro_models.base.names.PixelMode`.
        split: `official`; or `article`, of the article on virtual adversarial training, whose test images are 10,000 of
            the 60,000 training images, which are `validation` here; of `mnist-a` also `iid`, which is the official
            one, and `compositional`, whose validation and test have combinations of attributes that training lacks.
        source: the images that `attributes` (default: digits) or `mnist-a` (default: mnist) are made from.
        validation_data, test_data: your own splits, where `data` are not to be split at random.
        likelihood: of the columns of a table: normal of all of them; `columns`, of each by its type; or that but for
            NAME=LIKELIHOOD,... of some (see `pyro_models.data.columns`).
        options: of your own data, as of `pyro_models.data.sources.Options`: `label_column`, `id_column`,
            `split_column`, `size`, `colour`, `white`.

    Returns:
        The data set, which depends on these arguments alone. Its test split is that of the data set's authors or your
        own where there is one, else a random sixth; validation is a random twelfth of the rest, both with a fixed seed.

    Raises:
        UserError: the name is unknown, files are missing or damaged, values are not pixels, or the split or the source
            does not exist for this data set.
    """
    if sources.is_in_memory(data) and not isinstance(data, Raw):
        data = InMemory.of(data)
    own = isinstance(data, InMemory | Raw) or check_name(str(data)) not in (*_TORCHVISION, *COMPOSED, *TABLES, "digits")
    name = "memory" if isinstance(data, InMemory | Raw) else str(data)
    _check_split(name, split, source)
    others = {"validation": validation_data, "test": test_data}
    given = {part: InMemory.of(x) if sources.is_in_memory(x) else x for part, x in others.items() if x is not None}
    if own:
        reading = Options(**options, likelihood=likelihood)
        raw = sources.read(data, reading)
        if given:
            parts = {part: sources.read(x, reading) for part, x in given.items()}
            raw = sources.concatenated({"train": raw} | parts)
        return _own(name, raw, pixels, reading)
    for option, value in {**options, "validation_data": validation_data, "test_data": test_data}.items():
        if not (value is None or (isinstance(value, str) and value == "auto")):
            raise DataError(f"`{option}` goes with data of your own, not with {name}")
    if name in COMPOSED:
        return _composed(name, load(source or COMPOSED[name], data_dir=data_dir), pixels, split == "compositional")
    if name in TABLES:
        columns, labels = tables.TABLES[name]()
        return _own(name, Raw(name, columns=columns, labels=labels), pixels, Options(likelihood=likelihood))
    train, test = _hold_out(_digits(), 1 / 6) if name == "digits" else _torchvision(name, folder_of(data_dir))
    if split == "article":
        stay, held_out = split_by_sklearn(len(train), 50_000, seed=42)
        train, validation = train[stay], train[held_out]
    else:
        train, validation = _hold_out(train, 1 / 12)
    classes = tuple(map(str, range(10)))
    attribute = Attribute("digit" if name in SOURCES else "label", classes)
    preprocessing = Preprocessing(tuple(train.x.shape[1:]), pixels, classes=classes, attributes=(attribute,))
    return _of_parts(name, {"train": train, "validation": validation, "test": test}, preprocessing)


def _own(name: str, raw: Raw, pixels: PixelMode, options: Options) -> Dataset:
    """Split data of one's own, and preprocess them by the training data."""
    if len(raw) < FEWEST:
        what = "rows" if raw.columns is not None else "images"
        raise DataError(f"{raw.name}: {len(raw)} {what} are too few to split: give at least {FEWEST}")
    labels, classes = labels_of(raw)
    if len(classes) > len(raw) // 2:
        advice = "leave them out, or give `id_column` if they name the data"
        raise DataError(f"{raw.name}: labels are of {len(classes)} classes, one for each datum or two: {advice}")
    index = _indices(raw, labels)
    preprocessing = Preprocessing.fit(raw, index["train"], pixels=pixels, options=options)
    data = preprocessing.transform(raw)
    parts = {part: data[rows] for part, rows in index.items()}
    notes = notes_on(raw, preprocessing)
    if labels is not None and (unseen := set(range(len(classes))) - set(labels[index["train"]].tolist())):
        notes.append(f"no training data are labelled {', '.join(classes[k] for k in sorted(unseen))}")
    return _of_parts(name, parts, preprocessing, tuple(notes))


def _indices(raw: Raw, labels: Tensor | None) -> dict[str, Tensor]:
    """Return the indices of the data of each split: the source's own, else random ones with a fixed seed.

    Where some labels are not known, each split gets its share of the known ones.

    Raises:
        DataError: the source's own splits lack training data, or are not of as many data.
    """
    known = torch.ones(len(raw), dtype=torch.bool) if labels is None else labels >= 0
    everything = torch.arange(len(raw))
    if raw.parts is None:
        train, test = _hold_out_index(everything, known, 1 / 6)
        train, validation = _hold_out_index(train, known, 1 / 12)
        return {"train": train, "validation": validation, "test": test}
    if raw.parts.shape != (len(raw),):
        raise DataError(f"{raw.name}: {len(raw)} data but splits of shape {list(raw.parts.shape)}")
    index = {part: everything[torch.from_numpy(raw.parts == part)] for part in sources.PARTS}
    for part, share in (("validation", 1 / 12), ("test", 1 / 6)):
        if len(index["train"]) < FEWEST // 2:
            raise DataError(f"{raw.name}: {len(index['train'])} training data are too few: give at least {FEWEST // 2}")
        if len(index[part]) == 0:
            index["train"], index[part] = _hold_out_index(index["train"], known, share)
    return index


def _hold_out_index(rows: Tensor, known: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Split indices at random with a fixed seed, those of labelled and of unlabelled data alike."""
    groups = [group for group in (rows[known[rows]], rows[~known[rows]]) if len(group)]
    pairs = [(group[stay], group[out]) for group in groups for stay, out in [_order(len(group), share)]]
    stay, out = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return stay, out


def _of_parts(
    name: str, parts: dict[str, Split], preprocessing: Preprocessing, notes: tuple[str, ...] = (), binary: bool = False
) -> Dataset:
    """Make a data set of preprocessed splits, under its pixel mode but where the images are binary already."""
    pixels, attributes = preprocessing.pixels, preprocessing.attributes
    by_label = attributes and attributes[0].values == preprocessing.classes
    for part, split in parts.items():
        if by_label and split.attributes is None and split.labels is not None:
            split = replace(split, attributes=split.labels[:, None])
        parts[part] = split if binary or preprocessing.is_table else binarised(split, pixels, part)
    return Dataset(
        name,
        pixels,
        parts["train"],
        parts["validation"],
        parts["test"],
        columns=preprocessing.features,
        attributes=attributes,
        classes=preprocessing.classes,
        preprocessing=preprocessing,
        notes=notes,
    )


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
            return Split(x, indices[:, 1], indices)
        x, indices = mnist_a(digits.x, labels, allowed=poses, seed=seed, copies=copies)
        return Split(x, indices[:, 0], indices)

    parts = {part: make(part, digits, allowed[part]) for part, digits in source.parts.items()}
    attributes = SIDES if name == "attributes" else MNIST_A
    classes = attributes[1 if name == "attributes" else 0].values
    shape = tuple(parts["train"].x.shape[1:])
    preprocessing = Preprocessing(shape, pixels, classes=classes, attributes=attributes)
    dataset = _of_parts(name, parts, preprocessing, binary=name == "mnist-a")
    if compositional:
        every = make("judges", source.train, torch.ones_like(allowed["train"]), copies=2)
        dataset = replace(dataset, all_combinations=every)
    return dataset


def _hold_out(split: Split, share: float) -> tuple[Split, Split]:
    """Split at random with a fixed seed: the rest, and the held-out share."""
    stay, out = _order(len(split), share)
    return split[stay], split[out]


def _order(n: int, share: float) -> tuple[Tensor, Tensor]:
    """Return the indices 0 to n - 1 in a random order with a fixed seed: the rest, and the share that is held out."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = round(n * share)
    return order[held_out:], order[:held_out]


def split_by_sklearn(n: int, first: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split the indices 0 to n - 1 by scikit-learn's `train_test_split`: `first` of them, and the others."""
    from sklearn.model_selection import train_test_split

    if first == n:
        return torch.arange(n), torch.arange(0)
    parts = train_test_split(np.arange(n), train_size=first, test_size=n - first, random_state=seed)
    return torch.from_numpy(parts[0]), torch.from_numpy(parts[1])


@cache  # nothing changes it: splits of it are copies
def _digits() -> Split:
    """Scikit-learn's 8x8 digits of 17 grey levels, resized to 28x28."""
    spec: Any = find_spec("sklearn")  # whose import would take longer than that of torch
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype=np.int64)
    large = torch.from_numpy(enlarged(table[:, :-1].reshape(-1, 8, 8)))
    return Split(large.unsqueeze(1), torch.from_numpy(table[:, -1]))


def enlarged(images: np.ndarray) -> np.ndarray:
    """Resize images [n, 8, 8] of 0 to 16 to [n, 28, 28] of bytes by cubic convolution with a = -3/4, as torch does.

    Keys, 1981. In whole numbers, so that every version of every library gives the same bytes.
    """
    weights, unit = np.zeros((28, 8), dtype=np.int64), 4 * 14**3
    for row in range(28):
        first, rest = divmod(4 * row - 5, 14)  # of (row + 1/2) 8/28 - 1/2, in 14ths
        for k in range(-1, 3):
            t = abs(rest - 14 * k)
            near, far = 5 * t**3 - 126 * t**2 + unit, -3 * (t**3 - 70 * t**2 + 1568 * t - unit)
            weights[row, min(max(first + k, 0), 7)] += near if t <= 14 else far
    large, white = np.einsum("ij,njk,lk->nil", weights, images, weights), 16 * unit**2
    return ((510 * large.clip(0, white) + white) // (2 * white)).astype(np.uint8)


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
                "delete that folder to download them again",
                1,
            ) from None
        raise UserError(
            f"{name}: not in {folder / source.__name__} and it cannot be downloaded ({first_line(error)}); set "
            f"`data_dir` or {DATA_DIR_VARIABLE} to the folder that holds it, or use `data=digits`",
            1,
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
