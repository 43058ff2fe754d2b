"""Whole numbers that a kernel computes, checked against the bits that hold them.

JAX wraps whole numbers around where they pass 32 bits, without a word: 70,000 squared is
605,032,704. Sums and products of wrapped numbers are right modulo 2**32, so what matters is a
number that something else takes: a division, a comparison, a floating-point number, a site. This
module finds those numbers in a kernel's program, bounds each by the greatest of the arguments, and
where the bound is too large computes it in double precision, which does not wrap.

What a kernel computes with unsigned numbers or bits is meant to wrap, as a hash is.

Single precision holds whole numbers up to 2**24. Where a kernel makes a larger one a floating-point
number, its rounding is held to the differences between rows, as that of the data themselves is.
"""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from aimz.data import MISSING, Casts
from aimz.errors import InputError
from aimz.kernel.graph import Graph, Node, Values, graph_of
from aimz.kernel.lookups import Lookup, as_lookup, check_lookups

__all__ = ["Taken", "Total", "check_whole_numbers", "totals_of"]


class Taken(Enum):
    """What takes a whole number, and so must not get a wrong one."""

    WHOLE = "something that is no sum"
    FLOAT = "floating-point arithmetic of 32 bits"
    DENSITY = "the density of a continuous outcome"  # of 32 bits in a fit, else of 64


@dataclass(frozen=True)
class Total:
    """A whole number of a kernel that what takes it may get wrong."""

    value: Node
    taken: Taken = Taken.WHOLE


def _size_of_each(node: Node) -> int:
    """How many elements of its operand each element of a result is made of."""
    before, after = node.eqn.invars[0].aval, node.eqn.outvars[0].aval
    return int(before.size // max(after.size, 1))


def _along(node: Node) -> int:
    return int(node.eqn.invars[0].aval.shape[node.eqn.params["axis"]])


def _matched(node: Node) -> int:
    (axes, _), _ = node.eqn.params["dimension_numbers"]
    return math.prod(node.eqn.invars[0].aval.shape[axis] for axis in axes)


def _added(node: Node, table: float, _: float, updates: float) -> float:
    return table + updates * float(node.eqn.invars[2].aval.size)


# Sums and products: how large their results can be, by the greatest sizes of their operands.
_SUMS: dict[str, Callable[..., float]] = {
    "add": lambda _, a, b: a + b,
    "add_any": lambda _, a, b: a + b,
    "sub": lambda _, a, b: a + b,
    "mul": lambda _, a, b: a * b,
    "neg": lambda _, a: a,
    "square": lambda _, a: a * a,
    "integer_pow": lambda node, a: _power(a, node.eqn.params["y"]),
    "reduce_sum": lambda node, a: a * _size_of_each(node),
    "reduce_prod": lambda node, a: _power(a, _size_of_each(node)),
    "cumsum": lambda node, a: a * _along(node),
    "cumprod": lambda node, a: _power(a, _along(node)),
    "dot_general": lambda node, a, b: a * b * _matched(node),
    "scatter-add": _added,
    "polynomial": lambda _, a, *c: sum(each * _power(a, k) for k, each in enumerate(reversed(c))),
    "shift_left": lambda _, a, b: a * _power(2.0, b),
}
# What only moves numbers.
_MOVES = {
    *("broadcast_in_dim", "concatenate", "convert_element_type", "copy", "dynamic_slice"),
    *("dynamic_update_slice", "expand_dims", "gather", "pad", "reshape", "rev", "scatter"),
    *("select_n", "slice", "split", "squeeze", "transpose"),
}
# Their operands that are places, and not numbers.
_PLACES = {
    "gather": slice(1, None),
    "dynamic_slice": slice(1, None),
    "dynamic_update_slice": slice(2, None),
    "scatter": slice(1, 2),
    "scatter-add": slice(1, 2),
    "select_n": slice(0, 1),
}
_BITS = {"and", "or", "xor", "not"}
# Floating-point numbers of 32 bits hold all whole numbers up to this.
_EXACT = 2.0**24
# What may make whole numbers floating-point ones.
_CASTS = {"convert_element_type", "dot_general"}
# Programs inside of loops, and the first operand of the loop that they get.
_LOOPS: dict[str, Callable[[Any], list[tuple[Any, int]]]] = {
    "scan": lambda params: [(params["jaxpr"], 0)],
    "cond": lambda params: [(branch, 1) for branch in params["branches"]],
    "while": lambda params: [(params["body_jaxpr"], params["cond_nconsts"])],
}
# What makes no number greater, but by 1.
_TAMES = {"abs", "ceil", "div", "floor", "max", "min", "rem", "round", "sign", "stop_gradient"}


def _power(base: float, exponent: float) -> float:
    try:
        return float(max(base, 1.0) ** exponent)
    except OverflowError:
        return math.inf


def totals_of(
    graph: Graph, parameters: Sequence[Node] = (), outcomes: Sequence[Node] = ()
) -> tuple[Total, ...]:
    """The whole numbers of a traced kernel that its arguments decide, and that may not fit.

    `parameters` are whole numbers that continuous distributions have, and `outcomes` those that
    they observe.
    """
    totals: set[Node] = set()
    taken: dict[Node, None] = {}
    for node in graph.nodes:
        taken.update(dict.fromkeys(parent for parent in _taken(node) if parent in totals))
        if _is_total(node, totals):
            totals.add(node)
    taken.update(dict.fromkeys(node for node in graph.outputs if node in totals))
    rounded = dict.fromkeys([*_rounded(graph), *parameters])
    return (
        *map(Total, taken),
        *(Total(node, Taken.FLOAT) for node in rounded if _may_be_large(node)),
        *(Total(node, Taken.DENSITY) for node in dict.fromkeys(outcomes) if not node.is_random),
    )


def _rounded(graph: Graph) -> Iterator[Node]:
    """The whole numbers that are made floating-point numbers of 32 bits, in steps of loops too."""
    for node in graph.nodes:
        name = node.primitive
        if name in _CASTS and node.eqn.outvars[0].aval.dtype == np.float32:
            atoms = zip(node.parents, node.eqn.invars, strict=True)
            yield from (parent for parent, atom in atoms if _is_whole(atom))
        elif name in _LOOPS and node.output == 0:
            for body, first in _LOOPS[name](node.eqn.params):
                operands = node.parents[first:]
                inner = graph_of(body, [None] * len(body.jaxpr.invars))
                leaves = (_unmoved(within).leaf for within in _rounded(inner))
                yield from (operands[n] for n in leaves if n is not None and n < len(operands))


def _is_whole(atom: Any) -> bool:
    return _plain(atom.aval.dtype).kind in "iu"


def _unmoved(node: Node) -> Node:
    """What a node has been before it was moved."""
    while node.primitive in _MOVES and len(_moved(node)) == 1:
        (node,) = _moved(node)
    return node


def _may_be_large(node: Node) -> bool:
    """Whether arguments may make it larger than what 32 bits count to, or it is."""
    if node.is_random:
        return False
    return bool(node.arguments) or _Sizes(Values({})).bound(node) > _EXACT


def _taken(node: Node) -> Sequence[Node]:
    """Operands of a node that must be right, and not only modulo 2**32."""
    if _is_modular(node):
        return node.parents[_PLACES.get(node.primitive, slice(0, 0))]
    dtype = _dtype(node)
    is_of_bits = node.primitive in _BITS and dtype.kind != "b"
    is_unsigned = node.primitive == "convert_element_type" and dtype.kind == "u"
    return () if is_of_bits or is_unsigned else node.parents


def _is_modular(node: Node) -> bool:
    """Whether it is a whole number that is right modulo 2**32 where its operands are."""
    is_known = node.primitive in _SUMS or node.primitive in _MOVES
    return is_known and _dtype(node).kind == "i" and (_source(node).kind == "i" or _is_cut(node))


def _is_total(node: Node, totals: Container[Node]) -> bool:
    """Whether it is a sum, perhaps moved, and so may not fit."""
    if node.is_random or not _is_modular(node) or as_lookup(node) is not None:
        return False  # an index is looked at by itself
    is_sum = node.primitive in _SUMS or _is_cut(node)
    return is_sum or any(parent in totals for parent in _moved(node))


def _is_cut(node: Node) -> bool:
    """Whether it is made a whole number of fewer bits, or one of a floating-point number."""
    if node.primitive != "convert_element_type":
        return False
    before, after = _source(node), _dtype(node)
    return before.kind == "f" or (before.kind == "i" and before.itemsize > after.itemsize)


def _moved(node: Node) -> Sequence[Node]:
    places = node.parents[_PLACES.get(node.primitive, slice(0, 0))]
    return [parent for parent in node.parents if parent not in places]


def _dtype(node: Node) -> np.dtype[Any]:
    return _plain(node.eqn.outvars[node.output].aval.dtype)


def _source(node: Node) -> np.dtype[Any]:
    """Dtype of the last operand, which is a number; the first may be a place."""
    return _plain(node.eqn.invars[-1 if node.primitive == "select_n" else 0].aval.dtype)


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A dtype of NumPy's: a key of JAX has none, and is no number; bfloat16 is one."""
    if jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        return np.dtype(object)
    return np.dtype(np.float32 if jax.dtypes.issubdtype(dtype, np.floating) else dtype)


@dataclass(frozen=True)
class _Sizes:
    """How large the values of a program are in one call: bounds, and numbers that do not wrap."""

    values: Values
    bounds: dict[Node, float] = field(default_factory=dict)
    numbers: dict[Node, Any] = field(default_factory=dict)

    def bound(self, node: Node) -> float:
        """A number that no element is greater than."""
        if node not in self.bounds:
            self.bounds[node] = self._bound(node)
        return self.bounds[node]

    def _bound(self, node: Node) -> float:
        if node.eqn is None:
            return _greatest(self.values.of(node))
        name = node.primitive
        if _dtype(node).kind == "b":
            return 1.0
        if name in _SUMS:
            return _SUMS[name](node, *map(self.bound, node.parents))
        if name in _MOVES:
            return max(map(self.bound, _moved(node)))
        if name in _TAMES and (name != "div" or _dtype(node).kind == "i"):
            return max(map(self.bound, node.parents)) + 1.0
        return _greatest(self.values.of(node))

    def number(self, node: Node) -> Any:
        """The value of a node in double precision, where whole numbers do not wrap."""
        if node not in self.numbers:
            is_as_is = node.eqn is None or not _is_modular(node)
            self.numbers[node] = (
                _without_marks(self.values.of(node)) if is_as_is else self._computed(node)
            )
        return self.numbers[node]

    def _computed(self, node: Node) -> Any:
        places = node.parents[_PLACES.get(node.primitive, slice(0, 0))]
        operands = [
            np.asarray(self.values.of(p)) if p in places else self.number(p) for p in node.parents
        ]
        if node.primitive == "convert_element_type":
            return np.trunc(operands[0])
        if node.primitive == "shift_left":
            return operands[0] * 2.0 ** operands[1]
        params = node.eqn.primitive.get_bind_params(node.eqn.params)
        if "preferred_element_type" in params:
            params["preferred_element_type"] = np.dtype(np.float64)
        with jax.enable_x64(True):
            if node.primitive == "scatter-add":  # whose rule of addition is one of its dtype
                table, place, more = operands
                how = params["dimension_numbers"]
                return np.asarray(jax.lax.scatter_add(table, place, more, how, mode=params["mode"]))
            results = node.eqn.primitive.bind(*operands, **params)
        is_one = not node.eqn.primitive.multiple_results
        return np.asarray(results if is_one else results[node.output])

    def check_digits(self, total: Total, number: int, casts: Casts) -> None:
        """Look at what 32 bits make of a whole number in the rows."""
        node = total.value
        if self.bound(node) <= _EXACT:
            return
        exact = self.number(node)
        if node.eqn is None:
            exact = np.where(np.asarray(self.values.of(node)) == MISSING, np.nan, exact)
        columns = _by_row(exact, self._rows(node))
        name = "', '".join(sorted(node.arguments)) or "the kernel"
        casts.note(name, columns, columns.astype(np.float32), number)
        if total.taken is Taken.DENSITY:
            casts.check_digits(number)

    def _rows(self, node: Node) -> int:
        """How many rows the arguments have that a node is made of."""
        leaves = jax.tree.leaves([self.values.arrays[name] for name in node.arguments])
        return max((len(leaf) for leaf in leaves if np.ndim(leaf)), default=0)

    def check(self, node: Node) -> None:
        """Refuse a whole number that its dtype cannot hold."""
        limits = np.iinfo(_dtype(node))
        if self.bound(node) <= limits.max:
            return
        number = self.number(node)
        outside = (number < limits.min) | (number > limits.max)
        if outside.any():
            names = sorted(node.arguments)
            named, first = "', '".join(names), names[0] if names else "n"
            origin = f"'{named}'" if names else "the places of the rows"
            msg = (
                f"The kernel makes {number[outside].flat[0]:.0f} of {origin}, which {limits.dtype} "
                f"cannot hold: JAX would wrap it around. Compute with `1.0 * {first}`, a "
                "floating-point number, or set jax.config.update('jax_enable_x64', True)."
            )
            raise InputError(msg, code="cast-overflow")


def _by_row(array: np.ndarray, rows: int) -> np.ndarray:
    """Numbers as (row, column), whichever axis is that of the rows."""
    axis = array.shape.index(rows) if rows in array.shape else 0
    front = np.moveaxis(np.atleast_1d(array), axis, 0)
    return front.reshape(len(front), -1)


def _without_marks(value: ArrayLike) -> np.ndarray:
    """Numbers in double precision; 0 where a mark stands for a missing one."""
    array = np.asarray(value)
    wide = array.astype(np.float64)
    return np.where(array == np.iinfo(np.int32).min, 0.0, wide) if array.dtype.kind == "i" else wide


def _greatest(value: ArrayLike) -> float:
    """The greatest size of the elements, but for NaN and marks."""
    array = np.asarray(value)
    if not array.size or array.dtype.kind not in "biuf":
        return 0.0
    if array.dtype.kind == "b":
        return 1.0
    least, most = float(np.fmin.reduce(array, axis=None)), float(np.fmax.reduce(array, axis=None))
    if array.dtype.kind == "i" and least == np.iinfo(np.int32).min:
        return _greatest(_without_marks(array))
    return float(np.nan_to_num(max(abs(least), abs(most)), posinf=math.inf))


def check_whole_numbers(
    lookups: Sequence[Lookup],
    totals: Sequence[Total],
    arrays: Mapping[str, Any],
    first: int = 0,
    way_out: str = "clip the index in the kernel",
    *,
    casts: Casts | None = None,
    is_fit: bool = False,
) -> None:
    """Refuse arguments whose sums and products do not fit in whole numbers, and `check_lookups`.

    Of rows that are a part of all, what 32 bits blur is noted in `casts`. A fit computes densities
    in 32 bits.

    Raises
    ------
    InputError
        `cast-overflow`, `cast-precision`, `index-range`.
    """
    sizes, noted = _Sizes(Values(arrays)), casts or Casts()
    for number, total in enumerate(totals):
        if total.taken is Taken.WHOLE:
            sizes.check(total.value)
        elif is_fit or total.taken is Taken.FLOAT:
            sizes.check_digits(total, number, noted)
    if casts is None:
        noted.check()
    check_lookups(lookups, arrays, first, way_out)
