"""Tables: generated points in the plane, small real data sets, and files."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_models.base.errors import UserError, first_line

LABEL = "label"
Table = tuple[dict[str, np.ndarray], np.ndarray | None]
"""Columns of numbers by name, and the labels of the rows, or None."""


def blobs() -> Table:
    """Return 3,000 points in three round groups."""
    from sklearn.datasets import make_blobs

    centers = [(-4.0, -2.0), (0.0, 4.0), (4.0, -2.0)]
    points, labels = make_blobs(3000, centers=np.array(centers), cluster_std=0.8, random_state=0)
    return _plane(points), labels


def moons() -> Table:
    """Return 3,000 points on two interleaved half circles."""
    from sklearn.datasets import make_moons

    points, labels = make_moons(3000, noise=0.05, random_state=0)
    return _plane(points), labels


def pinwheel() -> Table:
    """Return 3,000 points in five curved arms, as Johnson et al. (Structured VAEs, 2016)."""
    arms, each, generator = 5, 600, np.random.default_rng(0)
    labels = np.repeat(np.arange(arms), each)
    along, across = generator.normal(size=(2, arms * each)) * [[0.3], [0.05]]
    angle = 2 * np.pi * labels / arms + 0.25 * np.exp(along + 1)
    x, y = along + 1, across
    turned = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1)
    return _plane(turned), labels


def _plane(points: np.ndarray) -> dict[str, np.ndarray]:
    return {"x[0]": points[:, 0], "x[1]": points[:, 1]}


def _bundled(name: str) -> Table:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    return dict(zip(bunch.feature_names, bunch.data.T, strict=True)), bunch.target


TABLES: dict[str, Callable[[], Table]] = {
    "blobs": blobs,
    "moons": moons,
    "pinwheel": pinwheel,
    "wine": lambda: _bundled("wine"),
    "iris": lambda: _bundled("iris"),
}


def read(path: Path) -> Table:
    """Read a table from a .csv file or a .parquet file; a column `label` holds the labels.

    Raises:
        UserError: the file cannot be read; a column holds text, missing values, or the same value in every row.
    """
    try:
        columns = _csv(path) if path.suffix == ".csv" else _parquet(path)
    except UserError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table ({first_line(error)})") from None
    return of_columns(columns, str(path))


def of_columns(columns: Mapping[str, Any], source: str) -> Table:
    """Check the columns of a table and separate its labels.

    Raises:
        UserError: as for `read`.
    """
    values = {name: np.asarray(column) for name, column in columns.items()}
    labels = values.pop(LABEL, None)
    if not values:
        raise UserError(f"{source}: there is no column of numbers")
    rows = len(next(iter(values.values())))
    if rows < 24:
        raise UserError(f"{source}: {rows} rows are too few to split: give at least 24")
    checked = {name: _numbers(column, f"{source}: column {name!r}") for name, column in values.items()}
    return checked, None if labels is None else _whole(labels, source)


def _csv(path: Path) -> dict[str, Sequence[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise ValueError("it is empty")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise ValueError(f"row {number} has {len(row)} columns, the first has {len(rows[0])}")
    numbered = [str(k) for k in range(len(rows[0]))]  # how pandas writes columns that have no names
    headed = any(cell.strip() and not _is_number(cell) for cell in rows[0]) or (
        len(rows[0]) > 1 and rows[0] == numbered
    )
    names = [name.strip() for name in rows[0]] if headed else [f"x[{k}]" for k in range(len(rows[0]))]
    if "" in names:
        raise ValueError(f"column {names.index('') + 1} has no name: drop it if it only numbers the rows")
    if len(set(names)) < len(names):
        raise ValueError("two columns have the same name")
    return dict(zip(names, zip(*rows[headed:], strict=True), strict=True)) if rows[headed:] else {}


def _parquet(path: Path) -> dict[str, np.ndarray]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{path}: reading parquet needs pyarrow: pip install 'pyro-stories[parquet]'") from None
    try:
        table = parquet.read_table(path)
    except ArrowException as error:
        raise ValueError(first_line(error)) from None
    return {name: table[name].to_numpy() for name in table.column_names}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(column: np.ndarray, name: str) -> np.ndarray:
    """Return a column as float64 after checking that it holds finite numbers, not all equal."""
    if column.dtype.kind in "OUS":
        cells = [str(cell).strip() for cell in column]
        text = [cell for cell in cells if cell not in ("", "None") and not _is_number(cell)]
        if text:
            raise UserError(f"{name} holds text ({text[0]!r}): drop it, or name it {LABEL!r} if it holds the labels")
        column = np.array([float(cell) if _is_number(cell) else np.nan for cell in cells])
    if column.dtype.kind not in "fiub":
        raise UserError(f"{name} is of type {column.dtype}, not numbers")
    column = column.astype(np.float64)
    missing = int((~np.isfinite(column)).sum())
    if missing:
        raise UserError(f"{name} has {missing} values that are missing, NaN or infinite")
    if (column == column[0]).all():
        raise UserError(f"{name} is {column[0]:g} in every row: drop it")
    return column


def _whole(labels: np.ndarray, source: str) -> np.ndarray:
    """Return labels as integers: numbers as they are, names by alphabetical order."""
    if labels.dtype.kind in "OUS":
        cells = [str(cell).strip() for cell in labels]
        missing = sum(cell in ("", "None") for cell in cells)
        if missing:
            raise UserError(f"{source}: {missing} labels in the column {LABEL!r} are missing")
        if not all(_is_number(cell) for cell in cells):
            return np.unique(cells, return_inverse=True)[1]
        labels = np.array([float(cell) for cell in cells])
    if labels.dtype.kind not in "fiub" or not (np.abs(labels) < 2**53).all() or (labels != np.floor(labels)).any():
        raise UserError(f"{source}: labels must be integers or names")
    return labels.astype(np.int64)
