"""Cells of tables: numbers, categories and labels, and what stands for a missing one."""

import re
from collections.abc import Sequence

import numpy as np

from pyro_models.base.errors import DataError

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "?", "<na>", "nat"})
NOT_KNOWN = MISSING | {"-1", "-1.0", "unknown", "unlabelled", "unlabeled"}
"""Words in a column of labels for a label that is not known, whatever their case."""
MOST_CATEGORIES = 50
OF_DATES = "drop it, or give it as a number, such as days since the first, or as a category, such as the month"
LIKE_A_NUMBER = re.compile(r"[-+−]?[\d.,'\s]*\d[\d.,'\s]*%?")
LIKE_A_DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})([ T].*)?")
BOOLEANS = {"true": "1", "false": "0"}


def is_number(cell: str) -> bool:
    """Return whether a cell is a number, NaN and infinities among them; Python's 1_000 is none."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


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

    What is missing becomes NaN, of text "". True and False are 1 and 0.

    Raises:
        DataError: it holds other things: dates, numbers in another notation or among text, infinite values.
    """
    if column.dtype.kind in "mM" or (column.dtype.kind == "O" and any(hasattr(cell, "isoformat") for cell in column)):
        raise DataError(f"{name} holds dates or times: {OF_DATES}")
    if column.dtype.kind in "OUS":
        cells = texts(column)
        if {cell.lower() for cell in cells if cell} <= BOOLEANS.keys():
            cells = [BOOLEANS.get(cell.lower(), "") for cell in cells]
        words = [cell for cell in cells if cell and not is_number(cell)]
        advice = "drop it, or give `label_column` or `id_column` if it holds the labels or the ids"
        if words and all(map(LIKE_A_DATE.fullmatch, words)):
            raise DataError(f"{name} holds dates ({words[0]!r}): {OF_DATES}")
        if len(words) == sum(map(bool, cells)) > 0 and not any(map(LIKE_A_NUMBER.fullmatch, words)):
            different = len(set(words))
            if different > min(MOST_CATEGORIES, len(cells) // 2):
                raise DataError(f"{name} holds text ({words[0]!r}) of {different} different values: {advice}")
            return np.array(cells)
        if words:
            advice = "write numbers as -1234.5, and leave a cell blank where it is missing"
            raise DataError(f"{name} holds {words[0]!r}, which is no number: {advice}")
        column = np.array([float(cell or "nan") for cell in cells])
    if column.dtype.kind not in "fiub":
        raise DataError(f"{name} is of type {column.dtype}, not numbers: drop it, or convert it")
    numbers = column.astype(np.float64)
    if infinite := int(np.isinf(numbers).sum()):
        raise DataError(f"{name} has {infinite} infinite values: mend them, or leave these cells blank, as missing")
    return numbers


def check_varies(column: np.ndarray, name: str, *, constant: bool = False) -> None:
    """Refuse a column of which nothing is known, and one of equal values, numbers but where they may be `constant`."""
    is_text = column.dtype.kind == "U"
    known = column[column != ""] if is_text else column[~np.isnan(column)]
    if len(column) and not len(known):
        raise DataError(f"{name} has no value in any row: drop it")
    if (is_text or not constant) and len(column) and (known == known[0]).all():
        value = repr(str(known[0])) if is_text else f"{known[0]:g}"
        blank = ", and does not say what a blank cell means" * (len(known) < len(column))
        raise DataError(f"{name} is {value} in every row{blank}: drop it")


def words_of(column: np.ndarray) -> np.ndarray:
    """Return the text of each cell, a number in one way whatever its type, and "" where it is missing.

    >>> words_of(np.array([1.0, np.nan, 0.5])).tolist()
    ['1', '', '0.5']
    >>> words_of(np.array(["1.0", None, "red"], dtype=object)).tolist()
    ['1', '', 'red']
    """
    if column.dtype.kind in "OUS":
        words = texts(column)
        return np.array([f"{float(word):.12g}" if is_number(word) else word for word in words], dtype=np.str_)
    return np.array(["" if np.isnan(value) else f"{value:.12g}" for value in column.tolist()], dtype=np.str_)


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
