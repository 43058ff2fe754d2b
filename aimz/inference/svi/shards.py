"""Steps whose batches are cut into shards, spread over the devices of this process.

A shard is a part of a batch, as large as the others. Its rows count as often as if they were the
batch, and all shards have the same draws of the guide, so that the mean of their losses is the loss
of the batch, and that of their gradients its gradient, but for rounding.

How many devices there are changes no bits. What a shard gives is computed in the body of a loop
whose length the compiler is not told, and over an axis that is never of length one: the same code
runs for one shard on each device and for all on one. Each device then adds up what all shards gave,
in their order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from numpyro.infer.svi import SVIState
from numpyro.optim import Minimize

from aimz.arrays import Array
from aimz.choices import devices_in_use
from aimz.errors import InputError
from aimz.inference.binding import RowScale, rows_in_order
from aimz.inference.svi.course import CHUNK, Plan, Rows
from aimz.inference.svi.guides import guide_name, knows_no_rows
from aimz.inference.svi.task import Task

__all__ = ["Shards", "check_shards", "on_one_device"]


_AXIS = "shard"
#: Losses that are sums of log densities, of which those of rows are a part.
_SUMS = (Trace_ELBO, TraceMeanField_ELBO)


def check_shards(task: Task, plan: Plan) -> None:
    """Refuse shards whose losses would not have the loss of their batch as a mean.

    Raises
    ------
    InputError
        `shards`.
    """
    reason = _why_not(task) if plan.shards else ""
    if reason:
        msg = f"{reason} num_shards={plan.shards} would fit something else. Leave it out."
        raise InputError(msg, code="shards")


def _why_not(task: Task) -> str:
    if task.is_mutable:
        return "The kernel keeps mutable state, of which each shard would have its own."
    if task.is_subsampled:
        return "A plate of the kernel draws its own rows."
    if task.given is None:
        return ""
    svi = task.given
    if type(svi.loss) not in _SUMS:
        return f"{type(svi.loss).__name__} is no sum over rows."
    if isinstance(svi.optim, Minimize):
        return "The optimiser Minimize looks at the loss many times a step."
    if not knows_no_rows(svi.guide):
        return f"The guide '{guide_name(svi.guide):.40}' may read rows, and each shard has others."
    return ""


def on_one_device(state: SVIState) -> Any:
    """A state, where all that is not done by shards computes."""
    return jax.device_put(state, devices_in_use()[0])


@dataclass(frozen=True)
class Shards:
    """How the steps of a plan are taken by shards; `chunk` is called inside a trace."""

    task: Task
    plan: Plan

    @cached_property
    def mesh(self) -> Mesh:
        """As many of the devices as divide the shards."""
        devices = devices_in_use()
        count = max(n for n in range(1, len(devices) + 1) if self.plan.shards % n == 0)
        return Mesh(np.array(devices[:count]), (_AXIS,))

    @property
    def name(self) -> tuple[Any, ...]:
        """What the program follows from beside the task."""
        return (self.plan.shards, self.plan.is_whole, tuple(map(str, self.mesh.devices)))

    def chunk(
        self,
        state: SVIState,
        fixed: tuple[jax.Array, dict[str, Any] | None],
        arrays: dict[str, Any],
        rows: tuple[dict[str, Any], Array | None],
        counts: tuple[Array, Array],
    ) -> Any:
        """Take a chunk of steps: of a batch each, cut into shards, or of all rows again and again.

        `rows` are the arguments that are cut and the weights, ([step,] shard, row, ...); `counts`
        how many steps are taken, and how many shards a device has.
        """
        everywhere, cut = PartitionSpec(), self._cut
        steps = jax.shard_map(
            self._steps,
            mesh=self.mesh,
            in_specs=(everywhere, everywhere, everywhere, cut, everywhere),
            out_specs=everywhere,
            check_vma=False,
        )
        return steps(state, fixed, arrays, rows, counts)

    def placed(
        self,
        state: SVIState,
        fixed: tuple[jax.Array, dict[str, Any] | None],
        rows: Rows | None,
        active: np.ndarray,
    ) -> tuple[Any, ...]:
        """The arguments of a chunk, where they are computed with."""
        local = self.plan.shards // self.mesh.size
        counts = np.int32(active.sum()), np.int32(local)
        cut = self._whole if rows is None else self._placed(self._in_shards(rows))
        return (*self._everywhere((state, fixed)), self._others, cut, self._everywhere(counts))

    # ------------------------------------------------------------------ where arrays are
    @property
    def _cut(self) -> PartitionSpec:
        return PartitionSpec(_AXIS) if self.plan.is_whole else PartitionSpec(None, _AXIS)

    def _everywhere(self, tree: Any) -> Any:
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def _placed(self, rows: Any) -> Any:
        return jax.device_put(rows, NamedSharding(self.mesh, self._cut))

    @cached_property
    def _others(self) -> Any:
        """The arguments that are not cut with the rows."""
        arrays, cut = self.task.problem.inputs.arrays, rows_in_order(self.task.problem)
        return self._everywhere({n: v for n, v in arrays.items() if n not in cut})

    @cached_property
    def _whole(self) -> Any:
        """All rows in shards, of a plan whose steps see them all."""
        numbers = np.arange(self.plan.rows)
        return self._placed(self._in_shards(Rows(numbers)))

    def _in_shards(self, rows: Rows) -> tuple[dict[str, Any], Array | None]:
        """The rows of some batches, and their weights: ([step,] shard, row, ...)."""
        problem, numbers = self.task.problem, rows.numbers
        shape = (*numbers.shape[:-1], self.plan.shards, self.plan.rows_of_shard)
        arrays, weights = rows.arrays, rows.weights
        if arrays is None:
            arrays, weights = rows_in_order(problem), problem.weights
        every = dict(arrays) if weights is None else {**arrays, "": np.asarray(weights)}

        def cut(leaf: Array) -> Any:
            some = np.asarray(leaf)[numbers.ravel()]
            return some.reshape(*shape, *some.shape[1:])

        taken = {n: jax.tree.map(cut, v) for n, v in every.items()}
        return taken, taken.pop("", None)

    # ------------------------------------------------------------------ inside a trace
    def _steps(
        self,
        state: SVIState,
        fixed: tuple[jax.Array, dict[str, Any] | None],
        arrays: dict[str, Any],
        rows: tuple[dict[str, Any], Array | None],
        counts: tuple[Array, Array],
    ) -> Any:
        """The steps of a chunk, on the shards of one device."""
        plan = self.plan
        size = CHUNK if plan.is_whole else len(jax.tree.leaves(rows)[0])
        first = jax.tree.map(lambda v: v[(0,) * (1 if plan.is_whole else 2)], rows[0])
        svi = self.task.set_up(plan.rows_of_shard, fixed, self.task.kwargs({**arrays, **first}))

        def step(number: Array, carry: tuple[Any, Any, jax.Array]) -> tuple[Any, Any, jax.Array]:
            state, total, losses = carry
            batch = rows
            if not plan.is_whole:
                batch = jax.tree.map(lambda v: lax.dynamic_index_in_dim(v, number, 0, False), rows)
            key, step_key = jax.random.split(state.rng_key)
            params = svi.optim.get_params(state.optim_state)
            loss, slopes = self._mean(svi, step_key, params, arrays, batch, counts[1])
            moved = svi.optim.update(slopes, state.optim_state, value=loss)
            total = jax.tree.map(jnp.add, total, svi.optim.get_params(moved))
            state = SVIState(moved, state.mutable_state, key)
            return state, total, losses.at[number].set(loss)

        total = jax.tree.map(jnp.zeros_like, svi.optim.get_params(state.optim_state))
        carry = (state, total, jnp.zeros(size))
        state, total, losses = lax.fori_loop(0, counts[0], step, carry)
        return (state, total), losses

    def _mean(
        self,
        svi: SVI,
        key: jax.Array,
        params: Any,
        arrays: Mapping[str, Any],
        batch: tuple[dict[str, Any], Array | None],
        count: Array,
    ) -> Any:
        """Loss and gradient of a batch."""
        local = shards = self.plan.shards // self.mesh.size
        if shards == 1:  # an axis of one would be left out of the loop's body: it would be another
            batch, shards = jax.tree.map(lambda v: jnp.concatenate([v, v]), batch), 2

        def loss_of(params: Any, rows: dict[str, Any], weights: Array | None) -> Any:
            kwargs = self.task.kwargs({**arrays, **rows})
            with RowScale(self.task.problem, self.plan.factors, weights):
                constrained = svi.constrain_fn(params)
                every = {**kwargs, **svi.static_kwargs}
                return svi.loss.loss(key, constrained, svi.model, svi.guide, **every)

        flat, back = ravel_pytree((jnp.zeros(()), params))

        def of_shard(number: Array, found: Array) -> Any:
            own = jax.tree.map(lambda v: lax.dynamic_index_in_dim(v, number, 0, False), batch)
            slopes, _ = ravel_pytree(jax.value_and_grad(loss_of)(params, *own))
            return lax.dynamic_update_index_in_dim(found, slopes.astype(found.dtype), number, 0)

        found = lax.fori_loop(0, count, of_shard, jnp.zeros((shards, flat.size), flat.dtype))
        every = lax.all_gather(found[:local], _AXIS, tiled=True)
        total, _ = lax.scan(lambda total, own: (total + own, None), every[0], every[1:])
        return back(total / self.plan.shards)
