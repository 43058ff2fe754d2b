"""A tile of which the program would hold much at once, computed a few draws after the others."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from aimz.arrays import Array
from aimz.families import first_fault
from aimz.programs import Bound
from aimz.sampling import Block, Found, Task

__all__ = ["WIDE_BYTES", "Program", "in_parts", "with_less_at_once"]


type Program = Callable[[Task, Block], Found]

#: Bytes of the largest value of programs that are not asked what they need.
WIDE_BYTES = 64 * 2**20
#: Bytes that a program may need, and what a part of a larger one is to: what a CPU's caches hold.
CPU_BYTES, CPU_PART_BYTES = 64 * 2**20, 8 * 2**20
CARD_BYTES, CARD_PART_BYTES = 2**30, 2**28
_BY_DRAW = ("draws", "posterior", "row_posterior")


def with_less_at_once(
    run: Bound,
    program: Program,
    block: Block,
    compiled: Callable[[Program], Bound],
    step: int = 1,
) -> Bound:
    """The program of a block as it is or, where it needs much memory, in parts of its draws.

    Parts have a multiple of `step` draws.
    """
    draws = len(block.draws)
    is_cpu = jax.default_backend() == "cpu"
    most, of_part = (CPU_BYTES, CPU_PART_BYTES) if is_cpu else (CARD_BYTES, CARD_PART_BYTES)
    needed = run.temp_bytes(block)
    fitting = max(step, draws * of_part // max(needed, 1))
    if needed <= most or fitting >= draws:
        return run
    sizes = (n for n in range(step, draws, step) if draws % n == 0 and n <= fitting)
    return compiled(in_parts(program, max(sizes)))


def in_parts(program: Program, size: int) -> Program:
    """A program that computes so many draws of its block at once, one part after another."""

    def run(task: Task, block: Block) -> Found:
        held = {name: getattr(block, name) for name in _BY_DRAW}
        parts = jax.tree.map(lambda v: jnp.reshape(v, (-1, size, *jnp.shape(v)[1:])), held)
        found: Found = jax.lax.map(lambda part: program(task, block._replace(**part)), parts)
        values = {
            name: jax.tree.map(_by_row if task.results[name].follows_rows else _by_draw, value)
            for name, value in found.values.items()
        }
        last = jax.tree.map(lambda v: jnp.moveaxis(v, 0, -1), found.faults)
        return Found(values, {name: first_fault(of_site) for name, of_site in last.items()})

    return run


def _by_row(value: Array) -> Any:
    """Values (part, row, draw, ...) as (row, draw, ...)."""
    rows_first = jnp.moveaxis(value, 0, 1)
    return rows_first.reshape(value.shape[1], -1, *value.shape[3:])


def _by_draw(value: Array) -> Any:
    """Values (part, draw, ...) as (draw, ...)."""
    return jnp.reshape(value, (-1, *value.shape[2:]))
