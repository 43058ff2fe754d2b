"""A traced kernel as a graph of values, of which those that follow from the arguments are known.

What data do inside a kernel is checked before it runs: the few values that a check asks for are
computed from the arguments of the call, and nothing else is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.extend import core

__all__ = ["Graph", "Node", "Values", "graph_of", "known_outputs", "results_of"]


# Calls of a program inside of another, and the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


@dataclass(frozen=True, eq=False)
class Node:
    """One value of a program: an argument's leaf, a constant, or a result of an equation."""

    leaf: int | None = None
    constant: Any = None
    eqn: Any = None
    parents: tuple["Node", ...] = ()
    output: int = 0
    arguments: frozenset[str] = field(default=frozenset())
    is_random: bool = False  # follows from a random key

    def is_from(self, primitive: str, operands: int) -> bool:
        """Whether an equation of that primitive, with so many operands, gives it."""
        return self.primitive == primitive and len(self.parents) == operands

    @property
    def primitive(self) -> str:
        """Name of the primitive that gives it; "" where none does."""
        return self.eqn.primitive.name if self.eqn is not None else ""

    @property
    def number(self) -> Any:
        """The value of a constant, perhaps spread over an array; else None."""
        if self.constant is not None and np.ndim(self.constant) == 0:
            return np.asarray(self.constant).item()
        return self.parents[0].number if self.is_from("broadcast_in_dim", 1) else None


@dataclass(frozen=True)
class Graph:
    """The values of a program that equations give, those of programs inside of it too, in order."""

    nodes: tuple[Node, ...]
    outputs: tuple[Node, ...]


@dataclass(frozen=True)
class Values:
    """Values of nodes that follow from the arguments of a call alone."""

    arrays: Mapping[str, Any]
    computed: dict[Node, list[Any]] = field(default_factory=dict)

    @cached_property
    def leaves(self) -> list[Any]:
        """Leaves of the arguments, in the order of a program's inputs."""
        return [leaf for name in sorted(self.arrays) for leaf in jax.tree.leaves(self.arrays[name])]

    def of(self, node: Node) -> Any:
        """The value of a node, as JAX computes it."""
        if node.leaf is not None:
            return self.leaves[node.leaf]
        if node.eqn is None:
            return node.constant
        if node not in self.computed:
            results = results_of(node.eqn, [self.of(parent) for parent in node.parents])
            self.computed[node] = results
        return self.computed[node][node.output]


def results_of(eqn: core.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Results of an equation on some operands."""
    params = eqn.primitive.get_bind_params(eqn.params)
    results = eqn.primitive.bind(*operands, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def graph_of(program: core.ClosedJaxpr, names: Sequence[str | None]) -> Graph:
    """The graph of a traced kernel.

    `names` says to which argument each flat input belongs; None for a random key.
    """
    leaves = [
        Node(leaf=number, arguments=frozenset({name} if name else ()), is_random=name is None)
        for number, name in enumerate(names)
    ]
    nodes: list[Node] = []
    constants = [Node(constant=value) for value in program.consts]
    outputs = _walk(program.jaxpr, constants, leaves, nodes)
    return Graph(tuple(nodes), tuple(outputs))


def known_outputs(
    program: core.ClosedJaxpr, names: Sequence[str | None], arrays: Mapping[str, Any]
) -> list[Any]:
    """Outputs of a traced kernel that its arguments alone decide; None in place of the others.

    `names` are as in `graph_of`.
    """
    values = Values(arrays)
    outputs = graph_of(program, names).outputs
    return [None if node.is_random else values.of(node) for node in outputs]


def _walk(
    jaxpr: core.Jaxpr, constants: Sequence[Node], inputs: Sequence[Node], seen: list[Node]
) -> list[Node]:
    """Nodes of a jaxpr's outputs; those on the way are added to `seen`."""
    nodes: dict[Any, Node] = dict(zip(jaxpr.constvars, constants, strict=True))
    nodes.update(zip(jaxpr.invars, inputs, strict=True))

    def node_of(atom: core.Var | core.Literal) -> Node:
        return Node(constant=atom.val) if isinstance(atom, core.Literal) else nodes[atom]

    for eqn in jaxpr.eqns:
        parents = tuple(node_of(atom) for atom in eqn.invars)
        inner = eqn.params.get(_CALLS.get(eqn.primitive.name, ""))
        if inner is not None and len(inner.jaxpr.invars) == len(parents):
            constants = [Node(constant=value) for value in inner.consts]
            results = _walk(inner.jaxpr, constants, parents, seen)
        else:
            results = _results(eqn, parents)
            seen.extend(results)
        nodes.update(zip(eqn.outvars, results, strict=True))
    return [node_of(atom) for atom in jaxpr.outvars]


def _results(eqn: core.JaxprEqn, parents: tuple[Node, ...]) -> list[Node]:
    names = frozenset().union(*(parent.arguments for parent in parents))
    is_random = any(parent.is_random for parent in parents)
    is_random |= eqn.primitive.name.startswith("random_")
    return [
        Node(eqn=eqn, parents=parents, output=n, arguments=names, is_random=is_random)
        for n in range(len(eqn.outvars))
    ]
