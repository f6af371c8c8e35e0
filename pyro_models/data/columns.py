"""The types of a table's columns, and with them their likelihoods: inferred by a rule, or given.

The rule: text is a category, of two different texts a bit; numbers that are 0 or 1 are a bit; whole numbers from 0 up
are a count; all other numbers are real. Where the data say that a column is one of categories, as those of pandas and
the enumerations of polars do, it is, of text or of numbers, and ordinal if they have an order. What none of it can
tell, such as a grade from a category, is given by the option `likelihood`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from pyro_models.base.errors import DataError, nearest
from pyro_models.base.names import COLUMN_TYPES, column_likelihoods
from pyro_models.data import cells

TYPE_OF = {likelihood: name for name, choices in COLUMN_TYPES.items() for likelihood in choices}
NUMBERS = ("reals", "counts", "shares")
LARGEST_COUNT = 2**24  # above it a float of 32 bits leaves out whole numbers


@dataclass(frozen=True)
class Levels:
    """What data say of a column of categories: their names, and whether they are in an order."""

    names: tuple[str, ...]
    ordered: bool


@dataclass(frozen=True)
class Column:
    """A column of a table: numbers are standardised, text becomes an indicator of each category.

    Of two categories there is one indicator, of the second. Counts and shares stay as they are, ordered levels are
    numbered from 0, and so are missing values: NaN. Indicators are 0 or 1 and are not standardised.

    >>> Column("size", categories=("big", "small", "tiny")).names
    ('size=big', 'size=small', 'size=tiny')

    Attributes:
        name: in the source.
        loc, scale: mean and standard deviation over the training rows; of counts, of log(1 + count).
        categories: the different texts, in alphabetical order, or the levels in theirs; empty for numbers.
        likelihood: of the column, one of those in `COLUMN_TYPES`.
        missing: whether some training rows have no value.
    """

    name: str
    loc: float = 0.0
    scale: float = 1.0
    categories: tuple[str, ...] = ()
    likelihood: str = "normal"
    missing: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features that the column becomes."""
        if self.likelihood == "ordinal" or not self.categories:
            return (self.name,)
        return tuple(f"{self.name}={category}" for category in self._shown)

    @property
    def is_standardised(self) -> bool:
        """Whether the feature is (value - loc) / scale."""
        return not self.categories and self.likelihood in COLUMN_TYPES["reals"]

    @property
    def _shown(self) -> tuple[str, ...]:
        return self.categories[1:] if len(self.categories) == 2 else self.categories

    def features(self, column: np.ndarray, source: str) -> np.ndarray:
        """Return the features of a column [n] as read, before they are standardised: [n, features]; NaN where missing.

        Raises:
            DataError: there is text in the place of numbers, a number that the likelihood does not take, or a category
                is unknown.
        """
        name = f"{source}: column {self.name!r}"
        if not self.categories:
            values = cells.of_column(column, name)
            if values.dtype.kind != "f":
                word = next(word for word in values.tolist() if word)
                raise DataError(f"{name} holds text ({word!r}), and in training it held numbers")
            check_values(values, self.likelihood, name)
            return values[:, None]
        words = cells.words_of(column)
        known = words != ""
        if strange := sorted(set(words[known].tolist()) - set(self.categories)):
            raise DataError(
                f"{name}: {strange[0]!r} is none of its categories in training: {', '.join(self.categories)}"
            )
        if self.likelihood == "ordinal":
            number = {word: float(k) for k, word in enumerate(self.categories)} | {"": math.nan}
            return np.array([number[word] for word in words.tolist()])[:, None]
        return np.where(known[:, None], (words[:, None] == np.array(self._shown)).astype(np.float64), math.nan)

    def values(self, features: np.ndarray) -> np.ndarray:
        """Return the values, [n], that features in the units of the table stand for: numbers, of counts whole ones.

        Of indicators it is the likeliest category, of ordered levels the nearest.
        """
        if not self.categories:
            whole = self.likelihood in ("bernoulli", *COLUMN_TYPES["counts"])
            return features[:, 0].round() if whole else features[:, 0]
        if self.likelihood == "ordinal":
            return np.array(self.categories)[features[:, 0].round().astype(int).clip(0, len(self.categories) - 1)]
        scores = np.hstack([1 - features, features]) if len(self.categories) == 2 else features
        return np.array(self.categories)[scores.argmax(1)]

    @property
    def units(self) -> tuple[float, float]:
        """What a feature is shifted and scaled by to be in the units of the table."""
        return (self.loc, self.scale) if self.is_standardised else (0.0, 1.0)


def inferred_type(values: np.ndarray) -> str:
    """Return the type of a column as `cells.of_column` returns it.

    >>> [inferred_type(np.array(column)) for column in ([0.0, 3, np.nan], [1.0, 3], [0.0, 1], ["a", "b", ""])]
    ['counts', 'reals', 'binary', 'binary']
    """
    if values.dtype.kind == "U":
        return "binary" if len(set(values[values != ""].tolist())) == 2 else "categories"
    known = values[~np.isnan(values)]
    if np.isin(known, (0, 1)).all():
        return "binary"
    whole = (known == known.round()).all() and known.min() == 0 and known.max() < LARGEST_COUNT
    return "counts" if whole else "reals"


def columns_of(
    columns: Mapping[str, np.ndarray],
    likelihood: str,
    source: str,
    *,
    levels: Mapping[str, Levels] = MappingProxyType({}),
    constant: bool = False,
) -> list[Column]:
    """Return the columns of a table with their likelihoods and categories, not yet standardised.

    Args:
        columns: of a table as read, by name.
        likelihood: `normal`, of all columns; or as `column_likelihoods` reads it.
        source: what messages name.
        levels: of the columns of which the data say that they are categories.
        constant: whether columns of equal numbers may be.

    Raises:
        DataError: a column has no values, or such that the likelihood does not take; or there is no such column.
    """
    given = {} if likelihood == "normal" else column_likelihoods(likelihood)
    for name in given:
        if name not in (*columns, *COLUMN_TYPES):
            known = nearest(name, (*columns, *COLUMN_TYPES))
            raise DataError(f"`likelihood={likelihood}`: {source} has no column, and there is no type, {name}: {known}")
    fitted = []
    for name, column in columns.items():
        title = f"{source}: column {name!r}"
        declared = levels.get(name)
        values = cells.words_of(column) if declared else cells.of_column(column, title)
        cells.check_varies(values, title, constant=constant)
        if likelihood == "normal":
            words = tuple(sorted(set(values[values != ""].tolist()))) if values.dtype.kind == "U" else ()
            fitted.append(Column(name, categories=words))
            continue
        inferred = "ordinals" if declared and declared.ordered else inferred_type(values)
        chosen, _, order = given.get(name, given.get(inferred, COLUMN_TYPES[inferred][0])).partition(":")
        if chosen == "ordinal" and declared and not order:
            order = "/".join(declared.names)
        elif declared and TYPE_OF[chosen] in NUMBERS:
            values = cells.of_column(column, title)
        fitted.append(Column(name, categories=_categories(values, chosen, order, title), likelihood=chosen))
    return fitted


def _categories(values: np.ndarray, likelihood: str, levels: str, name: str) -> tuple[str, ...]:
    """Return the categories or the levels of a column, none of numbers as they are."""
    is_text, type_of = values.dtype.kind == "U", TYPE_OF[likelihood]
    if type_of in NUMBERS:
        if is_text:
            word = next(word for word in values.tolist() if word)
            raise DataError(f"{name} holds text ({word!r}), and {likelihood} takes numbers")
        check_values(values, likelihood, name)
        return ()
    known = set(cells.words_of(values).tolist()) - {""}
    if likelihood == "bernoulli":
        if len(known) > 2:
            raise DataError(f"{name} has {len(known)} different values, and bernoulli takes 2")
        if known <= {"0", "1"}:
            return ()
    elif len(known) > cells.MOST_CATEGORIES:
        raise DataError(f"{name} has {len(known)} different values: too many for {likelihood}")
    if likelihood == "ordinal" and (levels or is_text):
        order = tuple(levels.split("/"))
        if not levels or known - set(order):
            shown = "/".join(sorted(known)[:4])
            raise DataError(f"{name} is ordinal: give the order of all its levels, as ordinal:{shown}")
        return order
    return tuple(sorted(known)) if is_text else tuple(sorted(known, key=float))


def check_values(values: np.ndarray, likelihood: str, name: str) -> None:
    """Refuse numbers that a likelihood gives no density to.

    Raises:
        DataError: the first such number.
    """
    known = values[~np.isnan(values)]
    if likelihood in COLUMN_TYPES["counts"]:
        fits, what = (known == known.round()) & (known >= 0) & (known < LARGEST_COUNT), "whole numbers from 0 to 2^24"
    elif likelihood == "beta":
        fits, what = (known > 0) & (known < 1), "numbers between 0 and 1, both excluded: use continuous-bernoulli"
    elif likelihood == "continuous-bernoulli":
        fits, what = (known >= 0) & (known <= 1), "numbers from 0 to 1"
    elif likelihood == "bernoulli":
        fits, what = np.isin(known, (0, 1)), "0 and 1"
    else:
        return
    if not fits.all():
        raise DataError(f"{name} holds {known[~fits][0]:g}, and {likelihood} takes {what}")


def described(likelihoods: Mapping[str, str]) -> str:
    """Return a line on the likelihoods of columns, by name.

    >>> described({"height": "normal", "visits": "poisson", "weight": "normal"})
    "columns by type: reals (normal) 'height', 'weight'; counts (poisson) 'visits'; `likelihood=NAME=...` changes one"
    """
    parts = []
    for name, choices in COLUMN_TYPES.items():
        for likelihood in choices:
            columns = [column for column, each in likelihoods.items() if each == likelihood]
            if columns:
                more = f" and {len(columns) - 6} more" if len(columns) > 6 else ""
                parts.append(f"{name} ({likelihood}) {', '.join(map(repr, columns[:6]))}{more}")
    return f"columns by type: {'; '.join(parts)}; `likelihood=NAME=...` changes one"
