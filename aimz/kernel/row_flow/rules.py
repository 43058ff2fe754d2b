"""What each primitive does to the row axis: one rule per family of primitives.

A rule takes an equation and the `Flow` of each operand, and returns the `Flow` of each result, or
raises `Mixes` when rows meet. A rule sees operands that are whole or following, never mixed ones.
Rules do not guess from sizes and do not look at values. A whole value that changes along the row
axis is a position: it would give row i another answer elsewhere in the data, so it mixes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

__all__ = ["OWN", "RULES", "Equation", "Flow", "Mixes", "Pools", "Rule", "join_like", "stays"]


# The axis of a value that belongs to the one row at hand, inside a loop over the rows.
OWN = -1


@dataclass(frozen=True)
class Flow:
    """How one value relates to the rows."""

    shape: tuple[int, ...]
    axis: int | None = None  # the axis that follows the rows
    same: frozenset[int] = frozenset()  # axes along which the value does not change
    index: int | None = None  # the value is 0, 1, 2, ... along this axis
    fill: bool | int | float | None = None  # every element is this number
    mixed: str = ""  # why rows meet in this value
    sources: frozenset[str] = frozenset()
    is_given: bool = False  # an argument as it was passed, whose columns are told apart
    parts: tuple["Flow", ...] = field(default=(), repr=False)  # columns of an index array

    def is_same(self, axis: int) -> bool:
        """Whether the value does not change along an axis."""
        return axis in self.same or self.shape[axis] == 1


class Mixes(Exception):  # noqa: N818  # a fact about the rows, not a failure
    """Rows meet; the message says how."""


class Pools(Mixes):
    """Rows are put together in a statistic, such as their mean or their order."""


class Equation(Protocol):
    """What is read of an equation: JAX's own, or one written out in its place."""

    @property
    def primitive(self) -> Any: ...
    @property
    def params(self) -> dict[str, Any]: ...
    @property
    def outvars(self) -> Sequence[Any]: ...


Rule = Callable[[Equation, Sequence[Flow]], list[Flow]]


def stays(flow: Flow, shape: tuple[int, ...], to: Mapping[int, int], why: str) -> Flow:
    """Carry a flow to a new layout; `to` maps the axes that survive as they are."""
    if flow.axis is not None and flow.axis not in to:
        raise Mixes(why)
    return Flow(
        shape=shape,
        axis=None if flow.axis is None else to[flow.axis],
        same=frozenset(to[a] for a in range(len(flow.shape)) if a in to and flow.is_same(a)),
        index=None if flow.index is None else to.get(flow.index),
        fill=flow.fill,
    )


def join_like(name: str, flows: Sequence[Flow], shape: tuple[int, ...]) -> Flow:
    """Meet operands of one shape element by element; scalars are the same everywhere."""
    spread = [flow for flow in flows if flow.shape]
    axes = {flow.axis for flow in spread if flow.axis is not None}
    if len(axes) > 1:
        raise Mixes(f"{name} sets rows against other rows")
    axis = next(iter(axes), None)
    if axis is not None:
        _refuse_positions(name, spread, axis)
    same = (a for a in range(len(shape)) if a != axis and all(f.is_same(a) for f in spread))
    return Flow(shape, axis, frozenset(same))


def _refuse_positions(name: str, flows: Iterable[Flow], axis: int) -> None:
    if any(flow.axis is None and not flow.is_same(axis) for flow in flows):
        raise Mixes(f"{name} combines rows with a value that changes with the position of the row")


def _shape(eqn: Equation, i: int = 0) -> tuple[int, ...]:
    return tuple(eqn.outvars[i].aval.shape)


def _elementwise(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    joined = join_like(eqn.primitive.name, flows, _shape(eqn))
    return [replace(joined, shape=_shape(eqn, i)) for i in range(len(eqn.outvars))]


def _each(_eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    """Results are the operands, one by one."""
    return list(flows)


def _convert(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    (flow,) = flows
    if _shape(eqn) != flow.shape:  # bitcast to another width adds or removes a last axis
        axes = {a: a for a in range(min(len(flow.shape), len(_shape(eqn))))}
        return [replace(stays(flow, _shape(eqn), axes, "bitcast splits rows"), fill=None)]
    dtype = eqn.outvars[0].aval.dtype
    return [
        replace(flow, index=_kept_index(flow, dtype), fill=_as_dtype(flow.fill, dtype), parts=())
    ]


def _kept_index(flow: Flow, dtype: np.dtype[Any]) -> int | None:
    """The axis of row numbers, if the dtype can hold them."""
    if flow.index is None or not np.issubdtype(dtype, np.integer):
        return None
    return flow.index if np.iinfo(dtype).max >= flow.shape[flow.index] else None


def _as_dtype(fill: object, dtype: np.dtype[Any]) -> Any:
    if fill is None or np.dtype(dtype).kind not in "biuf":
        return None
    return np.asarray(fill).astype(dtype).item()


def _compare(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    """Comparing row numbers with zero has a known answer: NumPy-style indexing does it."""
    left, right = flows
    has_answer = right.fill is not None and right.fill <= 0
    if left.index is not None and has_answer and eqn.primitive.name in {"lt", "ge"}:
        shape = _shape(eqn)
        answer = eqn.primitive.name == "ge"
        return [Flow(shape, same=frozenset(range(len(shape))), fill=answer)]
    return _elementwise(eqn, flows)


def _add(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    for flow, other in (flows, tuple(reversed(flows))):
        if flow.index is not None and other.fill == 0 and flow.shape == _shape(eqn):
            return [flow]
    return _elementwise(eqn, flows)


def _select(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    which, *cases = flows
    if which.fill is not None:
        return [replace(cases[int(which.fill)], parts=())]
    return _elementwise(eqn, flows)


def _iota(eqn: Equation, _flows: Sequence[Flow]) -> list[Flow]:
    dim, shape = eqn.params["dimension"], _shape(eqn)
    others = frozenset(a for a in range(len(shape)) if a != dim)
    numbered = Flow(shape, same=others, index=dim)
    return [replace(numbered, index=_kept_index(numbered, eqn.outvars[0].aval.dtype))]


def _broadcast(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    flow, shape = flows[0], _shape(eqn)
    to = dict(enumerate(eqn.params["broadcast_dimensions"]))
    out = stays(flow, shape, to, "broadcast moves rows")
    return [replace(out, same=out.same | (frozenset(range(len(shape))) - set(to.values())))]


def _transpose(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    to = {old: new for new, old in enumerate(eqn.params["permutation"])}
    return [stays(flows[0], _shape(eqn), to, "transpose")]


def _without(ndim: int, dims: Iterable[int]) -> dict[int, int]:
    gone = {d % ndim for d in dims}
    return {a: new for new, a in enumerate(a for a in range(ndim) if a not in gone)}


def _squeeze(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    to = _without(len(flows[0].shape), eqn.params["dimensions"])
    return [stays(flows[0], _shape(eqn), to, "squeeze")]


def _blocks(
    before: tuple[int, ...], after: tuple[int, ...]
) -> Iterable[tuple[list[int], list[int]]]:
    """Smallest groups of axes of equal size in a row-major reshape; unit axes stand alone."""
    left = [a for a, size in enumerate(before) if size != 1]
    right = [b for b, size in enumerate(after) if size != 1]
    while left and right:
        olds, news = [left.pop(0)], [right.pop(0)]
        old, new = before[olds[0]], after[news[0]]
        while old != new:
            if old < new:
                olds.append(left.pop(0))
                old *= before[olds[-1]]
            else:
                news.append(right.pop(0))
                new *= after[news[-1]]
        yield olds, news


def _reshape(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    flow, shape = flows[0], _shape(eqn)
    if 0 in shape or eqn.params.get("dimensions") is not None:
        return [stays(flow, shape, {}, "reshape reorders rows")]
    to: dict[int, int] = {}
    same: set[int] = set()
    for olds, news in _blocks(flow.shape, shape):
        if len(olds) == len(news) == 1:
            to[olds[0]] = news[0]
        if all(flow.is_same(a) for a in olds):
            same.update(news)
    out = stays(flow, shape, to, "reshape splits or merges the row axis")
    return [replace(out, same=out.same | same)]


def _concatenate(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    dim, shape = eqn.params["dimension"], _shape(eqn)
    if len(flows) == 1:
        return list(flows)
    if any(flow.axis == dim for flow in flows):
        raise Mixes("concatenate shifts rows")
    is_index = dim == len(shape) - 1 and all(flow.shape[dim] == 1 for flow in flows)
    columns = tuple(flows) if is_index else ()
    try:
        out = join_like("concatenate", flows, shape)
    except Mixes as meeting:  # columns of an index may be row numbers: `gather` can tell
        return [Flow(shape, mixed=str(meeting), parts=columns)]
    return [replace(out, same=out.same - {dim}, parts=columns)]


def _stack(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    out = join_like("stack", flows, flows[0].shape)
    dim = eqn.params["axis"]
    to = {a: a + (a >= dim) for a in range(len(out.shape))}
    return [replace(stays(out, _shape(eqn), to, "stack"), index=None, fill=None)]


def _unstack(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    to = _without(len(flows[0].shape), [eqn.params["axis"]])
    out = stays(flows[0], _shape(eqn), to, "unstack takes the rows apart")
    return [replace(out, fill=None)] * len(eqn.outvars)


def _tile(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    flow, shape = flows[0], _shape(eqn)
    shared = range(len(shape) if len(shape) == len(flow.shape) else 0)
    to = {a: a for a in shared if shape[a] == flow.shape[a] or flow.is_same(a)}
    return [stays(flow, shape, to, "tile repeats the rows")]


def _split(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    flow = flows[0]
    if flow.axis == eqn.params["axis"]:
        raise Mixes("split cuts the row axis")
    index = None if flow.index == eqn.params["axis"] else flow.index
    return [
        replace(flow, shape=_shape(eqn, i), index=index, parts=()) for i in range(len(eqn.outvars))
    ]


def _pad(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    flow = flows[0]
    padded = {a for a, edges in enumerate(eqn.params["padding_config"]) if any(edges)}
    if flow.axis in padded:
        raise Mixes("pad shifts rows")
    return [replace(flow, shape=_shape(eqn), same=flow.same - padded, index=None, fill=None)]


def _slice(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    flow, axis = flows[0], flows[0].axis
    starts = eqn.params["start_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    if axis is not None and (_shape(eqn)[axis] != flow.shape[axis] or strides[axis] != 1):
        raise Mixes("slice takes some of the rows")
    i = flow.index
    keeps_index = i is not None and starts[i] == 0 and strides[i] == 1
    return [replace(flow, shape=_shape(eqn), index=i if keeps_index else None, parts=())]


def _dynamic_slice(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    flow = flows[0]
    shape = _shape(eqn)
    if flow.axis is not None and shape[flow.axis] != flow.shape[flow.axis]:
        raise Mixes("dynamic_slice takes some of the rows")
    return [replace(flow, shape=shape, index=None, parts=())]


def _dynamic_update(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    operand, update, *_ = flows
    shape = _shape(eqn)
    cut = {a for a, size in enumerate(shape) if update.shape[a] != size}
    if {operand.axis, update.axis} & cut:
        raise Mixes("dynamic_update_slice writes to some of the rows")
    out = join_like("dynamic_update_slice", (operand, replace(update, shape=shape)), shape)
    return [replace(out, same=out.same - cut)]


def _rev(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    if flows[0].axis in eqn.params["dimensions"]:
        raise Mixes("rev reverses the rows")
    index = None if flows[0].index in eqn.params["dimensions"] else flows[0].index
    return [replace(flows[0], index=index, parts=())]


def _reduce(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    """Reductions, `argmax` and the general `reduce` (whose last operands are scalars)."""
    name = eqn.primitive.name
    dims = eqn.params["axes"] if "axes" in eqn.params else eqn.params["dimensions"]
    spread = [flow for flow in flows if flow.shape]
    if any(flow.axis in dims for flow in spread):
        raise Pools(f"{name} combines rows")
    joined = join_like(name, spread, spread[0].shape) if spread else flows[0]
    out = stays(joined, _shape(eqn), _without(len(joined.shape), dims), name)
    return [replace(out, index=None, fill=None)] * len(eqn.outvars)


def _along(parameter: str) -> Rule:
    """Rule of a primitive that works along one axis and keeps the shape of the others."""

    def rule(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
        name = eqn.primitive.name
        spread = [flow for flow in flows if flow.shape]
        dim = eqn.params[parameter] % len(spread[0].shape)
        if any(flow.axis == dim for flow in spread):
            how = f"{name} runs along the rows"
            raise Pools(how) if name == "sort" else Mixes(how)
        out = join_like(name, spread, spread[0].shape)
        same = out.same - {dim}
        return [replace(out, shape=_shape(eqn, i), same=same) for i in range(len(eqn.outvars))]

    return rule


def _top_k(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    dim = eqn.params.get("axis", eqn.params.get("reduction_dimension", -1))
    dim %= len(flows[0].shape)
    if flows[0].axis == dim:
        raise Pools(f"{eqn.primitive.name} ranks the rows")
    out = replace(flows[0], same=flows[0].same - {dim}, index=None, fill=None, parts=())
    return [replace(out, shape=_shape(eqn, i)) for i in range(len(eqn.outvars))]


def _dot(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    contract, batch = eqn.params["dimension_numbers"]
    meets = [flow.axis in summed for flow, summed in zip(flows, contract, strict=True)]
    if all(meets) or (any(meets) and _is_plain_sum(flows, contract, meets)):
        raise Pools("dot_general sums over the rows")
    sides = _dot_sides(eqn, flows)
    axes = {side.axis for side in sides} - {None}
    if len(axes) > 1:
        raise Mixes("dot_general sets every row against every row")
    axis = next(iter(axes), None)
    shared = range(len(batch[0]))
    if axis in shared and any(side.axis is None and axis not in side.same for side in sides):
        raise Mixes("dot_general combines rows with a value that changes with their position")
    left, right = (side.same for side in sides)
    same = (left & right) | ((left | right) - set(shared))
    return [Flow(_shape(eqn), axis, same - {axis})]


def _is_plain_sum(
    flows: Sequence[Flow], contract: Sequence[Sequence[int]], meets: Sequence[bool]
) -> bool:
    """Whether the weights of a sum over rows are the same for all of them."""
    rows = meets.index(True)
    place = [int(a) for a in contract[rows]].index(flows[rows].axis or 0)
    return flows[1 - rows].is_same(int(contract[1 - rows][place]))


def _dot_sides(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    """Both operands with their axes named as those of the result."""
    contract, batch = eqn.params["dimension_numbers"]
    sides = []
    offset = len(batch[0])
    for flow, summed, paired in zip(flows, contract, batch, strict=True):
        free = [a for a in range(len(flow.shape)) if a not in (*summed, *paired)]
        to = {int(a): i for i, a in enumerate(paired)}
        to |= {a: offset + i for i, a in enumerate(free)}
        offset += len(free)
        sides.append(stays(flow, _shape(eqn), to, "dot_general sums over the rows"))
    return sides


def _conv(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    left, right = flows
    layout = eqn.params["dimension_numbers"]
    batch = layout.lhs_spec[0]
    grouped = eqn.params["batch_group_count"] != 1
    if right.axis is not None or left.axis not in (None, batch) or grouped:
        raise Mixes("conv_general_dilated runs along the rows")
    axis = None if left.axis is None else int(layout.out_spec[0])
    return [Flow(_shape(eqn), axis)]


def _window(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    axis = flows[0].axis
    if axis is not None and any(
        tuple(np.atleast_1d(eqn.params[key][axis])) != (plain,) * width
        for key, plain, width in (
            ("window_dimensions", 1, 1),
            ("window_strides", 1, 1),
            ("padding", 0, 2),
            ("base_dilation", 1, 1),
        )
    ):
        raise Mixes(f"{eqn.primitive.name} slides along the rows")
    return [Flow(_shape(eqn), axis)]


def _fft(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    first = len(flows[0].shape) - len(eqn.params["fft_lengths"])
    return _leading(eqn, flows, first, "fft runs along the rows")


def _matrix(core_dims: int) -> Rule:
    """Rule of linear algebra on the last `core_dims` axes."""

    def rule(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
        first = len(flows[0].shape) - core_dims
        return _leading(eqn, flows, first, f"{eqn.primitive.name} takes rows for a matrix")

    return rule


def _solve(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    """Triangular systems: the right-hand sides are solved one by one."""
    left, right = flows
    side = len(right.shape) - (1 if eqn.params["left_side"] else 2)
    if right.axis == side and left.axis is None:
        return [Flow(_shape(eqn), side)]
    return _matrix(2)(eqn, flows)


def _leading(eqn: Equation, flows: Sequence[Flow], first: int, why: str) -> list[Flow]:
    """Work on each index of the axes before `first` alone."""
    if any(flow.axis is not None and flow.axis >= first for flow in flows):
        raise Mixes(why)
    batches = [
        Flow(f.shape[:first], f.axis, frozenset(a for a in range(first) if f.is_same(a)))
        for f in flows
    ]
    out = join_like(eqn.primitive.name, batches, flows[0].shape[:first])
    return [Flow(_shape(eqn, i), out.axis, out.same) for i in range(len(eqn.outvars))]


def _search_sorted(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    table, query = flows
    batches = eqn.params["batch_dims"]
    if table.axis is not None and table.axis >= batches:
        raise Mixes("SearchSorted looks rows up among rows")
    if table.axis is None and query.axis is not None and query.axis >= batches:
        return [replace(query, shape=_shape(eqn), index=None, fill=None, parts=())]
    out = _leading(eqn, flows, batches, "SearchSorted looks rows up among rows")[0]
    if table.axis is None and query.axis is None:
        same = {a for a in range(batches, len(query.shape)) if query.is_same(a)}
        out = replace(out, same=out.same | same)
    return [out]


def _named(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


_ELEMENTWISE = """
    abs acos acosh add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz
    complex conj cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor gt igamma
    igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log log1p log2 logistic lt_to
    max min mul mulhi ne neg nextafter not one_minus_square or polygamma population_count pow
    random_gamma_grad real reduce_precision regularized_incomplete_beta rem round rsqrt shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan tanh xor zeta"""
_IDENTITIES = (
    "copy copy_p device_put name optimization_barrier pvary sharding_constraint stop_gradient"
)
_REDUCTIONS = """
    argmax argmin reduce reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum
    reduce_xor"""
RULES: dict[str, Rule] = {
    **_named(_ELEMENTWISE, _elementwise),
    **_named(_IDENTITIES, _each),
    **_named(_REDUCTIONS, _reduce),
    **_named("cumlogsumexp cummax cummin cumprod cumsum", _along("axis")),
    **_named("reduce_window_max reduce_window_min reduce_window_sum", _window),
    **_named("cholesky eig eigh geqrf householder_product lu qr schur svd", _matrix(2)),
    **_named("approx_top_k top_k", _top_k),
    **_named("convert_element_type bitcast_convert_type", _convert),
    **_named("ge lt", _compare),
    "SearchSorted": _search_sorted,
    "add": _add,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _conv,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    "fft": _fft,
    "iota": _iota,
    "lu_pivots_to_permutation": _matrix(1),
    "pad": _pad,
    "reshape": _reshape,
    "rev": _rev,
    "select_n": _select,
    "slice": _slice,
    "sort": _along("dimension"),
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
    "triangular_solve": _solve,
    "unstack": _unstack,
}
