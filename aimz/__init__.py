"""Causal impact modelling with NumPyro kernels.

A user brings a *kernel*, a plain NumPyro model function, and gets an estimator: `ImpactModel`.
"""

from typing import TYPE_CHECKING, Any

from aimz import errors as _errors
from aimz._version import __version__
from aimz.choices import set_options
from aimz.errors import (
    AimzError,
    AimzWarning,
    FitWarning,
    InputError,
    KernelValidationError,
    OutputWarning,
    PerformanceWarning,
    StoreError,
)
from aimz.kernel import KernelSpec
from aimz.model import ImpactModel, compare
from aimz.store import open_result as open  # noqa: A004  # read as aimz.open
from aimz.store import verify

if TYPE_CHECKING:
    from aimz.errors import NotFittedError

__all__ = [
    "AimzError",
    "AimzWarning",
    "FitWarning",
    "ImpactModel",
    "InputError",
    "KernelSpec",
    "KernelValidationError",
    "NotFittedError",
    "OutputWarning",
    "PerformanceWarning",
    "StoreError",
    "__version__",
    "compare",
    "open",
    "set_options",
    "verify",
]


def __getattr__(name: str) -> Any:
    """`NotFittedError` is made when somebody asks for it, since scikit-learn is loaded for it."""
    if name == "NotFittedError":
        return _errors.NotFittedError
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
