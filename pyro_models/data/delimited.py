"""Text files of tables: separators, names of columns, decimal commas and encodings, worked out and noted."""

import codecs
import csv
import gzip
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pyro_models.data.cells import MISSING, is_number, texts

SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas", " ": "spaces"}
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"  # the first bytes of files of these formats, .xlsx among the latter
MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}  # before those of UTF-16, which begin alike
MARKS |= {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(e[-+]?\d+)?", re.IGNORECASE)
YEARS = range(1000, 3000)


def read(path: Path) -> tuple[dict[str, np.ndarray], list[str], bool]:
    """Read a table from a text file.

    Returns:
        the columns, as text, by name; what was worked out and does not go without saying; whether the file names them.

    Raises:
        ValueError: it is no text or no table, or two columns have the same name.
    """
    text, notes = _decoded(path.read_bytes())
    separator = _separator(text)
    if separator != ",":
        notes.append(f"columns are separated by {SEPARATORS[separator]}")
    rows = [row for row in _rows(text, separator) if any(cell.strip() for cell in row) or len(row) > 1]
    if not rows:
        raise ValueError("it is empty")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise ValueError(f"row {number} has {len(row)} columns, the first has {len(rows[0])}")
    if separator != "," and any(DECIMAL_COMMA.fullmatch(cell.strip()) for row in rows for cell in row):
        rows = [[_with_point(cell) for cell in row] for row in rows]
        notes.append("decimal commas are read as points")
    headed = _is_header(rows[0], rows[1:])
    if headed and all(map(is_number, rows[0])):
        notes.append(f"the first row ({', '.join(rows[0][:3])}, ...) is read as names of columns")
    names = [name.strip() for name in rows[0]] if headed else [f"x[{k}]" for k in range(len(rows[0]))]
    columns = [np.array(column, dtype=object) for column in zip(*rows[headed:], strict=True)]
    columns = columns or [np.array([], dtype=object) for _ in names]
    if names[0] in ("", "Unnamed: 0") and headed and numbers_the_rows(columns[0]):
        notes.append("the first column, which has no name and numbers the rows, is left out")
        names, columns = names[1:], columns[1:]
    if names and names[-1] == "" and not any(texts(columns[-1])):
        names, columns = names[:-1], columns[:-1]  # of a separator that ends each row
    if "" in names:
        raise ValueError(f"column {names.index('') + 1} has no name: give it one, or drop it")
    if twice := repeated(names):
        raise ValueError(f"two columns have the same name, {twice!r}")
    return dict(zip(names, columns, strict=True)), notes, headed


def repeated(names: Sequence[str]) -> str | None:
    """Return the first name that is there twice."""
    return next((name for k, name in enumerate(names) if name in names[:k]), None)


def _rows(text: str, separator: str) -> list[list[str]]:
    """Return the cells of each row.

    Raises:
        ValueError: a quotation mark is never closed, so that all that follows it would be one cell.
    """
    try:
        return list(_reader(io.StringIO(text, newline=""), separator, strict=True))
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise ValueError("a quotation mark is never closed") from None
    return list(_reader(io.StringIO(text, newline=""), separator))


def _reader(lines: Iterable[str], separator: str, *, strict: bool = False) -> Iterator[list[str]]:
    """Return a reader of rows; several spaces separate as one."""
    return csv.reader(lines, delimiter=separator, skipinitialspace=separator == " ", strict=strict)


def numbers_the_rows(column: np.ndarray) -> bool:
    """Return whether a column counts from 0 or 1."""
    cells = texts(column)
    return any(cells == [str(first + k) for k in range(len(cells))] for first in (0, 1))


def _decoded(content: bytes) -> tuple[str, list[str]]:
    """Return the text of a file, decompressed if it is gzip's, and what was worked out."""
    if content.startswith(GZIP):
        content = gzip.decompress(content)
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding), []
    if content.startswith(ZIP) or b"\0" in content:
        raise ValueError("it is no text: save it as .csv, with commas and in UTF-8, or as .parquet")
    try:
        return content.decode("utf-8"), []
    except UnicodeDecodeError:
        pass
    try:
        return content.decode("cp1252"), ["read as Windows-1252 text, as it is not UTF-8"]
    except UnicodeDecodeError:
        raise ValueError("it is neither UTF-8 nor Windows-1252 text: save it as UTF-8") from None


def _separator(text: str) -> str:
    """Return the separator that gives every line the same number of columns, above one; else that of the first line.

    Spaces separate columns where nothing else does.
    """
    lines = text.splitlines()[:100]
    widths = {each: [len(row) for row in _reader(lines, each) if row] for each in SEPARATORS}
    spaces = set(widths.pop(" "))
    for separator, counts in widths.items():
        if len(set(counts)) == 1 and counts[0] > 1:
            return separator
    likeliest = max(widths, key=lambda each: (widths[each][:1], each == ","))
    return " " if widths[likeliest][:1] == [1] and len(spaces) == 1 and max(spaces) > 1 else likeliest


def _with_point(cell: str) -> str:
    return cell.replace(",", ".") if DECIMAL_COMMA.fullmatch(cell.strip()) else cell


def _is_header(first: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row holds names: text, 0, 1, ... as pandas writes them, or years unlike the rest."""
    if any(cell.strip().lower() not in MISSING and not is_number(cell) for cell in first):
        return True
    if len(first) < 2 or not all(cell.strip().isdigit() for cell in first):
        return False
    numbers = [int(cell) for cell in first]
    if numbers == list(range(len(first))):
        return True
    if not all(number in YEARS for number in numbers) or numbers != sorted(set(numbers)):
        return False
    columns = ([float(cell) for cell in column if is_number(cell)] for column in zip(*body, strict=True))
    return all(values and not min(values) <= year <= max(values) for year, values in zip(numbers, columns, strict=True))
