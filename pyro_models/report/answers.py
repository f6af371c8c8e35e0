"""What a run says of new data, written to files, a row or a picture for each datum, with its id."""

import csv
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyro_models.base.errors import UserError
from pyro_models.base.files import replace, write
from pyro_models.data import delimited, sources
from pyro_models.data.images import SUFFIXES
from pyro_models.runs import Run

FORMATS = (".csv", ".npz", ".parquet")


def write_answer(
    run: Run, verb: str, data: Any, out: Path, *, samples: int = 100, seed: int = 0, interval: float | None = None
) -> str:
    """Ask a run about data, and write the answers to a file.

    Args:
        run: a finished run.
        verb: `encode`, `reconstruct`, `predict`, `score` or `impute`.
        data: as `Run.encode` takes them; None takes the run's test data.
        out: a .csv, .npz or .parquet file; of images also a folder, for a PNG file each.
        samples: draws for each datum, where there are any.
        seed: of these.
        interval: of `impute`, as of `Run.impute`: the bounds are written beside, `low` and `high`.

    Returns:
        a line that says what was written.

    Raises:
        UserError: the run cannot answer, the data do not fit it, or the file cannot be written.
    """
    check_format(out, images=verb in ("reconstruct", "impute") and not run.dataset.is_table)
    if isinstance(data, str | Path) and out.is_file() and Path(data).exists() and out.samefile(data):
        raise UserError(f"`out={out}` holds the data: give another file")
    if verb == "impute":
        if data is None:
            raise UserError("give `data`, with what is missing in it: the test data of the run are complete")
        if interval is not None and not out.suffix:
            raise UserError(f"`out={out}`: give FILE.npz, as a picture does not show an interval")
        answers = run.impute(data, samples=samples, seed=seed, interval=interval)
        ids = sources.read(data, dataclasses.replace(run.preprocessing.options, optional=True)).ids
        titles = ("{}",) if interval is None else ("{}", "{} (low)", "{} (high)")
        arrays: dict[str, np.ndarray] = {}
        for title, filled in zip(titles, answers if interval is not None else (answers,), strict=True):
            if not isinstance(filled, dict):
                names = [column.name for column in run.preprocessing.columns]
                filled = dict(zip(names, np.asarray(filled).T, strict=True)) if names else {"images": filled}
            arrays |= {title.format(name): array for name, array in filled.items()}
        return write_arrays(out, np.arange(len(next(iter(arrays.values())))) if ids is None else ids, arrays)
    split = run.prepared(run.dataset.test if data is None else data)
    meaning = ""
    if verb == "encode":
        arrays = {"z": run.encode(split)}
    elif verb == "predict":
        arrays = {}
        for attribute in [each.name for each in run.dataset.attributes] if hasattr(run.model, "heads") else [None]:
            prediction = run.predict(split, attribute=attribute, samples=samples, seed=seed)
            columns = [f"p({prediction.site}={name})" for name in prediction.categories]
            arrays |= {prediction.site: prediction.values} | dict(zip(columns, prediction.probabilities.T, strict=True))
    elif verb == "score":
        scores = run.score(split, samples=samples, seed=seed)
        arrays, meaning = {"score": scores.values, "error": scores.errors}, f": {scores.meaning}, {scores.unit}"
    else:
        arrays = _data(run, run.reconstruct(split))
    return write_arrays(out, np.arange(len(split)) if split.ids is None else split.ids, arrays) + meaning


def write_draws(run: Run, given: Sequence[str], count: int, seed: int, out: Path) -> str:
    """Draw data from a run, and write them to a file as `write_answer` does.

    Raises:
        UserError: as `Run.sample`; or the file cannot be written.
    """
    check_format(out, images=not run.dataset.is_table)
    return write_arrays(out, np.arange(count), _data(run, run.sample(count, given=given, seed=seed)))


def check_format(out: Path, *, images: bool) -> None:
    """Refuse a file of an unknown format, before anything is computed.

    Raises:
        UserError: the file's name ends in none of the formats; or in a table's, and these are images.
    """
    if out.suffix == ".npz" or (out.suffix in FORMATS and not images) or (images and not out.suffix):
        return
    choice = "a folder, for PNG files, or FILE.npz" if images else ", ".join(f"FILE{suffix}" for suffix in FORMATS)
    raise UserError(f"`out={out}`: give {choice}")


def _data(run: Run, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return images, or the columns of rows by name."""
    return dict(zip(run.dataset.columns, x.T, strict=True)) if run.dataset.is_table else {"images": x}


def write_arrays(out: Path, ids: np.ndarray, arrays: Mapping[str, np.ndarray]) -> str:
    """Write arrays [n, ...] with the ids of their rows.

    Raises:
        UserError: the file cannot be written, or pyarrow is missing.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    n = len(ids)
    if out.suffix == ".npz":
        replace(out, partial(np.savez, ids=ids, **arrays))  # type: ignore[arg-type]
    elif not out.suffix:
        _write_pictures(out, ids, arrays["images"])
        return f"{out}: {n} PNG files"
    else:
        columns = _columns(ids, arrays)
        if out.suffix == ".parquet":
            _write_parquet(out, columns)
        else:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
            write(out, text.getvalue())
    return f"{out}: {n} rows of {', '.join(arrays)}"


def _columns(ids: np.ndarray, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays [n] and [n, k] as columns by name, after the ids."""
    columns = {"id": ids}
    for name, array in arrays.items():
        columns |= {name: array} if array.ndim == 1 else {f"{name}[{k}]": each for k, each in enumerate(array.T)}
    return columns


def _write_parquet(out: Path, columns: Mapping[str, np.ndarray]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError("writing parquet needs pyarrow: pip install 'pyro-stories[parquet]'") from None
    table = pyarrow.table({name: pyarrow.array(column.tolist()) for name, column in columns.items()})
    replace(out, partial(parquet.write_table, table))


def _write_pictures(folder: Path, ids: Sequence[Any] | np.ndarray, images: np.ndarray) -> None:
    """Write a PNG file for each image, named by its id."""
    from PIL import Image

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None
    if images.shape[1] not in (1, 3):
        raise UserError(f"images of {images.shape[1]} channels are no pictures: give `out=FILE.npz`")
    stems = [re.sub(r"[^\w.-]+", "-", re.sub(f"({'|'.join(SUFFIXES)})$", "", str(name))) for name in ids]
    if twice := delimited.repeated(stems):  # as of a/1.png and a-1.png
        raise UserError(f"two images would be written to {folder / twice}.png: give `out=FILE.npz`")
    for stem, image in zip(stems, (images.clip(0, 1) * 255).round().astype(np.uint8), strict=True):
        picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        replace(folder / f"{stem}.png", picture.save)
