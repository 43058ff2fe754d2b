"""Plan a result as tiles, and run the tiles into a sink over devices and threads.

The grid is fixed: the size of a tile follows from the kernel's spec, the number of draws and a
budget that is a constant of the library, never from the machine, the batch size or the number of
rows. The last tile is padded to its full size; an input smaller than a tile is padded to
16 x 2^k rows. Rows that interact stay whole and in order, and tiles are blocks of draws.

A few threads take one tile after another: each computes it on its device, copies it and hands it
to the sink, so that the three overlap and no more tiles are in memory than there are threads.
"""

import contextlib
import gc
import math
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from aimz.errors import AimzError, InputError
from aimz.families import Faults, fault_of
from aimz.programs import TRACE_LOCK, Bound, compile_program, forget_traces
from aimz.rows import RowTile, Stream
from aimz.sampling import (
    Block,
    Found,
    Task,
    evidence_block,
    expectation_block,
    follows_rows,
    law_block,
    log_likelihood_block,
    predict_block,
    predict_pairs,
    score_block,
)
from aimz.spec import KernelSpec
from aimz.store import Sink, Tile, Variable

__all__ = [
    "Call",
    "Plan",
    "Ready",
    "TileRun",
    "compile_call",
    "each_tile",
    "is_binary",
    "narrowest",
    "num_draws",
    "plan_tiles",
    "run_in_threads",
    "run_tiles",
]

#: Bytes of results that one tile may hold.
TILE_BYTES = 64 * 2**20
#: Rows of the smallest and of the largest tile.
MIN_ROWS, MAX_ROWS = 16, 1024
#: Arrays of the largest size that are alive at once where rows stay whole, over all threads.
WIDE_ARRAYS = 8
#: Draws of the largest tile where rows stay whole.
MAX_WHOLE_DRAWS = 256
#: Values of the smallest tile whose draws are made two and two, if they are 0 and 1.
PAIRED_VALUES = 2**18
#: Threads of a device that is not the CPU: one computes while the other copies and writes.
THREADS_PER_ACCELERATOR = 2

Program = Callable[[Task, Block], Found]
# What is computed in double precision: densities of large counts, means of which small differences
# are asked, noise behind values. Draws are in single precision everywhere, and the same.
_WIDE = (evidence_block, expectation_block, law_block, log_likelihood_block, score_block)


@dataclass(frozen=True)
class Plan:
    """The grid of one result: sizes of its tiles and how many rows and draws it covers.

    `rows` is None while their number is not known; `draws` counts those of one chain, `tile_draws`
    those of one tile: all of them, or a part of one chain. `asked` are the rows, (row,) of bool, of
    which a fault stops the call; None are all.
    """

    rows: int | None
    chains: int
    draws: int
    tile_rows: int
    tile_draws: int
    whole: bool
    asked: np.ndarray | None = field(default=None, compare=False, repr=False)

    def row_slices(self) -> Iterator[slice]:
        """Rows of each tile, in order."""
        rows = self.rows or 0
        for first in range(0, rows, self.tile_rows):
            yield slice(first, min(first + self.tile_rows, rows))

    def tiles(self, row_tile: RowTile) -> Iterator[Tile]:
        """Tiles of some rows, one for each block of draws."""
        blocks = list(self._draw_blocks())
        first = row_tile.rows.start // self.tile_rows * len(blocks)
        for number, (chains, draws) in enumerate(blocks, first):
            yield Tile(number, row_tile.rows, chains, draws, row_tile.digest)

    def _draw_blocks(self) -> Iterator[tuple[slice, slice]]:
        if self.tile_draws == self.chains * self.draws:
            yield slice(0, self.chains), slice(0, self.draws)
            return
        for chain in range(self.chains):
            for first in range(0, self.draws, self.tile_draws):
                last = min(first + self.tile_draws, self.draws)
                yield slice(chain, chain + 1), slice(first, last)


@dataclass(frozen=True)
class Call:
    """One result to be computed: a pure program, its task, and the arrays of its block.

    Row arguments are in the block, or come by the piece from the stream; `replaced` has values of
    rows, (row, ...), that take the place of those read, or None where the block has one for all.
    """

    program: Program
    group: str
    task: Task
    block: Block
    stream: Stream | None = None
    observed: np.ndarray | None = None  # outcomes to keep beside the draws, (row, ...)
    replaced: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_wide(self) -> bool:
        """Whether its program computes in double precision."""
        return self.program in _WIDE

    def arrays(self, row_tile: RowTile) -> dict[str, Any]:
        """Arrays of a tile's rows, by argument."""
        rows, own = row_tile.rows, self.block.row_inputs
        if self.stream is None:
            kept = self.block.kept
            index = rows if kept is None else kept[rows]
            held: dict[str, Any] = jax.tree.map(lambda v: np.asarray(v)[index], own)
            return held
        read = {n: v for n, v in row_tile.arrays.items() if n not in self.replaced}
        cut = {n: v[rows] for n, v in self.replaced.items() if v is not None}
        same = {n: v for n, v in own.items() if n not in read and n not in cut}
        count = _length(rows)
        spread = {n: np.broadcast_to(v[:1], (count, *v.shape[1:])) for n, v in same.items()}
        return {**spread, **read, **cut}


@dataclass(frozen=True)
class Ready:
    """A compiled call; shape and narrow dtype of each site in one tile, and its own dtype.

    A program that makes its draws two and two returns both in the bytes of one number.
    """

    run: Bound
    shapes: Mapping[str, Any]
    dtypes: Mapping[str, np.dtype]
    in_pairs: bool = False
    is_wide: bool = False


def plan_tiles(spec: KernelSpec, rows: int | None, chains: int, draws: int) -> Plan:
    """Choose the grid for a number of rows (None: not known), chains, and draws of each.

    >>> plan_tiles(spec, 5000, 1, 1000).tile_rows  # doctest: +SKIP
    1024
    """
    per_row = 4 * sum(
        math.prod(site.shape) // max(spec.rows, 1) for site in spec.sites if follows_rows(site)
    )
    per_row, total = max(per_row, 4), chains * draws
    if spec.coupled:
        rows = rows or spec.rows
        size = max(per_row * max(rows, spec.rows), 4 * spec.widest * WIDE_ARRAYS)
        most = max(1, min(MAX_WHOLE_DRAWS, TILE_BYTES // size))
        return Plan(rows, chains, draws, rows, _even(total, draws, most), whole=True)
    tile_rows = min(MAX_ROWS, max(MIN_ROWS, _power_of_two(TILE_BYTES // (per_row * total))))
    tile_draws = _even(total, draws, max(1, TILE_BYTES // (per_row * tile_rows)))
    while rows is not None and tile_rows // 2 >= max(MIN_ROWS, rows):
        tile_rows //= 2
    return Plan(rows, chains, draws, tile_rows, tile_draws, whole=False)


def compile_call(call: Call, plan: Plan) -> Ready:
    """Compile the program of one tile."""
    rows = call.block.row_inputs
    if call.stream is not None:
        rows = {n: v[:1] for n, v in call.stream.head.items()}
    tile = Tile(0, slice(0, 1), slice(0, 1), slice(0, 1))
    block = _shared(call.block, tile, plan)
    block = _with_rows(block, call, RowTile(slice(0, 1), rows), plan)
    if _in_pairs(call, plan):
        shapes = jax.tree.map(_as_jax_types, block)
        with TRACE_LOCK:
            run = compile_program(
                partial(predict_pairs, call.task), shapes, version=call.task.spec.version
            )
        full = jax.ShapeDtypeStruct((plan.tile_rows, plan.tile_draws), bool)
        own = {n: np.dtype(call.task.results[n].dtype) for n in run.shapes.values}
        return Ready(run, dict.fromkeys(own, full), own, in_pairs=True)
    for attempt in range(2 if call.is_wide and not jax.config.jax_enable_x64 else 0):
        try:
            return _compiled(call, block, is_wide=True)
        except (TypeError, ValueError) as error:  # a kernel that fixes its own dtypes, or a
            if isinstance(error, AimzError):  # constant that another program holds
                raise
        if not attempt:
            forget_traces()
            gc.collect()
    return _compiled(call, block, is_wide=False)


def _compiled(call: Call, block: Block, *, is_wide: bool) -> Ready:
    """Compile a program, in double precision or in JAX's own."""
    dtypes: dict[str, np.dtype] = {}

    def narrow(block: Block) -> Found:
        task = replace(call.task, is_wide=is_wide)
        found = call.program(task, _widened(block) if is_wide else block)
        for name, value in found.values.items():
            if isinstance(value, jax.Array):  # and no record of arrays
                dtypes[name] = np.dtype(value.dtype)
                found.values[name] = value.astype(narrowest(call, name, dtypes[name]))
        return found

    with _precision(is_wide=is_wide), TRACE_LOCK:
        shapes = jax.tree.map(_as_jax_types, block)
        run = compile_program(narrow, shapes, version=call.task.spec.version)
        if is_wide:
            run.check(shapes)
    return Ready(run, run.shapes.values, dtypes, is_wide=is_wide)


def _precision(*, is_wide: bool) -> AbstractContextManager[Any]:
    return jax.enable_x64(True) if is_wide else contextlib.nullcontext()


def _widened(block: Block) -> Block:
    """A block whose floating-point numbers are in double precision."""

    def wide(leaf: Any) -> Any:
        is_single = jax.dtypes.issubdtype(leaf.dtype, np.floating)
        return leaf.astype(np.float64) if is_single else leaf

    widened: Block = jax.tree.map(wide, block)
    return widened


def run_tiles(
    call: Call,
    ready: Ready,
    plan: Plan,
    variables: Iterable[Variable],
    sink: Sink,
    on_rows: Callable[[int], None],
) -> int:
    """Run every tile of a plan into a sink and return the number of rows.

    `on_rows` is called with the number of rows that each finished tile adds.
    """
    compute = TileRun(call, ready, plan)
    keys = {variable.site: variable for variable in variables if variable.has_draws}
    kept = next((variable for variable in variables if not variable.has_draws), None)

    def work(row_tile: RowTile, tile: Tile, device: Any) -> None:
        if sink.has(tile):
            return
        values = {}
        for name, value in compute(row_tile, tile, device).items():
            variable = keys[name]
            values[variable.key] = variable.arrange(value, tile)
        if kept is not None:
            values[kept.key] = kept.arrange(_outcomes(call, row_tile), tile)
        sink.write(tile, values)

    return each_tile(call, plan, work, on_rows)


class TileRun:
    """A compiled call as a function of a tile: arrays of its sites, (row, draw, ...), or trees."""

    def __init__(self, call: Call, ready: Ready, plan: Plan) -> None:
        self.call, self.ready, self.plan = call, ready, plan
        self.shared = _Shared(call.block, plan)

    def __call__(
        self,
        row_tile: RowTile,
        tile: Tile,
        device: Any,
        given: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, Any]:
        """Run one tile; `given` replaces values of rows, (row, draw, ...), that the call holds."""
        with _precision(is_wide=self.ready.is_wide):
            shared = self.shared.on(device, tile)
        block = _with_rows(shared, self.call, row_tile, self.plan)
        held = dict(block.row_posterior)  # a block may be shared by threads
        for name, value in (given or {}).items():
            full = np.zeros(held[name].shape, held[name].dtype).swapaxes(0, 1)
            full[: len(value), : value.shape[1]] = value
            held[name] = full.swapaxes(0, 1)
        block = block._replace(row_posterior=held)
        with _precision(is_wide=self.ready.is_wide):
            found: Found = self.ready.run(block)  # where its shared part is
        results = found.values
        _check_faults(found.faults, tile.rows, self.plan.asked)
        if self.ready.in_pairs:
            results = {n: np.asarray(v).view(bool) for n, v in results.items()}
        rows, draws = _length(tile.rows), num_draws(tile)
        owned = {name: follows_rows(self.call.task.results[name]) for name in results}

        def cut(value: Any, *, by_row: bool) -> np.ndarray:
            return np.asarray(value)[:rows, :draws] if by_row else np.asarray(value)[:draws]

        return {
            name: jax.tree.map(partial(cut, by_row=owned[name]), value)
            for name, value in results.items()
        }


def _check_faults(faults: Mapping[str, Faults], rows: slice, asked: np.ndarray | None) -> None:
    """Refuse what comes of parameters that a distribution cannot have."""
    for name, own in faults.items():
        found = fault_of(own, _length(rows), None if asked is None else asked[rows])
        if found is None:
            continue
        row, (family, parameter, value) = found
        where = "" if row is None else f" in row {rows.start + row}"
        site = name.rpartition("\0")[2]
        if parameter == "draws":
            msg = (
                f"Draws of site '{site}' from {family} may reach {value:.3g}{where}, which whole "
                "numbers of 32 bits cannot hold. Count in larger units, or set jax_enable_x64."
            )
            raise InputError(msg, code="cast-overflow")
        if parameter == "answer":
            msg = (
                f"The function for site '{site}' gives {value:.6g}{where}, which 32 bits of whole "
                "numbers cannot hold. Rescale it, or set what depends on the site."
            )
            raise InputError(msg, code="cast-overflow")
        if parameter == "posterior":
            msg = (
                f"Posterior draws of '{site}' hold {value:.6g}{where}, outside its support as it "
                "is here. Pass draws on the scale of the kernel's site."
            )
            raise InputError(msg, code="draws-support")
        if parameter == "log density":
            msg = (
                f"The log density of site '{site}' is {value}{where}: its outcome says nothing, or "
                "lies where the density of its distribution has no limit. Check the outcome."
            )
            raise InputError(msg, code="density")
        msg = (
            f"Site '{site}' is drawn from {family} with {parameter} = {value:.6g}{where}, which it "
            "cannot have. Check the scenario, or put the parameter through a link in the kernel."
        )
        raise InputError(msg, code="parameters")


def each_tile(
    call: Call,
    plan: Plan,
    work: Callable[[RowTile, Tile, Any], None],
    on_rows: Callable[[int], None],
) -> int:
    """Let threads do some work on every tile, and a device, in order; returns the rows."""
    devices = _devices()
    last = plan.chains * plan.draws
    rows = 0

    def work_on(item: tuple[RowTile, Tile], lane: int) -> int:
        row_tile, tile = item
        work(row_tile, tile, devices[lane % len(devices)])
        is_last = tile.chains.stop * tile.draws.stop == last
        return _length(tile.rows) if is_last else 0

    def count(done: int) -> None:
        nonlocal rows
        rows += done
        on_rows(done)

    items = (
        (row_tile, tile) for row_tile in _row_tiles(call, plan) for tile in plan.tiles(row_tile)
    )
    run_in_threads(items, work_on, count, threads=_num_threads(devices))
    return rows


def run_in_threads[Item](
    items: Iterator[Item],
    work: Callable[[Item, int], int],
    on_done: Callable[[int], None],
    *,
    threads: int,
) -> None:
    """Let a few threads work through items in order; the first error stops all and is raised.

    `work` gets an item and the number of its thread; what it returns goes to `on_done`, in the
    calling thread.
    """
    lock, stop = threading.Lock(), threading.Event()
    done: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
    settings = _thread_settings()

    def lane(number: int) -> None:
        try:
            with settings():
                while not stop.is_set():
                    with lock:
                        item = next(items, None)
                    if item is None:
                        break
                    done.put(work(item, number))
        except BaseException as error:  # noqa: BLE001  # raised again in the calling thread
            stop.set()
            done.put(error)
        done.put(None)

    workers = [threading.Thread(target=lane, args=(n,), daemon=True) for n in range(threads)]
    try:
        for worker in workers:
            worker.start()
        failures, running = [], threads
        while running:
            message = done.get()
            if message is None:
                running -= 1
            elif isinstance(message, BaseException):
                failures.append(message)
            elif not failures:
                on_done(message)
    finally:  # also after Ctrl-C: nobody writes once the sink has been aborted
        stop.set()
        for worker in workers:
            worker.join()
    if failures:
        raise failures[0]


class _Shared:
    """The part of a block that tiles share, on the device; placed there once where it can be."""

    def __init__(self, block: Block, plan: Plan) -> None:
        self.block, self.plan = block, plan
        self.placed: dict[Any, Block] = {}
        self.lock = threading.Lock()

    def on(self, device: Any, tile: Tile) -> Block:
        if self.plan.tile_draws < self.plan.chains * self.plan.draws:
            part: Block = jax.device_put(_shared(self.block, tile, self.plan), device)
            return part
        with self.lock:
            if device not in self.placed:
                self.placed[device] = jax.device_put(_shared(self.block, tile, self.plan), device)
            return self.placed[device]


def _row_tiles(call: Call, plan: Plan) -> Iterator[RowTile]:
    if call.stream is not None:
        yield from call.stream.tiles(plan.tile_rows)
        return
    for rows in plan.row_slices():
        yield RowTile(rows, call.block.row_inputs)


def _shared(block: Block, tile: Tile, plan: Plan) -> Block:
    """The tile's draws of a block, and nothing yet of its rows."""
    first = tile.chains.start * plan.draws + tile.draws.start
    index = np.arange(first, first + plan.tile_draws)
    index = np.where(index < first + num_draws(tile), index, first)  # the last block is padded

    def cut(value: Any) -> Any:
        if len(index) == len(value):
            return value
        return np.take(np.asarray(value), index, axis=0)

    whole = plan.whole
    return block._replace(
        draws=cut(block.draws),
        rows=block.rows if whole else np.uint32(0),
        row_inputs=block.row_inputs if whole else {},
        posterior=jax.tree.map(cut, block.posterior),
        row_posterior=jax.tree.map(cut, block.row_posterior) if whole else {},
        row_values=block.row_values if whole else {},
        redraw=block.redraw if whole else {},
    )


def _with_rows(shared: Block, call: Call, row_tile: RowTile, plan: Plan) -> Block:
    """Add a tile's rows to what tiles share, padded with copies of the first of them."""
    if plan.whole:
        return shared
    rows, size = row_tile.rows, plan.tile_rows
    index = np.arange(rows.start, rows.start + size, dtype=np.uint32)

    def cut(value: Any) -> Any:
        return _padded(np.asarray(value)[rows], size, axis=0)

    def cut_second(value: Any) -> Any:
        picked = np.asarray(shared.draws)
        part = np.asarray(value)[:, rows]
        if len(picked) != len(part) or picked[0]:
            part = part[picked]
        return _padded(part, size, axis=1)

    inputs = call.arrays(row_tile)
    inputs = {n: v for n, v in inputs.items() if n in call.task.spec.row_inputs}
    return shared._replace(
        rows=np.where(index < rows.stop, index, np.uint32(rows.start)),
        row_inputs=jax.tree.map(lambda v: _padded(v, size, axis=0), inputs),
        row_posterior=jax.tree.map(cut_second, call.block.row_posterior),
        row_values=jax.tree.map(cut, call.block.row_values),
        redraw=jax.tree.map(cut, call.block.redraw),
    )


def _in_pairs(call: Call, plan: Plan) -> bool:
    """Whether a call's tiles are worth drawing two and two, and can be."""
    parts = [plan.tile_draws]
    if plan.tile_draws < plan.chains * plan.draws:
        parts.append(plan.draws)
    if plan.whole or any(part % 2 for part in parts):
        return False
    sites = [call.task.results[name] for name in call.task.sites]
    return plan.tile_rows * plan.tile_draws >= PAIRED_VALUES and all(
        is_binary(call, site.name) and follows_rows(site) and len(site.shape) == 1 for site in sites
    )


def is_binary(call: Call, name: str) -> bool:
    """Whether a site is predicted as outcomes of 0 and 1, by its support."""
    site = call.task.results[name]
    if call.program is not predict_block or site.dtype is None:
        return False
    return narrowest(call, name, np.dtype(site.dtype)) == np.dtype(bool)


def narrowest(call: Call, name: str, dtype: np.dtype) -> np.dtype:
    """The narrowest dtype that holds every value of a drawn site, by its support alone."""
    site = call.task.results[name]
    given = {*call.task.do, *call.task.condition, *call.block.posterior, *call.block.row_posterior}
    fresh = site.kind == "latent" or name == call.task.spec.output
    if dtype.kind not in "iu" or site.bounds is None or not fresh or name in given:
        return dtype
    low, high = site.bounds
    if (low, high) == (0, 1):
        return np.dtype(bool)
    for narrow in map(np.dtype, ("uint8", "int8", "uint16", "int16")):
        limits = np.iinfo(narrow)
        if limits.min <= low and high <= limits.max and narrow.itemsize < dtype.itemsize:
            return narrow
    return dtype


def _as_jax_types(leaf: Any) -> jax.ShapeDtypeStruct:
    kind = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype)


def _outcomes(call: Call, row_tile: RowTile) -> np.ndarray:
    """Outcomes of a tile's rows."""
    if call.observed is not None:
        return call.observed[row_tile.rows]
    return np.asarray(row_tile.arrays[call.task.spec.output])


def _padded(value: Any, size: int, *, axis: int) -> np.ndarray:
    """An array with copies of its first row at the end, up to a size."""
    lacking = size - value.shape[axis]
    if not lacking:
        return np.asarray(value)
    first = np.take(value, [0] * lacking, axis=axis)
    return np.concatenate([value, first], axis=axis)


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def num_draws(tile: Tile) -> int:
    """Draws of a tile."""
    return _length(tile.chains) * _length(tile.draws)


def _devices() -> list[Any]:
    """Devices to use: JAX's default device where one was chosen, else all local ones."""
    chosen = jax.config.jax_default_device
    if chosen is not None:
        return [chosen] if not isinstance(chosen, str) else jax.local_devices(backend=chosen)[:1]
    return list(jax.local_devices())


def _num_threads(devices: list[Any]) -> int:
    if devices[0].platform == "cpu":
        return max(len(devices), min(4, os.cpu_count() or 1) + 1)  # one writes, the others compute
    return THREADS_PER_ACCELERATOR * len(devices)


def _thread_settings() -> Callable[[], AbstractContextManager[Any]]:
    """What the calling thread has set for JAX, to be set in others."""
    x64 = jax.config.jax_enable_x64
    return lambda: jax.enable_x64(x64)


def _even(total: int, draws: int, most: int) -> int:
    """Draws of a tile: all, or equal parts of a chain."""
    if most >= total:
        return total
    return math.ceil(draws / math.ceil(draws / most))


def _power_of_two(number: int) -> int:
    return 1 << (max(number, 1).bit_length() - 1)
