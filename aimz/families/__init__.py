"""What is known of families of distributions beyond their own code: limits, densities, means."""

from aimz.families.angles import is_angular, turn
from aimz.families.densities import Exact, density_of
from aimz.families.limits import (
    Faults,
    Mark,
    Point,
    fault_of,
    faults_of,
    first_fault,
    is_inside,
    takes,
)
from aimz.families.means import mean_of, mean_of_known
from aimz.families.truncated import with_tails

__all__ = [
    "Exact",
    "Faults",
    "Mark",
    "Point",
    "density_of",
    "fault_of",
    "faults_of",
    "first_fault",
    "is_angular",
    "is_inside",
    "mean_of",
    "mean_of_known",
    "takes",
    "turn",
    "with_tails",
]
