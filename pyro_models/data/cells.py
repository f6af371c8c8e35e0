"""Cells of tables: numbers, categories and labels, and what stands for a missing one."""

import re
from collections.abc import Sequence

import numpy as np

from pyro_models.base.errors import DataError

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "?", "<na>", "nat"})
NOT_KNOWN = MISSING | {"-1", "-1.0", "unknown", "unlabelled", "unlabeled"}
"""Words in a column of labels for a label that is not known, whatever their case."""
MOST_CATEGORIES = 50
LIKE_A_NUMBER = re.compile(r"[-+]?[\d.,'\s]*\d[\d.,'\s]*%?")


def is_number(cell: str) -> bool:
    """Return whether a cell is a number, NaN and infinities among them."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def texts(column: np.ndarray, missing: frozenset[str] = MISSING) -> list[str]:
    """Return the text of each cell, and "" where it is missing.

    >>> texts(np.array(["a ", None, "NA", 1.5, float("nan")], dtype=object))
    ['a', '', '', '1.5', '']
    """
    if column.dtype.kind == "S":
        column = np.char.decode(column, "utf-8", "replace")
    cells = (str(cell).strip() for cell in column.tolist())
    return ["" if cell.lower() in missing else cell for cell in cells]


def of_column(column: np.ndarray, name: str) -> np.ndarray:
    """Return a column as float64, or as text where it holds categories: not numbers, and few different ones.

    What is missing becomes NaN, of text "".

    Raises:
        DataError: it holds other things, infinite values, nothing at all, or the same text in every row.
    """
    if column.dtype.kind in "OUS":
        cells = texts(column)
        words = [cell for cell in cells if cell and not is_number(cell)]
        advice = "drop it, or give `label_column` or `id_column` if it holds the labels or the ids"
        if len(words) == sum(map(bool, cells)) > 0 and not any(map(LIKE_A_NUMBER.fullmatch, words)):
            different = len(set(words))
            if different > min(MOST_CATEGORIES, len(cells) // 2):
                raise DataError(f"{name} holds text ({words[0]!r}) of {different} different values: {advice}")
            if different == 1 and "" not in cells:
                raise DataError(f"{name} is {words[0]!r} in every row: drop it")
            return np.array(cells)
        if words:
            raise DataError(f"{name} holds text ({words[0]!r}): {advice}")
        column = np.array([float(cell or "nan") for cell in cells])
    if column.dtype.kind not in "fiub":
        raise DataError(f"{name} is of type {column.dtype}, not numbers")
    numbers = column.astype(np.float64)
    if infinite := int(np.isinf(numbers).sum()):
        raise DataError(f"{name} has {infinite} infinite values: mend them, or leave these cells blank, as missing")
    return numbers


def check_varies(column: np.ndarray, name: str, *, constant: bool = False) -> None:
    """Refuse a column of which nothing is known, and one of numbers that are all equal unless it may be `constant`."""
    known = column[column != ""] if column.dtype.kind == "U" else column[~np.isnan(column)]
    if len(column) and not len(known):
        raise DataError(f"{name} has no value in any row: drop it")
    if not constant and column.dtype.kind == "f" and len(column) and (known == known[0]).all():
        raise DataError(f"{name} is {known[0]:g} in every row: drop it")


def words_of(column: np.ndarray) -> np.ndarray:
    """Return the text of each cell of a column as `of_column` returns it, "" where it is missing.

    >>> words_of(np.array([1.0, np.nan, 0.5])).tolist()
    ['1', '', '0.5']
    """
    if column.dtype.kind == "U":
        return column
    return np.array(["" if np.isnan(value) else f"{value:.12g}" for value in column.tolist()])


def of_labels(
    labels: np.ndarray, source: str, classes: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the index of the class of each label, -1 where it is not known, and the names of the classes.

    Classes are in the order of their numbers, or of the alphabet where one is no number. Not known are
    NaN, None, blank cells, and the words of `NOT_KNOWN`, -1 among them.

    >>> indices, classes = of_labels(np.array(["dog", "cat", "NA", "dog"]), "mine")
    >>> indices.tolist(), classes
    ([1, 0, -1, 1], ('cat', 'dog'))
    >>> of_labels(np.array([3, 1, -1]), "mine")[1]
    ('1', '3')

    Args:
        labels: numbers or text, [n] or [n, 1].
        source: what messages name.
        classes: the names of the classes, where they are known already; None takes those of the labels.

    Raises:
        DataError: labels are neither whole numbers nor text, a number is below -1, or one is of none of `classes`.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "OUSfiub":
        raise DataError(f"{source}: labels must be integers or names, not {labels.dtype}")
    inverse = None
    if labels.dtype.kind != "O":
        labels, inverse = np.unique(labels, return_inverse=True)
    names = texts(labels, NOT_KNOWN)
    if all(not name or is_number(name) for name in names):
        names = [_whole(name, source) for name in names]
    if classes is None:
        different = {name for name in names if name}
        numeric = all(map(is_number, different))
        classes = sorted(different, key=int) if numeric else sorted(different)  # type: ignore[arg-type]
    index = {name: k for k, name in enumerate(classes)} | {"": -1}
    if strange := sorted(set(names) - index.keys()):
        raise DataError(f"{source}: label {strange[0]!r} is none of the classes in training, {', '.join(classes)}")
    indices = np.array([index[name] for name in names], dtype=np.int64)
    return indices if inverse is None else indices[inverse], tuple(classes)


def _whole(name: str, source: str) -> str:
    """Return a whole number as its digits."""
    if not name:
        return ""
    value = float(name)
    if not abs(value) < 2**53 or value != int(value):
        raise DataError(f"{source}: labels must be integers or names, not {name}")
    if value < -1:
        raise DataError(f"{source}: labels go down to {value:g}, and -1 means not known: number them from 0 or 1")
    return str(int(value))
