"""Plan a result as tiles, and run the tiles into a sink.

The grid is fixed: the size of a tile follows from the kernel's spec, the number of draws and a
budget that is a constant of the library, never from the machine, the batch size or the number of
rows. The last tile is padded to its full size; an input smaller than a tile is padded to
16 x 2^k rows. Rows that interact stay whole and in order, and tiles are blocks of draws.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from aimz.kernel import KernelSpec
from aimz.programs import TRACE_LOCK, compile_program
from aimz.sampling import Block, Task, follows_rows
from aimz.store import ArraySpec, Sink

__all__ = ["Call", "Plan", "plan_tiles", "run_tiles"]

#: Bytes of results that one tile may hold.
TILE_BYTES = 64 * 2**20
#: Rows of the smallest and of the largest tile.
MIN_ROWS, MAX_ROWS = 16, 1024

Program = Callable[[Task, Block], dict[str, jax.Array]]


@dataclass(frozen=True)
class Plan:
    """The grid of one result: sizes of its tiles and how many rows and draws it covers."""

    rows: int
    draws: int
    tile_rows: int
    tile_draws: int
    whole: bool

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Rows and draws of each tile, in a fixed order."""
        for first_row in range(0, self.rows, self.tile_rows):
            for first_draw in range(0, self.draws, self.tile_draws):
                yield (
                    slice(first_row, min(first_row + self.tile_rows, self.rows)),
                    slice(first_draw, min(first_draw + self.tile_draws, self.draws)),
                )


@dataclass(frozen=True)
class Call:
    """One result to be computed: a pure program, its task, and all rows and draws of its block."""

    program: Program
    task: Task
    block: Block


def plan_tiles(
    spec: KernelSpec, rows: int, draws: int, *, max_rows: int = MAX_ROWS, whole: bool | None = None
) -> Plan:
    """Choose the grid for a number of rows and draws.

    >>> plan_tiles(spec, rows=5000, draws=1000).tile_rows  # doctest: +SKIP
    1024
    """
    whole = spec.coupled if whole is None else whole
    per_row = 4 * sum(
        math.prod(site.shape) // max(spec.rows, 1) for site in spec.sites if follows_rows(site)
    )
    per_row = max(per_row, 4)
    if whole:
        tile_draws = max(1, min(draws, TILE_BYTES // (per_row * rows)))
        return Plan(rows, draws, rows, tile_draws, whole=True)
    tile_rows = min(max_rows, max(MIN_ROWS, _power_of_two(TILE_BYTES // (per_row * draws))))
    tile_draws = max(1, min(draws, TILE_BYTES // (per_row * tile_rows)))
    while tile_rows // 2 >= max(MIN_ROWS, rows) and tile_rows > MIN_ROWS:
        tile_rows //= 2
    return Plan(rows, draws, tile_rows, tile_draws, whole=False)


def run_tiles(
    call: Call, plan: Plan, sink: Sink, on_rows: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Run every tile of a plan into a sink; the sink commits, or aborts on any error.

    `on_rows` is called with the number of rows that each finished tile adds.
    """
    try:
        first = _tile_block(call.block, *next(plan.tiles()), plan)
        with TRACE_LOCK:
            run = compile_program(
                lambda block: call.program(call.task, block), first, version=call.task.spec.version
            )
            shapes = jax.eval_shape(run, first)
        sink.begin(_array_specs(call.task.results, shapes, plan))
        for rows, draws in plan.tiles():
            _write_tile(run(_tile_block(call.block, rows, draws, plan)), rows, draws, call, sink)
            if draws.stop == plan.draws:
                on_rows(rows.stop - rows.start)
        return sink.commit()
    except BaseException:  # also Ctrl-C: nothing half-written stays; rethrown as it is
        sink.abort()
        raise


def _write_tile(
    values: dict[str, jax.Array], rows: slice, draws: slice, call: Call, sink: Sink
) -> None:
    num_rows, num_draws = rows.stop - rows.start, draws.stop - draws.start
    for name, value in values.items():
        array = np.asarray(value)[:num_draws]
        if follows_rows(call.task.results[name]):
            array = array[:, :num_rows]
        sink.write(name, draws, rows, array)


def _array_specs(spec: KernelSpec, shapes: dict[str, Any], plan: Plan) -> dict[str, ArraySpec]:
    specs = {}
    for name, shape in shapes.items():
        has_rows = follows_rows(spec[name])
        rest = (plan.rows, *shape.shape[2:]) if has_rows else shape.shape[1:]
        specs[name] = ArraySpec((plan.draws, *rest), np.dtype(shape.dtype), has_rows)
    return specs


def _tile_block(block: Block, rows: slice, draws: slice, plan: Plan) -> Block:
    """The tile's part of a block, padded to the tile's size with copies of its first row."""
    row_index = _padded(rows, plan.tile_rows)
    draw_index = _padded(draws, plan.tile_draws)

    def by_row(value: Any) -> Any:
        return value if plan.whole else _take(value, rows, row_index, axis=0)

    def by_draw(value: Any) -> Any:
        return _take(value, draws, draw_index, axis=0)

    def by_both(value: Any) -> Any:
        value = by_draw(value)
        return value if plan.whole else _take(value, rows, row_index, axis=1)

    return block._replace(
        draws=by_draw(block.draws),
        rows=by_row(block.rows),
        row_inputs=jax.tree.map(by_row, block.row_inputs),
        posterior=jax.tree.map(by_draw, block.posterior),
        row_posterior=jax.tree.map(by_both, block.row_posterior),
        row_values=jax.tree.map(by_row, block.row_values),
    )


def _padded(part: slice, size: int) -> np.ndarray:
    index = np.arange(part.start, part.start + size)
    return np.where(index < part.stop, index, part.start)


def _take(value: Any, part: slice, index: np.ndarray, *, axis: int) -> Any:
    if len(index) == value.shape[axis] and part.start == 0 and part.stop == len(index):
        return value  # all of it: stays where it is
    return np.take(np.asarray(value), index, axis=axis)


def _power_of_two(number: int) -> int:
    return 1 << (max(number, 1).bit_length() - 1)
