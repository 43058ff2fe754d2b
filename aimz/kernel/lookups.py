"""Indices that data give, checked against the tables that they index.

JAX answers an index beyond the end of a table with the last entry, and -1, the code of a missing
category, with the last one too. Both would be wrong numbers without a word. JAX writes every index
as `where(i < 0, i + size, i)` before it gathers; this module finds those steps in a kernel's
program, computes each i that follows from the arguments alone, and refuses one outside 0..size-1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend import core

from aimz.errors import InputError

__all__ = [
    "Lookup",
    "check_lookups",
    "coded_columns",
    "known_outputs",
    "lookups_of",
    "needed_sizes",
]


@dataclass(frozen=True, eq=False)
class _Node:
    """One value of a program: an argument's leaf, a constant, or a result of an equation."""

    leaf: int | None = None
    constant: Any = None
    eqn: Any = None
    parents: tuple["_Node", ...] = ()
    output: int = 0
    arguments: frozenset[str] = field(default=frozenset())
    is_random: bool = False  # follows from a random key


@dataclass(frozen=True)
class Lookup:
    """An index into a table of `size` entries, and the arguments that it follows from."""

    size: int
    arguments: frozenset[str]
    index: _Node


def lookups_of(program: core.ClosedJaxpr, names: Sequence[str | None]) -> tuple[Lookup, ...]:
    """The lookups of a traced kernel that its arguments alone decide.

    `names` says to which argument each flat input belongs; None for a random key.
    """
    lookups: dict[int, Lookup] = {}
    leaves = [
        _Node(leaf=number, arguments=frozenset({name} if name else ()), is_random=name is None)
        for number, name in enumerate(names)
    ]
    _walk(program.jaxpr, [_Node(constant=value) for value in program.consts], leaves, lookups)
    return tuple(lookups.values())


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
    leaves = [leaf for name in sorted(arrays) for leaf in jax.tree.leaves(arrays[name])]
    computed: dict[_Node, list[Any]] = {}
    for lookup in lookups:
        yield lookup, np.asarray(_value(lookup.index, leaves, computed))


def check_lookups(
    lookups: Sequence[Lookup],
    arrays: Mapping[str, Any],
    first: int = 0,
    way_out: str = "clip the index in the kernel",
) -> None:
    """Refuse arguments that lead beyond a table; `first` is the number of the first row.

    Raises
    ------
    InputError
        `index-range`.
    """
    for lookup, index in _indices(lookups, arrays) if lookups else ():
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
    leaves = [leaf for name in sorted(arrays) for leaf in jax.tree.leaves(arrays[name])]
    computed: dict[_Node, list[Any]] = {}
    coded: dict[str, set[int]] = {}
    for lookup in lookups:
        index = np.asarray(_value(lookup.index, leaves, computed)).ravel()
        for name in lookup.arguments:
            values = np.asarray(arrays[name]) if not isinstance(arrays[name], dict) else index
            columns = values.reshape(len(values), -1).T if values.ndim in (1, 2) else ()
            same = {k for k, column in enumerate(columns) if np.array_equal(column, index)}
            coded.setdefault(name, set()).update(same)
    return {name: frozenset(columns) for name, columns in coded.items() if columns}


def known_outputs(
    program: core.ClosedJaxpr, names: Sequence[str | None], arrays: Mapping[str, Any]
) -> list[Any]:
    """Outputs of a traced kernel that its arguments alone decide; None in place of the others.

    `names` are as in `lookups_of`.
    """
    leaves = [leaf for name in sorted(arrays) for leaf in jax.tree.leaves(arrays[name])]
    nodes = [
        _Node(leaf=number, arguments=frozenset({name} if name else ()), is_random=name is None)
        for number, name in enumerate(names)
    ]
    constants = [_Node(constant=value) for value in program.consts]
    outputs = _walk(program.jaxpr, constants, nodes, {})
    computed: dict[_Node, list[Any]] = {}
    return [None if node.is_random else _value(node, leaves, computed) for node in outputs]


def _walk(
    jaxpr: core.Jaxpr,
    constants: Sequence[_Node],
    inputs: Sequence[_Node],
    lookups: dict[int, Lookup],
) -> list[_Node]:
    """Nodes of a jaxpr's outputs; those on the way go to `lookups`."""
    nodes: dict[Any, _Node] = dict(zip(jaxpr.constvars, constants, strict=True))
    nodes.update(zip(jaxpr.invars, inputs, strict=True))

    def node_of(atom: core.Var | core.Literal) -> _Node:
        return _Node(constant=atom.val) if isinstance(atom, core.Literal) else nodes[atom]

    for eqn in jaxpr.eqns:
        parents = tuple(node_of(atom) for atom in eqn.invars)
        inner = eqn.params.get("jaxpr") if eqn.primitive.name in ("jit", "pjit") else None
        if inner is not None:
            constants = [_Node(constant=value) for value in inner.consts]
            results = _walk(inner.jaxpr, constants, parents, lookups)
        else:
            results = _results(eqn, parents)
        nodes.update(zip(eqn.outvars, results, strict=True))
        for node in results:
            lookup = _as_lookup(node)
            if lookup is not None:
                lookups[id(node)] = lookup
    return [node_of(atom) for atom in jaxpr.outvars]


def _results(eqn: core.JaxprEqn, parents: tuple[_Node, ...]) -> list[_Node]:
    names = frozenset().union(*(parent.arguments for parent in parents))
    is_random = any(parent.is_random for parent in parents)
    is_random |= eqn.primitive.name.startswith("random_")
    return [
        _Node(eqn=eqn, parents=parents, output=n, arguments=names, is_random=is_random)
        for n in range(len(eqn.outvars))
    ]


def _as_lookup(node: _Node) -> Lookup | None:
    """The lookup, where a node is `select(i < 0, i, i + size)` and i follows from arguments."""
    if node.is_random or not node.arguments or not _is(node, "select_n", 3):
        return None
    if not np.issubdtype(node.eqn.outvars[0].aval.dtype, np.integer):
        return None
    below, index, wrapped = node.parents
    if not (_is(below, "lt", 2) and _is(wrapped, "add", 2)):
        return None
    zero, size = _number(below.parents[1]), _number(wrapped.parents[1])
    if below.parents[0] is not index or wrapped.parents[0] is not index or zero != 0 or not size:
        return None
    return Lookup(int(size), node.arguments, index)


def _is(node: _Node, primitive: str, operands: int) -> bool:
    is_it = node.eqn is not None and node.eqn.primitive.name == primitive
    return is_it and len(node.parents) == operands


def _number(node: _Node) -> Any:
    """The value of a constant, perhaps spread over an array; else None."""
    if node.constant is not None and np.ndim(node.constant) == 0:
        return np.asarray(node.constant).item()
    return _number(node.parents[0]) if _is(node, "broadcast_in_dim", 1) else None


def _value(node: _Node, leaves: Sequence[Any], computed: dict[_Node, list[Any]]) -> Any:
    if node.leaf is not None:
        return leaves[node.leaf]
    if node.eqn is None:
        return node.constant
    if node not in computed:
        operands = [_value(parent, leaves, computed) for parent in node.parents]
        params = node.eqn.primitive.get_bind_params(node.eqn.params)
        results = node.eqn.primitive.bind(*operands, **params)
        computed[node] = list(results) if node.eqn.primitive.multiple_results else [results]
    return computed[node][node.output]
