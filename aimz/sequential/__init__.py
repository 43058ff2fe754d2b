"""Learning models: kernels whose rows are subjects, and which scan over their trials.

Law: one kernel simulates, is fitted, and is asked what if; what is padded changes nothing.
"""

from aimz.sequential.confusion import Confusion, confusion
from aimz.sequential.recovery import Recovery, recovery
from aimz.sequential.sessions import sessions
from aimz.sequential.trials import hierarchical, scan_trials

__all__ = [
    "Confusion",
    "Recovery",
    "confusion",
    "hierarchical",
    "recovery",
    "scan_trials",
    "sessions",
]
