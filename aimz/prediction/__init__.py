"""One call: from a request and a fit to a result."""

from aimz.prediction.continuation import carries_outcome
from aimz.prediction.delivery import Result, carry_out, precision_notes
from aimz.prediction.fitted import check_same_data, fitted_on, located
from aimz.prediction.groups import check_new_groups
from aimz.prediction.inputs import Given, as_head_of, gather, problem_of
from aimz.prediction.interventions import as_site, observed_sites, sites_to_return
from aimz.prediction.origin import changed_rows, check_fitted_rows, origin_of
from aimz.prediction.pairing import concerns, difference, leads
from aimz.prediction.preparation import Prepared, prepare
from aimz.prediction.request import Delivery, Fitted, Origin, Request, Use
from aimz.prediction.scoring import of_rows_that_count, presence_in, row_scores
from aimz.prediction.subtraction import subtracting

__all__ = [
    "Delivery",
    "Fitted",
    "Given",
    "Origin",
    "Prepared",
    "Request",
    "Result",
    "Use",
    "as_head_of",
    "as_site",
    "carries_outcome",
    "carry_out",
    "changed_rows",
    "check_fitted_rows",
    "check_new_groups",
    "check_same_data",
    "concerns",
    "difference",
    "fitted_on",
    "gather",
    "leads",
    "located",
    "observed_sites",
    "of_rows_that_count",
    "origin_of",
    "precision_notes",
    "prepare",
    "presence_in",
    "problem_of",
    "row_scores",
    "sites_to_return",
    "subtracting",
]
