"""What the user gave, as arrays: the inputs of a call, and checks of names, sizes and outcomes.

Every container becomes an array by the same road, or is refused with a sentence that says what to
write instead. Nothing is broadcast into rows by accident.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from aimz.arrays import Array
from aimz.choices import check_choice, shown
from aimz.data.containers import (
    Value,
    check_exact,
    is_whole_scalar,
    lined_up,
    rounded_by_cast,
    within_32_bits,
)
from aimz.data.labels import column_order, only_counted
from aimz.errors import InputError, check_names

__all__ = [
    "MISSING",
    "Arguments",
    "Known",
    "bind",
    "check_finite",
    "check_outcome",
    "check_positive",
    "check_row_shape",
]


#: Stands for a missing element of an array of whole numbers.
MISSING = int(np.iinfo(np.int32).min)
_STATIC = (bool, int, str, type(None))


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

    def lined(self, values: Mapping[str, Any], primary: str) -> dict[str, Value]:
        """Values of rows in the order of these rows, where they have labels."""
        may_order = self.labels is not None
        return lined_up(values, self.reference, self.rows, primary, may_order=may_order)

    def weights(self, given: object, primary: str) -> np.ndarray:
        """Row weights as an array (row,).

        Raises
        ------
        InputError
            `rows-mismatch`, `not-finite`: of another length, negative, or not finite.
        """
        lined = self.lined({"sample_weight": given}, primary)["sample_weight"]
        array = np.asarray(lined.array, dtype=np.float32)
        if array.shape != (self.rows,):
            msg = (
                f"sample_weight has shape {array.shape} but there are {self.rows} rows. Pass one "
                "per row."
            )
            raise InputError(msg, code="rows-mismatch")
        if not np.all(np.isfinite(array)) or np.any(array < 0):
            msg = "sample_weight holds values that are negative or not finite. Pass weights >= 0."
            raise InputError(msg, code="not-finite")
        return array


@dataclass(frozen=True)
class Known:
    """What a fit has seen of the arguments: which have one value per row, their columns.

    `shapes` are those of one row; `spread` those of sites that are larger than their distribution.
    `steps` is how many steps a scan takes within each row, 0 for other kernels: an argument of as
    many columns is one of steps, and there may be more of them. `wholes` are the shapes of
    arguments that go whole, None along axes as long as the rows.
    """

    row_inputs: frozenset[str] = frozenset()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    spread: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    steps: int = 0
    wholes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)

    @cached_property
    def named(self) -> Mapping[str, tuple[str, ...]]:
        """Names of columns, of those arguments that have more than numbers for names."""
        return {name: names for name, names in self.columns.items() if not only_counted(names)}

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

    def check_wholes(self, arrays: Mapping[str, Any]) -> None:
        """Refuse a matrix whose axes after the first are not the fitted ones: of other columns.

        Raises
        ------
        InputError
            `columns-mismatch`.
        """
        for name in self.wholes.keys() & arrays.keys():
            now, then = np.shape(arrays[name]), self.wholes[name]
            same = [m in (None, n) for m, n in zip(then, now, strict=False)]
            if len(now) != len(then) or not all(same[1:]):
                fitted = "(" + ", ".join("rows" if n is None else str(n) for n in then) + ")"
                msg = (
                    f"'{name}' has shape {now}, but the model was fitted with shape {fitted}. "
                    "Only the first axis may change. Pass the fitted one, or fit again."
                )
                raise InputError(msg, code="columns-mismatch")

    def check_rows(self, arrays: Mapping[str, Any], steps: int) -> None:
        """Refuse rows of another shape than the fitted ones; `steps` inside of one may be others.

        Raises
        ------
        InputError
            `columns-mismatch`.
        """
        for name in self.shapes.keys() & arrays.keys():
            if np.shape(arrays[name])[1:2] != (steps,):
                check_row_shape(name, arrays[name], self.shapes[name])

    def in_steps(self, argument: str, shape: tuple[int, ...]) -> bool:
        """Whether rows of a shape differ from the fitted ones in the number of steps only."""
        fitted = self.shapes.get(argument, ())
        is_of_steps = self.steps > 0 and fitted[:1] == (self.steps,)
        return is_of_steps and len(shape) > 0 and shape[1:] == fitted[1:]


def bind(
    values: Mapping[str, Value],
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
    values : mapping of Value
        Arguments by name, the primary input and (where given) the outcome included.
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
    if not {*names}.issuperset(values):
        check_names(values, names, what="argument")
    missing = [name for name in required if name not in values]
    if missing:
        listed = "', '".join(missing)
        msg = f"The kernel needs the argument '{listed}'. Pass it by name, e.g. {missing[0]}=..."
        raise InputError(msg, code="argument-missing")
    name = always_rows[0]
    labels, primary = values[name].labels, values[name].array
    if primary.ndim == 0 or len(primary) == 0:
        msg = f"'{name}' has shape {primary.shape}: there are no rows. Pass at least one."
        raise InputError(msg, code="no-rows")
    of_rows = by_row | known.row_inputs | set(always_rows) - {name}
    others = {n: value for n, value in values.items() if n in of_rows and n != name}
    if others:
        values = {**values, **lined_up(others, labels, len(primary), name)}
    seen = [labels, *(value.labels for value in others.values())]
    reference = next((o for o in seen if o is not None and len(o) == len(primary)), None)
    arrays, static = _converted(values, len(primary), known, always_rows)
    columns = _columns_in_order(values, arrays, known)
    for n in known.shapes.keys() & arrays.keys():  # of steps: by `check_rows`, when they are known
        if not known.in_steps(n, tuple(np.shape(arrays[n])[1:])):
            check_row_shape(n, arrays[n], known.shapes[n])
    return Arguments(arrays, static, len(primary), labels, columns, reference)


def _columns_in_order(
    values: Mapping[str, Value], arrays: dict[str, Any], known: Known
) -> dict[str, tuple[str, ...]]:
    """Names of the columns of arguments, whose arrays are put in the fitted order."""
    columns: dict[str, tuple[str, ...]] = {}
    for name, value in values.items():
        own = value.columns
        fitted = known.names(name, own)
        order = column_order(own, fitted, name)
        if order is not None:
            arrays[name] = arrays[name][:, order]
        if own is not None and (fitted is None or {*own} == {*fitted}):  # else numbered only
            columns[name] = own if fitted is None else fitted
    return columns


def _converted(
    values: Mapping[str, Value], rows: int, known: Known, always_rows: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments as arrays that JAX computes with, and those that are static."""
    arrays: dict[str, Value] = {}
    static: dict[str, Any] = {}
    for name, value in values.items():
        given = value.given
        if given is not None and (name in known.row_inputs or name in always_rows):
            arrays[name] = _per_row(value, rows, scalar_ok=name not in always_rows)
        elif isinstance(given, _STATIC):
            static[name] = within_32_bits(given, name)
        elif is_whole_scalar(given) and rounded_by_cast(given) is not None:
            static[name] = within_32_bits(int(given), name)  # exact as long as no float meets it
        else:
            arrays[name] = value
    for value in arrays.values():  # what is no number is said before what is too large a number
        _ = value.array if not isinstance(value.given, dict) else None
    return {name: value.seen for name, value in arrays.items()}, static


def _per_row(value: Value, rows: int, *, scalar_ok: bool) -> Value:
    array, name = value.array, value.name
    if array.ndim == 0 and scalar_ok:
        check_exact(array, name)
        return Value.of(np.broadcast_to(np.asarray(array), (rows,)), name)
    if array.ndim == 0 or len(array) != rows:
        msg = (
            f"'{name}' has shape {array.shape} but there are {rows} rows. "
            f"Its leading axis must be the rows: pass {rows} values."
        )
        raise InputError(msg, code="rows-mismatch")
    return value


def check_row_shape(name: str, array: Array, fitted: tuple[int, ...]) -> None:
    """Refuse an argument whose rows have another shape than the fitted ones."""
    if tuple(np.shape(array)[1:]) != fitted:
        msg = (
            f"'{name}' has rows of shape {tuple(np.shape(array)[1:])}, but the model was fitted on "
            f"rows of shape {fitted}. Pass the same columns."
        )
        raise InputError(msg, code="columns-mismatch")


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
