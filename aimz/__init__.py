"""Causal impact modelling with NumPyro kernels.

A user brings a *kernel*, a plain NumPyro model function, and gets an estimator: `ImpactModel`.
"""

from aimz._version import __version__
from aimz.errors import (
    AimzError,
    AimzWarning,
    FitWarning,
    InputError,
    KernelValidationError,
    NotFittedError,
    OutputWarning,
    PerformanceWarning,
    StoreError,
)
from aimz.kernel import KernelSpec
from aimz.model import ImpactModel
from aimz.options import set_options
from aimz.store import open_result as open  # noqa: A004  # read as aimz.open
from aimz.store import verify

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
    "open",
    "set_options",
    "verify",
]
