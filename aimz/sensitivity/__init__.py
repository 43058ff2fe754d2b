"""How strong a cause that nobody measured would have to be to overturn an effect.

The law: formulas are pure, of numbers or of draws, and each has its source; what is made of an
effect carries its draws, so that nothing is reported without an interval.
"""

from aimz.sensitivity.e_values import MEASURES, e_value, e_value_limit, to_risk_ratio
from aimz.sensitivity.hidden import HiddenCause, Points, hidden_cause_report
from aimz.sensitivity.report import Evidence, Sensitivity, sensitivity_of
from aimz.sensitivity.strength import (
    Adjusted,
    Strength,
    adjusted,
    benchmark_bound,
    partial_r2,
    partial_r2_of_columns,
    robustness_value,
)

__all__ = [
    "MEASURES",
    "Adjusted",
    "Evidence",
    "HiddenCause",
    "Points",
    "Sensitivity",
    "Strength",
    "adjusted",
    "benchmark_bound",
    "e_value",
    "e_value_limit",
    "hidden_cause_report",
    "partial_r2",
    "partial_r2_of_columns",
    "robustness_value",
    "sensitivity_of",
    "to_risk_ratio",
]
