"""Data as they come: files, folders, arrays, data frames; read into arrays by name, and not yet understood."""

import hashlib
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args
from zipfile import BadZipFile

import numpy as np
import torch

from pyro_models.base.errors import DataError, first_line
from pyro_models.data import delimited, images, mapped
from pyro_models.data.cells import texts, words_of
from pyro_models.data.columns import Levels

LABEL = "label"
LIKE_LABELS = {"label", "labels", "class", "classes", "target", "y", "species", "category"}
LIKE_IDS = {"id", "ids", "index", "uuid", "row_id", "sample_id"}
BESIDE = ("labels", "ids", "attributes", "attribute_names")
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

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise DataError(f"`size` must be at least 1, not {self.size}")
        if self.colour not in get_args(images.Colour):
            raise DataError(f"`colour` must be one of {', '.join(get_args(images.Colour))}, not {self.colour!r}")


PLAIN = Options()


@dataclass(frozen=True)
class Raw:
    """A source as read.

    Attributes:
        name: what messages name.
        images: pixels, [n, ...]; or None.
        columns: columns of a table by name, [n] each; or None.
        levels: of the columns of which the source says that they are categories.
        named: whether the source itself names the columns.
        labels, ids: numbers or text, [n]; or None.
        attributes, attribute_names: as in a .npz file; or None.
        parts: the name of each datum's split, [n]; or None.
        notes: what was worked out and does not go without saying, a line each.
    """

    name: str
    images: np.ndarray | torch.Tensor | None = None
    columns: dict[str, np.ndarray] | None = None
    levels: Mapping[str, Levels] = field(default_factory=dict)
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
        if source.value is None and source.sha256 == InMemory.of(None).sha256:
            raise DataError("`data` are None: give an array, a data frame, or the path of a file or a folder")
        if source.value is None:
            raise DataError(f"the data were in memory ({source}) and are not stored: give them again, as `data`")
        return read(source.value, options)
    if isinstance(source, str | Path):
        return _of_path(str(source), options)
    if isinstance(source, tuple) and len(source) == 2:
        return replace(read(source[0], options), **_of_labels(source[1]))
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
    return _of_arrays(_of_array(_array(source, name), name), name, options)


def _of_labels(labels: Any) -> dict[str, Any]:
    """Return what stands beside data: labels, [n] or [n, 1]; or attributes, several columns of text or of a frame."""
    names = getattr(labels, "columns", None)
    array = _array(labels, "labels")
    if array.ndim != 2 or array.shape[1] < 2 or (names is None and array.dtype.kind not in "OUS"):
        return {"labels": array}
    names = [f"y{k + 1}" for k in range(array.shape[1])] if names is None else names
    return {"attributes": array.astype(object), "attribute_names": np.array([str(name) for name in names])}


def _of_path(source: str, options: Options) -> Raw:
    """Read a file or a folder."""
    if not source.strip():
        raise DataError("`data` are an empty text: give the path of a file or a folder")
    if "://" in source:
        raise DataError(f"{source} is an address: download the file, and give its path")
    path = Path(source).expanduser()
    suffix, source = path.suffix.lower(), str(path)
    if path.is_dir():
        return _of_folder(path, options)
    if not path.exists():
        raise DataError(f"no such file: {path}" + ": give the folder that the files are in" * ("*" in source))
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
    except (OSError, ValueError, EOFError, zlib.error, delimited.csv.Error) as error:
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
    if any(parts) and not all(parts):
        other = where[parts.index(None)]
        raise DataError(f"{path}: some folders are named as splits are, and {other} is in none: rename or move them")
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
    """Return an array of plain values; what a mask leaves out is missing."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to_dense()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, np.ma.MaskedArray) and value.mask.any():
        return np.ma.filled(value.astype(object if value.dtype.kind in "OUS" else np.float64), np.nan)
    try:
        return np.asarray(value.toarray() if hasattr(value, "toarray") else value)
    except ValueError as error:
        raise DataError(f"{name}: is no array ({first_line(error)})") from None


def _of_array(array: np.ndarray, source: str) -> dict[str, np.ndarray]:
    """Return one array by the name of what it holds: a table, whose columns a structured array names, or images."""
    if array.dtype.names and array.ndim == 1:
        cells = np.array(array.tolist(), dtype=object).reshape(len(array), -1)
        return {"table": cells, "columns": np.array(array.dtype.names)}
    if array.ndim < 2:
        raise DataError(f"{source}: give a table [n, columns] or images [n, height, width], not {list(array.shape)}")
    return {"table" if array.ndim == 2 else "images": array}


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a .npy or .npz file; nothing is unpickled."""
    try:
        if path.suffix.lower() == ".npy" and path.stat().st_size > mapped.LARGE:
            return _of_array(np.load(path, mmap_mode="r", allow_pickle=False), str(path))
        with path.open("rb") as file:
            content: Any = np.load(file, allow_pickle=False)
            return _of_array(content, str(path)) if isinstance(content, np.ndarray) else dict(content)
    except DataError:
        raise
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
    if "table" in arrays and arrays["table"].dtype.names:
        arrays = arrays | _of_array(arrays["table"], source)
    given: dict[str, Any] = {name: arrays[name] for name in BESIDE if name in arrays}
    if "split" in arrays:
        given["parts"] = _parts(arrays["split"], source)
    if ("images" in arrays) == ("table" in arrays):
        what = "both 'images' and 'table'" if "table" in arrays else "no array named 'images' or 'table'"
        raise DataError(f"{source}: {what} among {sorted(arrays)}: give the data one of these names")
    if "images" in arrays:
        _refuse_columns(options, source)
        raw = Raw(source, images=arrays["images"])
    else:
        rows, names = arrays["table"], arrays.get("columns")
        if rows.ndim != 2:
            raise DataError(f"{source}: a table must be [n, columns], not {list(rows.shape)}")
        if names is not None and names.shape != rows.shape[1:]:
            raise DataError(f"{source}: {rows.shape[1]} columns but names of shape {list(names.shape)}")
        titles = [f"x[{k}]" for k in range(rows.shape[1])] if names is None else [str(name) for name in names]
        _check_unique(titles, source)
        raw = of_columns(dict(zip(titles, rows.T, strict=True)), source, options, named=names is not None)
    if unused := sorted(arrays.keys() - {"images", "table", "columns", "split", *BESIDE}):
        raw.notes.append(f"the arrays {', '.join(unused)} are left out: the names known are {', '.join(BESIDE)}, split")
    return replace(raw, **given)


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
    _check_unique([str(name) for name in frame.columns], source)
    columns = {str(name): _array(frame[name].to_numpy(), str(name)) for name in frame.columns}
    raw = of_columns(columns, source, options, notes=notes, levels=levels_of(frame))
    index = getattr(frame, "index", None)
    if raw.ids is None and index is not None and index.nlevels == 1 and (index.name or index.dtype.kind not in "iu"):
        title = f"the index {index.name}" if index.name else "the index"
        if not index.is_unique:
            raw.notes.append(f"{title} repeats itself and is left out: the rows are numbered")
            return raw
        raw = replace(raw, ids=index.to_numpy())
        raw.notes.append(f"{title} holds the ids")
    return raw


def levels_of(frame: Any) -> dict[str, Levels]:
    """Return the levels of the columns of a data frame that are categories: pandas' categoricals, polars' enumerations.

    An enumeration is in the order that it is declared in, a categorical if it says so.
    """
    levels = {}
    for name in frame.columns:
        dtype = frame[name].dtype
        if hasattr(dtype, "categories") and str(dtype).lower().startswith(("category", "enum")):
            names = words_of(np.asarray(list(dtype.categories))).tolist()
            levels[str(name)] = Levels(tuple(names), bool(getattr(dtype, "ordered", True)))
    return levels


def _check_unique(names: list[str], source: str) -> None:
    """Refuse names of columns of which two are the same."""
    if twice := delimited.repeated(names):
        raise DataError(f"{source}: two columns have the same name, {twice!r}")


def _of_anndata(value: Any, options: Options) -> Raw:
    """Take the matrix of an AnnData, named by its variables; `options` may name columns of its observations."""
    matrix = _array(value.X, "AnnData")
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
        from pyarrow.types import is_dictionary
    except ImportError:
        raise DataError(f"{path}: reading parquet needs pyarrow: pip install 'pyro-stories[parquet]'") from None
    try:
        table = parquet.read_table(path)
    except ArrowException as error:
        raise ValueError(first_line(error)) from None
    _check_unique(table.column_names, str(path))
    columns = {name: table[name].to_numpy() for name in table.column_names}
    levels, notes = {}, []
    for entry in table.schema:
        if is_dictionary(entry.type) and table[entry.name].num_chunks:
            names = table[entry.name].unify_dictionaries().chunk(0).dictionary.to_pylist()
            levels[entry.name] = Levels(tuple(words_of(np.asarray(names)).tolist()), entry.type.ordered)
    for index in (table.schema.pandas_metadata or {}).get("index_columns", ()):
        if isinstance(index, str) and index.startswith("__index_level_") and index in columns:
            del columns[index]
            notes.append("the index of the data frame, which has no name, is left out")
        elif isinstance(index, str) and index in columns and options.id_column is None:
            options = replace(options, id_column=index)
            notes.append(f"the index of the data frame, {index!r}, holds the ids")
    return of_columns(columns, str(path), options, notes=notes, levels=levels)


def of_columns(
    columns: Mapping[str, np.ndarray],
    source: str,
    options: Options = PLAIN,
    *,
    notes: list[str] | None = None,
    named: bool = True,
    levels: Mapping[str, Levels] = MappingProxyType({}),
) -> Raw:
    """Separate the labels, ids and splits of a table from its features; labels are `label_column`, else `label`.

    Several columns, as `label_column=species,sex`, are attributes.

    Raises:
        DataError: columns differ in length, one that `options` names does not exist, or there is no other.
    """
    rest, notes = dict(columns), list(notes or ())
    lengths = {name: len(column) for name, column in rest.items()}
    if len(set(lengths.values())) > 1:
        long, short = max(lengths, key=lengths.__getitem__), min(lengths, key=lengths.__getitem__)
        raise DataError(f"{source}: column {long!r} has {lengths[long]} rows, and {short!r} {lengths[short]}")
    label = LABEL if options.label_column is None and LABEL in rest else options.label_column
    several = label.split(",") if label and label not in rest and "," in label else []
    if several and (lacking := [name for name in several if name not in rest]) and not options.optional:
        raise DataError(f"{source}: no column {lacking[0]!r} for `label_column`: choose from {', '.join(columns)}")
    attributes = {name: rest.pop(name) for name in several if name in rest}
    label = None if several else label
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
    declared = {name: each for name, each in levels.items() if name in rest}
    raw = Raw(source, None, rest, declared, named, labels=special["label"], ids=special["id"], notes=notes)
    if several and len(attributes) == len(several):
        values = np.stack([np.asarray(each, dtype=object) for each in attributes.values()], 1)
        raw = replace(raw, attributes=values, attribute_names=np.array(several))
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
            add("X", part.X)
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
