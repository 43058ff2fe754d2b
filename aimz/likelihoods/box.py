"""The box of parameters that a likelihood knows; outside of it nothing is said."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from aimz.arrays import Array
from aimz.errors import InputError

__all__ = ["Bounds", "InBox", "check_box", "check_names", "has_box", "is_in_box"]


#: A smallest and a largest value of each parameter.
type Bounds = Mapping[str, tuple[float, float]]
_ROUNDED = 1e-5  # of the width of the box


class InBox(constraints.Constraint):  # type: ignore[misc]  # NumPyro has no stubs
    """One side of a box: numbers outside of it are not wrong, but nothing is known of them."""

    def __init__(self, lower_bound: float, upper_bound: float) -> None:
        self.lower_bound, self.upper_bound = lower_bound, upper_bound

    def __call__(self, value: Array) -> Any:
        return self.takes(value)

    def feasible_like(self, prototype: Array) -> jax.Array:
        return jnp.full_like(prototype, (self.lower_bound + self.upper_bound) / 2)

    def tree_flatten(self) -> Any:
        names = ("lower_bound", "upper_bound")
        return (self.lower_bound, self.upper_bound), (names, {})

    def __eq__(self, other: object) -> bool:
        ends = (self.lower_bound, self.upper_bound)
        return isinstance(other, InBox) and ends == (other.lower_bound, other.upper_bound)

    def __hash__(self) -> int:
        return hash((self.lower_bound, self.upper_bound))

    def takes(self, value: Array) -> Any:
        """Whether numbers lie inside, up to rounding; NaN never does."""
        slack = _ROUNDED * (self.upper_bound - self.lower_bound)
        return (value >= self.lower_bound - slack) & (value <= self.upper_bound + slack)


def has_box(fn: dist.Distribution) -> bool:
    """Whether a distribution, or a part of it, knows its parameters in a box only."""
    if any(isinstance(limit, InBox) for limit in fn.arg_constraints.values()):
        return True
    held = (v if isinstance(v, list | tuple) else [v] for v in vars(fn).values())
    return any(has_box(one) for some in held for one in some if isinstance(one, dist.Distribution))


def is_in_box(parameters: Mapping[str, Any], bounds: Bounds) -> Any:
    """Whether parameters lie in a box, up to rounding, all together."""
    inside: Any = jnp.ones((), bool)
    for name, pair in bounds.items():
        inside = inside & InBox(*pair).takes(parameters[name])
    return inside


def check_names(parameters: Mapping[str, Any], bounds: Bounds) -> None:
    """Refuse parameters of other names.

    Raises
    ------
    InputError
        `likelihood-parameters`.
    """
    wrong = parameters.keys() ^ bounds.keys()
    if wrong:
        name = min(wrong)
        said = "is no parameter of it" if name in parameters else "is not given"
        msg = f"The likelihood takes {list(bounds)}, each by its name: '{name}' {said}."
        raise InputError(msg, code="likelihood-parameters")


def check_box(parameters: Mapping[str, Any], bounds: Bounds) -> None:
    """Refuse numbers outside of the box; those of a kernel are known only when it runs.

    Raises
    ------
    InputError
        `outside-box`.
    """
    for name, (low, high) in bounds.items():
        if isinstance(parameters[name], jax.core.Tracer):
            continue
        value = np.asarray(parameters[name])
        bad = ~InBox(low, high).takes(value)
        if bad.any():
            msg = (
                f"'{name}' is {value[bad].flat[0]:g}, outside of the box that the likelihood "
                f"was trained in ({low:g} to {high:g}), where it knows nothing. Take priors "
                "from its bounds, or train it in a larger box."
            )
            raise InputError(msg, code="outside-box")
