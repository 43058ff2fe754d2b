"""The box of parameters that a likelihood knows; outside of it nothing is said."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.errors import InputError

__all__ = ["Bounds", "check_box", "check_names", "is_in_box"]


#: A smallest and a largest value of each parameter.
type Bounds = Mapping[str, tuple[float, float]]
_ROUNDED = 1e-5  # of the width of the box


def is_in_box(parameters: Mapping[str, Any], bounds: Bounds) -> Any:
    """Whether parameters lie in a box, up to rounding, all together."""
    inside: Any = jnp.ones((), bool)
    for name, (low, high) in bounds.items():
        slack = _ROUNDED * (high - low)
        value = parameters[name]
        inside = inside & (value >= low - slack) & (value <= high + slack)
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
        slack = _ROUNDED * (high - low)
        bad = ~((value >= low - slack) & (value <= high + slack))
        if bad.any():
            msg = (
                f"'{name}' is {value[bad].flat[0]:g}, outside of the box that the likelihood "
                f"was trained in ({low:g} to {high:g}), where it knows nothing. Take priors "
                "from its bounds, or train it in a larger box."
            )
            raise InputError(msg, code="outside-box")
