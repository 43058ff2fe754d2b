"""How well a model predicts rows that it has not seen, told from the rows that it has."""

from aimz.criticism.leave_one_out import leave_out

__all__ = ["leave_out"]
