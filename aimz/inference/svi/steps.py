"""Compiled steps of a variational fit: a chunk of batches at a time."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.svi import SVIState

from aimz.arrays import Array
from aimz.inference.binding import RowScale
from aimz.inference.engine import Course
from aimz.inference.svi.course import Advance, Phase, Plan, Rows
from aimz.inference.svi.shards import Shards
from aimz.inference.svi.task import SVIRecord, Task
from aimz.programs import Cache

__all__ = ["advance_by_chunks", "chunk_compiled", "step_program"]


_MAX_STEP_PROGRAMS = 16
# The kernel and the parts are kept too: their addresses are part of the name.
_STEPPED: Cache[Any, tuple[Callable[..., Any], Any, Any]] = Cache(_MAX_STEP_PROGRAMS)


def _chunk_program(task: Task, plan: Plan) -> Callable[..., Any]:
    """The function of arrays that takes a chunk of steps; inactive steps change nothing."""

    def chunk(
        state: SVIState,
        fixed: tuple[jax.Array, dict[str, Any] | None],
        arrays: dict[str, Any],
        weights: Array | None,
        index: Array | None,
        active: Array,
    ) -> Any:
        first = None if index is None else index[0]
        svi = task.set_up(plan.batch, fixed, task.kwargs(arrays, first))

        def move(carry: tuple[Any, Any], rows: Array | None) -> Any:
            state, total = carry
            batch = task.kwargs(arrays, rows)
            row_weights = weights if weights is None or rows is None else weights[rows]
            with RowScale(task.problem, plan.factors, row_weights):
                state, loss = svi.update(state, **batch)
            params = svi.optim.get_params(state.optim_state)
            return (state, jax.tree.map(jnp.add, total, params)), loss

        def step(carry: tuple[Any, Any], inputs: tuple[Any, Any]) -> Any:
            rows, on = inputs
            return jax.lax.cond(on, lambda c: move(c, rows), lambda c: (c, jnp.zeros(())), carry)

        total = jax.tree.map(jnp.zeros_like, svi.optim.get_params(state.optim_state))
        return jax.lax.scan(step, (state, total), (index, active))

    return chunk


def advance_by_chunks(
    task: Task, plan: Plan, record: SVIRecord, compile_chunk: Callable[..., Any]
) -> Advance:
    """The function that moves a course on by a chunk of steps, whose losses come when asked for."""
    shards = Shards(task, plan) if plan.shards else None
    chunk = _chunk_program(task, plan) if shards is None else shards.chunk
    beside = () if shards is None else shards.name
    program: list[Callable[..., Any]] = []

    def advance(
        course: Course, rows: Rows | None, active: np.ndarray, phase: Phase
    ) -> Callable[[], np.ndarray]:
        state = course.state if phase.rate is None else _with_rate(course.state, phase.rate)
        fixed = record.setup_key, record.start
        if shards is None:
            arguments = (state, fixed, *_arrays(task, rows), active)
        else:
            arguments = shards.placed(state, fixed, rows, active)
        if not program:
            program.append(compile_chunk(task, plan, chunk, *arguments, beside=beside))
        (course.state, total), losses = program[0](*arguments)

        def wait() -> np.ndarray:
            if phase.average:
                before, now = course.total, jax.tree.map(np.asarray, total)
                course.total = now if before is None else jax.tree.map(np.add, before, now)
                course.averaged += int(active.sum())
            return np.asarray(losses)

        return wait

    return advance


def _arrays(task: Task, rows: Rows | None) -> tuple[dict[str, Any], Any, np.ndarray | None]:
    """Arguments, weights and numbers of the rows of a chunk."""
    if rows is None:
        return task.arrays, task.weights, None
    if rows.arrays is None:
        return task.arrays, task.weights, rows.numbers
    return task.arrays | rows.arrays, rows.weights, rows.numbers


def step_program(
    task: Task,
    plan: Plan,
    chunk: Callable[..., Any],
    *arguments: object,
    beside: tuple[Hashable, ...] = (),
) -> Callable[..., Any]:
    """The program of single steps: only the kernel and the guide are traced to recognise it."""
    shapes = [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments)]
    inputs, users = task.problem.inputs, task.given
    parts: tuple[Any, ...] = ()
    if users is not None:
        guide = getattr(users.guide, "__dict__", {})
        parts = (users, *vars(users).values(), *guide.values())
    key = (
        task.version,
        id(task.problem.kernel),
        tuple(map(id, parts)),
        f"{jax.tree.structure(arguments)} {shapes} {inputs.static!r} {inputs.rows}",
    )

    def make() -> tuple[Callable[..., Any], Any, Any]:
        compiled = chunk_compiled(task, plan, chunk, *arguments, beside=beside)
        return compiled, task.problem.kernel, parts

    return _STEPPED.get_or_make(key, make)[0]


def chunk_compiled(
    task: Task,
    plan: Plan,
    chunk: Callable[..., Any],
    *arguments: object,
    beside: tuple[Hashable, ...] = (),
) -> Callable[..., Any]:
    """A chunk of steps, compiled once."""
    beside = (plan.batch, tuple(sorted(plan.factors.items())), *beside)
    return task.program(chunk, *arguments, beside=beside)


def _with_rate(state: SVIState, rate: float) -> Any:
    """The state with another step size for the default optimiser."""
    count, (params, inner) = state.optim_state
    old = inner.hyperparams["learning_rate"]
    rates = {**inner.hyperparams, "learning_rate": jnp.asarray(rate, old.dtype)}
    return state._replace(optim_state=(count, (params, inner._replace(hyperparams=rates))))
