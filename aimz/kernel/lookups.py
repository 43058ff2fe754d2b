"""Indices that data give, checked against the tables that they index.

JAX answers an index beyond the end of a table with the last entry, and -1, the code of a missing
category, with the last one too. Both would be wrong numbers without a word. JAX writes every index
as `where(i < 0, i + size, i)` before it gathers; this module finds those steps in a kernel's
program, computes each i that follows from the arguments alone, and refuses one outside 0..size-1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core
from jax.lax import GatherScatterMode

from aimz.errors import InputError
from aimz.kernel.graph import Graph, Node, Values, graph_of

__all__ = [
    "Lookup",
    "as_lookup",
    "check_fixed_indices",
    "check_lookups",
    "coded_columns",
    "lookups_of",
    "needed_sizes",
]


@dataclass(frozen=True)
class Lookup:
    """An index into a table of `size` entries, and the arguments that it follows from."""

    size: int
    arguments: frozenset[str]
    index: Node


def lookups_of(graph: Graph) -> tuple[Lookup, ...]:
    """The lookups of a traced kernel that its arguments alone decide."""
    found = (as_lookup(node) for node in graph.nodes)
    return tuple(lookup for lookup in found if lookup is not None)


def needed_sizes(lookups: Sequence[Lookup], arrays: Mapping[str, Any]) -> dict[int, int]:
    """Sizes of tables that arguments lead beyond, and the sizes that they would need."""
    needed: dict[int, int] = {}
    for lookup, index in _indices(lookups, arrays):
        most = int(index.max(initial=-1)) + 1
        if most > lookup.size and index.min(initial=0) >= 0:
            needed[lookup.size] = max(most, needed.get(lookup.size, 0))
    return needed


def _indices(
    lookups: Sequence[Lookup], arrays: Mapping[str, Any]
) -> Iterator[tuple[Lookup, np.ndarray]]:
    """The lookups with the indices that arguments give."""
    values = Values(arrays)
    for lookup in lookups:
        yield lookup, np.asarray(values.of(lookup.index))


def check_lookups(
    lookups: Sequence[Lookup],
    arrays: Mapping[str, Any],
    first: int,
    way_out: str,
) -> None:
    """Refuse arguments that lead beyond a table; `first` is the number of the first row.

    Raises
    ------
    InputError
        `index-range`.
    """
    for lookup, index in _indices(lookups, arrays):
        outside = (index < 0) | (index >= lookup.size)
        if not outside.any():
            continue
        where = np.argwhere(outside)[0]
        place = f" in row {first + int(where[0])}" if len(where) else ""
        named = "', '".join(sorted(lookup.arguments))
        msg = (
            f"'{named}' leads to index {index[tuple(where)]}{place} of a table of {lookup.size} "
            f"entries, and JAX would take the last one. Pass codes from 0 to {lookup.size - 1}, or "
            f"{way_out}."
        )
        raise InputError(msg, code="index-range")


def coded_columns(
    lookups: Sequence[Lookup], arrays: Mapping[str, Any]
) -> dict[str, frozenset[int]]:
    """Columns of arguments that are indices of a table: codes of categories, not quantities.

    An argument of one value per row has column 0.
    """
    coded: dict[str, set[int]] = {}
    for lookup, found in _indices(lookups, arrays) if lookups else ():
        index = found.ravel()
        for name in lookup.arguments:
            values = np.asarray(arrays[name]) if not isinstance(arrays[name], dict) else index
            columns = values.reshape(len(values), -1).T if values.ndim in (1, 2) else ()
            same = {k for k, column in enumerate(columns) if np.array_equal(column, index)}
            coded.setdefault(name, set()).update(same)
    return {name: frozenset(columns) for name, columns in coded.items() if columns}


def as_lookup(node: Node) -> Lookup | None:
    """The lookup, where a node is `select(i < 0, i, i + size)` and i follows from arguments."""
    if node.is_random or not node.arguments or not node.is_from("select_n", 3):
        return None
    if not np.issubdtype(node.eqn.outvars[0].aval.dtype, np.integer):
        return None
    below, index, wrapped = node.parents
    if not (below.is_from("lt", 2) and wrapped.is_from("add", 2)):
        return None
    zero, size = below.parents[1].number, wrapped.parents[1].number
    if below.parents[0] is not index or wrapped.parents[0] is not index or zero != 0 or not size:
        return None
    return Lookup(int(size), node.arguments, index)


class _Reach(NamedTuple):
    """Where an equation begins to read along an axis of some size, and how many entries it takes.

    Of several axes `begin` holds one number each on its last axis: `place` is which.
    """

    begin: Node
    size: int
    width: int
    axis: int
    place: int | None = None


def check_fixed_indices(graph: Graph, rows: int, *, is_inner: bool = False) -> None:
    """Refuse an index that the kernel itself writes beyond an axis, such as `X[:, 5]` of 2 columns.

    An axis of the rows is left alone, of which a call may hold the first only; inside of a loop
    (`is_inner`) it is not known which is one.

    Raises
    ------
    InputError
        `index-range`.
    """
    values = Values({})
    for node in graph.nodes:
        if node.output:  # another result of the same equation
            continue
        for reach in _reaches(node):
            operand = node.parents[0]
            may_be_rows = is_inner or (reach.axis == 0 and bool(operand.arguments))
            is_decided = not (reach.begin.arguments or reach.begin.is_random)
            if not is_decided or (reach.size == rows and may_be_rows):
                continue
            index = np.asarray(values.of(reach.begin))
            index = index if reach.place is None else index[..., reach.place]
            outside = (index < 0) | (index + reach.width > reach.size)
            if outside.any():
                raise _beyond(int(index[outside].flat[0]), reach, operand)
        for inner in _inner_programs(node.eqn.params):
            names = [None] * len(inner.jaxpr.invars)  # what it is called with is not known
            check_fixed_indices(graph_of(inner, names), rows, is_inner=True)


def _inner_programs(params: Mapping[str, Any]) -> Iterator[core.ClosedJaxpr]:
    """Bodies of loops and branches of a condition."""
    for value in params.values():
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, core.ClosedJaxpr):
                yield inner


def _reaches(node: Node) -> Iterator[_Reach]:
    """Where an equation reads its operand, axis by axis, if JAX silently moves what lies beyond."""
    params = node.eqn.params
    if node.primitive == "dynamic_slice":
        shape, widths = node.eqn.invars[0].aval.shape, params["slice_sizes"]
        begins = zip(node.parents[1:], shape, widths, strict=True)
        for axis, (index, size, width) in enumerate(begins):
            yield _Reach(index, size, width, axis)
    elif node.primitive == "gather" and params["mode"] == GatherScatterMode.PROMISE_IN_BOUNDS:
        shape, widths = node.eqn.invars[0].aval.shape, params["slice_sizes"]
        for place, axis in enumerate(params["dimension_numbers"].start_index_map):
            yield _Reach(node.parents[1], shape[axis], widths[axis], int(axis), place)


def _beyond(outside: int, reach: _Reach, operand: Node) -> InputError:
    written = outside if outside >= 0 else outside - reach.size  # before JAX counted from the end
    entry = f"entry {written}" if reach.width == 1 else f"{reach.width} entries from {written} on"
    named = f" of '{', '.join(sorted(operand.arguments))}'" if operand.arguments else ""
    msg = (
        f"The kernel takes {entry} of an axis of {reach.size}{named}, and JAX would take the "
        f"{'last' if outside >= 0 else 'first'} in its place. Entries are counted from 0 to "
        f"{reach.size - 1}."
    )
    return InputError(msg, code="index-range")
