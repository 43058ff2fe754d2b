"""How rows and draws are cut into tiles."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from aimz.arrays import Array
from aimz.data import RowTile
from aimz.kernel import KernelSpec
from aimz.sampling import (
    Block,
    evidence_block,
    expectation_block,
    law_block,
    left_out_block,
    log_likelihood_block,
    score_block,
)
from aimz.store import Tile

__all__ = ["WIDE", "Plan", "length_of", "num_draws", "plan_tiles", "widened_block"]


#: Bytes of results that one tile may hold.
TILE_BYTES = 64 * 2**20
#: Rows of the smallest and of the largest tile.
MIN_ROWS, MAX_ROWS = 16, 1024
#: Bytes below which half a tile saves less in all its runs than it costs to compile once.
SMALL_BYTES = 2**19
#: Arrays of the largest size that are alive at once where rows stay whole, over all threads.
WIDE_ARRAYS = 8
#: Draws of the largest tile where rows stay whole.
MAX_WHOLE_DRAWS = 256
# What is computed in double precision: densities of large counts, means of which small differences
# are asked, noise behind values. Draws are in single precision everywhere, and the same.
WIDE = (
    *(evidence_block, expectation_block, law_block),
    *(left_out_block, log_likelihood_block, score_block),
)


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

    @cached_property
    def is_single(self) -> bool:
        """Whether all of it is one tile."""
        is_one_of_rows = self.rows is not None and self.rows <= self.tile_rows
        return is_one_of_rows and self.tile_draws == self.chains * self.draws

    def tiles(self, row_tile: RowTile) -> Iterator[Tile]:
        """Tiles of some rows, one for each block of draws."""
        blocks = [(slice(0, self.chains), slice(0, self.draws))]
        if self.tile_draws != self.chains * self.draws:
            blocks = [
                (slice(chain, chain + 1), slice(start, min(start + self.tile_draws, self.draws)))
                for chain in range(self.chains)
                for start in range(0, self.draws, self.tile_draws)
            ]
        first = row_tile.rows.start // self.tile_rows * len(blocks)
        for number, (chains, draws) in enumerate(blocks, first):
            yield Tile(number, row_tile.rows, chains, draws, row_tile.digest)


def plan_tiles(
    spec: KernelSpec, rows: int | None, chains: int, draws: int, *, by_element: bool = False
) -> Plan:
    """Choose the grid for a number of rows (None: not known), chains, and draws of each.

    `by_element`: nothing is summed over a tile, so all small ones may be padded to one size.

    >>> plan_tiles(spec, 5000, 1, 1000).tile_rows  # doctest: +SKIP
    1024
    """
    per_row = 4 * sum(
        math.prod(site.shape) // max(spec.rows, 1) for site in spec.sites if site.follows_rows
    )
    per_row, total = max(per_row, 4), chains * draws
    if spec.coupled:
        rows = rows or spec.rows
        size = max(per_row * max(rows, spec.rows), 4 * spec.widest * WIDE_ARRAYS)
        most = max(1, min(MAX_WHOLE_DRAWS, TILE_BYTES // size))
        return Plan(rows, chains, draws, rows, _even(total, draws, most), whole=True)
    tile_rows = min(MAX_ROWS, max(MIN_ROWS, _power_of_two(TILE_BYTES // (per_row * total))))
    tile_draws = _even(total, draws, max(1, TILE_BYTES // (per_row * tile_rows)))
    least = MIN_ROWS
    if by_element:  # on the way to a row most is fused: a byte for a number
        work = max(per_row, spec.widest) * total
        least = max(MIN_ROWS, _power_of_two(SMALL_BYTES // work))
    while rows is not None and tile_rows // 2 >= max(least, rows):
        tile_rows //= 2
    return Plan(rows, chains, draws, tile_rows, tile_draws, whole=False)


def widened_block(block: Block) -> Block:
    """A block whose floating-point numbers are in double precision."""

    def wide(leaf: Array) -> Any:
        is_single = jax.dtypes.issubdtype(leaf.dtype, np.floating)
        return leaf.astype(np.float64) if is_single else leaf

    widened: Block = jax.tree.map(wide, block)
    return widened


def length_of(span: slice) -> int:
    """How many elements a slice has."""
    return int(span.stop - span.start)


def num_draws(tile: Tile) -> int:
    """Draws of a tile."""
    return length_of(tile.chains) * length_of(tile.draws)


def _even(total: int, draws: int, most: int) -> int:
    """Draws of a tile: all, or equal parts of a chain."""
    if most >= total:
        return total
    return math.ceil(draws / math.ceil(draws / most))


def _power_of_two(number: int) -> int:
    return 1 << (max(number, 1).bit_length() - 1)
