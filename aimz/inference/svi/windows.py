"""Batches of rows that stay in a file: read by blocks, and mixed among the blocks of a window.

At each pass the blocks, stretches of about a megabyte of rows, come in a new random order. Those of
a window are read one after another, its rows are put into a random order, and batches are cut from
them: a batch may hold the end of a window and the beginning of the next, and every row is used
equally often. The order follows from the key, the number of rows and the bytes of a row as the
kernel sees it: not from what the rows were read from.
"""

from collections.abc import Iterator

import jax
import numpy as np

from aimz.arrays import give_back
from aimz.inference.binding import as_seed, bytes_of_row, rows_in_order
from aimz.inference.engine import Problem
from aimz.inference.svi.course import CHUNK, Plan, Rows

__all__ = ["Windows", "batches_at_once"]


BLOCK_BYTES, WINDOW_BLOCKS = 2**20, 32
#: Bytes of the rows of the steps that are taken at once.
_CHUNK_BYTES = 2**25


class Windows:
    """Rows of one batch after another, endlessly.

    Parameters
    ----------
    plan : Plan
        How many rows there are and are in a batch, and whether they are shuffled.
    rng_key : jax.Array
        What their order follows from.
    problem : Problem
        Whose rows they are.
    """

    def __init__(self, plan: Plan, rng_key: jax.Array, problem: Problem) -> None:
        self.plan = plan
        self.arrays = rows_in_order(problem)
        per_row = bytes_of_row(self.arrays)
        if problem.weights is not None:
            self.arrays = {**self.arrays, "": np.asarray(problem.weights)}
        self.size = batches_at_once(plan.batch * per_row)
        self.block = max(1, BLOCK_BYTES // per_row)
        seed = np.random.SeedSequence(as_seed(rng_key))
        self._generator = np.random.Generator(np.random.Philox(seed))
        self._windows = self._endlessly()
        self._waiting: dict[str, np.ndarray] = next(self._windows)

    def chunk(self, count: int) -> Rows:
        """The next `count` batches, padded to a chunk with the last of them."""
        wanted, filled = count * self.plan.batch, 0
        rows = {
            n: np.zeros((self.size * self.plan.batch, *v.shape[1:]), v.dtype)
            for n, v in self._waiting.items()
        }
        while filled < wanted:
            have = len(next(iter(self._waiting.values())))
            if not have:
                self._waiting = next(self._windows)
                continue
            taken = min(have, wanted - filled)
            for name, waiting in self._waiting.items():
                rows[name][filled : filled + taken] = waiting[:taken]
            self._waiting = {n: v[taken:] for n, v in self._waiting.items()}
            filled += taken
        weights = rows.pop("", None)
        index = np.arange(wanted, dtype=np.int32).reshape(count, -1)
        index = np.concatenate([index, *[index[-1:]] * (self.size - count)])
        return Rows(index, rows, weights)

    def prepare(self, count: int) -> None:
        """Have the next window ready, where the rows of so many batches are not."""
        if count and not len(next(iter(self._waiting.values()))):
            self._waiting = next(self._windows)

    def _endlessly(self) -> Iterator[dict[str, np.ndarray]]:
        """The rows of one window after another, in their order."""
        blocks = -(-self.plan.rows // self.block)
        while True:
            order = self._generator.permutation(blocks) if self.plan.shuffle else np.arange(blocks)
            for first in range(0, blocks, WINDOW_BLOCKS):
                starts = order[first : first + WINDOW_BLOCKS] * self.block
                read = {n: _read(v, starts, self.block) for n, v in self.arrays.items()}
                if self.plan.shuffle:
                    mixed = self._generator.permutation(len(next(iter(read.values()))))
                    read = {n: v[mixed] for n, v in read.items()}
                yield read


def batches_at_once(bytes_of_batch: int) -> int:
    """Steps whose rows are brought to the devices together."""
    return max(1, min(CHUNK, _CHUNK_BYTES // bytes_of_batch))


def _read(array: np.ndarray, starts: np.ndarray, rows: int) -> np.ndarray:
    """Blocks of rows of an array, whose pages are given back."""
    read = np.concatenate([array[start : start + rows] for start in starts])
    give_back(array)
    return read
