"""Follow the row axis through a traced computation.

`follow` walks a jaxpr and says, for each output, whether one of its axes follows the rows, so that
row i of the output depends on row i of the inputs only. `rules` and `indexing` hold a rule
for each primitive; a primitive without a rule mixes rows as soon as it sees one. This module walks
programs, loops and branches, to a fixed point where values are carried.

A value is one of: *whole* (no row in it), *following* (`axis` is the row axis), *own* (inside a
loop over the rows: it belongs to the row at hand) or *mixed* (several rows meet in it).
"""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.typing import ArrayLike

from aimz.kernel.row_flow.indexing import INDEXING
from aimz.kernel.row_flow.rules import OWN, RULES, Equation, Flow, Mixes, Pools, join_like
from aimz.kernel.row_flow.sources import measured_tags, pooled_tags, without_columns

__all__ = ["constant", "follow", "following", "whole"]


_RULES = RULES | INDEXING
# Primitives that only run a program on all their operands, and where they keep it.
_CALLS = frozenset(
    {
        "checkpoint",
        "closed_call",
        "core_call",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
        "eval_jaxpr",
        "jit",
        "pjit",
        "remat",
        "remat2",
        "xla_metadata_call",
    }
)
# How a value is measured by another, and what leaves an argument as it was passed.
_AGAINST = frozenset({"sub", "div", "lt", "le", "gt", "ge"})
_SAME = frozenset({"convert_element_type", "copy"})
_PROGRAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr", "expanded")


def whole(shape: tuple[int, ...], *sources: str) -> Flow:
    """A value with no row in it, that may change along every axis."""
    return Flow(tuple(shape), sources=frozenset(sources))


def following(shape: tuple[int, ...], axis: int, *sources: str, is_given: bool = False) -> Flow:
    """A value that has one row along each index of `axis`."""
    return Flow(tuple(shape), axis, sources=frozenset(sources), is_given=is_given)


def constant(value: ArrayLike) -> Flow:
    """A number or array written into the program; the axes along which it changes are positions."""
    shape = tuple(np.shape(value))
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return Flow(shape)
    array = np.asarray(value)
    if array.size == 0 or array.dtype.kind not in "biuf":
        return Flow(shape)
    same = [a for a in range(array.ndim) if bool(np.all(array == np.take(array, [0], axis=a)))]
    fill = array.flat[0].item() if len(same) == array.ndim else None
    numbers = array.ndim == 1 and array.dtype.kind in "iu" and array.size > 1
    is_index = numbers and bool(np.array_equal(array, np.arange(array.size)))
    return Flow(shape, same=frozenset(same), index=0 if is_index else None, fill=fill)


def follow(closed: core.ClosedJaxpr | core.Jaxpr, inputs: Sequence[Flow]) -> list[Flow]:
    """Say how each output of a traced program relates to the rows of its inputs.

    Parameters
    ----------
    closed : ClosedJaxpr
        A traced program.
    inputs : sequence of Flow
        One for each input of the program: `whole` or `following`.

    Returns
    -------
    list of Flow
        One for each output. `mixed` is "" unless rows meet in it.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> rows = following((5, 2), 0)
    >>> [out] = follow(jax.make_jaxpr(lambda x: x.sum(1))(jnp.ones((5, 2))), [rows])
    >>> out.axis, out.mixed
    (0, '')
    >>> [out] = follow(jax.make_jaxpr(lambda x: x - x.mean(0))(jnp.ones((5, 2))), [rows])
    >>> out.mixed
    'reduce_sum combines rows'
    """
    jaxpr = getattr(closed, "jaxpr", closed)
    flows: dict[Any, Flow] = dict(zip(jaxpr.invars, inputs, strict=True))
    flows.update(
        (var, constant(value))
        for var, value in zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=False)
    )

    def read(atom: Any) -> Flow:
        if isinstance(atom, core.Literal):
            return constant(atom.val)
        return flows[atom] if atom in flows else whole(atom.aval.shape)

    for eqn in jaxpr.eqns:
        outputs = _equation(eqn, [read(atom) for atom in eqn.invars])
        flows.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(equation: core.JaxprEqn, flows: list[Flow]) -> list[Flow]:
    """Flows of the results of one equation."""
    eqn = _plain(equation)
    name = eqn.primitive.name
    inner = _called(eqn, flows)
    if inner is not None:
        return follow(*inner)
    if name == "slice" and flows[0].is_given and flows[0].axis == 0:
        flows = [_of_columns(eqn, flows[0])]
    has_own = any(flow.axis == OWN for flow in flows)
    if name in _CONTROL and not has_own:
        return _CONTROL[name](eqn, flows)
    mixed = _mixed_before(name, flows)
    if mixed:
        outputs = _all(eqn, mixed=mixed)
    elif has_own:
        outputs = _in_loop_over_rows(eqn, flows)
    else:
        outputs = _ruled(eqn, flows)
    sources = frozenset[str]().union(*(flow.sources for flow in flows))
    if name in _AGAINST:
        one, other = (flow.sources for flow in flows)
        sources |= measured_tags(one, other) | measured_tags(other, one)
    is_given = name in _SAME and flows[0].is_given
    return [replace(flow, sources=sources | flow.sources, is_given=is_given) for flow in outputs]


def _of_columns(eqn: Equation, flow: Flow) -> Flow:
    """What a slice reads of an argument's columns."""
    kept = range(eqn.params["start_indices"][1], eqn.params["limit_indices"][1])
    return replace(flow, sources=without_columns(flow.sources, kept))


def _mixed_before(name: str, flows: Sequence[Flow]) -> str:
    """Why an operand is mixed; the columns of an index are looked at one by one."""
    by_column = name == "gather" or name.startswith("scatter")
    return next((f.mixed for f in flows if f.mixed and not (by_column and f.parts)), "")


def _in_loop_over_rows(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    """Whatever is done to the row at hand stays its own, unless all rows come in."""
    if any(flow.axis not in (None, OWN) for flow in flows):
        return _all(eqn, mixed=f"{eqn.primitive.name} in a loop over the rows sees all of them")
    return [replace(flow, axis=OWN) for flow in _all(eqn)]


def _plain(eqn: core.JaxprEqn) -> Equation:
    """Equation of a primitive that JAX wraps in an object, as if it were a plain one."""
    wrapped = eqn.params.get("_prim")
    if eqn.primitive.name != "call_hi_primitive" or wrapped is None:
        return eqn
    primitive = SimpleNamespace(name=type(wrapped).__name__)
    params = dict(wrapped.params)
    if primitive.name not in _RULES:
        params = {"expanded": _expanded(wrapped)}
    return SimpleNamespace(primitive=primitive, params=params, outvars=eqn.outvars)


def _expanded(wrapped: Any) -> Any:
    """Program that a wrapped primitive stands for, or None where it does not say."""
    try:
        return jax.make_jaxpr(wrapped.expand)(*wrapped.in_avals)
    except Exception:  # noqa: BLE001  # then nothing is known of it, and rows mix
        return None


def _ruled(eqn: Equation, flows: Sequence[Flow]) -> list[Flow]:
    """Apply the rule of a primitive; without one, rows mix."""
    rule = _RULES.get(eqn.primitive.name)
    try:
        if rule is not None:
            return rule(eqn, flows)
    except Mixes as meeting:
        of_rows = frozenset[str]().union(*(f.sources for f in flows if f.axis is not None))
        tags = pooled_tags(of_rows) if isinstance(meeting, Pools) else frozenset[str]()
        if eqn.primitive.name == "sort":  # a rank is one's place among all
            tags |= measured_tags(of_rows, tags)
        return [replace(flow, sources=tags) for flow in _all(eqn, mixed=str(meeting))]
    if any(flow.axis is not None for flow in flows):
        return _all(eqn, mixed=f"what '{eqn.primitive.name}' does to rows is not known")
    return _all(eqn)


def _all(eqn: Equation, mixed: str = "") -> list[Flow]:
    return [Flow(tuple(getattr(v.aval, "shape", ())), mixed=mixed) for v in eqn.outvars]


def _called(eqn: Equation, flows: list[Flow]) -> tuple[Any, list[Flow]] | None:
    """The program that an equation merely calls, with its inputs."""
    if eqn.primitive.name == "custom_linear_solve":
        lengths, programs = eqn.params["const_lengths"], eqn.params["jaxprs"]
        first = lengths.matvec + lengths.vecmat
        consts = flows[first : first + lengths.solve]
        return programs.solve, [*consts, *flows[sum(lengths) :]]
    if eqn.primitive.name not in _CALLS and "expanded" not in eqn.params:
        return None
    program = next((eqn.params[key] for key in _PROGRAMS if key in eqn.params), None)
    if program is None or not hasattr(getattr(program, "jaxpr", program), "eqns"):
        return None
    same_arity = len(getattr(program, "jaxpr", program).invars) == len(flows)
    return (program, flows) if same_arity else None


def _cond(eqn: Equation, flows: list[Flow]) -> list[Flow]:
    """Branches by a scalar: the same for all rows, or rows meet in it."""
    which, *operands = flows
    results = [follow(branch, operands) for branch in eqn.params["branches"]]
    outputs = [_join(options) for options in zip(*results, strict=True)]
    return [_under(which, flow) for flow in outputs]


def _while(eqn: Equation, flows: list[Flow]) -> list[Flow]:
    num_cond, num_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    of_cond, of_body = flows[:num_cond], flows[num_cond : num_cond + num_body]
    carry = flows[num_cond + num_body :]
    while True:
        going = follow(eqn.params["cond_jaxpr"], [*of_cond, *carry])[0]
        after = follow(eqn.params["body_jaxpr"], [*of_body, *carry])
        joined = [_under(going, _join(pair)) for pair in zip(carry, after, strict=True)]
        if joined == carry:
            return carry
        carry = joined


def _scan(eqn: Equation, flows: list[Flow]) -> list[Flow]:
    num_consts, num_carry = _scan_sizes(eqn)
    consts, carry = flows[:num_consts], flows[num_consts : num_consts + num_carry]
    xs = flows[num_consts + num_carry :]
    body = eqn.params["jaxpr"]
    over_rows = any(flow.axis == 0 for flow in xs)
    steps = [_step(flow, over_rows=over_rows) for flow in xs]
    if over_rows:
        carry = _carry_over_rows(body, carry, num_consts)
    while True:
        after = follow(body, [*consts, *carry, *steps])
        joined = [_join(pair) for pair in zip(carry, after[:num_carry], strict=True)]
        if joined == carry:
            break
        carry = joined
    length = eqn.params["length"]
    last = [
        replace(flow, axis=None, mixed="scan ends on the last row") if flow.axis == OWN else flow
        for flow in carry
    ]
    return last + [_stacked(flow, length, over_rows=over_rows) for flow in after[num_carry:]]


def _scan_sizes(eqn: Equation) -> tuple[int, int]:
    """Numbers of constants and of carried values of a scan."""
    if "num_consts" in eqn.params:  # JAX before 0.12
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()
    return len(consts), len(carry)


def _step(flow: Flow, *, over_rows: bool) -> Flow:
    """What one step of a scan sees of a scanned input."""
    shape = flow.shape[1:]
    same = frozenset(a - 1 for a in flow.same if a > 0)
    if flow.mixed:
        return replace(flow, shape=shape, parts=())
    if flow.axis == 0:
        return Flow(shape, OWN, sources=flow.sources)
    if over_rows and not flow.is_same(0):
        return Flow(shape, mixed="scan over the rows reads their positions", sources=flow.sources)
    axis = None if flow.axis is None else flow.axis - 1
    index = flow.index - 1 if flow.index else None
    return Flow(shape, axis, same, index, flow.fill, sources=flow.sources)


def _carry_over_rows(body: core.ClosedJaxpr, carry: list[Flow], first: int) -> list[Flow]:
    """A loop over the rows may carry only what no step changes."""
    jaxpr = getattr(body, "jaxpr", body)
    constant_through = [jaxpr.outvars[i] is jaxpr.invars[first + i] for i in range(len(carry))]
    return [
        flow
        if is_constant
        else replace(flow, axis=None, mixed="scan carries values from row to row")
        for flow, is_constant in zip(carry, constant_through, strict=True)
    ]


def _stacked(flow: Flow, length: int, *, over_rows: bool) -> Flow:
    """The steps of a scan's output, stacked along a new leading axis."""
    shape = (length, *flow.shape)
    if flow.mixed:
        return replace(flow, shape=shape, parts=())
    same = frozenset(a + 1 for a in flow.same)
    if flow.axis == OWN:
        return Flow(shape, 0, sources=flow.sources)
    if over_rows:  # no step changes it: it depends on nothing that changes from row to row
        same |= {0}
    axis = None if flow.axis is None else flow.axis + 1
    return Flow(shape, axis, same, sources=flow.sources)


def _under(which: Flow, flow: Flow) -> Flow:
    """A result that also depends on a scalar choice."""
    sources = flow.sources | which.sources
    if flow.mixed or which.mixed:
        return Flow(flow.shape, mixed=flow.mixed or which.mixed, sources=sources)
    return replace(flow, sources=sources)


def _join(options: Sequence[Flow]) -> Flow:
    """One flow that covers every option: branches, or the turns of a loop."""
    first = options[0]
    sources = frozenset[str]().union(*(flow.sources for flow in options))
    mixed = next((flow.mixed for flow in options if flow.mixed), "")
    try:
        joined = _joined_axes(options)
    except Mixes as meeting:
        mixed = mixed or str(meeting)
    if mixed:
        return Flow(first.shape, mixed=mixed, sources=sources)
    index, fill = (_common([getattr(f, name) for f in options]) for name in ("index", "fill"))
    return replace(joined, index=index, fill=fill, sources=sources)


def _joined_axes(options: Sequence[Flow]) -> Flow:
    if all(flow.axis != OWN for flow in options):
        return join_like("a branch or loop", options, options[0].shape)
    if any(flow.axis not in (None, OWN) for flow in options):
        raise Mixes("a loop over the rows sees all of them")
    return Flow(options[0].shape, OWN)


def _common(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else None


_CONTROL = {"cond": _cond, "while": _while, "scan": _scan}
