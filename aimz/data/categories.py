"""Columns of categories as zeros and ones, for kernels that read numbers and know the categories.

A frame keeps its text until here, so that groups, scenarios and pictures name what the user does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from aimz.errors import InputError
from aimz.libraries import pd

__all__ = ["Categories", "categories_of", "encoded", "frame_of", "is_frame", "switches_of"]


#: By column its categories in their order, none where it holds numbers; () where no column has any.
type Categories = tuple[tuple[str, tuple[Hashable, ...]], ...]


def is_frame(table: Any) -> bool:
    """Whether a table has a dtype for each column, as those of pandas and polars."""
    return hasattr(table, "columns") and hasattr(table, "dtypes")


def categories_of(table: Any, names: Sequence[str], argument: str) -> Categories:
    """The columns of a frame by name, with the categories that are there.

    Raises
    ------
    InputError
        `not-finite`: a category is missing; `columns-mismatch`: a name would stand twice.
    """
    columns = []
    for place, name in enumerate(names):
        column = _column(table, place)
        columns.append((name, _levels(column, name, argument) if _is_category(column) else ()))
    if not any(levels for _, levels in columns):
        return ()
    twice = [name for name, count in Counter(switches_of(columns)).items() if count > 1]
    if twice:
        msg = f"A category of '{argument}' becomes a column '{twice[0]}', and there is one. "
        raise InputError(f"{msg}Rename one of the two.", code="columns-mismatch")
    return tuple(columns)


def switches_of(categories: Iterable[tuple[str, tuple[Hashable, ...]]]) -> tuple[str, ...]:
    """Names of the columns that encoding makes: those of categories first, and then the numbers."""
    by_column = tuple(categories)
    switches = [one for name, levels in by_column for one in _switch_names(name, levels)]
    return (*switches, *(name for name, levels in by_column if not levels))


def frame_of(table: Any, names: Sequence[str]) -> pd.DataFrame:
    """A frame of any kind as a new one of pandas."""
    columns = {name: _column(table, place) for place, name in enumerate(names)}
    if not hasattr(table, "iloc"):
        columns = {name: np.asarray(column) for name, column in columns.items()}
    return pd.DataFrame(columns)


def encoded(table: pd.DataFrame, categories: Categories, argument: str) -> pd.DataFrame:
    """A column of zeros and ones for each category; of two, for the second only.

    Raises
    ------
    InputError
        `columns-mismatch`: a category that is not known; `not-finite`: one that is missing.
    """
    columns: dict[str, Any] = {}
    for name, levels in categories:
        if levels:
            switches = _switches(table[name], levels, name, argument)
            columns |= dict(zip(_switch_names(name, levels), switches.T, strict=True))
    columns |= {name: table[name] for name, levels in categories if not levels}
    return pd.DataFrame(columns, index=table.index)


def _column(table: Any, place: int) -> Any:
    return table.iloc[:, place] if hasattr(table, "iloc") else table[:, place]


def _is_category(column: Any) -> bool:
    """Whether a column is of categories: it says so, or there is text in it."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return True
    values = np.asarray(column)
    return values.dtype.kind in "OUT" and any(isinstance(one, str) for one in values)


def _switch_names(name: str, levels: tuple[Hashable, ...]) -> list[str]:
    return [f"{name}_{level}" for level in (levels[1:] if len(levels) == 2 else levels)]


def _factorised(column: Any, name: str, argument: str) -> tuple[np.ndarray, list[Hashable]]:
    """Codes of a column, and what each stands for, in plain Python."""
    values = np.asarray(column, object)
    missing = np.asarray(pd.isna(values))
    if missing.any():
        msg = (
            f"'{argument}' lacks {missing.sum()} categories in column '{name}' (the first in row "
            f"{missing.argmax()}). Give them a category of their own, or leave those rows out."
        )
        raise InputError(msg, code="not-finite")
    codes, distinct = pd.factorize(values)
    return codes, [_plain(one) for one in distinct]


def _plain(label: Any) -> Hashable:
    """A label that a saved kernel can hold: text, a number, or how any other reads."""
    bare = label.item() if isinstance(label, np.generic) else label
    return bare if type(bare) in (str, int, float, bool) else str(bare)


def _levels(column: Any, name: str, argument: str) -> tuple[Hashable, ...]:
    """Categories that are there, numbers before text, each in order."""
    distinct = {*_factorised(column, name, argument)[1]}
    return tuple(sorted(distinct, key=lambda one: (isinstance(one, str), one)))


def _switches(column: Any, levels: tuple[Hashable, ...], name: str, argument: str) -> np.ndarray:
    """Zeros and ones, (row, category); of two categories for the second only."""
    codes, distinct = _factorised(column, name, argument)
    places = {level: place for place, level in enumerate(levels)}
    unknown = [level for level in distinct if level not in places]
    if unknown:
        msg = (
            f"Column '{name}' of '{argument}' holds the category {unknown[0]!r:.40}, which the fit "
            f"has not seen: it knows {', '.join(map(str, levels)):.80}. Leave such rows out."
        )
        raise InputError(msg, code="columns-mismatch")
    of_row = np.array([places[level] for level in distinct], int)[codes]
    switches = of_row[:, None] == np.arange(len(levels))
    return np.asarray(switches[:, len(levels) == 2 :], np.float64)
