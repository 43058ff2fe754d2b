"""Ready-made kernels by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from aimz.errors import InputError, nearest
from aimz.kernels.curves import HSGP
from aimz.kernels.over_time import (
    DifferenceInDifferences,
    StructuralTimeSeries,
    SyntheticControl,
)
from aimz.kernels.regressions import GLM, Flexible, Hierarchical, Linear

__all__ = ["kernel_named"]


_NAMED: dict[str, Callable[..., Any]] = {
    "linear": Linear,
    "glm": GLM,
    "hierarchical": Hierarchical,
    "flexible": Flexible,
    "hsgp": HSGP,
    "structural_time_series": StructuralTimeSeries,
    "synthetic_control": SyntheticControl,
    "difference_in_differences": DifferenceInDifferences,
}


def kernel_named(name: str, settings: Mapping[str, Any]) -> Callable[..., Any]:
    """A ready-made kernel with its settings.

    Raises
    ------
    InputError
        `kernel-name`: there is none of this name, or not with these settings.
    """
    if name not in _NAMED:
        msg = f"There is no ready-made kernel '{name:.40}'. {nearest(name, _NAMED)}"
        raise InputError(msg, code="kernel-name")
    make = _NAMED[name]
    try:
        inspect.signature(make).bind(**settings)
    except TypeError as error:
        valid = ", ".join(inspect.signature(make).parameters)
        msg = f"The kernel '{name}' cannot be made: {error!s:.80}. Its settings are: {valid}."
        raise InputError(msg, code="kernel-name") from error
    kernel: Callable[..., Any] = make(**settings)
    return kernel
