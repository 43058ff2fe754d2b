"""One call: from a request and a fit to a result."""

from aimz.prediction.continuation import carries_outcome
from aimz.prediction.fitted import check_same_data, fitted_on, located
from aimz.prediction.inputs import Given, as_head_of, gather, problem_of
from aimz.prediction.interventions import as_site
from aimz.prediction.one_call import Prepared, Result, carry_out, prepare
from aimz.prediction.origin import origin_of
from aimz.prediction.pairing import difference, leads
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
    "check_same_data",
    "difference",
    "fitted_on",
    "gather",
    "leads",
    "located",
    "of_rows_that_count",
    "origin_of",
    "prepare",
    "presence_in",
    "problem_of",
    "row_scores",
    "subtracting",
]
