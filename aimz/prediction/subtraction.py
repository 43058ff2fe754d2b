"""Two predictions of one model on the same rows, subtracted tile by tile as they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aimz.choices import devices_in_use
from aimz.data import RowTile
from aimz.errors import Note
from aimz.execution import TileRun, compile_call
from aimz.libraries import xr
from aimz.prediction.one_call import Prepared, Result
from aimz.prediction.pairing import concerns
from aimz.programs import fingerprint_values
from aimz.results import difference_dtype, first_outcome, layout_of, less
from aimz.store import (
    Scratch,
    Sink,
    Tile,
    Variable,
    check_names_storable,
    temporary_sink,
    tree_of,
)

__all__ = ["subtracting"]


@dataclass
class _Subtracting:
    """A sink that keeps what the tiles of one prediction are more than those of a baseline."""

    baseline: TileRun
    variables: Mapping[str, Variable]  # of the baseline, by site
    kept: Sink
    differences: dict[tuple[str, str], Variable] = field(default_factory=dict)

    def begin(self, variables: Sequence[Variable]) -> None:
        made = (_difference_of(self.variables[variable.site], variable) for variable in variables)
        self.differences = {variable.key: variable for variable in made}
        self.kept.begin(tuple(self.differences.values()))

    def has(self, tile: Tile) -> bool:
        return self.kept.has(tile)

    def write(self, tile: Tile, values: Mapping[tuple[str, str], np.ndarray]) -> None:
        devices = devices_in_use()
        computed = self.baseline(RowTile(tile.rows, {}), tile, devices[tile.number % len(devices)])
        differences = {}
        for key, new in values.items():
            variable = self.differences[key]
            old = self.variables[variable.site].arrange(computed[variable.site], tile)
            more, base = (value.astype(variable.dtype, copy=False) for value in (new, old))
            differences[key] = less(more, base, variable.measure)
        self.kept.write(tile, differences)

    def commit(
        self, groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any], rows: int
    ) -> xr.DataTree:
        return self.kept.commit(groups, attrs, rows)

    def abort(self) -> Any:
        return self.kept.abort()


def subtracting(
    baseline: tuple[Prepared, Result], intervention: tuple[Prepared, Result], scratch: Scratch
) -> tuple[Sink, tuple[Note, ...]] | None:
    """A sink for the intervention that subtracts the baseline, and what is said of the two.

    None where they do not line up: rows are to be at hand, and their labels, the draws, the key,
    the sites and the tiles the same.

    Raises
    ------
    InputError
        As in `concerns`.
    """
    if _outline(*baseline) != _outline(*intervention):
        return None
    (old, one), (new, other) = baseline, intervention
    labels, others_labels = (np.asarray(way.schema.labels) for way in (one, other))
    if not old.call.source.can_repeat or not np.array_equal(labels, others_labels):
        return None
    ready = compile_call(old.call, old.plan)
    variables = layout_of(old.call, ready, old.plan, one.schema)
    others = layout_of(new.call, compile_call(new.call, new.plan), new.plan, other.schema)
    if [_place_of(variable) for variable in variables] != [_place_of(v) for v in others]:
        return None
    notes = concerns(_announced(variables, one), _announced(others, other))
    check_names_storable(variables, one.groups)
    by_site = {variable.site: variable for variable in variables}
    kept = temporary_sink(scratch, "estimate_effect", is_difference=True)
    return _Subtracting(TileRun(old.call, ready, old.plan), by_site, kept), notes


def _outline(prepared: Prepared, result: Result) -> tuple[object, ...]:
    """What two predictions that are subtracted tile by tile have in common."""
    call = prepared.call
    return (
        *(prepared.plan, prepared.words, call.group, call.source.can_repeat, result.schema.chains),
        fingerprint_values(call.task.static),  # of two values nobody knows where they lead
        first_outcome(call) is None or object(),  # which a difference has not
    )


def _announced(variables: Sequence[Variable], result: Result) -> xr.DataTree:
    """A result as it will be, without the values of its prediction."""
    sites = xr.Dataset({v.name: ((), 0, v.attrs) for v in variables})
    return tree_of({**result.groups, variables[0].group: sites}, result.attrs)


def _place_of(variable: Variable) -> tuple[object, ...]:
    return (variable.key, variable.site, variable.dims, variable.shape, variable.chunks)


def _difference_of(old: Variable, new: Variable) -> Variable:
    dtype = difference_dtype(old.dtype, new.dtype)
    is_binary = old.stored.kind == new.stored.kind == "b"
    stored = np.dtype(np.int8) if is_binary else dtype  # of 0 and 1
    return replace(new, dtype=dtype, stored=stored, measure=new.measure or old.measure)
