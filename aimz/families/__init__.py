"""What is known of families of distributions beyond their own code: limits, densities, means.

A family is a row of one table (`aimz.families.table`); what is asked of a distribution looks there.
"""

from aimz.families.angles import is_angular, turn
from aimz.families.densities import Exact, density_of
from aimz.families.law import Evidence, Law, base_distribution
from aimz.families.limits import Faults, Mark, fault_of, faults_of, first_fault, is_inside, takes
from aimz.families.means import mean_of, mean_of_known
from aimz.families.noise import Noise, abduce, coupling_of, replay, success_of
from aimz.families.reading import law_of
from aimz.families.state_space import StateSpace
from aimz.families.table import FAMILIES
from aimz.families.truncated import with_tails

__all__ = [
    "FAMILIES",
    "Evidence",
    "Exact",
    "Faults",
    "Law",
    "Mark",
    "Noise",
    "StateSpace",
    "abduce",
    "base_distribution",
    "coupling_of",
    "density_of",
    "fault_of",
    "faults_of",
    "first_fault",
    "is_angular",
    "is_inside",
    "law_of",
    "mean_of",
    "mean_of_known",
    "replay",
    "success_of",
    "takes",
    "turn",
    "with_tails",
]
