"""Two draws of a block at once, where a processor works best on pairs."""

import jax
import jax.numpy as jnp
import numpy as np

from aimz.families import first_fault
from aimz.programs import Draw
from aimz.sampling.block import Block, Task
from aimz.sampling.tile import Found, run_block, site_values

__all__ = ["predict_pairs"]


def predict_pairs(task: Task, block: Block) -> Found:
    """`predict_block` of sites of 0 and 1, two draws in the bytes of a uint16: (row, draw / 2).

    The draws are an even number of them and begin at an even one. Both of a pair are drawn in one
    loop, which computes the block of random bits that they share once.
    """
    pair = Draw.numbered(block.draws[::2]).pair

    @jax.jit  # both halves by one trace of the kernel
    def draw_half(block: Block) -> Found:
        return run_block(task, block, site_values)

    def half_of(half: int) -> Block:
        posterior, row_posterior = jax.tree.map(
            lambda values: values[half::2], (block.posterior, block.row_posterior)
        )
        draws = Draw(pair, jnp.full_like(pair, half))
        return block._replace(draws=draws, posterior=posterior, row_posterior=row_posterior)

    first, second = draw_half(half_of(0)), draw_half(half_of(1))
    values = {
        name: first.values[name].astype(np.uint16)
        | second.values[name].astype(np.uint16) << np.uint16(8)
        for name in task.sites
    }
    faults = {
        name: first_fault(jax.tree.map(lambda *v: jnp.stack(v, -1), of_first, second.faults[name]))
        for name, of_first in first.faults.items()
    }
    return Found(values, faults)
