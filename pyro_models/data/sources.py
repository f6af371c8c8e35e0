"""Data as they come: files, folders, arrays, data frames; read into arrays by name, and not yet understood."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from pyro_models.base.errors import DataError, first_line
from pyro_models.data import delimited, images, mapped
from pyro_models.data.cells import texts

LABEL = "label"
LIKE_LABELS = {"label", "labels", "class", "classes", "target", "y", "species", "category"}
LIKE_IDS = {"id", "ids", "index", "uuid", "row_id", "sample_id"}
PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
PART_OF = {word: part for part, words in PARTS.items() for word in words}


@dataclass(frozen=True)
class Options:
    """How a source is to be read.

    Attributes:
        label_column, id_column, split_column: names of the columns of a table that are no features.
        size: height and width that images are resized to.
        colour: number of channels of images: as they are, 1 or 3.
        white: the value of a white pixel.
        likelihood: of a table's columns: `normal` of all of them, or as `column_likelihoods` reads it.
        optional: whether the columns that are no features may be missing, as they may from new data.
    """

    label_column: str | None = None
    id_column: str | None = None
    split_column: str | None = None
    size: int | None = None
    colour: images.Colour = "auto"
    white: float | None = None
    likelihood: str = "normal"
    optional: bool = False


PLAIN = Options()


@dataclass(frozen=True)
class Raw:
    """A source as read.

    Attributes:
        name: what messages name.
        images: pixels, [n, ...]; or None.
        columns: columns of a table by name, [n] each; or None.
        named: whether the source itself names the columns.
        labels, ids: numbers or text, [n]; or None.
        attributes, attribute_names: as in a .npz file; or None.
        parts: the name of each datum's split, [n]; or None.
        notes: what was worked out and does not go without saying, a line each.
    """

    name: str
    images: np.ndarray | torch.Tensor | None = None
    columns: dict[str, np.ndarray] | None = None
    named: bool = True
    labels: np.ndarray | None = None
    ids: np.ndarray | None = None
    attributes: np.ndarray | None = None
    attribute_names: np.ndarray | None = None
    parts: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        if self.images is not None:
            return len(self.images)
        return len(next(iter(self.columns.values()))) if self.columns else 0


@dataclass(frozen=True)
class InMemory:
    """Data in memory in the place of a file's path: equal where their content is.

    Attributes:
        description: of what type and shape they are.
        sha256: of their content.
        value: the arrays or the data frame themselves; None where a recipe was read from a file.
    """

    description: str
    sha256: str
    value: Any = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.description

    @classmethod
    def of(cls, value: Any) -> "InMemory":
        """Wrap arrays, data frames, tensors, or dictionaries and pairs of these."""
        size = list(value.shape) if hasattr(value, "shape") else sorted(value) if isinstance(value, Mapping) else ""
        return cls(f"{type(value).__name__} {size} in memory", _hash_of(value), value)


def read(source: Any, options: Options = PLAIN) -> Raw:
    """Read data from wherever they are.

    Args:
        source: the path of a file (.npy, .npz, .csv, .tsv, .parquet) or of a folder of images, whose subfolders are the
            labels; an array or tensor, [n, columns] or [n, ...] of images; a data frame of pandas or polars; an
            `AnnData`; a dictionary of arrays, named as in a .npz file or a column each; or a pair of data and labels.
        options: how.

    Raises:
        DataError: they cannot be read, or a column that `options` names does not exist.
    """
    if isinstance(source, Raw):
        return source
    if isinstance(source, InMemory):
        if source.value is None:
            raise DataError(f"the data were in memory ({source}) and are not stored: give them again, as `data`")
        return read(source.value, options)
    if isinstance(source, str | Path):
        return _of_path(Path(source), options)
    if isinstance(source, tuple) and len(source) == 2:
        return replace(read(source[0], options), labels=_array(source[1], "labels"))
    name = type(source).__name__
    if hasattr(source, "X") and hasattr(source, "var_names"):
        return _of_anndata(source, options)
    if hasattr(source, "columns"):
        return _of_frame(source, name, options)
    if isinstance(source, Mapping):
        arrays = {str(key): _array(value, str(key)) for key, value in source.items()}
        if not {"images", "table"} & arrays.keys() and all(value.ndim == 1 for value in arrays.values()):
            return of_columns(arrays, "dict", options)
        return _of_arrays(arrays, "dict", options)
    array = _array(source, name)
    if array.ndim < 2:
        raise DataError(f"{name}: give a table [n, columns] or images [n, height, width], not {list(array.shape)}")
    return _of_arrays({"table" if array.ndim == 2 else "images": array}, name, options)


def _of_path(path: Path, options: Options) -> Raw:
    """Read a file or a folder."""
    suffix, source = path.suffix.lower(), str(path)
    if path.is_dir():
        return _of_folder(path, options)
    if not path.exists():
        raise DataError(f"no such file: {path}")
    if suffix in images.SUFFIXES:
        raise DataError(f"{path} is one image: give the folder of many")
    if suffix in (".npy", ".npz"):
        return _of_arrays(_arrays(path), source, options)
    try:
        if suffix == ".parquet":
            return _of_parquet(path, options)
        columns, notes, named = delimited.read(path)
    except DataError:
        raise
    except (OSError, ValueError, delimited.csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({first_line(error)})") from None
    return of_columns(columns, source, options, notes=notes, named=named)


def _of_folder(path: Path, options: Options) -> Raw:
    """Read images below a folder: the first folder below it is the label, below the folder of a split if there are."""
    files = images.files_of(path)
    if not files:
        raise DataError(f"{path}: there are no images in it: {', '.join(images.SUFFIXES)}")
    x, kept, notes = images.read_files(files, str(path), options.size, options.colour)
    where = [files[number].relative_to(path) for number in kept]
    parts = [PART_OF.get(each.parts[0].lower()) if len(each.parts) > 1 else None for each in where]
    inner = [each.parts[1:] for each in where] if all(parts) else [each.parts for each in where]
    labels = [each[0] if len(each) > 1 else "" for each in inner]
    return Raw(
        str(path),
        images=x,
        labels=np.array(labels) if any(labels) else None,
        ids=np.array([str(each) for each in where]),
        parts=np.array(parts) if all(parts) else None,
        notes=[f"{len(where)} images of {x.shape[-2]} x {x.shape[-1]} in {path}", *notes],
    )


def _array(value: Any, name: str) -> np.ndarray:
    """Return an array of plain values."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError(f"{name}: is no array ({first_line(error)})") from None


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a .npy or .npz file; nothing is unpickled."""
    try:
        if path.suffix.lower() == ".npy" and path.stat().st_size > mapped.LARGE:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return {"table" if array.ndim == 2 else "images": array}
        with path.open("rb") as file:
            content: Any = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"table" if content.ndim == 2 else "images": content}
            return dict(content)
    except Exception as error:  # numpy parses the header as Python: tokenize's errors among others
        if not isinstance(error, OSError | ValueError | EOFError | SyntaxError | BadZipFile) and (
            type(error).__module__ not in ("tokenize", "zlib", "struct")
        ):
            raise
        reason = "its header is damaged" if type(error).__module__ == "tokenize" else first_line(error)
        reason = "not a .npy or .npz file of plain numbers" if "pickle" in str(error) else reason
        raise DataError(f"{path}: cannot be read ({reason})") from None


def _of_arrays(arrays: dict[str, np.ndarray], source: str, options: Options) -> Raw:
    """Take images or a table, and what belongs to them, by their names."""
    if split := _by_part(arrays):
        return concatenated({part: _of_arrays(rest, source, options) for part, rest in split.items()})
    ids, split_names = arrays.get("ids"), arrays.get("split")
    parts = None if split_names is None else _parts(split_names, source)
    if "images" in arrays:
        _refuse_columns(options, source)
        return Raw(
            source,
            images=arrays["images"],
            labels=arrays.get("labels"),
            ids=ids,
            attributes=arrays.get("attributes"),
            attribute_names=arrays.get("attribute_names"),
            parts=parts,
        )
    if "table" not in arrays:
        raise DataError(f"{source}: no array named 'images' or 'table', only {sorted(arrays)}")
    rows, names = arrays["table"], arrays.get("columns")
    if rows.ndim != 2:
        raise DataError(f"{source}: a table must be [n, columns], not {list(rows.shape)}")
    if names is not None and names.shape != rows.shape[1:]:
        raise DataError(f"{source}: {rows.shape[1]} columns but names of shape {list(names.shape)}")
    titles = [f"x[{k}]" for k in range(rows.shape[1])] if names is None else [str(name) for name in names]
    raw = of_columns(dict(zip(titles, rows.T, strict=True)), source, options, named=names is not None)
    given: dict[str, Any] = {
        "labels": arrays.get("labels"),
        "ids": ids,
        "parts": None if parts is None else _parts(parts, source),
    }
    return replace(raw, **{name: value for name, value in given.items() if value is not None})


def _by_part(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Sort arrays named `train_images`, `val_labels`, ... by their part; nothing where none are named so."""
    split: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        word, _, rest = name.partition("_")
        if word in PART_OF and rest in ("images", "table", "labels", "attributes", "ids"):
            split.setdefault(PART_OF[word], {})[rest] = array
    return split


def _of_frame(frame: Any, source: str, options: Options, notes: list[str] | None = None) -> Raw:
    """Take the columns of a data frame; a named index, or one of text, holds the ids."""
    columns = {str(name): np.asarray(frame[name].to_numpy()) for name in frame.columns}
    if len(columns) < len(frame.columns):
        raise DataError(f"{source}: two columns have the same name")
    raw = of_columns(columns, source, options, notes=notes)
    index = getattr(frame, "index", None)
    if raw.ids is None and index is not None and index.nlevels == 1 and (index.name or index.dtype.kind not in "iu"):
        raw = replace(raw, ids=index.to_numpy())
        raw.notes.append(f"the index {index.name or 'of text'} holds the ids")
    return raw


def _of_anndata(value: Any, options: Options) -> Raw:
    """Take the matrix of an AnnData, named by its variables; `options` may name columns of its observations."""
    matrix = value.X.toarray() if hasattr(value.X, "toarray") else np.asarray(value.X)
    columns = dict(zip(map(str, value.var_names), matrix.T, strict=True))
    for name in (options.label_column, options.split_column):
        if name is not None:
            if name not in value.obs and not options.optional:
                raise DataError(f"AnnData: no column {name!r} in obs: choose from {', '.join(value.obs)}")
            if name in value.obs:
                columns[name] = np.asarray(value.obs[name])
    raw = of_columns(columns, "AnnData", replace(options, id_column=None))
    return replace(raw, ids=np.asarray(value.obs_names, dtype=str))


def _of_parquet(path: Path, options: Options) -> Raw:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(f"{path}: reading parquet needs pyarrow: pip install 'pyro-stories[parquet]'") from None
    try:
        table = parquet.read_table(path)
    except ArrowException as error:
        raise ValueError(first_line(error)) from None
    if len(set(table.column_names)) < len(table.column_names):
        raise ValueError("two columns have the same name")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    notes = []
    for index in (table.schema.pandas_metadata or {}).get("index_columns", ()):
        if isinstance(index, str) and index.startswith("__index_level_") and index in columns:
            del columns[index]
            notes.append("the index of the data frame, which has no name, is left out")
        elif isinstance(index, str) and index in columns and options.id_column is None:
            options = replace(options, id_column=index)
            notes.append(f"the index of the data frame, {index!r}, holds the ids")
    return of_columns(columns, str(path), options, notes=notes)


def of_columns(
    columns: Mapping[str, np.ndarray],
    source: str,
    options: Options = PLAIN,
    *,
    notes: list[str] | None = None,
    named: bool = True,
) -> Raw:
    """Separate the labels, ids and splits of a table from its features; labels are `label_column`, else `label`.

    Raises:
        DataError: a column that `options` names does not exist, or there is no other.
    """
    rest, notes = dict(columns), list(notes or ())
    label = LABEL if options.label_column is None and LABEL in rest else options.label_column
    special: dict[str, np.ndarray | None] = {}
    for role, name in (("label", label), ("id", options.id_column), ("split", options.split_column)):
        if name is not None and name not in columns:
            if options.optional:
                special[role] = None
                continue
            raise DataError(f"{source}: no column {name!r} for `{role}_column`: choose from {', '.join(columns)}")
        special[role] = None if name is None else rest.pop(name, columns[name])
    if not rest:
        raise DataError(f"{source}: there is no column of numbers")
    for name in rest:
        if special["label"] is None and name.lower() in LIKE_LABELS:
            notes.append(f"column {name!r} is a feature: give `label_column={name}` if it holds the labels")
        if special["id"] is None and name.lower() in LIKE_IDS:
            notes.append(f"column {name!r} is a feature: give `id_column={name}` if it names the rows")
    parts = special["split"]
    raw = Raw(source, columns=rest, named=named, labels=special["label"], ids=special["id"], notes=notes)
    return raw if parts is None else replace(raw, parts=_parts(parts, source))


def _refuse_columns(options: Options, source: str) -> None:
    for name in ("label_column", "id_column", "split_column"):
        if getattr(options, name) is not None:
            raise DataError(f"{source}: `{name}` names a column of a table, and these are images")


def _parts(words: np.ndarray, source: str) -> np.ndarray:
    """Return the split of each datum by its name."""
    names = [PART_OF.get(word.lower()) for word in texts(words)]
    if None in names:
        word = texts(words)[names.index(None)]
        raise DataError(f"{source}: {word!r} names no split: the words are train, validation and test")
    return np.array(names)


def concatenated(parts: Mapping[str, Raw]) -> Raw:
    """Put sources together whose data are each of one split.

    Raises:
        DataError: their columns or the shapes of their images differ, or some have labels or attributes and some none.
    """
    raws = list(parts.values())
    first: Raw = raws[0]
    given: dict[str, Any] = {}
    names = np.repeat(list(parts), [len(raw) for raw in raws])
    for name in ("labels", "ids", "attributes"):
        arrays = [getattr(raw, name) for raw in raws]
        if all(array is None for array in arrays):
            continue
        if any(array is None for array in arrays):
            lacking = next(raw.name for raw, array in zip(raws, arrays, strict=True) if array is None)
            raise DataError(f"{lacking}: has no {name}, as the other splits have")
        mixed = None if name == "attributes" else object  # numbers here and text there
        given[name] = np.concatenate([np.asarray(array, dtype=mixed) for array in arrays])
    notes = list(dict.fromkeys(note for raw in raws for note in raw.notes))
    if first.columns is not None:
        for raw in raws[1:]:
            check_columns(raw, list(first.columns))
        columns = {name: np.concatenate([raw.columns[name] for raw in raws]) for name in first.columns}  # type: ignore[index]
        return replace(first, columns=columns, parts=names, notes=notes, **given)
    shapes = {tuple(raw.images.shape[1:]) for raw in raws if raw.images is not None}
    if len(shapes) > 1 or any(raw.images is None for raw in raws):
        raise DataError(f"{first.name}: the splits hold images of different shapes: {sorted(map(list, shapes))}")
    x = np.concatenate([np.asarray(raw.images) for raw in raws])
    return replace(first, images=x, parts=names, notes=notes, **given)


def check_columns(raw: Raw, names: list[str]) -> dict[str, np.ndarray]:
    """Return the columns of a source by the names that are wanted, in that order; without names of its own, by number.

    Raises:
        DataError: columns are missing or unknown, or it is no table.
    """
    if raw.columns is None:
        raise DataError(f"{raw.name}: holds images, not a table of the columns {_listed(names)}")
    if not raw.named and len(raw.columns) == len(names):
        return dict(zip(names, raw.columns.values(), strict=True))
    missing = [name for name in names if name not in raw.columns]
    unknown = [name for name in raw.columns if name not in names]
    if not raw.named and missing:
        raise DataError(f"{raw.name}: {len(raw.columns)} columns, and {len(names)} are needed: {_listed(names)}")
    if missing or unknown:
        lacks = f"lacks the columns {_listed(missing)}" if missing else f"has the columns {_listed(unknown)} beside"
        more = f" and has {_listed(unknown)}" if missing and unknown else ""
        raise DataError(f"{raw.name}: {lacks}{more}: the columns are {_listed(names)}")
    return {name: raw.columns[name] for name in names}


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def sha256(source: str | Path | InMemory) -> str:
    """Return the hash of a file, of all files below a folder with their paths, or of data in memory."""
    if isinstance(source, InMemory):
        return source.sha256
    path = Path(source)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for each in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{each.relative_to(path).as_posix()} {sha256(each)}\n".encode())
    return digest.hexdigest()


def _hash_of(value: Any) -> str:
    digest = hashlib.sha256()

    def add(name: str, part: Any) -> None:
        digest.update(name.encode())
        if isinstance(part, Mapping):
            for key in part:
                add(str(key), part[key])
        elif isinstance(part, tuple):
            for number, each in enumerate(part):
                add(str(number), each)
        elif hasattr(part, "X") and hasattr(part, "var_names"):
            add("X", part.X.toarray() if hasattr(part.X, "toarray") else part.X)
            add("var_names", list(part.var_names))
            add("obs", part.obs)
        elif hasattr(part, "columns"):
            for column in part.columns:
                add(str(column), part[column].to_numpy())
        else:
            array = _array(part, name or type(part).__name__)
            digest.update(f"{array.dtype} {array.shape}".encode())
            text = "\0".join(map(str, array.ravel().tolist())) if array.dtype.hasobject else None
            digest.update(array.tobytes() if text is None else text.encode())

    add("", value)
    return digest.hexdigest()


def is_in_memory(value: Any) -> bool:
    """Return whether data are given themselves, not by a name or a path."""
    return not isinstance(value, str | os.PathLike | InMemory)
