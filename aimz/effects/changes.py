"""What a scenario changes: arguments that it replaces, columns of the rows, sites that it sets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from aimz.data import (
    Value,
    as_array,
    check_exact,
    column_label,
    is_given,
    lined_up,
    values_of,
)
from aimz.errors import InputError, nearest
from aimz.execution import Call
from aimz.kernel import KernelSpec
from aimz.kernels import OutcomeUnits
from aimz.libraries import pd
from aimz.prediction import Given, Request, as_head_of, gather
from aimz.programs import fingerprint_values
from aimz.sampling import applied

__all__ = [
    "AllAtOnce",
    "ByPiece",
    "Names",
    "Natural",
    "Split",
    "changes_of",
    "check_resolved",
    "column_of",
    "split_scenario",
]


# Whole numbers from this one on are rounded by 32 bits; a difference may lose this share by that.
_EXACT, _LOST = 2.0**24, 1e-3
# Below, the greatest difference of a column may lose this share by rounding. One that is a smaller
# share of the numbers than the second is what arithmetic in 64 bits leaves of none.
_BLURRED, _DUST = 1e-2, 1e-12
_AT_ONCE = 2**16  # rows, so that memory stays flat


@dataclass(frozen=True)
class Natural:
    """The inputs that scenarios start from.

    `starts` are what the kernel's arguments are where no scenario sets them, as the call gives them
    or the kernel does; categories are numbers in them. `columns` names those of a primary input
    that does not name its own.
    """

    values: Mapping[str, Value]
    primary: str
    starts: Mapping[str, Any] = field(default_factory=dict)
    columns: Sequence[str] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of the primary input."""
        return self.values[self.primary].columns or tuple(self.columns)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the other inputs."""
        return tuple(n for n in self.values if n != self.primary and is_given(self.values, n))

    def has(self, name: object) -> bool:
        """Whether something of the rows has this name."""
        return isinstance(name, str) and (name in self.arguments or name in self.names)

    def by_name(self, name: str, option: str) -> Any:
        """An input, or a column of the primary one.

        Raises
        ------
        InputError
            `column-unknown`.
        """
        if name in self.arguments:
            return self.values[name].given
        if name in self.names:
            return column_of(self.values[self.primary].given, self.names.index(name))
        msg = f"{option}='{name}' is no argument and no column of '{self.primary}'. "
        msg += nearest(name, [*self.arguments, *self.names])
        raise InputError(msg, code="column-unknown")


@dataclass(frozen=True)
class Split:
    """What a scenario changes: arguments, sites that it sets, and sites that it observes.

    `columns` are those that it sets of the primary input, which is among `arguments` then.
    """

    arguments: Mapping[str, Any]
    sites: Mapping[str, Any]
    condition: Mapping[str, Any]
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of all that is changed."""
        return [*self.arguments, *self.sites, *self.condition]

    def settings(self, primary: str) -> dict[str, Any]:
        """Everything that is set, by its own name: a column rather than the whole input."""
        whole = {n: v for n, v in self.arguments.items() if n != primary or not self.columns}
        return {**whole, **self.columns, **self.sites}

    def reach(self, spec: KernelSpec, traced: Collection[str]) -> frozenset[str]:
        """Sites that the change reaches, in a kernel that was read with arguments that are traced.

        An argument that is not, or was left at its default, may lead anywhere.
        """
        if self.arguments.keys() - set(traced):
            return frozenset(spec.names)
        sites = {*self.sites, *self.condition}
        return spec.descendants(sites, arguments=self.arguments.keys())


def changes_of(
    baseline: Mapping[str, Any] | None,
    intervention: Mapping[str, Any] | None,
    scenarios: Mapping[Any, Mapping[str, Any]] | None,
) -> dict[Any, Mapping[str, Any]]:
    """Scenarios by name, the reference first.

    Raises
    ------
    InputError
        `scenario-incomplete`, `scenario-form`.
    """
    if scenarios is None and baseline is not None and intervention is not None:
        changes: dict[Any, Any] = {"baseline": baseline, "intervention": intervention}
    elif scenarios is None or not (baseline is None and intervention is None):
        raise _incomplete()
    else:
        _check_form("scenarios=", scenarios)
        changes = dict(scenarios)
    if len(changes) < 2:
        raise _incomplete()
    for name, change in changes.items():
        _check_form(f"Scenario '{name}'", change)
    if not any(changes.values()):
        msg = (
            "No scenario sets anything, so there is nothing to compare. Name what differs, for "
            "example baseline={'t': 0}, intervention={'t': 1}."
        )
        raise InputError(msg, code="scenario-incomplete")
    names = list(changes)
    numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in names)
    if not (numbers or all(isinstance(n, str) for n in names)):
        msg = f"Scenarios are named by strings, or all by numbers, not {names!s:.80}."
        raise InputError(msg, code="scenario-incomplete")
    return changes


def _incomplete() -> InputError:
    msg = "An effect compares: pass baseline= and intervention=, or two or more scenarios=."
    return InputError(msg, code="scenario-incomplete")


def _check_form(what: str, change: object) -> None:
    if isinstance(change, Mapping):
        return
    msg = (
        f"{what} is {change!r:.40}, but it must be a dict that names what is set. Write for "
        "example baseline={'t': 0}, intervention={'t': 1}."
    )
    raise InputError(msg, code="scenario-form")


def split_scenario(
    scenario: Mapping[str, Any], natural: Natural, arguments: Sequence[str], sites: Sequence[str]
) -> Split:
    """The arguments that a scenario replaces, the sites that it sets, those that it observes.

    A callable of an argument or a column is called here, once, with the natural value.

    Raises
    ------
    InputError
        `scenario-unknown`, `scenario-ambiguous`.
    """
    replaced: dict[str, Any] = {}
    set_sites: dict[str, Any] = {}
    set_columns: dict[str, Any] = {}
    condition: Mapping[str, Any] = {}
    for name, value in scenario.items():
        is_site, is_column = name in sites, name != natural.primary and name in natural.names
        if is_column and (is_site or name in arguments):
            what = "a site" if is_site else "an argument"
            raise _ambiguous(name, f"{what} of the kernel")
        if is_site:
            set_sites[name] = value
        elif name in arguments:
            passed = natural.values.get(name)
            natural_value = natural.starts.get(name) if passed is None else passed.given
            replaced[name] = applied(value, natural_value, name) if callable(value) else value
        elif column_label(name) in natural.names:
            set_columns[column_label(name)] = value
        elif name == "condition" and isinstance(value, Mapping):
            condition = value
        else:
            valid = dict.fromkeys([*arguments, *sites, *natural.names])
            msg = f"A scenario sets '{name}', which is no argument or site and no column. "
            raise InputError(msg + nearest(str(name), valid), code="scenario-unknown")
    if set_columns:
        if natural.primary in replaced:
            raise _ambiguous(next(iter(set_columns)), f"part of '{natural.primary}', set too")
        replaced[natural.primary], set_columns = _with_columns(natural, set_columns)
    return Split(replaced, set_sites, condition, set_columns)


def _ambiguous(name: str, other: str) -> InputError:
    msg = (
        f"A scenario sets '{name}', which is a column of the input and {other}. Rename the column, "
        "or change the input as a whole by a function."
    )
    return InputError(msg, code="scenario-ambiguous")


def check_resolved(splits: Mapping[Any, Split], natural: Natural) -> None:
    """Refuse scenarios whose difference in an argument is lost where 32 bits round both.

    Raises
    ------
    InputError
        `cast-precision`.
    """
    if jax.dtypes.canonicalize_dtype(np.float64) == np.float64:
        return
    for name in dict.fromkeys(name for split in splits.values() for name in split.arguments):
        start = natural.starts.get(name)
        values = [_numbers(split.arguments.get(name, start), name) for split in splits.values()]
        for other in values[1:]:
            _check_difference(name, values[0], other)


def _numbers(value: Any, name: str) -> np.ndarray | None:
    """Numbers in columns; None where they are none."""
    if value is None or isinstance(value, str | dict):
        return None
    array = np.asarray(as_array(value, name))
    if not array.size or array.dtype.kind not in ("iuf" if array.ndim else "f"):
        return None  # a single whole number may be meant to be one: `check_exact`
    return array.reshape(len(array) if array.ndim else 1, -1)


def _check_difference(name: str, first: np.ndarray | None, second: np.ndarray | None) -> None:
    if first is None or second is None or first is second:
        return
    if first.shape != second.shape and 1 not in (first.size, second.size):
        return
    first, second = np.broadcast_arrays(first, second)
    changes, losses, sizes = np.zeros((3, first.shape[1]))
    pairs = np.zeros((2, first.shape[1]))  # where most is lost
    for start in range(0, len(first), _AT_ONCE):
        at = slice(start, start + _AT_ONCE)
        one, other = (values[at].astype(np.float64) for values in (first, second))
        with np.errstate(over="ignore", invalid="ignore"):
            change = np.abs(other - one)
            seen = np.abs(other.astype(np.float32).astype(np.float64) - one.astype(np.float32))
            size, loss = np.fmin(np.abs(one), np.abs(other)), np.abs(change - seen)
            lost = np.argwhere((loss > _LOST * change) & (size >= _EXACT))
        if len(lost):
            raise _rounded_away(name, one[tuple(lost[0])], other[tuple(lost[0])])
        most = np.nan_to_num(loss).argmax(axis=0), np.arange(loss.shape[1])
        pairs = np.where(loss[most] > losses, [one[most], other[most]], pairs)
        for whole, part in ((changes, change), (losses, loss), (sizes, size)):
            np.fmax(whole, np.fmax.reduce(part, axis=0), out=whole)
    lost = np.argwhere((losses > _BLURRED * changes) & (changes > _DUST * sizes))
    if len(lost):
        raise _rounded_away(name, *pairs[:, lost[0, 0]])


def _rounded_away(name: str, one: float, other: float) -> InputError:
    msg = (
        f"Scenarios set '{name}' to {one:.17g} and {other:.17g}, a difference that 32 bits round "
        "away. Subtract a constant, or set jax.config.update('jax_enable_x64', True)."
    )
    return InputError(msg, code="cast-precision")


def column_of(value: Any, place: int) -> Any:
    """A column of a frame or array, in its container."""
    if hasattr(value, "iloc"):
        return value.iloc[:, place]
    return value[:, place]


def _with_columns(natural: Natural, columns: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The primary input with some columns set, and what these are set to."""
    primary = natural.primary
    start = natural.values[primary]
    if start.categories:
        return _with_categories(natural, columns)
    X, table = start.given, start.array
    made = _promoted(np.asarray(table), table.dtype)
    values: dict[str, Any] = {}
    for label, setting in columns.items():
        place = natural.names.index(label)
        lined = _setting(natural, label, column_of(X, place), setting)
        array = np.asarray(lined.array)
        check_exact(array, label)
        _check_shape(label, array, len(made))
        made = _promoted(made, array.dtype)
        made[:, place] = array
        values[label] = lined.given
    return _in_container(X, made), values


def _with_categories(
    natural: Natural, columns: Mapping[str, Any]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The same of a frame some of whose columns are categories."""
    start, values = natural.values[natural.primary], {}
    made, categories = start.frame, dict(start.categories)
    for label, setting in columns.items():
        lined = _setting(natural, label, made[label], setting)
        array: Any = lined.as_labels() if categories[label] else lined.array
        check_exact(array, label)
        _check_shape(label, array, len(made))
        made[label] = np.broadcast_to(np.asarray(array), (len(made),))
        values[label] = lined.given
    return made, values


def _setting(natural: Natural, label: str, column: Any, setting: Any) -> Value:
    """What a column is set to, in the order of the rows."""
    value = applied(setting, column, label) if callable(setting) else setting
    labels, rows = natural.values[natural.primary].labels, len(column)
    return lined_up({label: value}, labels, rows, natural.primary)[label]


def _check_shape(label: str, array: Any, rows: int) -> None:
    if array.shape not in ((), (rows,)):
        msg = f"Column '{label}' is set to shape {array.shape}. Pass one value, or one per row."
        raise InputError(msg, code="rows-mismatch")


def _promoted(table: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """A copy that holds numbers of another dtype, too; whole numbers in 64 bits."""
    both = np.result_type(table.dtype, dtype)
    return table.astype(np.int64 if both.kind in "iu" else both)


def _in_container(X: Any, table: np.ndarray) -> Any:
    """A table with the labels that an input has."""
    if hasattr(X, "iloc"):
        return type(X)(table, index=X.index, columns=X.columns)
    if hasattr(X, "with_columns"):
        return type(X)(table, schema=list(X.columns))
    return X.copy(data=table) if hasattr(X, "coords") else table


# ------------------------------------------------------------------ of all rows, or by the piece
class Names(NamedTuple):
    """What a scenario may name: arguments of the kernel, and its sites."""

    arguments: Sequence[str]
    sites: Sequence[str]


@dataclass(frozen=True)
class AllAtOnce:
    """A scenario has arrays of its own of all rows."""

    request: Request
    factual: Given
    primary: str
    columns: tuple[str, ...] = ()  # of the primary input, that a scenario may name

    def split(
        self, scenario: str, change: Mapping[str, Any], start: Natural, names: Names
    ) -> tuple[Split, dict[str, Value]]:
        """What a scenario sets, and its values of arguments, rows and columns in order."""
        del scenario
        split, columns = split_scenario(change, start, *names), self.factual.arguments.columns
        of_rows = {n: v for n, v in split.arguments.items() if n in self.factual.spec.row_inputs}
        new = {f"new {n}": v for n, v in of_rows.items() if np.ndim(v)}
        lined = self.factual.arguments.lined(new, self.primary)
        ordered = {n.removeprefix("new "): v.given for n, v in lined.items()}
        split = replace(split, arguments={**split.arguments, **ordered})
        values = values_of(split.arguments)
        kernel: Any = self.request.kernel
        if isinstance(kernel, OutcomeUnits):
            values = kernel.in_numbers(values, self.primary)
        return split, {n: v.in_columns(columns.get(n)) for n, v in values.items()}

    def inputs(
        self,
        scenario: str,
        request: Request,
        natural: Mapping[str, Value],
        replaced: Mapping[str, Value],
    ) -> tuple[Given, dict[str, np.ndarray]]:
        """The inputs of a scenario, on the same rows, and where they are not the natural ones."""
        primary = replaced.get(self.primary, natural[self.primary]).given
        rows = primary.shape[0] if hasattr(primary, "shape") else len(primary)  # Zarr has no len
        if rows != self.factual.rows:
            raise _other_rows(scenario, rows, self.factual)
        its_inputs = gather(request, {**natural, **replaced}, natural=self.factual)
        return its_inputs, _changed_rows(self.factual, its_inputs)

    def call(
        self, _: str, call: Call, __: Given, ___: Mapping[str, Value], ____: Collection[str]
    ) -> Call:
        """The call of a scenario, as it was prepared."""
        return call


class ByPiece(AllAtOnce):
    """A scenario puts its values in place of those that are read."""

    def split(
        self, scenario: str, change: Mapping[str, Any], start: Natural, names: Names
    ) -> tuple[Split, dict[str, Value]]:
        """The same, where no scenario changes what is read."""
        self._check(scenario, change, set(names.arguments) - set(names.sites))
        return super().split(scenario, change, start, names)

    def _check(self, scenario: str, change: Mapping[str, Any], arguments: set[str]) -> None:
        """Refuse what would need all rows."""
        primary, factual = self.primary, self.factual
        columns = set(factual.arguments.columns.get(primary, ()))
        for argument in sorted((arguments | columns) & change.keys()):
            value = change[argument]
            if argument == primary or argument in columns - arguments or callable(value):
                msg = (
                    f"'{primary}' is read by the piece, so scenario '{scenario}' cannot change "
                    f"'{argument}' as a whole or by a function. Pass values, or load the rows."
                )
                raise InputError(msg, code="rows-lazy")
            if np.ndim(value):
                self._check_rows(scenario, argument, len(value))

    def _check_rows(self, scenario: str, argument: str, count: int) -> None:
        """Refuse one value for each row, where that is not known to be one."""
        primary, factual = self.primary, self.factual
        if argument not in factual.spec.row_inputs:
            if count == factual.rows:
                msg = (
                    f"Scenario '{scenario}' gives each row its '{argument}', which the call does "
                    f"not. '{primary}' is read by the piece: pass '{argument}' with the rows, too."
                )
                raise InputError(msg, code="rows-lazy")
            return
        if factual.rows is None:
            msg = (
                f"'{primary}' does not say how many rows it has, so scenario '{scenario}' cannot "
                f"give each its '{argument}'. Pass one value, or load the rows."
            )
            raise InputError(msg, code="rows-lazy")
        if count != factual.rows:
            raise _other_rows(scenario, count, factual)

    def inputs(
        self,
        scenario: str,  # `check` has counted the rows
        request: Request,
        natural: Mapping[str, Value],
        replaced: Mapping[str, Value],
    ) -> tuple[Given, dict[str, np.ndarray]]:
        """The inputs on the head, which does not tell: what is set may differ in any row."""
        its_inputs = as_head_of(request, self.factual, natural, replaced)
        now = _changed_rows(self.factual, its_inputs)
        return its_inputs, now | {n: np.array(True) for n in replaced.keys() - now.keys()}

    def call(
        self,
        scenario: str,
        call: Call,
        its_inputs: Given,
        values: Mapping[str, Value],
        changed: Collection[str],
    ) -> Call:
        """A call that puts a scenario's values in place of those that are read."""
        self._check_latents(scenario, changed)
        of_rows = {n: v for n, v in values.items() if n in self.factual.spec.row_inputs}
        single = {
            n: its_inputs.arguments.arrays[n] for n, v in of_rows.items() if np.ndim(v.given) == 0
        }
        rows = {n: v.seen for n, v in of_rows.items() if n not in single}
        block = call.block._replace(row_inputs={**call.block.row_inputs, **single})
        return replace(call, block=block, replaced={**dict.fromkeys(single), **rows})

    def _check_latents(self, scenario: str, changed: Collection[str]) -> None:
        """Refuse to draw latents of rows anew in all: only a pass shows which have changed."""
        reached = self.factual.spec.descendants(arguments=changed)
        for site in self.factual.spec.sites:
            is_held = site.kind == "latent" and site.rows != "none"
            is_held = is_held and site.name in self.request.fit.draws
            if is_held and site.name in reached and self.request.in_sample:
                msg = (
                    f"Scenario '{scenario}' reaches '{site.name}', which belongs to rows that are "
                    "read by the piece. Load the rows."
                )
                raise InputError(msg, code="rows-lazy")


def _other_rows(scenario: str, rows: int, factual: Given) -> InputError:
    msg = f"Scenario '{scenario}' has {rows} rows, but there are {factual.rows}. Keep them."
    return InputError(msg, code="rows-mismatch")


def _changed_rows(natural: Given, scenario: Given) -> dict[str, np.ndarray]:
    """Rows, (row,), in which each argument of a scenario is not the natural one; () for others."""
    changed = {}
    spec, primary = natural.spec, natural.arguments.arrays
    for name, value in scenario.arguments.arrays.items():
        old = primary.get(name)
        if old is value:
            continue
        by_row = name in spec.row_inputs and not isinstance(value, dict)
        if by_row and old is not None and np.shape(old) == np.shape(value):
            other = np.asarray(old) != np.asarray(value)
            differs = natural.source.by_row(other.reshape(len(other), -1).any(axis=1))
        else:
            differs = np.array(fingerprint_values(old) != fingerprint_values(value))
        if differs.any():
            changed[name] = differs
    for name, value in scenario.arguments.static.items():
        if natural.arguments.static.get(name) != value:
            changed[name] = np.array(True)
    return changed
