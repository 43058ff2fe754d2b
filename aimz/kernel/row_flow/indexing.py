"""What `gather` and the scatters do to the row axis.

An index may be made of row numbers, 0, 1, 2, ..., as `X[jnp.arange(n), column]` and a plate's index
are: then row i reads, or writes, row i. Any other index into the row axis reads other rows.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import jax

from aimz.kernel.row_flow.rules import Equation, Flow, Mixes, Pools, Rule

__all__ = ["INDEXING"]


def _index_columns(indices: Flow, count: int) -> Sequence[Flow]:
    """Flow of each column of an index array; the last axis holds the columns."""
    if len(indices.parts) == count:
        return indices.parts
    return [indices] * count


def _gather(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    operand, indices = flows
    numbers, shape = eqn.params["dimension_numbers"], tuple(eqn.outvars[0].aval.shape)
    batch_axes = [a for a in range(len(shape)) if a not in numbers.offset_dims]
    paired = dict(
        zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    )
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    window = [a for a in range(len(operand.shape)) if a not in gone]
    offset = dict(zip(window, map(int, numbers.offset_dims), strict=True))
    if indices.mixed and operand.axis is None:
        raise Mixes(indices.mixed)
    if indices.axis == len(indices.shape) - 1:
        raise Mixes("gather takes its index from several rows")
    axis = None if indices.axis is None else batch_axes[indices.axis]
    if operand.axis is not None:
        axis = _gathered_axis(eqn, operand, indices, paired, offset, batch_axes)
    elif any(axis == batch_axes[b] and not operand.is_same(int(a)) for a, b in paired.items()):
        raise Mixes("gather combines rows with a table that changes with their position")
    same = {
        batch_axes[b]
        for b in range(len(indices.shape) - 1)
        if indices.is_same(b)
        and all(operand.is_same(int(a)) for a, other in paired.items() if other == b)
    }
    same |= {out for a, out in offset.items() if operand.is_same(a)}
    return [Flow(shape, axis, frozenset(same) - {axis})]


def _gathered_axis(
    eqn: Equation,
    operand: Flow,
    indices: Flow,
    paired: Mapping[int, int],
    offset: Mapping[int, int],
    batch_axes: Sequence[int],
) -> int:
    """Row axis of the result when the table itself follows the rows."""
    axis = cast("int", operand.axis)  # the caller asks only where there is one
    starts = [int(a) for a in eqn.params["dimension_numbers"].start_index_map]
    if axis in paired:
        b = int(paired[axis])
        if indices.axis == b or (indices.axis is None and indices.is_same(b)):
            return batch_axes[b]
        raise Mixes(
            indices.mixed or "gather combines rows with an index that changes with their position"
        )
    if axis not in starts:
        if indices.axis is not None or indices.mixed:
            raise Mixes(indices.mixed or "gather reads other rows")
        if eqn.params["slice_sizes"][axis] != operand.shape[axis]:
            raise Mixes("gather takes some of the rows")
        return offset[axis]
    columns = _index_columns(indices, len(starts))
    at = columns[starts.index(axis)].index
    single = eqn.params["slice_sizes"][axis] == 1 and (len(starts) == 1 or indices.parts)
    if at is not None and single and indices.shape[at] == operand.shape[axis]:
        others = [column for column, a in zip(columns, starts, strict=True) if a != axis]
        if all(f.axis == at or (f.axis is None and f.is_same(at)) for f in others):
            return batch_axes[at]
    raise Mixes("gather reads some of the rows, or other rows")


def _scatter(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    operand, indices, updates = flows
    numbers = eqn.params["dimension_numbers"]
    if all(flow.axis is None and not flow.mixed for flow in flows):
        return [Flow(tuple(eqn.outvars[0].aval.shape))]
    gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    window = [a for a in range(len(operand.shape)) if a not in gone]
    to = dict(zip(window, map(int, numbers.update_window_dims), strict=True))
    spots = [a for a in range(len(updates.shape)) if a not in numbers.update_window_dims]
    paired = zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
    to |= {int(a): spots[int(b)] for a, b in paired}
    columns = _index_columns(indices, len(numbers.scatter_dims_to_operand_dims))
    by_number = _rows_by_number(operand, indices, columns, numbers, spots)
    for axis in range(len(operand.shape)):
        if operand.axis not in (None, axis):
            continue
        if (axis in by_number or axis in to) and _scatter_fits(
            axis, by_number | to, flows, columns, spots
        ):
            return [Flow(tuple(eqn.outvars[0].aval.shape), axis)]
    gathers = operand.axis is None and eqn.primitive.name not in ("scatter", "scatter_set")
    how = f"{eqn.primitive.name} writes to rows by number"
    raise Pools(how) if gathers else Mixes(how)


def _rows_by_number(
    operand: Flow,
    indices: Flow,
    columns: Sequence[Flow],
    numbers: jax.lax.ScatterDimensionNumbers,
    spots: Sequence[int],
) -> dict[int, int]:
    """Axes written at 0, 1, 2, ...: operand axis to update axis."""
    if len(columns) > 1 and not indices.parts:
        return {}
    axes = {}
    for column, axis in zip(columns, numbers.scatter_dims_to_operand_dims, strict=True):
        at = column.index
        if at is not None and indices.shape[at] == operand.shape[axis]:
            axes[int(axis)] = spots[at]
    return axes


def _scatter_fits(
    axis: int,
    to: Mapping[int, int],
    flows: Sequence[Flow],
    columns: Sequence[Flow],
    spots: Sequence[int],
) -> bool:
    """Whether every operand of a scatter keeps to its own index of this axis."""
    operand, indices, updates = flows
    source = to[axis]
    if updates.shape[source] != operand.shape[axis]:
        return False
    if operand.axis is None and not operand.is_same(axis):
        return False
    if updates.axis not in (None, source) or (updates.axis is None and not updates.is_same(source)):
        return False
    if source not in spots:  # the axis lies in the window: one index serves all rows
        return indices.axis is None and not indices.mixed
    spot = spots.index(source)
    return all(spot in (f.index, f.axis) or (f.axis is None and f.is_same(spot)) for f in columns)


_OPERATIONS = ("", "add", "max", "min", "mul", "sub")
INDEXING: dict[str, Rule] = {
    f"scatter{sign}{operation}" if operation else "scatter": _scatter
    for operation in _OPERATIONS
    for sign in "-_"  # spelled one way or the other, by version
}
INDEXING["gather"] = _gather
