"""Angles: which supports are made of them, and the difference of two, which is a turn."""

import numpy as np
from numpyro.distributions import constraints

__all__ = ["is_angular", "turn"]


def is_angular(support: constraints.Constraint) -> bool:
    """Whether all numbers of a support are angles.

    Examples
    --------
    >>> is_angular(constraints.independent(constraints.circular, 1))
    True
    """
    while isinstance(support, type(constraints.independent(constraints.real, 1))):
        support = support.base_constraint
    return isinstance(support, type(constraints.circular))


def turn(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """The shorter way from one angle to another, above -pi and up to pi.

    Examples
    --------
    >>> turn(np.array([-3.0, 3.0, np.pi]), np.array([3.0, -3.0, 0.0])).round(3).tolist()
    [0.283, -0.283, 3.142]
    """
    apart = np.subtract(new, old, dtype=np.float64)
    turned: np.ndarray = np.pi - (np.pi - apart) % (2 * np.pi)
    return np.where(turned > -np.pi, turned, np.pi).astype(np.result_type(new, old))
