"""Ready-made kernels, and parts of them: plain NumPyro, whose source is the manual."""

from aimz.kernels.curves import HSGP
from aimz.kernels.names import kernel_named
from aimz.kernels.over_time import (
    DifferenceInDifferences,
    StructuralTimeSeries,
    SyntheticControl,
)
from aimz.kernels.regressions import GLM, Flexible, Hierarchical, Linear
from aimz.kernels.series import kalman
from aimz.kernels.standard import OutcomeUnits, standard

__all__ = [
    "GLM",
    "HSGP",
    "DifferenceInDifferences",
    "Flexible",
    "Hierarchical",
    "Linear",
    "OutcomeUnits",
    "StructuralTimeSeries",
    "SyntheticControl",
    "difference_in_differences",
    "flexible",
    "glm",
    "hierarchical",
    "hsgp",
    "kalman",
    "kernel_named",
    "linear",
    "standard",
    "structural_time_series",
    "synthetic_control",
]

# As functions that make them, for those who write kernels in small letters.
linear = Linear
glm = GLM
hierarchical = Hierarchical
flexible = Flexible
hsgp = HSGP
structural_time_series = StructuralTimeSeries
synthetic_control = SyntheticControl
difference_in_differences = DifferenceInDifferences
