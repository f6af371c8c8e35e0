"""What is done to data before a model sees them: fitted to training data once, stored as JSON, applied to new data."""

import dataclasses
import math
import zlib
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_models.base.errors import DataError
from pyro_models.base.names import COLUMN_TYPES, PixelMode
from pyro_models.base.seeds import derived_seed
from pyro_models.data import cells, columns, images, sources
from pyro_models.data.attributes import Attribute, attributes_of_array, indices_of_attributes
from pyro_models.data.columns import Column
from pyro_models.data.images import PixelRange
from pyro_models.data.mapped import MappedRows
from pyro_models.data.sources import PLAIN, Options, Raw
from pyro_models.data.split import Split

SPLIT_SEED = 0  # the same for all runs, whatever their seed: test data are never trained on


@dataclass(frozen=True)
class Preprocessing:
    """What turns data as they come into the tensors that a model takes.

    >>> rows = np.array([[1.0, 5.0], [3.0, 9.0]])
    >>> preprocessing = Preprocessing.fit(rows)
    >>> preprocessing.apply(np.array([[2.0, 11.0]])).x
    tensor([[0., 2.]])
    >>> Preprocessing.from_json(preprocessing.as_json()) == preprocessing
    True

    Attributes:
        shape: of a datum: [channel, height, width], or [features].
        pixels: the pixel mode of images.
        columns: of a table.
        image: the range of the pixels.
        classes: the names of the labels, in the order of their indices.
        attributes: of images.
        options: how the source is read.
    """

    shape: tuple[int, ...]
    pixels: PixelMode = "grey"
    columns: tuple[Column, ...] = ()
    image: PixelRange = PixelRange("u1")
    classes: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    options: Options = Options()

    @classmethod
    def fit(
        cls,
        x: Any,
        train: Tensor | None = None,
        *,
        pixels: PixelMode = "grey",
        options: Options = PLAIN,
        constant: bool = False,
    ) -> "Preprocessing":
        """Work out what has to be done to a source of data.

        Args:
            x: the data, as `sources.read` takes them.
            train: the indices of the training data, which columns are standardised by; None takes all.
            pixels: the pixel mode.
            options: how the data are read.
            constant: whether a column of equal numbers is centred alone, and not refused.

        Raises:
            DataError: they are no images and no table, or a column is constant over the training rows.
        """
        raw = sources.read(x, options)
        classes = labels_of(raw)[1]
        if raw.images is not None:
            pixels_of, rule, _ = _image(raw, options)
            shape = tuple(pixels_of.shape[1:])
            if options.colour != "auto":
                shape = (1 if options.colour == "grey" else 3, *shape[1:])
            if options.size is not None:
                shape = (shape[0], options.size, options.size)
            if len(raw) > 1 and all(x.min() == x.max() for x in (pixels_of[:1000], pixels_of)):  # a long file once
                raise DataError(f"{raw.name}: every pixel of every image is {float(pixels_of.min()):g}")
            attributes = _attributes(raw, classes)
            return cls(shape, pixels, (), rule, classes, attributes, options)
        table, fitted = raw.columns or {}, []
        for column in columns.columns_of(table, options.likelihood, raw.name, levels=raw.levels, constant=constant):
            values = torch.from_numpy(column.features(table[column.name], raw.name))
            values = values if train is None else values[train]
            known = values[~values.isnan()]
            column = replace(column, missing=len(known) < values.numel())
            if column.likelihood == "bernoulli" or (column.categories and column.likelihood != "ordinal"):
                fitted.append(column)
                continue
            known = known.log1p() if column.likelihood in COLUMN_TYPES["counts"] else known
            varies = len(known) > 0 and bool(known.min() < known.max())
            loc, deviation = float(known.mean()), float(known.std(correction=0)) if varies else 0.0
            if not (0 < deviation < math.inf or (constant and deviation == 0)):
                name, advice = f"{raw.name}: column {column.name!r}", "drop it, or give it in another unit"
                raise DataError(f"{name} has a standard deviation of {deviation:g} over the training rows: {advice}")
            fitted.append(replace(column, loc=loc, scale=deviation or 1.0))
        size = sum(len(column.names) for column in fitted)
        attributes = _attributes(raw, classes)
        return cls((size,), "grey", tuple(fitted), classes=classes, attributes=attributes, options=options)

    @property
    def is_table(self) -> bool:
        """Whether the data are rows of a table."""
        return bool(self.columns)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of a table's features."""
        return tuple(name for column in self.columns for name in column.names)

    @property
    def units(self) -> Tensor:
        """What a table's features are shifted and scaled by to be in its units: [features, 2]."""
        each = [column.units for column in self.columns for _ in column.names]
        return torch.tensor(each, dtype=torch.float64)

    def apply(self, x: Any) -> Split:
        """Do to new data what was done to the training data.

        Columns are taken by name, whatever their order; a label is looked up among the classes. Whatever stands beside
        a datum, it becomes the same.

        Args:
            x: as `sources.read` takes them: a file, a folder, an array, a data frame, ...

        Returns:
            the data in the order of the source, with ids.

        Raises:
            DataError: a column is missing or unknown, images have another size or number of channels, values lie
                outside the range or the categories of the training data, or a label is of no class.
        """
        split = self.transform(sources.read(x, replace(self.options, optional=True)))
        return split if self.is_table else binarised(split, self.pixels, None)

    def transform(self, raw: Raw) -> Split:
        """Turn a source as read into tensors, the pixels still grey."""
        if len(raw) == 0:
            raise DataError(f"{raw.name}: there are no data")
        if raw.images is None and not self.is_table:
            raise DataError(f"{raw.name}: holds a table, not images of {_size(self.shape)}")
        table = sources.check_columns(raw, [column.name for column in self.columns]) if self.is_table else {}
        labels, _ = labels_of(raw, self.classes) if self.classes else (None, ())
        ids = np.arange(len(raw)) if raw.ids is None else _ids(raw)
        if self.is_table:
            parts = [column.features(table[column.name], raw.name) for column in self.columns]
            rows = torch.from_numpy(np.concatenate(parts, axis=1))
            if empty := rows.isnan().all(1).nonzero()[:, 0].tolist():
                listed = ", ".join(map(str, empty[:5])) + ", ..." * (len(empty) > 5)
                raise DataError(f"{raw.name}: of {len(empty)} rows no value is known: leave them out ({listed})")
            loc, scale = self.units.T
            return Split(((rows - loc) / scale).float(), labels, self._attributes_of(raw, labels), ids)
        pixels, rule, _ = _image(raw, self.options, self.image)
        if isinstance(pixels, Tensor):  # of files, which are read in the size and the colour of the options
            x: Any = pixels
        elif isinstance(raw.images, np.memmap):
            x = MappedRows(pixels, torch.arange(len(pixels)), partial(self._bytes, rule=rule, source=raw.name))
        else:
            x = self._bytes(pixels, rule, raw.name)
        if tuple(x.shape[1:]) != self.shape:
            raise DataError(f"{raw.name}: images of {_size(x.shape[1:])}, not of {_size(self.shape)} as in training")
        return Split(x, labels, self._attributes_of(raw, labels), ids)

    def _bytes(self, pixels: np.ndarray, rule: PixelRange, source: str) -> Tensor:
        """Return images with channels first as bytes of the size and the colour that the options say."""
        x = images.coloured(images.to_bytes(pixels, rule, source), self.options.colour, source)
        return x if self.options.size is None else images.resized(x, self.options.size)

    def _attributes_of(self, raw: Raw, labels: Tensor | None) -> Tensor | None:
        if not self.attributes:
            return None
        if raw.attributes is not None:
            indices = indices_of_attributes(self.attributes, raw.attributes, raw.name)
            sizes = np.array([len(attribute.values) for attribute in self.attributes])
            if indices.shape != (len(raw), len(sizes)) or (indices < -1).any() or (indices >= sizes).any():
                expected = ", ".join(f"{each.name}: 0 to {len(each.values) - 1}" for each in self.attributes)
                raise DataError(f"{raw.name}: attributes must be integers [{len(raw)}, {len(sizes)}] ({expected})")
            return torch.from_numpy(indices.astype(np.int64))
        if self.attributes[0].values == self.classes and len(self.attributes) == 1:
            return None if labels is None else labels[:, None]
        return None

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` makes it again from: strings, numbers and lists of these."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Preprocessing":
        """Make the preprocessing that `as_json` wrote.

        Raises:
            DataError: it is none.
        """
        try:
            if not all(each["scale"] > 0 for each in content["columns"]):
                raise DataError("this is no stored preprocessing: the scale of a column is not above 0")
            return cls(
                tuple(content["shape"]),
                content["pixels"],
                tuple(Column(**{**each, "categories": tuple(each["categories"])}) for each in content["columns"]),
                PixelRange(**content["image"]),
                tuple(content["classes"]),
                tuple(Attribute(each["name"], tuple(each["values"])) for each in content["attributes"]),
                Options(**content["options"]),
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"this is no stored preprocessing: {error}") from None


def binarised(split: Split, pixels: PixelMode, part: str | None) -> Split:
    """Threshold the pixels, or draw them once, under the pixel modes that do so.

    Args:
        split: the data.
        pixels: the pixel mode.
        part: the name of the split, whose pixels are drawn at once; None draws those of each datum by its content, so
            that they do not depend on the others.
    """
    if isinstance(split.x, MappedRows):
        each = split.x if pixels in ("grey", "dynamic") else split.x.then(lambda x: binarised(Split(x), pixels, None).x)
        return replace(split, x=each)  # type: ignore[arg-type]
    if pixels == "threshold":
        return replace(split, x=(split.x > 127).to(torch.uint8) * 255)
    if pixels != "static":
        return split
    if part is not None:
        return replace(split, x=_static(split.x, derived_seed(SPLIT_SEED, part)))
    drawn = [_static(x, derived_seed(SPLIT_SEED, "datum", zlib.crc32(x.numpy().tobytes()))) for x in split.x]
    return replace(split, x=torch.stack(drawn))


def _static(x: Tensor, seed: int) -> Tensor:
    draws = torch.randint(0, 255, x.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return (draws < x).to(torch.uint8) * 255


def labels_of(raw: Raw, classes: tuple[str, ...] | None = None) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return the labels of a source as indices, None where none is known, and the names of their classes."""
    if raw.labels is None:
        return None, ()
    labels = np.asarray(raw.labels)
    if labels.shape not in ((len(raw),), (len(raw), 1)):
        what = "rows" if raw.columns else "images"
        indicators = labels.ndim == 2 and len(labels) == len(raw) and labels.dtype.kind in "biuf"
        advice = ": give one label for each, of indicators `labels.argmax(1)`" * indicators
        raise DataError(f"{raw.name}: {len(raw)} {what} but labels of shape {list(labels.shape)}{advice}")
    indices, names = cells.of_labels(labels, raw.name, classes)
    return (torch.from_numpy(indices), names) if names else (None, ())


def _ids(raw: Raw) -> np.ndarray:
    """Return the ids of a source as text, after checking that no two are equal."""
    ids = np.array([str(each) for each in np.asarray(raw.ids).tolist()])
    if ids.shape != (len(raw),):
        raise DataError(f"{raw.name}: {len(raw)} data but ids of shape {list(np.asarray(raw.ids).shape)}")
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        twice = values[counts > 1]
        raise DataError(f"{raw.name}: {len(twice)} ids are there more than once, {str(twice[0])!r} for one")
    return ids


def _image(raw: Raw, options: Options, rule: PixelRange | None = None) -> tuple[Any, PixelRange, list[str]]:
    """Return images with channels first, the range of their pixels, and what was worked out.

    A rule of training data holds for new data of the same type; of those of another type the range is worked out anew.
    """
    if isinstance(raw.images, Tensor):  # bytes already
        return raw.images, rule or PixelRange("u1"), []
    pixels, axes = images.channels_first(np.asarray(raw.images), raw.name)
    note = None
    if len(pixels) and (rule is None or rule.kind != images.kind_of(pixels)):
        rule, note = images.pixel_range(pixels, raw.name, options.white if rule is None else None)
    return pixels, rule or PixelRange("u1"), [each for each in (axes, note) if each]


def notes_on(raw: Raw, preprocessing: Preprocessing) -> list[str]:
    """Return what was worked out of a source and does not go without saying, a line each."""
    notes = list(raw.notes)
    if raw.images is not None:
        notes += _image(raw, preprocessing.options)[2]
    for column in preprocessing.columns:
        if column.categories and preprocessing.options.likelihood == "normal":
            notes.append(f"column {column.name!r} holds {len(column.categories)} categories: an indicator of each")
    if preprocessing.options.likelihood != "normal" and preprocessing.is_table:
        notes.append(columns.described({column.name: column.likelihood for column in preprocessing.columns}))
    if incomplete := [column.name for column in preprocessing.columns if column.missing]:
        what = "masked out of the bound, and shown to the encoder as missing"
        notes.append(f"{len(incomplete)} columns have missing cells, which are {what}")
    labels, _ = labels_of(raw)
    if raw.labels is not None:
        unknown = len(raw) if labels is None else int((labels < 0).sum())
        if unknown:
            notes.append(f"{unknown} of {len(raw)} labels are not known: these data are unlabelled")
    return notes


def _attributes(raw: Raw, classes: tuple[str, ...]) -> tuple[Attribute, ...]:
    """Return the attributes of images; without any, their labels are the only one, if there are two or more classes."""
    if raw.attributes is not None:
        return attributes_of_array(raw.attributes, raw.attribute_names, len(raw), raw.name)
    return (Attribute("label", classes),) if len(classes) > 1 else ()


def _size(shape: Any) -> str:
    """Return the shape of an image in words."""
    channels, height, width = shape
    return f"{height} x {width} with {channels} channel{'s' * (channels > 1)}"
