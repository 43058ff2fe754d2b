"""What parameters and values of a distribution must keep to, checked where they are used.

NumPyro does not check parameters that it traces: `Poisson(-1)` draws -1. Checks here are closed
(a scale that has underflowed to 0 is the limit of its family) and have the tolerance of single
precision (probabilities that add up to 1 + 1e-6), and follow a distribution down to its parts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.distribution import Distribution

from aimz.arrays import Array
from aimz.families.law import base_distribution
from aimz.families.table import FAMILIES
from aimz.likelihoods import InBox, TimeAndChoice

__all__ = ["Faults", "Mark", "Point", "fault_of", "faults_of", "first_fault", "is_inside", "takes"]


#: Rounding that probabilities, and sums of them, may show.
_SLACK = 1e-5
_SUM_SLACK = 1e-4
# Of a border in double precision and a value in single.
_ROUNDED = 1e-6
# Between a parameter's name and the box that it must lie in.
_IN = "\0"
_ORDERED = (type(constraints.ordered_vector), type(constraints.positive_ordered_vector))
# Of vectors, whose sums NumPyro holds to a millionth.
_TOLERANT = (type(constraints.simplex), type(constraints.sphere), *_ORDERED)


@partial(
    jax.tree_util.register_dataclass, data_fields=["code", "value"], meta_fields=["family", "names"]
)
@dataclass(frozen=True)
class Faults:
    """Where a site's distribution cannot be: 0, or the number (from 1) of the first bad parameter.

    `code` and `value`, the parameter there, are arrays over rows or scalars.
    """

    code: Any
    value: Any
    family: str
    names: tuple[str, ...]


class Point(NamedTuple):
    """A bad parameter: whose, its name and its value, and the box that it is outside of, if any."""

    family: str
    parameter: str
    value: float
    box: str = ""


def is_inside(constraint: constraints.Constraint, value: Array, *, slack: float = 0.0) -> Any:
    """Whether values keep to a constraint, up to its border and to rounding; NaN never does.

    Constraints with event dimensions are judged by event.

    Parameters
    ----------
    constraint : Constraint
        Any of NumPyro's; one that is not known is only asked for numbers.
    value : array
        Of NumPy, or of JAX.
    slack : float
        What probabilities may lie beyond 0 and 1.

    Returns
    -------
    array of bool

    Examples
    --------
    >>> is_inside(constraints.positive, np.array([-1.0, 0.0, 2.0, np.nan])).tolist()
    [False, True, True, False]
    >>> bool(is_inside(constraints.simplex, np.array([0.5, 0.5 + 1e-6])))
    True
    """
    if isinstance(constraint, type(constraints.independent(constraints.real, 1))):
        inside = is_inside(constraint.base_constraint, value, slack=slack)
        depth = constraint.reinterpreted_batch_ndims
        return inside.all(axis=tuple(range(-depth, 0))) if depth else inside
    inside = value == value  # noqa: PLR0124  # NaN
    if isinstance(constraint, type(constraints.circular)):  # angles go around
        return inside
    if isinstance(constraint, TimeAndChoice | InBox):
        return constraint.takes(value)
    if isinstance(constraint, type(constraints.multinomial(1))):
        total = constraint.upper_bound
        counts = inside & (value >= 0) & (value % 1 == 0)
        return counts.all(axis=-1) & (value.sum(axis=-1) == total)
    inside = inside & _between(constraint, value, slack)
    return _vectors_inside(constraint, value, inside) if constraint.event_dim else inside


def takes(support: constraints.Constraint, value: Array) -> np.ndarray:
    """Whether a support of any kind takes each event of some values, up to border and rounding.

    Examples
    --------
    >>> takes(constraints.positive_definite, np.array([[1.0, 2.0], [2.0, 1.0]])).item()
    False
    """
    inside, base = np.asarray(support(value)), support
    while isinstance(base, type(constraints.independent(constraints.real, 1))):
        base = base.base_constraint
    if isinstance(base, type(constraints.multinomial(1))):  # NumPyro takes fractions
        inside = np.asarray(is_inside(support, value))
    elif not base.event_dim or isinstance(base, _TOLERANT):
        inside = inside | np.asarray(is_inside(support, value))
    return inside


def _between(constraint: constraints.Constraint, value: Array, slack: float) -> Array:
    """Whether single numbers are between a constraint's bounds, and whole where it says so."""
    low, high = (getattr(constraint, name, None) for name in ("lower_bound", "upper_bound"))
    inside = value == value  # noqa: PLR0124
    if not isinstance(constraint, type(constraints.unit_interval)):
        slack = 0.0
    rounded = 0.0 if constraint.is_discrete else _ROUNDED
    if low is not None:
        inside = inside & (value >= low - slack - rounded * abs(low))
    if high is not None:
        inside = inside & (value <= high + slack + rounded * abs(high))
    if constraint is constraints.boolean:
        inside = inside & ((value == 0) | (value == 1))
    elif constraint.is_discrete and (low is not None or high is not None):
        inside = inside & (value % 1 == 0)
    return inside


def _vectors_inside(constraint: constraints.Constraint, value: Any, inside: Array) -> Any:
    """Whether each event of vectors or matrices of numbers keeps to a constraint."""
    if isinstance(constraint, type(constraints.simplex)):
        inside = inside & (value >= -_SLACK)
        return inside.all(axis=-1) & (abs(value.sum(axis=-1) - 1) <= _SUM_SLACK)
    if isinstance(constraint, type(constraints.sphere)):
        return inside.all(axis=-1) & (abs((value**2).sum(axis=-1) - 1) <= _SUM_SLACK)
    if isinstance(constraint, _ORDERED):
        steps = value[..., 1:] >= value[..., :-1]
        inside = inside.all(axis=-1) & steps.all(axis=-1)
        is_positive = isinstance(constraint, type(constraints.positive_ordered_vector))
        return inside & (value[..., 0] >= 0) if is_positive else inside
    inside = inside.all(axis=tuple(range(-constraint.event_dim, 0)))
    if constraint.event_dim == 2 and not isinstance(constraint, type(constraints.real_matrix)):
        xp = jnp if isinstance(value, jax.Array) else np
        inside = inside & (xp.diagonal(value, axis1=-2, axis2=-1) >= 0).all(axis=-1)
    return inside


class Mark(NamedTuple):
    """Something that must not be, found outside: its name, where it is, and the number there."""

    name: str
    is_bad: Any
    value: Any


def faults_of(
    fn: dist.Distribution,
    shape: tuple[int, ...],
    row_axis: int | None,
    *,
    where: Array | None = None,
    is_drawn: bool = False,
    is_read: bool = True,
    marks: Sequence[Mark] = (),
) -> Faults | None:
    """Where parameters of a distribution, or of its parts, are outside their constraints.

    Parameters
    ----------
    fn : Distribution
        Masked elements are not looked at.
    shape : tuple of int
        Shape of the site's values.
    row_axis : int, optional
        Axis of its values that are the rows: it is kept, and all others are taken together.
    where : array of bool, optional
        Elements that are looked at, with as many axes as the values have.
    is_drawn : bool
        Also mark counts that may be too large for the dtype that they are drawn in ("draws").
    is_read : bool
        Look at the parameters.
    marks : sequence of Mark
        What was found beside them, in the shape of the values or of their events.

    Returns
    -------
    Faults or None
        None where there is nothing to check.

    Examples
    --------
    >>> import numpyro.distributions as dist
    >>> look = jax.jit(lambda rate: faults_of(dist.Poisson(rate), (2,), row_axis=0))
    >>> found = look(jnp.array([1.0, -2.0]))
    >>> found.names, found.code.tolist(), found.value.tolist()
    (('rate',), [0, 1], [0.0, -2.0])
    """
    base = base_distribution(fn)
    shape = shape[: len(shape) - len(base.event_shape)]
    used = _mask_of(fn, shape)
    asked = used if where is None else used & where.any(axis=tuple(range(len(shape), where.ndim)))
    code, number = jnp.zeros(shape, np.int8), jnp.zeros(shape)
    names: list[str] = []
    checks = [(asked, check) for check in _checks(base, is_drawn=is_drawn)] if is_read else []
    checks += [(used, _by_event(mark, len(shape))) for mark in marks]
    for looked_at, (name, is_bad, value) in checks:
        names.append(name)
        bad, worst = _over(is_bad, value, shape)
        bad = bad & looked_at & (code == 0)
        code, number = jnp.where(bad, len(names), code), jnp.where(bad, worst, number)
    if not names:
        return None
    code = code.astype(np.int8)
    if row_axis is None or row_axis >= len(shape):
        return first_fault(Faults(code.ravel(), number.ravel(), type(base).__name__, tuple(names)))
    code, number = (jnp.moveaxis(v, row_axis, 0) for v in (code, number))
    code, number = (v.reshape(len(v), -1) for v in (code, number))
    return first_fault(Faults(code, number, type(base).__name__, tuple(names)))


def _by_event(mark: Mark, rank: int) -> Mark:
    """A mark whose axes within an event are one."""
    inner = tuple(range(rank, jnp.ndim(mark.is_bad)))
    if not inner:
        return mark
    value = jnp.where(mark.is_bad, mark.value, -jnp.inf).max(axis=inner)
    return Mark(mark.name, mark.is_bad.any(axis=inner), value)


def first_fault(faults: Faults) -> Faults:
    """The first fault along the last axis."""
    if faults.code.shape[-1] == 1:  # a program that looks for the only one takes longer to compile
        only = (faults.code[..., 0], faults.value[..., 0])
        return Faults(*only, faults.family, faults.names)
    place = jnp.argmax(faults.code > 0, axis=-1, keepdims=True)
    code, value = (jnp.take_along_axis(v, place, -1)[..., 0] for v in (faults.code, faults.value))
    return Faults(code, value, faults.family, faults.names)


def fault_of(
    faults: Faults, rows: int, asked: np.ndarray | None = None
) -> tuple[int | None, Point] | None:
    """The first fault among the first rows, of those that are asked about, and its row, if any."""
    code, value = np.asarray(faults.code), np.asarray(faults.value)
    by_row = code.ndim > 0
    code, value = np.atleast_1d(code)[:rows], np.atleast_1d(value)
    if by_row and asked is not None:
        code = np.where(asked, code, 0)
    if not code.any():
        return None
    row = int(np.argmax(code > 0))
    parameter, _, box = faults.names[int(code[row]) - 1].partition(_IN)
    point = Point(faults.family, parameter, float(value[row]), box)
    return (row if by_row else None), point


def _mask_of(fn: dist.Distribution, shape: tuple[int, ...]) -> Any:
    """Elements that no mask leaves out."""
    used, base = jnp.ones(shape, bool), base_distribution(fn)
    while fn is not base:
        mask = getattr(fn, "_mask", None)
        if mask is not None:
            mask = jnp.broadcast_to(mask, fn.batch_shape)
            inner = len(fn.event_shape) - len(base.event_shape)
            used = used & mask.reshape(*mask.shape, *[1] * inner)
        fn = fn.base_dist
    return used


def _checks(fn: dist.Distribution, *, is_drawn: bool) -> Iterator[tuple[str, Any, Any]]:
    """Each checked parameter of a distribution and of its parts: name, where it is bad, value."""
    fn = base_distribution(fn)
    held = vars(fn)
    for name, constraint in getattr(fn, "arg_constraints", {}).items():
        value = held.get(name)
        if value is None or _is_any(constraint) or not _is_numeric(value):
            continue
        value = jnp.asarray(value)
        known = ""
        if isinstance(constraint, InBox):
            known = f"{_IN}{constraint.lower_bound:g} to {constraint.upper_bound:g}"
        yield name + known, ~is_inside(constraint, value, slack=_SLACK), _shown(constraint, value)
    reach_of = FAMILIES.of[type(fn)].reach
    if is_drawn and reach_of is not None:
        reach = jnp.asarray(reach_of(fn), jnp.result_type(float))
        yield "draws", reach > np.iinfo(jnp.result_type(int)).max, reach
    low, high = held.get("low"), held.get("high")
    if _is_numeric(low) and _is_numeric(high):
        yield "high", ~(jnp.asarray(high) >= low), jnp.broadcast_to(high, jnp.shape(low + high))
    for attribute in held.values():
        for one in attribute if isinstance(attribute, list | tuple) else [attribute]:
            if isinstance(one, Distribution):
                for name, bad, value in _checks(one, is_drawn=is_drawn):
                    yield name, *_reduced(bad, value, one, fn)


def _reduced(
    bad: Array, value: Array, part: dist.Distribution, whole: dist.Distribution
) -> tuple[Any, Any]:
    """A check of a part that has axes of its own at the end, such as components of a mixture."""
    more = len(part.batch_shape) - len(whole.batch_shape)
    if more <= 0 or bad.ndim < more:
        return bad, value
    axes = tuple(range(-more, 0))
    return bad.any(axis=axes), jnp.where(bad, value, -jnp.inf).max(axis=axes)


def _over(bad: Array, value: Array, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """A check in the shape of the values, as far as its axes are known."""
    try:
        return jnp.broadcast_to(bad, shape), jnp.broadcast_to(value, shape)
    except ValueError:
        worst = jnp.where(bad, value, -jnp.inf).max()
        return jnp.broadcast_to(bad.any(), shape), jnp.broadcast_to(worst, shape)


def _is_any(constraint: constraints.Constraint) -> bool:
    """Whether a constraint depends on other parameters, and is not checked."""
    return constraint is constraints.dependent or isinstance(
        constraint, type(constraints.dependent)
    )


def _is_numeric(value: object) -> bool:
    if not isinstance(value, jax.Array | np.ndarray | np.generic | bool | int | float):
        return False
    return bool(jnp.result_type(value).kind in "biuf")


def _shown(constraint: constraints.Constraint, value: Array) -> Any:
    """One number for each event: the sum of probabilities, or the least of others."""
    value = value.astype(jnp.result_type(float))
    if not constraint.event_dim:
        return value
    axes = tuple(range(-constraint.event_dim, 0))
    if isinstance(constraint, type(constraints.simplex)):
        return value.sum(axis=axes)
    return value.min(axis=axes)
