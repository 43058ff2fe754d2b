"""Indices that data give, checked against the tables that they index.

JAX answers an index beyond the end of a table with the last entry, and -1, the code of a missing
category, with the last one too. Both would be wrong numbers without a word. JAX writes every index
as `where(i < 0, i + size, i)` before it gathers; this module finds those steps in a kernel's
program, computes each i that follows from the arguments alone, and refuses one outside 0..size-1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.errors import InputError
from aimz.kernel.graph import Graph, Node, Values

__all__ = [
    "Lookup",
    "as_lookup",
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
