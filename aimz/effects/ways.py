"""How a scenario changes rows: all at once, or while they are read by the piece."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from aimz.data import Value, values_of
from aimz.effects.changes import Natural, Split, split_scenario
from aimz.errors import InputError
from aimz.execution import Call
from aimz.prediction import Given, Request, as_head_of, changed_rows, gather

__all__ = ["AllAtOnce", "ByPiece", "Names", "way_of"]


class Names(NamedTuple):
    """What a scenario may name: arguments of the kernel, and its sites."""

    arguments: Sequence[str]
    sites: Sequence[str]


def way_of(request: Request, factual: Given) -> "AllAtOnce | ByPiece":
    """The way of some natural inputs: by the piece where the primary one comes with the tiles."""
    primary = request.names[0]
    if primary in factual.source.names:
        return ByPiece(request, factual, primary)
    columns = request.fitted.known.columns.get(primary, ())
    return AllAtOnce(request, factual, primary, columns)


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
        """What a scenario sets, and its values of arguments with their columns in order."""
        del scenario
        split, columns = split_scenario(change, start, *names), self.factual.arguments.columns
        values = values_of(split.arguments)
        return split, {n: v.in_columns(columns.get(n)) for n, v in values.items()}

    def inputs(
        self,
        scenario: str,
        request: Request,
        natural: Mapping[str, Value],
        replaced: Mapping[str, Value],
    ) -> tuple[Given, dict[str, np.ndarray]]:
        """The inputs of a scenario, on the same rows, and where they are not the natural ones."""
        rows = len(replaced.get(self.primary, natural[self.primary]).given)
        if rows != self.factual.rows:
            raise _other_rows(scenario, rows, self.factual)
        its_inputs = gather(request, {**natural, **replaced}, natural=self.factual)
        return its_inputs, changed_rows(self.factual, its_inputs)

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
        """The same, and the rows of values in the order of those that are read."""
        self._check(scenario, change, set(names.arguments) - set(names.sites))
        split, values = super().split(scenario, change, start, names)
        row_inputs = self.factual.spec.row_inputs
        of_rows = {n: v for n, v in values.items() if n in row_inputs and np.ndim(v.given)}
        return split, {**values, **self.factual.arguments.lined(of_rows, self.primary)}

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
        now = changed_rows(self.factual, its_inputs)
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
