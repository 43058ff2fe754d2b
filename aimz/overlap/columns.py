"""Arguments of one value, or one row of values, per row as one table of columns."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from aimz.errors import InputError, nearest

__all__ = ["ROUNDING", "ColumnTable", "row_count", "standardised"]


#: Differences relative to a column's size that single precision cannot tell apart.
ROUNDING = 2.0**-22
PIECE = 65_536
#: Levels of a code up to which its order may tell one category from another.
CODE_LEVELS = 10


class ColumnTable:
    """Rows, column by column, and in units of their columns' spread as they are needed.

    `complete` are the rows without a value that is not finite. `codes`, by argument the columns
    that number categories, are no quantities: with many levels they have no spread to measure by.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        columns: Mapping[str, Sequence[str]],
        leave_out: Collection[str],
        levels: Sequence[float],
        codes: Mapping[str, Collection[int]] | None = None,
    ) -> None:
        self.used = _tables(arrays, leave_out)
        named = {name: _column_names(name, array, columns) for name, array in self.used.items()}
        self.names = tuple(label for group in named.values() for label in group)
        self.arguments = tuple(name for name, group in named.items() for _ in group)
        self.views = _views(self.used)
        self.rows = row_count(self.used) if self.used else 0
        summary = np.array([_summary(view, levels) for view in self.views])
        summary = summary.reshape(len(self.views), 4 + len(levels)).T
        self.low, self.high, self.mean, self.scale = summary[:4]
        self.quantiles = summary[4:]
        offsets = np.cumsum([0, *(len(group) for group in named.values())])
        for first, name in zip(offsets, named, strict=False):
            for column in (codes or {}).get(name, ()):
                if len(np.unique(self.views[first + column])) > CODE_LEVELS:
                    self.scale[first + column] = 0.0
        self.complete = _complete_rows(self.views, self.rows)

    def binary(self, treatments: Collection[str] | None) -> list[int]:
        """Columns to score: those asked for that have two values."""
        binary = []
        for k in _asked(self.names, self.used, treatments):
            values = self.views[k][np.isfinite(self.views[k])]
            if self.scale[k] and np.all((values == values.min()) | (values == values.max())):
                binary.append(k)
        return binary

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Rows in units of their columns' spread, (column, row)."""
        table = np.empty((len(self.views), len(rows)))
        for k, view in enumerate(self.views):
            table[k] = view[rows]
        return standardised(table, self.mean, self.scale)

    def pieces(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), PIECE):
            yield self.at(rows[start : start + PIECE])


def standardised(table: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Values in units of their spread; constant columns, which only the range rule sees, are 0."""
    weight = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    with np.errstate(invalid="ignore"):  # what is infinite has no place, and is no number
        z: np.ndarray = (table - mean[:, None]) * weight[:, None]
    return z


def _tables(arrays: Mapping[str, np.ndarray], leave_out: Collection[str]) -> dict[str, np.ndarray]:
    """The arguments that are columns of numbers."""
    tables = {name: np.asarray(value) for name, value in arrays.items() if name not in leave_out}
    return {
        name: array
        for name, array in tables.items()
        if array.ndim in (1, 2) and array.dtype.kind in "buif"
    }


def _views(arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return [view for array in arrays.values() for view in (array.T if array.ndim == 2 else [array])]


def row_count(arrays: Mapping[str, np.ndarray]) -> int:
    """Rows that all the arrays have; single values have as many as the others."""
    lengths = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{name} {length:,}" for name, length in lengths.items()) or "none"
        msg = f"Arguments differ in their number of rows ({listed:.150}). Pass one value per row."
        raise InputError(msg, code="rows-mismatch")
    return next(iter(lengths.values()))


def _column_names(
    name: str, array: np.ndarray, columns: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    if array.ndim == 1:
        return (name,)
    names = columns.get(name, range(array.shape[1]))
    if len(names) != array.shape[1]:
        msg = f"'{name}' has {array.shape[1]} columns but {len(names)} names. Pass one name each."
        raise InputError(msg, code="columns-mismatch")
    return tuple(f"{name}[{label}]" for label in names)


def _asked(
    names: Sequence[str], arrays: Mapping[str, np.ndarray], treatments: Collection[str] | None
) -> list[int]:
    """Columns that get a score if they have two values."""
    if treatments is None:
        return [names.index(name) for name, array in arrays.items() if array.ndim == 1]
    unknown = sorted(set(treatments) - set(names))
    if unknown:
        msg = f"The treatment '{unknown[0]}' is no column of the input. "
        raise InputError(msg + nearest(unknown[0], names), code="treatment-unknown")
    return [k for k, name in enumerate(names) if name in treatments]


def _summary(view: np.ndarray, levels: Sequence[float]) -> list[float]:
    """Low, high, mean, scale and quantiles of a column."""
    values = view.astype(np.float64)
    is_finite = np.isfinite(values)
    values = values if is_finite.all() else values[is_finite]
    if not len(values):
        return [np.nan, np.nan, np.nan, 0.0, *([np.nan] * len(levels))]
    low, high = float(values.min()), float(values.max())
    quantiles = np.quantile(values, levels).tolist() if levels else []
    if high - low <= ROUNDING * max(abs(low), abs(high)):
        return [low, high, low, 0.0, *quantiles]
    return [low, high, float(values.mean()), float(values.std()), *quantiles]


def _complete_rows(views: Sequence[np.ndarray], rows: int) -> np.ndarray:
    complete = np.ones(rows, bool)
    for view in views:
        complete &= np.isfinite(view)
    return np.flatnonzero(complete)
