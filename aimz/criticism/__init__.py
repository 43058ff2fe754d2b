"""How well a model predicts rows: left out of the posterior in turn, or among their predictions."""

from aimz.criticism.leave_one_out import leave_out
from aimz.criticism.predictive import Compared, PredictiveCheck, predictive_check
from aimz.criticism.smoothing import left_out_weights

__all__ = ["Compared", "PredictiveCheck", "leave_out", "left_out_weights", "predictive_check"]
