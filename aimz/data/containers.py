"""One container, once: what the user gave, as an array that JAX sees unchanged, with its labels.

A `Value` is asked for all of this in place of the container.
"""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from aimz.data.categories import Categories, categories_of, encoded, frame_of, is_frame, switches_of
from aimz.data.labels import (
    Marks,
    column_order,
    marks_of,
    only_counted,
    other_labels,
    row_order,
    storable,
)
from aimz.errors import InputError
from aimz.libraries import pd

__all__ = [
    "Casts",
    "Value",
    "as_array",
    "as_labels",
    "check_container",
    "check_exact",
    "is_given",
    "is_whole_scalar",
    "lined_up",
    "rounded_by_cast",
    "rounding_refused",
    "values_of",
    "within_32_bits",
]


_JAX = (jnp.integer, jnp.floating)
_WHOLE = (bool, int, np.bool_, np.integer)
_TIMES = (datetime.date, datetime.timedelta, np.datetime64, np.timedelta64)
_ENCODE = "Encode it as numbers before you pass it."
_DAYS = "Pass numbers, such as days since the first one."
# A cast to 32 bits may blur numbers from this size on by at most so much of their range.
_LARGE, _BLUR = 1e6, 1e-6


@dataclass(frozen=True, eq=False)
class Value:
    """A container of the user's under its name, and what it calls its rows and columns.

    Examples
    --------
    >>> value = Value.of(pd.DataFrame({"dose": [1, 2]}, index=["a", "b"]), "X")
    >>> value.labels.tolist(), value.columns, value.array.shape
    (['a', 'b'], ('dose',), (2, 1))
    """

    given: Any
    name: str
    marks: Marks

    @classmethod
    def of(cls, given: Any, name: str) -> Value:
        """What is given under a name, read; a value is one already.

        Frames of Dask, which do not know their rows, and tables of Arrow are brought into memory.
        """
        if isinstance(given, Value):
            return given
        if hasattr(given, "npartitions") and hasattr(given, "compute") and hasattr(given, "index"):
            given = given.compute()
        elif hasattr(given, "column_names") and hasattr(given, "to_pandas"):
            given = given.to_pandas()
        return cls(given, name, marks_of(given))

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Labels of the rows; None where these are only counted."""
        return storable(self.marks.rows)

    @cached_property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the columns, as text.

        Raises
        ------
        InputError
            `columns-mismatch`: a name stands twice.
        """
        names = self.marks.columns
        twice = sorted(label for label, count in Counter(names or ()).items() if count > 1)
        if twice:
            msg = f"'{self.name}' has two columns '{twice[0]}'. Rename or drop one of them."
            raise InputError(msg, code="columns-mismatch")
        return names

    @cached_property
    def array(self) -> np.ndarray | jax.Array:
        """The numbers, in a dtype that holds them."""
        return as_array(self.given, self.name)

    @cached_property
    def seen(self) -> Any:
        """The numbers in the dtype that JAX computes with: 32 bits unless jax_enable_x64.

        Narrow numbers are widened, because a kernel's arithmetic on them would wrap around or lose
        digits. Those of a dict of arrays are a dict.

        Raises
        ------
        InputError
            `cast-overflow`, `cast-precision`: values that the dtype cannot hold, or blurs.
        """
        if isinstance(self.given, dict):
            return jax.tree.map(lambda leaf: Value.of(leaf, self.name).seen, self.given)
        array = np.asarray(self.array)
        dtype = jax.dtypes.canonicalize_dtype(array.dtype)
        if dtype.kind in "iu":
            dtype = np.result_type(np.int32, dtype) if dtype.itemsize < 4 else dtype
            dtype = np.dtype(f"i{dtype.itemsize}")
        elif dtype.kind == "f":
            dtype = np.result_type(np.float32, dtype) if dtype.itemsize < 4 else dtype
        if dtype == array.dtype:
            return array
        with np.errstate(over="ignore"):
            seen = array.astype(dtype)
        limits = np.iinfo(dtype) if dtype.kind in "iu" else None
        if limits and array.size and (array.min() < limits.min or array.max() > limits.max):
            raise _beyond(self.name, dtype)
        if array.size and array.dtype == np.float64 and dtype == np.float32:
            _check_cast(array, seen, self.name)
        return seen

    @cached_property
    def rounded(self) -> float | None:
        """A large number that all rows of a column are, and that 32 bits round; None without one.

        `seen` refuses numbers whose differences are lost. One number has none that would tell
        whether its digits matter.
        """
        if isinstance(self.given, dict) or self.array.dtype != np.float64:
            return None
        wide = np.asarray(self.array)
        if self.seen.dtype != np.float32 or not wide.size:
            return None
        columns = wide.reshape(len(wide) if np.ndim(wide) and len(wide) > 1 else wide.size, -1)
        least, most = np.fmin.reduce(columns), np.fmax.reduce(columns)
        is_one = (least == most) & (np.abs(least) >= _LARGE) & (least.astype(np.float32) != least)
        return float(least[is_one][0]) if is_one.any() else None

    def check_digits(self) -> None:
        """Refuse one number in all rows that 32 bits round.

        Raises
        ------
        InputError
            `cast-precision`.
        """
        if self.rounded is not None:
            raise rounding_refused(self.name, self.rounded, float(np.float32(self.rounded)))

    @cached_property
    def categories(self) -> Categories:
        """The categories of each column of a frame; () of what has none; see `categories_of`."""
        names = self.columns if is_frame(self.given) else None
        return () if names is None else categories_of(self.given, names, self.name)

    @property
    def frame(self) -> pd.DataFrame:
        """The columns of a frame in a new one of pandas."""
        return frame_of(self.given, self.columns or ())

    def in_numbers(self, categories: Categories) -> Value:
        """A frame whose columns of categories are zeros and ones, as these are known.

        One that has the columns of zeros and ones already stays as it is.

        Raises
        ------
        InputError
            `columns-mismatch`: other columns, none that have names, or a category that is not
            known; `not-finite`: one that is missing.
        """
        if not categories or {*(self.columns or ())} == {*switches_of(categories)}:
            return self
        names = tuple(name for name, _ in categories)
        shown = self.columns
        if shown is None or not is_frame(self.given) or (only_counted(shown) and shown != names):
            msg = (
                f"The model was fitted on a frame with categories, and '{self.name}' is no frame "
                f"with its columns: {', '.join(names):.80}. Pass one."
            )
            raise InputError(msg, code="columns-mismatch")
        table = encoded(self.in_columns(names).frame, categories, self.name)
        return Value(table, self.name, Marks(self.marks.rows, tuple(table.columns)))

    def as_labels(self) -> np.ndarray:
        """What it holds as labels, of any kind."""
        return as_labels(self.given, self.name)

    def in_rows(self, order: np.ndarray) -> Value:
        """The same with its rows in another order."""
        rows, columns = self.marks
        value = self.given.iloc[order] if hasattr(self.given, "iloc") else self.given[order]
        return replace(
            self, given=value, marks=Marks(None if rows is None else rows[order], columns)
        )

    def in_columns(self, fitted: tuple[str, ...] | None) -> Value:
        """The same with its columns in the fitted order.

        Raises
        ------
        InputError
            `columns-mismatch`: a column is missing, or there is one that the fit did not see.
        """
        order = column_order(self.columns, fitted, self.name)
        if order is None:
            return self
        is_frame = hasattr(self.given, "iloc")
        value = self.given.iloc[:, order] if is_frame else self.given[:, order]
        return replace(self, given=value, marks=Marks(self.marks.rows, fitted))


def values_of(given: Mapping[str, Any]) -> dict[str, Value]:
    """Values by name."""
    return {name: Value.of(value, name) for name, value in given.items()}


def is_given(values: Mapping[str, Value], name: str) -> bool:
    """Whether there is a value of a name, and it is not None."""
    return name in values and values[name].given is not None


def lined_up(
    given: Mapping[str, Any],
    labels: np.ndarray | None,
    rows: int,
    reference: str,
    *,
    may_order: bool = True,
) -> dict[str, Value]:
    """Values by name, with labelled ones in the order of the rows that `labels` name.

    Values without labels, or of another number of rows, stay as they are. Where the input
    `reference` has no labels, the labelled values must agree with one another, and with `labels`
    where these are those of other values (`may_order` is false).

    Raises
    ------
    InputError
        `row-labels`: labels that are not those of the rows, or that stand twice in another order.
    """
    known = may_order and labels is not None
    lined = values_of(given)
    for name, value in lined.items():
        shape: Any = getattr(value.given, "shape", None)
        own = value.labels if shape and shape[0] == rows else None
        if own is None:
            continue
        if labels is None:
            reference, labels = name, own
        order = row_order(own, labels, name, reference)
        if order is not None and not known:
            raise other_labels(name, reference, "in another order")
        if order is not None:
            lined[name] = value.in_rows(order)
    return lined


def as_array(value: Any, name: str) -> np.ndarray | jax.Array:
    """Numeric array from an array, list, frame, series or xarray object.

    Raises
    ------
    InputError
        `not-numeric`: text, dates, objects, masked or sparse values.
    """
    if isinstance(value, jax.Array):
        if not _is_number(value.dtype):
            _refuse(name, f"holds {value.dtype}", _ENCODE)
        return value if value.dtype.kind in "biuf" else _widest(np.asarray(value))
    check_container(value, name)
    try:
        # Arrow's own arrays would refuse what has to be copied.
        is_arrow = type(value).__module__.partition(".")[0] == "pyarrow"
        in_numpy = hasattr(value, "to_numpy") and not is_arrow
        array = np.asarray(value.to_numpy() if in_numpy else value)
    except Exception as error:  # noqa: BLE001  # of containers of any kind; rethrown by name
        _refuse(name, f"is no array ({error!s:.60})", "Pass numbers in rows of equal length.")
    if array.dtype == object:
        array = _from_objects(array, name, value)
    if array.dtype.kind in "Mm":
        _refuse(name, "holds dates or times", _DAYS)
    if not _is_number(array.dtype):
        if array.dtype.kind in "USTO":
            where = _place((0,) * array.ndim, value, array.flat[0]) if array.size else ""
            _refuse(name, f"holds text{where}", _ENCODE)
        _refuse(name, f"holds {array.dtype!s:.60}", _ENCODE)
    return _widest(array)


def _is_number(dtype: Any) -> bool:
    """Whether a dtype is one of real numbers, those of fewer than 8 bits included."""
    kind = getattr(dtype, "kind", "O")  # keys of JAX have none
    is_small = kind == "V" and dtype.names is None
    return kind in "biuf" or (is_small and any(jnp.issubdtype(dtype, own) for own in _JAX))


def as_labels(value: Any, name: str) -> np.ndarray:
    """Labels of rows, of any kind; numbers in a dtype that has an order and an index.

    Raises
    ------
    InputError
        `not-numeric`: a masked array, or what is none at all.
    """
    check_container(value, name)
    try:
        array = np.asarray(value)
    except Exception as error:  # of containers of any kind; rethrown by name
        msg = f"'{name}' is no array ({error!s:.60}). Pass one label per row."
        raise InputError(msg, code="not-numeric") from error
    if not _is_number(array.dtype):
        return array
    array = _widest(array)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _widest(array: np.ndarray) -> np.ndarray:
    """Numbers in a dtype of NumPy's own that holds them, of at most 64 bits."""
    if array.dtype.kind == "V":  # bfloat16, float8, int4, ...
        is_whole = jnp.issubdtype(array.dtype, jnp.integer)
        return array.astype(np.int32 if is_whole else np.float32)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # infinity is refused
            return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check_container(value: object, name: str) -> None:
    """Refuse what would lose something as an array.

    Raises
    ------
    InputError
        `not-numeric`.
    """
    problem = ""
    if _holds_masked(value):
        problem = "a masked array, whose mask would be lost. Fill it first: value.filled(np.nan)"
        problem += ", and missing='mask' for an outcome"
    elif hasattr(value, "tocsr") or type(value).__module__.startswith("scipy.sparse"):
        problem = "a sparse matrix, and arrays here are dense. Pass value.toarray()"
    elif hasattr(value, "data_vars"):
        problem = "an xarray Dataset, which is no array. Pass one variable, or value.to_dataarray()"
    if problem:
        raise InputError(f"'{name}' is {problem}.", code="not-numeric")


def _holds_masked(value: object) -> bool:
    """Whether NumPy would forget a mask: of the value, or of a part in a list."""
    if isinstance(value, list | tuple):
        return any(map(_holds_masked, value))
    return isinstance(value, np.ma.MaskedArray)


def _check_cast(array: np.ndarray, seen: np.ndarray, name: str) -> None:
    """Refuse a cast from 64 to 32 bits that loses what the numbers say, e.g. unix times."""
    check_exact(array, name)
    wide = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    narrow = seen.reshape(wide.shape)
    sizes = np.where(np.isfinite(wide), np.abs(wide), 0.0)
    for column in np.flatnonzero(sizes.max(axis=0, initial=0) >= _LARGE):
        finite = np.isfinite(wide[:, column])
        values, cast = wide[finite, column], narrow[finite, column]
        if not values.size:
            continue
        most = values[np.argmax(np.abs(values))]
        if not np.isfinite(cast).all():
            raise _cast_refused(name, "numbers that 32 bits cannot hold", most, "cast-overflow")
        if np.abs(values - cast).max() > _BLUR * np.ptp(values) > 0:
            raise _blurred(name, most)
    if np.any(wide) and not np.any(narrow):
        msg = f"'{name}' holds only numbers below 1e-45, which 32 bits round to 0. Rescale them."
        raise InputError(msg, code="cast-precision")


def _cast_refused(name: str, what: str, value: float, code: str) -> InputError:
    msg = (
        f"'{name}' holds {what}, such as {value!s}. Subtract a constant or rescale them, or set "
        "jax.config.update('jax_enable_x64', True)."
    )
    return InputError(msg, code=code)


def _blurred(name: str, value: float) -> InputError:
    what = "large numbers whose differences 32 bits would blur"
    return _cast_refused(name, what, value, "cast-precision")


class Casts:
    """What 32 bits blur in all batches together: each by itself may hold one number only."""

    def __init__(self) -> None:
        self._spans: dict[tuple[str, int], np.ndarray] = {}  # least, most and blur by column

    def add(self, value: Value) -> None:
        """Look at the numbers of a batch."""
        if isinstance(value.given, dict) or not np.size(value.array):
            return
        array, seen = np.asarray(value.array), np.asarray(value.seen)
        if array.dtype == np.float64 and seen.dtype == np.float32 and array.ndim:
            self.note(value.name, array.reshape(len(array), -1), seen.reshape(len(array), -1))

    def note(self, name: str, wide: np.ndarray, narrow: np.ndarray, number: int = -1) -> None:
        """Look at numbers, (row, column), of an argument and at what 32 bits make of them.

        A `number` tells apart several that are computed of one argument.
        """
        with np.errstate(invalid="ignore"):
            blur = np.abs(wide - narrow)
        span = np.array([np.fmin.reduce(wide), np.fmax.reduce(wide), np.fmax.reduce(blur)])
        self._widen((name, number), span)

    def check_digits(self, number: int) -> None:
        """Refuse one number in all rows that 32 bits round, of those under a `number`.

        Raises
        ------
        InputError
            `cast-precision`.
        """
        for (name, own), (least, most, blur) in self._spans.items():
            is_one = (least == most) & (blur > 0)
            if own == number and is_one.any():
                one = float(least[is_one.argmax()])
                raise rounding_refused(name, f"{one:.0f}", float(np.float32(one)))

    def merge(self, others: Casts) -> None:
        """Add what was looked at elsewhere."""
        for place, span in others._spans.items():
            self._widen(place, span)

    def _widen(self, place: tuple[str, int], span: np.ndarray) -> None:
        before = self._spans.get(place, span)
        least, most = np.fmin(before[0], span[0]), np.fmax(before[1:], span[1:])
        self._spans[place] = np.array([least, *most])

    def check(self) -> None:
        """Refuse numbers that are too large for their differences.

        Raises
        ------
        InputError
            `cast-precision`.
        """
        for (name, _), (least, most, blur) in self._spans.items():
            sizes = np.fmax(np.abs(least), np.abs(most))
            with np.errstate(invalid="ignore"):
                is_blurred = (sizes >= _LARGE) & (blur > _BLUR * (most - least)) & (most > least)
            if is_blurred.any():
                raise _blurred(name, float(sizes[is_blurred.argmax()]))


def rounded_by_cast(value: object) -> float | None:
    """What 32 bits make of a number that is meant to be exact; None where they hold it.

    Whole numbers are meant so; those given as floats up to the greatest that 32 bits count to.
    """
    number = np.asarray(value)
    is_wide = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    if is_wide or number.ndim or number.dtype.kind not in "iufO":
        return None
    exact = number.item()
    if not isinstance(exact, int | float):
        return None
    if not isinstance(exact, int) and not (exact % 1 == 0 and abs(exact) < 2**31):
        return None
    with np.errstate(over="ignore"):
        rounded = float(np.float32(exact)) if abs(exact) < 2**127 else math.inf
    return None if rounded == exact else rounded


def rounding_refused(name: str, value: object, rounded: float) -> InputError:
    """The error of a number that 32 bits round to another."""
    msg = (
        f"'{name}' is {value!s:.30}, which 32 bits round to {rounded:.17g}. Subtract a constant or "
        "rescale it, or set jax.config.update('jax_enable_x64', True)."
    )
    return InputError(msg, code="cast-precision")


def check_exact(value: object, name: str, matters: Callable[[float], bool] | None = None) -> None:
    """Refuse a single whole number that 32 bits round to another, where that `matters`.

    Raises
    ------
    InputError
        `cast-precision`.
    """
    rounded = rounded_by_cast(value)
    if rounded is not None and (matters is None or matters(rounded)):
        raise rounding_refused(name, value, rounded)


def is_whole_scalar(value: Any) -> bool:
    """Whether a value is one whole number."""
    return np.ndim(value) == 0 and getattr(getattr(value, "dtype", None), "kind", "") in ("i", "u")


def within_32_bits(value: Any, name: str) -> Any:
    """A static argument; refused where JAX could not take the number from the kernel."""
    limits = np.iinfo(jax.dtypes.canonicalize_dtype(np.int64))
    if isinstance(value, int) and not limits.min <= value <= limits.max:
        raise _beyond(name, limits.dtype)
    return value


def _beyond(name: str, dtype: Any) -> InputError:
    msg = (
        f"'{name}' holds whole numbers that {dtype} cannot hold. Set "
        "jax.config.update('jax_enable_x64', True), or rescale them."
    )
    return InputError(msg, code="cast-overflow")


def _from_objects(array: np.ndarray, name: str, value: Any) -> np.ndarray:
    """Numbers from objects; a missing value of any kind becomes NaN."""
    items = [np.nan if _is_missing(item) else item for item in array.ravel()]
    try:
        numbers = [_number_of(item) for item in items]
    except OverflowError:
        _refuse(name, "holds whole numbers beyond 1e308", "Count in larger units.")
    for place, kind in enumerate(numbers):
        if isinstance(kind, str):
            where = _place(np.unravel_index(place, array.shape), value, items[place])
            fix = _DAYS if kind == "dates or times" else _ENCODE
            _refuse(name, f"holds {kind}{where}", fix)
    kinds = {type(item) for item in items}
    if not items or not all(issubclass(kind, _WHOLE) for kind in kinds):
        return np.array(numbers).reshape(array.shape)
    whole = np.array(items).reshape(array.shape)
    if whole.dtype.kind not in "biu":  # no 64 bits hold them
        raise _beyond(name, jax.dtypes.canonicalize_dtype(np.int64))
    return whole


def _number_of(item: Any) -> float | str:
    """A number, or in words what it is instead."""
    if isinstance(item, str | bytes):
        return "text"
    if isinstance(item, (*_TIMES, pd.Period)):
        return "dates or times"
    if isinstance(item, np.ndarray) and item.ndim:  # of a single number NumPy may make one
        return "objects"
    try:
        return float(item)
    except (TypeError, ValueError):
        return "objects"


def _place(index: Sequence[Any], value: Any, item: Any) -> str:
    """Where a value is, in brackets: its row, and its column by name where that has one."""
    if not len(index):
        return ""
    row, *rest = map(int, index)
    names = marks_of(value).columns if rest else None
    column = f", column {rest[0] if names is None else repr(names[rest[0]])}" if rest else ""
    shown = repr(str(item)) if isinstance(item, str) else str(item)
    return f" ({shown:.40} in row {row}{column})"


def _is_missing(item: object) -> bool:
    return item is None or type(item).__name__ in ("NAType", "NaTType")


def _refuse(name: str, problem: str, fix: str) -> NoReturn:
    msg = f"'{name}' {problem}, which a kernel cannot compute with. {fix}"
    raise InputError(msg, code="not-numeric")
