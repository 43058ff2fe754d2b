"""One call: its program, compiled, and the arrays of each tile."""

import contextlib
import gc
from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from aimz.arrays import Array
from aimz.data import AtHand, RowTile, Stream
from aimz.errors import AimzError, Note, OutputWarning
from aimz.execution.parts import WIDE_BYTES, Program, with_less_at_once
from aimz.execution.plan import WIDE, Plan, num_draws, widened_block
from aimz.programs import (
    TRACE_LOCK,
    Bound,
    Cache,
    compile_program,
    forget_traces,
    name_of,
    name_of_shapes,
    remembered,
    version_of,
)
from aimz.sampling import Block, Found, Task, predict_block, predict_pairs
from aimz.store import Tile

__all__ = [
    "Call",
    "Ready",
    "compile_call",
    "is_binary",
    "narrowest",
    "outcomes_of",
    "precision_of",
    "shared_block",
    "with_rows",
]


#: Values of the smallest tile whose draws are made two and two, if they are 0 and 1.
PAIRED_VALUES = 2**18
_MAX_READY = 256
_NARROWED = Note(
    OutputWarning,
    "The kernel fixes numbers to 32 bits, so this is computed in single precision: small "
    "differences of large numbers are lost. Take dtypes from the inputs, or set jax_enable_x64.",
    "single-precision",
)


@dataclass(frozen=True)
class Call:
    """One result to be computed: a pure program, its task, and the arrays of its block.

    Row arguments are in the block, or come with the tiles of the source; `replaced` has values of
    rows, (row, ...), that take the place of those read, or None where the block has one for all.
    """

    program: Program
    group: str
    task: Task
    block: Block
    source: AtHand | Stream
    observed: np.ndarray | None = None  # outcomes to keep beside the draws, (row, ...)
    replaced: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_wide(self) -> bool:
        """Whether its program computes in double precision."""
        return self.program in WIDE

    @property
    def name(self) -> Hashable | None:
        """Name of all that a trace of it follows from, but for shapes; None where it has none."""
        task, block = self.task, self.block
        static, functions = name_of(dict(task.static)), name_of(dict(task.functions))
        read = (version_of(task.kernel), static, functions)
        held = (tuple(block.posterior), tuple(block.row_posterior))
        return None if None in read else (self.program, *read, task.settled, held)

    def arrays(self, row_tile: RowTile) -> dict[str, Any]:
        """Arrays of a tile's rows, by argument."""
        block = self.block
        return self.source.arrays_of(row_tile, block.row_inputs, self.replaced, block.kept)


@dataclass(frozen=True)
class Ready:
    """A compiled call; shape and narrow dtype of each site in one tile, and its own dtype.

    A program that makes its draws two and two returns both in the bytes of one number. `notes` are
    what is said of its results.
    """

    run: Bound
    shapes: Mapping[str, Any]
    dtypes: Mapping[str, np.dtype]
    in_pairs: bool = False
    is_wide: bool = False
    notes: tuple[Note, ...] = ()


# By all that a trace follows from.
_READY: Cache[Hashable, Ready] = Cache(_MAX_READY)
# The same by the arrays of the call, before they are cut and padded, and how they will be.
_READY_FOR: Cache[Hashable, Ready] = Cache(_MAX_READY)


def compile_call(call: Call, plan: Plan) -> Ready:
    """Compile the program of one tile, or find it without a trace where that is sound."""

    def name() -> Hashable | None:
        its, shapes = call.name, name_of_shapes(tuple(call.block))
        cut = (plan.chains, plan.draws, plan.tile_rows, plan.tile_draws, plan.whole)
        return None if its is None or shapes is None else (its, shapes, cut, WIDE_BYTES)

    if call.source.names:  # a tile's arrays come from elsewhere
        return _compiled_tile(call, plan)
    return remembered(_READY_FOR, name, lambda: _compiled_tile(call, plan))


def _compiled_tile(call: Call, plan: Plan) -> Ready:
    first = RowTile(slice(0, 1), {n: v[:1] for n, v in call.source.head.items()})
    tile = Tile(0, slice(0, 1), slice(0, 1), slice(0, 1))
    block = shared_block(call.block, tile, plan)
    block = with_rows(block, call, first, plan)
    in_pairs = _in_pairs(call, plan)

    def name() -> Hashable | None:
        its, shapes = call.name, name_of_shapes(tuple(block))
        return None if its is None or shapes is None else (its, shapes, in_pairs, WIDE_BYTES)

    return remembered(_READY, name, lambda: _made_ready(call, block, in_pairs=in_pairs))


def _made_ready(call: Call, block: Block, *, in_pairs: bool) -> Ready:
    if in_pairs:
        shapes = jax.tree.map(_as_jax_types, block)
        with TRACE_LOCK:
            version = call.task.spec.version
            run = compile_program(partial(predict_pairs, call.task), shapes, version=version)
            if run.program.widest > WIDE_BYTES:
                run = with_less_at_once(
                    run,
                    predict_pairs,
                    shapes,
                    lambda program: compile_program(
                        partial(program, call.task), shapes, version=version
                    ),
                    step=2,
                )
        full = jax.ShapeDtypeStruct((len(block.rows), len(block.draws)), bool)
        dtypes = {n: np.dtype(call.task.results[n].dtype) for n in run.shapes.values}
        return Ready(run, dict.fromkeys(dtypes, full), dtypes, in_pairs=True)
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

    def narrow(program: Program, block: Block) -> Found:
        task = replace(call.task, is_wide=is_wide)
        computed = program(task, widened_block(block) if is_wide else block)
        for name, value in computed.values.items():
            if isinstance(value, jax.Array):  # and no record of arrays
                dtypes[name] = np.dtype(value.dtype)
                computed.values[name] = value.astype(narrowest(call, name, dtypes[name]))
        return computed

    with precision_of(is_wide=is_wide), TRACE_LOCK:
        shapes = jax.tree.map(_as_jax_types, block)
        version = call.task.spec.version
        run = compile_program(partial(narrow, call.program), shapes, version=version)
        if run.program.widest > WIDE_BYTES:
            run = with_less_at_once(
                run,
                call.program,
                shapes,
                lambda program: compile_program(partial(narrow, program), shapes, version=version),
            )
        if is_wide:
            run.check(shapes)
    is_narrowed = call.is_wide and not is_wide and not jax.config.jax_enable_x64
    notes = (_NARROWED,) if is_narrowed else ()
    return Ready(run, run.shapes.values, dtypes, is_wide=is_wide, notes=notes)


def precision_of(*, is_wide: bool) -> AbstractContextManager[Any]:
    """The precision that a program computes in."""
    return jax.enable_x64(True) if is_wide else contextlib.nullcontext()


def shared_block(block: Block, tile: Tile, plan: Plan) -> Block:
    """The tile's draws of a block, and nothing yet of its rows."""
    first = tile.chains.start * plan.draws + tile.draws.start
    index = np.arange(first, first + plan.tile_draws)
    index = np.where(index < first + num_draws(tile), index, first)  # the last block is padded

    def cut(value: Array) -> Any:
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


def with_rows(shared: Block, call: Call, row_tile: RowTile, plan: Plan) -> Block:
    """Add a tile's rows to what tiles share, padded with copies of the first of them."""
    if plan.whole:
        return shared
    rows, size = row_tile.rows, plan.tile_rows
    index = np.arange(rows.start, rows.start + size, dtype=np.uint32)

    def cut(value: Array) -> Any:
        return _padded(np.asarray(value)[rows], size, axis=0)

    def cut_second(value: Array) -> Any:
        picked = np.asarray(shared.draws)
        values = np.asarray(value)[:, rows]
        if len(picked) != len(values) or picked[0]:
            values = values[picked]
        return _padded(values, size, axis=1)

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
    if plan.whole or any(count % 2 for count in parts):
        return False
    sites = [call.task.results[name] for name in call.task.sites]
    return plan.tile_rows * plan.tile_draws >= PAIRED_VALUES and all(
        is_binary(call, site.name) and site.follows_rows and len(site.shape) == 1 for site in sites
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
    settled = {
        *call.task.do,
        *call.task.condition,
        *call.block.posterior,
        *call.block.row_posterior,
    }
    fresh = site.kind == "latent" or name == call.task.spec.output
    if dtype.kind not in "iu" or site.bounds is None or not fresh or name in settled:
        return dtype
    low, high = site.bounds
    if (low, high) == (0, 1):
        return np.dtype(bool)
    for narrow in map(np.dtype, ("uint8", "int8", "uint16", "int16")):
        limits = np.iinfo(narrow)
        if limits.min <= low and high <= limits.max and narrow.itemsize < dtype.itemsize:
            return narrow
    return dtype


def _as_jax_types(leaf: Array) -> jax.ShapeDtypeStruct:
    kind = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype)


def outcomes_of(call: Call, row_tile: RowTile) -> np.ndarray:
    """Outcomes of a tile's rows."""
    if call.observed is not None:
        return call.observed[row_tile.rows]
    return np.asarray(row_tile.arrays[call.task.spec.output])


def _padded(value: Array, size: int, *, axis: int) -> np.ndarray:
    """An array with copies of its first row at the end, up to a size."""
    lacking = size - value.shape[axis]
    if not lacking:
        return np.asarray(value)
    first = np.take(value, [0] * lacking, axis=axis)
    return np.concatenate([value, first], axis=axis)
