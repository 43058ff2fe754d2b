"""Which rows of an effect's scenarios are outside the data, tile by tile; rules in `aimz.overlap`.

A fit leaves an account of its rows. What it has not scored, and all where the posterior was set by
hand, is scored on the rows of the call, of which nothing else is asked: whatever they are, they are
no data of a fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.data import RowTile
from aimz.effects.population import Rows
from aimz.effects.scenarios import Scenarios
from aimz.errors import Note, OutputWarning
from aimz.execution import Call
from aimz.kernel import coded_columns
from aimz.libraries import pd, xr
from aimz.overlap import Outside, Support, merged, outside, scores_of, sentence
from aimz.prediction import Given
from aimz.programs import Cache, fingerprint_values

__all__ = ["WARNING_SHARE", "Judged", "Overlap", "overlap_of"]


#: Share of rows outside above which a scenario warns.
WARNING_SHARE = 0.01
# Rows in memory to judge at a time.
_PIECE = 2**16
# Of rows that several questions are asked of: a regression costs more than to tell that they are
# the same. By a number for all that scores follow from.
_SCORED: Cache[str, Support] = Cache(limit=64)
# What is outside of each support, by scenario.
type Judged = Mapping[Any, tuple[Outside, ...]]


@dataclass(frozen=True)
class _World:
    """A scenario's rows: its call, values that it sets in place of data, and columns it changes."""

    call: Call
    values: Mapping[str, Any]
    changed: frozenset[str]

    def rows_of(self, row_tile: RowTile, asked: np.ndarray) -> dict[str, Any]:
        """Arrays of those rows of a tile that are asked about."""
        arrays = self.call.arrays(row_tile)
        for argument, value in self.values.items():
            spread = np.shape(arrays[argument]) if np.ndim(value) == 0 else ()
            arrays[argument] = np.broadcast_to(value, spread) if spread else value[row_tile.rows]
        return {n: v[asked] for n, v in arrays.items() if not isinstance(v, dict)}


@dataclass
class Overlap:
    """Judges tiles as they come, and then says what was found.

    Parameters
    ----------
    supports : tuple of Support
        What the rows are judged by: the fit's, and scores of the call's own rows.
    worlds : mapping
        The scenarios by name.
    natural : _World
        The rows as they are.
    rows : Rows
        Rows that are asked about; others are not judged.
    """

    supports: tuple[Support, ...]
    worlds: Mapping[Any, _World]
    natural: _World
    rows: Rows
    _found: dict[Any, dict[int, tuple[Outside, ...]]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Another process judges; what it finds is noted where it was asked."""
        return {**self.__dict__, "_found": {}}

    def note(self, first: int, judged: Judged) -> None:
        """Keep in mind what another process has found of the rows from a number on."""
        for name, parts in judged.items():
            self._found.setdefault(name, {})[first] = parts

    def judge(self, row_tile: RowTile) -> Judged:
        """Judge the rows of a tile in every scenario."""
        asked: Any = slice(None)
        if self.rows.weights is not None:
            asked = self.rows.weights[row_tile.rows] > 0
        natural = self.natural.rows_of(row_tile, asked)
        found = {}
        for name, world in self.worlds.items():
            arrays = world.rows_of(row_tile, asked)
            found[name] = parts = tuple(
                outside(
                    support,
                    _without_later_steps(arrays, support),
                    natural=_without_later_steps(natural, support),
                    changed=world.changed,
                )
                for support in self.supports
            )
            self._found.setdefault(name, {})[row_tile.rows.start] = parts
        return found

    def account(self, row_dim: str, labels: pd.Index) -> tuple[xr.Dataset, tuple[Note, ...]]:
        """Flags of the rows by scenario, the share outside of those asked about, and warnings."""
        flags = np.zeros((len(self._found), len(labels)), bool)
        shares, notes = [], []
        asked = self.rows.asked(len(labels))
        for number, (name, parts) in enumerate(self._found.items()):
            by_support = [
                merged(pieces) for pieces in zip(*(parts[first] for first in sorted(parts)))
            ]
            flags[number, asked] = np.logical_or.reduce([one.flags for one in by_support])
            strange = np.logical_or.reduce([one.flags & ~one.had for one in by_support])
            shares.append(float(strange.mean()))
            if shares[-1] > WARNING_SHARE:
                worst = int(np.argmax([one.count for one in by_support]))
                said = sentence(self.supports[worst], by_support[worst])
                text = f"Scenario '{name}': {said}. The answer there rests on the model alone."
                notes.append(Note(OutputWarning, text, "outside-support"))
        table = xr.Dataset(
            {"outside": (("scenario", row_dim), flags), "fraction": ("scenario", shares)},
            coords={"scenario": list(self._found), row_dim: labels},
        )
        return table, tuple(notes)


def _without_later_steps(
    arrays: Mapping[str, np.ndarray], support: Support
) -> dict[str, np.ndarray]:
    """Arguments of rows, those of steps without the steps that follow the fitted ones."""
    widths = {name: support.arguments.count(name) for name in support.arguments}
    return {n: v[:, : widths.get(n)] if np.ndim(v) == 2 else v for n, v in arrays.items()}


def overlap_of(scenarios: Scenarios, rows: Rows, seen: Support | None) -> Overlap | None:
    """What the rows of scenarios are judged by; None where there is nothing.

    Rows that are at hand are judged at once, a large piece at a time; others when they are read.

    Parameters
    ----------
    scenarios : Scenarios
        Prepared scenarios.
    rows : Rows
        Rows that are asked about.
    seen : Support or None
        What the fit has seen.
    """
    factual = scenarios.natural
    worlds = {name: _world(name, scenarios) for name in scenarios.changes}
    supports = []
    if seen is not None and all(_has(seen, world) for world in worlds.values()):
        supports.append(seen)
    treatments = {score.treatment for support in supports for score in support.scores}
    changed = frozenset[str]().union(*(world.changed for world in worlds.values())) - treatments
    if changed and (held := factual.source.held(factual.arguments.arrays)):
        scored = _scored_here(held, factual, worlds, changed)
        supports += [scored] if scored.scores else []
    natural = _World(scenarios.own.call, {}, frozenset())
    if not supports:
        return None
    overlap = Overlap(tuple(supports), worlds, natural, rows)
    if factual.source.can_repeat:
        for row_tile in factual.source.tiles(_PIECE):
            overlap.judge(row_tile)
    return overlap


def _scored_here(
    held: Mapping[str, Any],
    factual: Given,
    worlds: Mapping[Any, _World],
    treatments: frozenset[str],
) -> Support:
    """Scores of treatments on the call's own rows; what lies behind these is left out."""
    shown = {name for world in worlds.values() for name in world.values}
    arrays = {
        name: np.asarray(value)
        for name, value in held.items()
        if name in factual.spec.row_inputs and not isinstance(value, dict)
    }
    hidden = factual.spec.observed_arguments - shown
    codes = coded_columns(factual.spec.lookups, factual.arguments.arrays)
    columns = factual.arguments.columns
    name = fingerprint_values(arrays, columns, sorted(treatments), sorted(hidden), codes)
    return _SCORED.get_or_make(
        name, lambda: scores_of(arrays, columns, treatments, leave_out=hidden, codes=codes)
    )


def _world(name: str, scenarios: Scenarios) -> _World:
    change, spec = scenarios.changes[name], scenarios.natural.spec
    prepared = scenarios.prepared[name]
    values = {}
    for site, value in change.sites.items():
        data = spec[site].observes & spec.row_inputs
        if len(data) == 1 and not callable(value):
            values[next(iter(data))] = np.asarray(value)
    changed = set(values)
    natural = scenarios.natural.arguments
    for argument in change.arguments:
        block = prepared.call.block.row_inputs
        new, old = (np.asarray(a.get(argument, 0.0)) for a in (block, natural.arrays))
        if new.ndim == 2 and new.shape == old.shape:
            moved = np.flatnonzero((new != old).any(axis=0))
            labels = list(natural.columns.get(argument, range(new.shape[1])))
            changed |= {f"{argument}[{labels[column]}]" for column in moved}
        else:
            changed.add(argument)
    return _World(prepared.call, values, frozenset(changed))


def _has(seen: Support, world: _World) -> bool:
    """Whether a scenario has the arguments that a fit has seen."""
    there = world.call.block.row_inputs.keys() | world.call.source.names
    return set(seen.arguments) <= there | world.values.keys()
