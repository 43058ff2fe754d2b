"""What the user gave, as arrays: inputs of a call, row labels, a fingerprint of the rows.

Every container becomes an array by the same road, or is refused with a sentence that says what to
write instead. Nothing is broadcast into rows by accident.
"""

import datetime
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from aimz.choices import check_choice, shown
from aimz.errors import InputError, nearest
from aimz.labels import column_names, column_order, lined_up, row_labels

__all__ = [
    "MISSING",
    "Arguments",
    "Known",
    "as_array",
    "as_jax_sees",
    "as_labels",
    "bind",
    "canonical_rows",
    "check_container",
    "check_exact",
    "check_finite",
    "check_names",
    "check_outcome",
    "check_positive",
    "check_row_shape",
    "check_weights",
    "draw_count",
    "rounded_by_cast",
    "rounding_refused",
    "row_fingerprint",
    "row_hashes",
]

#: Stands for a missing element of an array of whole numbers.
MISSING = int(np.iinfo(np.int32).min)
_STATIC = (bool, int, str, type(None))
_JAX = (jnp.integer, jnp.floating)
_WHOLE = (bool, int, np.bool_, np.integer)
_TIMES = (datetime.date, datetime.timedelta, np.datetime64, np.timedelta64, pd.Period)
_NOT_NUMBERS: dict[str, tuple[type, ...]] = {"text": (str, bytes), "dates or times": _TIMES}
_ENCODE = "Encode it as numbers before you pass it."
_DAYS = "Pass numbers, such as days since the first one."
# A cast to 32 bits may blur numbers from this size on by at most so much of their range.
_LARGE, _BLUR = 1e6, 1e-6
# Values to hash at a time.
_PIECE = 2**20


@dataclass(frozen=True)
class Arguments:
    """Kernel arguments of one call: traced values, static values, rows, labels, column names.

    `reference` are the labels that other values of rows must agree with: those of the primary
    input, or where it has none of another argument.
    """

    arrays: Mapping[str, Any]
    static: Mapping[str, Any]
    rows: int
    labels: np.ndarray | None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reference: np.ndarray | None = None

    def lined(self, values: Mapping[str, Any], primary: str) -> dict[str, Any]:
        """Values of rows in the order of these rows, where they have labels."""
        may_order = self.labels is not None
        return lined_up(values, self.reference, self.rows, primary, may_order=may_order)


@dataclass(frozen=True)
class Known:
    """What a fit has seen of the arguments: which have one value per row, their columns.

    `shapes` are those of one row; `spread` those of sites that are larger than their distribution.
    `steps` is how many steps a scan takes within each row, 0 for other kernels: an argument of as
    many columns is one of steps, and there may be more of them.
    """

    row_inputs: frozenset[str] = frozenset()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    spread: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    steps: int = 0

    def names(self, argument: str, given: Sequence[str] | None) -> tuple[str, ...] | None:
        """Names of the fitted columns; their numbers where the given ones are numbers, too."""
        shape = self.shapes.get(argument, ())
        counted = tuple(map(str, range(shape[0]))) if len(shape) == 1 else ()
        is_numbered = given is not None and {*given} == {*counted}
        fitted = self.columns.get(argument, counted if is_numbered else None)
        if not self.steps or given is None or fitted is None or len(fitted) != self.steps:
            return fitted
        goes_on = all(own == known for own, known in zip(given, fitted, strict=False))
        return tuple(given) if goes_on else fitted

    def in_steps(self, argument: str, shape: tuple[int, ...]) -> bool:
        """Whether rows of a shape differ from the fitted ones in the number of steps only."""
        fitted = self.shapes.get(argument, ())
        return fitted[:1] == (self.steps,) and len(shape) > 0 and shape[1:] == fitted[1:]


def bind(
    given: Mapping[str, Any],
    *,
    names: tuple[str, ...],
    required: tuple[str, ...],
    known: Known,
    always_rows: tuple[str, ...],
    by_row: frozenset[str] = frozenset(),
) -> Arguments:
    """Check the arguments of a call against the kernel's signature and turn them into arrays.

    Parameters
    ----------
    given : mapping
        Argument values by name, the primary input and (where given) the outcome included.
    names, required : tuple of str
        All the kernel's arguments and those without a default.
    known : Known
        What the fit has seen; a scalar given for an argument of rows is broadcast over rows, and
        columns are put in the fitted order.
    always_rows : tuple of str
        The primary input and the outcome; the first sets the number of rows.
    by_row : frozenset of str
        Other arguments that are known to have a value per row: their labels are lined up.

    Raises
    ------
    InputError
        `argument-unknown`, `argument-missing`, `rows-mismatch`, `row-labels`, `columns-mismatch`,
        `not-numeric`, `cast-overflow`, `cast-precision`, `no-rows`.
    """
    check_names(given, names, what="argument")
    missing = [name for name in required if name not in given]
    if missing:
        listed = "', '".join(missing)
        msg = f"The kernel needs the argument '{listed}'. Pass it by name, e.g. {missing[0]}=..."
        raise InputError(msg, code="argument-missing")
    name, labels = always_rows[0], row_labels(given[always_rows[0]])
    primary = as_array(given[name], name)
    if primary.ndim == 0 or len(primary) == 0:
        msg = f"'{name}' has shape {primary.shape}: there are no rows. Pass at least one."
        raise InputError(msg, code="no-rows")
    of_rows = by_row | known.row_inputs | set(always_rows) - {name}
    others = {n: value for n, value in given.items() if n in of_rows and n != name}
    given = {**given, **lined_up(others, labels, len(primary), name)}
    seen = [labels, *(row_labels(given[n]) for n in others)]
    reference = next((o for o in seen if o is not None and len(o) == len(primary)), None)
    arrays, static = _converted(given, len(primary), known, always_rows)
    columns = _columns_in_order(given, arrays, known)
    for n in known.shapes.keys() & arrays.keys():
        if not known.in_steps(n, tuple(np.shape(arrays[n])[1:])):
            check_row_shape(n, arrays[n], known.shapes[n])
    return Arguments(arrays, static, len(primary), labels, columns, reference)


def _columns_in_order(
    given: Mapping[str, Any], arrays: dict[str, Any], known: Known
) -> dict[str, tuple[str, ...]]:
    """Names of the columns of arguments, whose arrays are put in the fitted order."""
    columns: dict[str, tuple[str, ...]] = {}
    for name, value in given.items():
        own = column_names(value, name)
        fitted = known.names(name, own)
        order = column_order(own, fitted, name)
        if order is not None:
            arrays[name] = arrays[name][:, order]
        if own is not None and (fitted is None or {*own} == {*fitted}):  # else numbered only
            columns[name] = own if fitted is None else fitted
    return columns


def _converted(
    given: Mapping[str, Any], rows: int, known: Known, always_rows: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments as arrays that JAX computes with, and those that are static."""
    arrays: dict[str, Any] = {}
    static: dict[str, Any] = {}
    for name, value in given.items():
        if value is not None and (name in known.row_inputs or name in always_rows):
            arrays[name] = _per_row(value, name, rows, scalar_ok=name not in always_rows)
        elif isinstance(value, _STATIC):
            static[name] = _within_32_bits(value, name)
        elif _is_whole_scalar(value) and rounded_by_cast(value) is not None:
            static[name] = _within_32_bits(int(value), name)  # exact as long as no float meets it
        elif isinstance(value, dict):
            arrays[name] = jax.tree.map(lambda leaf, name=name: as_array(leaf, name), value)
        else:
            arrays[name] = as_array(value, name)
    seen = {n: jax.tree.map(lambda leaf, n=n: as_jax_sees(leaf, n), v) for n, v in arrays.items()}
    return seen, static


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
        array = np.asarray(_in_numpy(value))
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


def _in_numpy(value: Any) -> Any:
    """What NumPy makes an array of; Arrow's own arrays would refuse what has to be copied."""
    is_arrow = type(value).__module__.partition(".")[0] == "pyarrow"
    return value.to_numpy() if hasattr(value, "to_numpy") and not is_arrow else value


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


def check_container(value: Any, name: str) -> None:
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


def _holds_masked(value: Any) -> bool:
    """Whether NumPy would forget a mask: of the value, or of a part in a list."""
    if isinstance(value, list | tuple):
        return any(map(_holds_masked, value))
    return isinstance(value, np.ma.MaskedArray)


def check_names(given: Mapping[str, Any], valid: tuple[str, ...], *, what: str) -> None:
    """Refuse a name that is not valid, with the nearest one that is."""
    for name in given:
        if name not in valid:
            msg = f"There is no {what} '{name}'. {nearest(name, valid)}"
            raise InputError(msg, code=f"{what}-unknown")


def check_positive(value: Any, name: str) -> None:
    """Refuse a count that is not a positive whole number; None is no count."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        msg = f"{name} must be a whole number of at least 1, not {shown(value)}."
        raise InputError(msg, code="not-positive")


def check_finite(
    arrays: Mapping[str, Any], columns: Mapping[str, Sequence[str]] | None = None, first: int = 0
) -> None:
    """Refuse data that are not finite, naming the argument, how many values, and the first.

    `columns` names those of the arrays, whose rows begin with number `first`.

    Raises
    ------
    InputError
        `not-finite`.
    """
    for name, value in arrays.items():
        for leaf in jax.tree.leaves(value):
            array = np.asarray(leaf)
            bad = ~np.isfinite(array) if array.dtype.kind == "f" else np.zeros((), bool)
            if not bad.any():
                continue
            msg = f"'{name}' holds {bad.sum()} values that are not finite"
            if array.ndim:
                row, *rest = np.argwhere(bad)[0].tolist()
                names = (columns or {}).get(name)
                column = f", column {repr(names[rest[0]]) if names else rest[0]}" if rest else ""
                msg += f" (the first in row {first + row}{column})"
            msg += ". Fill them, or drop rows."
            raise InputError(msg, code="not-finite")


def check_outcome(outcome: Any, missing: str, output: str) -> np.ndarray | None:
    """Which values of an outcome are there; None where all are.

    Raises
    ------
    InputError
        `not-finite`: some are missing and may not be, all are, or one is infinite; and
        `option-unknown`.
    """
    check_choice(missing, "missing", ("raise", "mask"))
    array = np.asarray(outcome)
    there = np.isfinite(array) if array.dtype.kind == "f" else array != MISSING
    if there.all():
        return None
    infinite = int(np.isinf(array).sum())
    if missing == "raise" or infinite or not there.any():
        fix = "Leave those rows out, or pass missing='mask'."
        count = infinite or int((~there).sum())
        if infinite or not there.any():
            fix = "Some must be there, and all that are must be finite."
        msg = f"'{output}' holds {count} values that are not finite. {fix}"
        raise InputError(msg, code="not-finite")
    return there


def check_weights(weights: Any, arguments: Arguments, primary: str) -> np.ndarray:
    """Row weights as an array (row,); refused where negative, not finite or of another length."""
    rows = arguments.rows
    weights = arguments.lined({"sample_weight": weights}, primary)["sample_weight"]
    array = np.asarray(as_array(weights, "sample_weight"), dtype=np.float32)
    if array.shape != (rows,):
        msg = f"sample_weight has shape {array.shape} but there are {rows} rows. Pass one per row."
        raise InputError(msg, code="rows-mismatch")
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        msg = "sample_weight holds values that are negative or not finite. Pass weights >= 0."
        raise InputError(msg, code="not-finite")
    return array


def row_fingerprint(array: Any) -> int:
    """Number that stands for the values of the rows, whatever container or dtype held them."""
    array = np.atleast_1d(array)
    digest = hashlib.blake2b(digest_size=4)
    for part in canonical_rows(array):
        digest.update(part)
    digest.update(str(array.shape).encode())
    return int.from_bytes(digest.digest(), "little")


def row_hashes(array: Any) -> np.ndarray:
    """A number, uint64, for the values of each row, whatever container or dtype held them."""
    array = np.asarray(array)
    hashes = np.full(len(array), 0xCBF29CE484222325, np.uint64)
    start = 0
    for part in canonical_rows(array):
        words = part.reshape(len(part), -1).view(np.uint32)
        own = hashes[start : start + len(part)]
        # FNV-1a by words, with a shift that lets the high bits reach the low.
        for column in words.T:
            own[:] = (own ^ column) * np.uint64(0x100000001B3)
            own ^= own >> np.uint64(29)
        start += len(part)
    return hashes


def canonical_rows(array: np.ndarray) -> Iterator[np.ndarray]:
    """The values of rows, a piece at a time, in one dtype: equal numbers have equal bytes."""
    size = max(1, _PIECE // max(1, math.prod(array.shape[1:])))
    pieces = [array[start : start + size] for start in range(0, len(array), size)]
    is_single = array.dtype == np.float32 or all(
        np.array_equal(piece.astype(np.float32), piece) for piece in pieces
    )
    dtype = np.dtype(np.float32 if is_single else np.float64)
    for piece in pieces:
        yield np.ascontiguousarray(piece, dtype) + dtype.type(0)  # -0.0 and 0.0 are one value


def draw_count(draws: Mapping[str, Any]) -> tuple[int, int]:
    """Chains and draws per chain of a posterior."""
    chains, draws_per_chain = next(iter(draws.values())).shape[:2]
    return int(chains), int(draws_per_chain)


def as_jax_sees(value: Any, name: str) -> np.ndarray:
    """The array in the dtype that JAX computes with: 32 bits unless jax_enable_x64.

    Narrow numbers are widened, because a kernel's arithmetic on them would wrap around or lose
    digits.

    Raises
    ------
    InputError
        `cast-overflow`, `cast-precision`: values that the dtype cannot hold, or blurs.
    """
    array = np.asarray(value)
    if array.dtype.kind == "V":
        array = _widest(array)
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
        raise _beyond(name, dtype)
    if array.size and array.dtype == np.float64 and dtype == np.float32:
        _check_cast(array, seen, name)
    return seen


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
        if not np.isfinite(cast).all():
            what, code = "numbers that 32 bits cannot hold", "cast-overflow"
        elif np.abs(values - cast).max() > _BLUR * np.ptp(values) > 0:
            what, code = "large numbers whose differences 32 bits would blur", "cast-precision"
        else:
            continue
        msg = (
            f"'{name}' holds {what}, such as {values[np.argmax(np.abs(values))]!s}. Subtract a "
            "constant or rescale them, or set jax.config.update('jax_enable_x64', True)."
        )
        raise InputError(msg, code=code)
    if np.any(wide) and not np.any(narrow):
        msg = f"'{name}' holds only numbers below 1e-45, which 32 bits round to 0. Rescale them."
        raise InputError(msg, code="cast-precision")


def rounded_by_cast(value: Any) -> float | None:
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


def rounding_refused(name: str, value: Any, rounded: float) -> InputError:
    """The error of a number that 32 bits round to another."""
    msg = (
        f"'{name}' is {value!s:.30}, which 32 bits round to {rounded:.17g}. Subtract a constant or "
        "rescale it, or set jax.config.update('jax_enable_x64', True)."
    )
    return InputError(msg, code="cast-precision")


def check_exact(value: Any, name: str) -> None:
    """Refuse a single whole number that 32 bits round to another.

    Raises
    ------
    InputError
        `cast-precision`.
    """
    rounded = rounded_by_cast(value)
    if rounded is not None:
        raise rounding_refused(name, value, rounded)


def _is_whole_scalar(value: Any) -> bool:
    return np.ndim(value) == 0 and getattr(getattr(value, "dtype", None), "kind", "") in ("i", "u")


def _within_32_bits(value: Any, name: str) -> Any:
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


def _per_row(value: Any, name: str, rows: int, *, scalar_ok: bool) -> np.ndarray | jax.Array:
    array = as_array(value, name)
    if array.ndim == 0 and scalar_ok:
        check_exact(array, name)
        return np.broadcast_to(np.asarray(array), (rows,))
    if array.ndim == 0 or len(array) != rows:
        msg = (
            f"'{name}' has shape {array.shape} but there are {rows} rows. "
            f"Its leading axis must be the rows: pass {rows} values."
        )
        raise InputError(msg, code="rows-mismatch")
    return array


def check_row_shape(name: str, array: Any, fitted: tuple[int, ...]) -> None:
    """Refuse an argument whose rows have another shape than the fitted ones."""
    if tuple(np.shape(array)[1:]) != fitted:
        msg = (
            f"'{name}' has rows of shape {tuple(np.shape(array)[1:])}, but the model was fitted on "
            f"rows of shape {fitted}. Pass the same columns."
        )
        raise InputError(msg, code="columns-mismatch")


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
    for words, types in _NOT_NUMBERS.items():
        if isinstance(item, types):
            return words
    try:
        return float(item)
    except (TypeError, ValueError):
        return "objects"


def _place(index: Sequence[Any], value: Any, item: Any) -> str:
    """Where a value is, in brackets: its row, and its column by name where that has one."""
    if not len(index):
        return ""
    row, *rest = map(int, index)
    names = column_names(value, "X") if rest else None
    column = f", column {rest[0] if names is None else repr(names[rest[0]])}" if rest else ""
    shown = repr(str(item)) if isinstance(item, str) else str(item)
    return f" ({shown:.40} in row {row}{column})"


def _is_missing(item: Any) -> bool:
    return item is None or type(item).__name__ in ("NAType", "NaTType")


def _refuse(name: str, problem: str, fix: str) -> NoReturn:
    msg = f"'{name}' {problem}, which a kernel cannot compute with. {fix}"
    raise InputError(msg, code="not-numeric")
