"""How large the values of a traced program are."""

import math
from typing import Any

import jax
from jax.extend import core

__all__ = ["widest_value"]


def widest_value(jaxpr: core.Jaxpr) -> int:
    """Bytes of the largest value that a program, or one inside it, computes on the way."""
    widest = 0
    for eqn in jaxpr.eqns:
        widest = max([widest, *(_bytes(variable.aval) for variable in eqn.outvars)])
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                inner: Any = getattr(value, "jaxpr", value)
                widest = max(widest, widest_value(inner))
    return widest


def _bytes(aval: Any) -> int:
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return int(itemsize) * math.prod(getattr(aval, "shape", ()))


def _is_jaxpr(value: object) -> bool:
    return hasattr(value, "eqns")
