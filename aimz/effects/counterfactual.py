"""Counterfactuals: the noise of each unit from what was observed, replayed in every scenario.

Sites of rows whose values are known, because they were observed or because the posterior holds
draws of them, give up their noise in the world that was. In a scenario those that it reaches are
replayed one after another, causes first: a program gives the law of a site under the values that
are already replayed, and the noise is put through it (Pearl, 2009, "Causality", 7.1: abduction,
action, prediction). Everything happens in a tile.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from aimz.data import RowTile
from aimz.effects.changes import Split
from aimz.errors import InputError
from aimz.execution import Call, Plan, TileRun, compile_call
from aimz.families import Evidence, Law, Noise, abduce, coupling_of, replay
from aimz.kernel import KernelSpec
from aimz.prediction import Prepared
from aimz.sampling import Task, evidence_block, law_block, predict_block
from aimz.store import Tile

__all__ = ["Replay", "Replayed", "Replays", "replays_of"]


# Elements to put through a law at a time: temporaries stay in the cache.
_PIECE = 2**15


@dataclass(frozen=True)
class Replays:
    """What is run: the laws and values of the world that was, then each scenario's sites in turn.

    `stages` has for each scenario the sites that are replayed, causes first, with the call that
    gives a site's law; `last` computes the site that is asked for where it is not among them.
    """

    site: str
    evidence: Call
    stages: Mapping[Any, tuple[tuple[str, Call], ...]]
    last: Mapping[Any, Call]


@dataclass(frozen=True)
class Replayed:
    """A tile's values in each scenario, the laws there of the site that is asked for, and flags.

    A scenario that does not reach the site has its `factual` law. `has_other_couplings` says
    whether other sites that are replayed leave a choice of the noise. `is_sound`, (row, draw), is
    False where an outcome says too little of it. `couplings` are those of the replayed sites.
    """

    values: dict[Any, np.ndarray]
    laws: dict[Any, Law]
    factual: Law | None
    has_other_couplings: bool
    is_sound: np.ndarray
    couplings: Mapping[str, str]


def replays_of(
    site: str,
    natural: Prepared,
    scenarios: Mapping[Any, Prepared],
    changes: Mapping[Any, Split],
    reached: Mapping[Any, frozenset[str]],
    outcome: np.ndarray,
    absent: Mapping[str, np.ndarray],
) -> Replays:
    """Plan the replay of scenarios.

    Parameters
    ----------
    site : str
        The site that is asked for.
    natural : Prepared
        The world that was.
    scenarios : mapping of Prepared
        The scenarios, by name.
    changes : mapping of Split
        What each scenario changes.
    reached : mapping of sets of str
        Sites that each scenario may reach.
    outcome : array, shape (rows, ...)
        Observed outcomes.
    absent : mapping of arrays, shape (rows, ...)
        Where nothing was observed of a site: it is drawn in the world that was, and then replayed.

    Raises
    ------
    InputError
        `counterfactual-site`: a site on the path that cannot be replayed, or is read around;
        `counterfactual-latent`: one above it whose value is not known.
    """
    spec = natural.call.task.spec
    output = spec.output
    if output not in spec or spec[output].kind != "observed" or not spec[output].follows_rows:
        msg = f"'{output}' is not drawn row by row from a distribution, so no noise is behind it."
        raise InputError(msg, code="counterfactual-site")
    draws = {n for n in natural.call.block.row_posterior if n not in natural.redrawn}
    settled = {s.name for s in spec.sites if s.is_given or s.name in draws or s.name == output}
    names = [
        s.name
        for s in spec.sites
        if s.name in settled
        and s.kind in ("latent", "observed")
        and s.rows != "none"
        and (s.name == output or any(s.name in below for below in reached.values()))
    ]
    _check_sites(spec, names, settled)
    total = natural.plan.chains * natural.plan.draws
    held = np.asarray(outcome)
    if held.dtype.kind != "f" or spec[output].dtype.kind != "f":
        held = held.astype(spec[output].dtype)
    values = {output: np.broadcast_to(held, (total, *held.shape))}
    evidence = _holding(natural.call, values, (output,))
    redraw = {**evidence.block.redraw, **absent}
    evidence = replace(evidence, block=evidence.block._replace(redraw=redraw))
    task = replace(evidence.task, sites=tuple(names), results=spec)
    stages, last = {}, {}
    for name, prepared in scenarios.items():
        _check_same_sites(name, names, prepared.call.task.spec)
        call = _holding(prepared.call, _blanks(spec, names, total), tuple(names))
        set_sites = changes[name].sites.keys() | changes[name].condition.keys()
        replayed = [n for n in names if n in reached[name] - set_sites]
        stages[name] = tuple((n, _reading(call, law_block, n)) for n in replayed)
        if site not in names or site in set_sites:
            last[name] = _reading(call, predict_block, site)
    return Replays(site, replace(evidence, program=evidence_block, task=task), stages, last)


def _check_sites(spec: KernelSpec, names: list[str], settled: set[str]) -> None:
    for name in names:
        if not spec[name].follows_rows:
            msg = (
                f"Site '{name}' is not one value per row: its size follows the rows otherwise, so "
                "its noise cannot be replayed row by row. Ask for rung='intervention'."
            )
            raise InputError(msg, code="counterfactual-site")
        around = [s.name for s in spec.sites if s.inputs & spec[name].observes and s.name != name]
        if around and name != spec.output:
            msg = (
                f"'{around[0]}' reads the data that site '{name}' observes, and not the site, so a "
                "replayed value would not reach it. Use what numpyro.sample returns."
            )
            raise InputError(msg, code="counterfactual-site")
    for site in spec.sites:
        is_free = site.kind in ("latent", "observed") and site.rows != "none"
        if is_free and site.name not in settled and spec.descendants({site.name}) & set(names):
            msg = (
                f"Site '{site.name}' lies above what was observed, and its value in these rows is "
                "not known. Pass it, or ask about the fitted rows, for which the posterior has it."
            )
            raise InputError(msg, code="counterfactual-latent")


def _check_same_sites(scenario: Hashable, names: list[str], spec: KernelSpec) -> None:
    lacking = [name for name in names if name not in spec]
    if lacking:
        msg = f"Scenario '{scenario}' has no site '{lacking[0]}', so its noise has no place there."
        raise InputError(msg, code="counterfactual-site")


def _blanks(spec: KernelSpec, names: list[str], total: int) -> dict[str, np.ndarray]:
    """Places for values that a tile brings with it."""
    blanks = {}
    for name in names:
        shape = np.delete(spec[name].shape, spec[name].axis)
        dtype = np.dtype(spec[name].dtype)  # noise of large values is small
        blank = np.zeros((), np.float64 if dtype == np.float32 else dtype)
        blanks[name] = np.broadcast_to(blank, (total, spec.rows, *map(int, shape)))
    return blanks


def _holding(call: Call, values: Mapping[str, np.ndarray], names: tuple[str, ...]) -> Call:
    """A call in which sites of rows have these values, (draw, row, ...), whatever it observes."""
    block = call.block
    block = block._replace(
        row_posterior={**block.row_posterior, **values},
        redraw={n: v for n, v in block.redraw.items() if n not in values},
    )
    return replace(call, block=block, task=replace(call.task, held=names))


def _reading(call: Call, program: Callable[..., Any], site: str) -> Call:
    task: Task = replace(call.task, sites=(site,), results=call.task.spec)
    return replace(call, program=program, task=task)


class Replay:
    """Replays as a function of a tile."""

    def __init__(self, replays: Replays, plan: Plan) -> None:
        def ready(call: Call) -> TileRun:
            return TileRun(call, compile_call(call, plan), plan)

        self.replays = replays
        spec = replays.evidence.task.spec
        self.has_steps = any(spec[name].rows == "scan" for name in replays.evidence.task.sites)
        self.evidence = ready(replays.evidence)
        self.stages = {
            scenario: [(name, ready(call)) for name, call in stages]
            for scenario, stages in replays.stages.items()
        }
        self.last = {scenario: ready(call) for scenario, call in replays.last.items()}
        self.couplings: dict[str, str] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Replay, (self.replays, self.evidence.plan)

    @property
    def runs(self) -> list[TileRun]:
        """What it runs."""
        stages = [run for stages in self.stages.values() for _, run in stages]
        return [self.evidence, *stages, *self.last.values()]

    def __call__(self, row_tile: RowTile, tile: Tile, device: jax.Device) -> Replayed:
        evidence: dict[str, Evidence] = self.evidence(row_tile, tile, device)
        size = max(1, _PIECE // next(iter(evidence.values())).value.shape[1])
        noise = {
            name: [abduce(piece) for piece in _pieces(clue, size)]
            for name, clue in evidence.items()
        }
        self.couplings |= {name: coupling_of(clue.law) for name, clue in evidence.items()}
        was = {name: clue.value for name, clue in evidence.items()}
        site = self.replays.site
        values, laws = {}, {}
        for scenario, stages in self.stages.items():
            now, before = dict(was), None
            # In a scan a step follows from those before it: each pass settles at least one more.
            while before is None or (self.has_steps and not _same(before, now)):
                before = dict(now)
                for name, run in stages:
                    law: Law = run(row_tile, tile, device, now)[name]
                    now[name] = _replayed(law, noise[name], size).astype(was[name].dtype)
                    if name == site:
                        laws[scenario] = law
            if scenario in self.last:
                values[scenario] = self.last[scenario](row_tile, tile, device, now)[site]
            else:
                values[scenario] = now[site]
        others = {c for name, c in self.couplings.items() if name != site}
        factual = evidence[site].law if site in evidence else None
        has_others = bool(others - {"residual"})
        return Replayed(values, laws, factual, has_others, _soundness(noise), self.couplings)


def _same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[n], other[n], equal_nan=one[n].dtype.kind == "f") for n in one)


def _pieces(tree: Law | Evidence, size: int) -> Iterator[Any]:
    rows = len(jax.tree.leaves(tree)[0])
    for first in range(0, rows, size):
        place = slice(first, first + size)
        yield jax.tree.map(lambda leaf, place=place: leaf[place], tree)


def _replayed(law: Law, noise: list[Noise], size: int) -> np.ndarray:
    parts = [
        replay(piece, noise_there)
        for piece, noise_there in zip(_pieces(law, size), noise, strict=True)
    ]
    return np.concatenate(parts)


def _soundness(noise: Mapping[str, list[Noise]]) -> np.ndarray:
    """Whether the noise of all sites of a row is sound, (row, draw)."""
    flags = []
    for parts in noise.values():
        is_sound = np.concatenate([piece.is_sound for piece in parts])
        flags.append(is_sound.reshape(*is_sound.shape[:2], -1).all(axis=-1))
    return np.asarray(np.logical_and.reduce(flags))
