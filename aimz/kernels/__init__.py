"""Ready-made kernels, and parts of them: plain NumPyro, whose source is the manual."""

from aimz.kernels.names import kernel_named
from aimz.kernels.over_time import (
    DifferenceInDifferences,
    StructuralTimeSeries,
    SyntheticControl,
)
from aimz.kernels.series import kalman

__all__ = [
    "DifferenceInDifferences",
    "StructuralTimeSeries",
    "SyntheticControl",
    "difference_in_differences",
    "kalman",
    "kernel_named",
    "structural_time_series",
    "synthetic_control",
]

# As functions that make them, for those who write kernels in small letters.
structural_time_series = StructuralTimeSeries
synthetic_control = SyntheticControl
difference_in_differences = DifferenceInDifferences
