"""How a model does on rows with outcomes: the score of any, and fitted ones left out in turn."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from aimz.choices import progress_bar
from aimz.criticism import leave_out
from aimz.data import Value, lined_up
from aimz.errors import InputError, Note
from aimz.model.fitting import Data
from aimz.model.predicting import Planned, density_request, planned
from aimz.model.setup import RowsLike, Setup
from aimz.prediction import Delivery, Fitted, row_scores

if TYPE_CHECKING:
    from arviz_stats import ELPDDataLOO

__all__ = ["left_out", "prepared_for", "score_of", "summed"]


def prepared_for(
    setup: Setup,
    fitted: Fitted,
    method: str,
    data: Data,
    *,
    progress: bool = False,
) -> Planned:
    """A pass over the densities of some rows, prepared for one of the two below."""
    to = Delivery(store="memory", progress=progress)
    request = density_request(setup, fitted, method, data.missing, to)
    return planned(setup, request, data.arguments)


def score_of(
    setup: Setup, call: Planned, X: RowsLike, labelled: Mapping[str, ArrayLike | None]
) -> tuple[float, tuple[Note, ...]]:
    """Mean log predictive density per row; `labelled` are the outcomes and the `sample_weight`."""
    scores = row_scores(call.prepared, lambda _: None)
    call.prepared.check_rows_read(call.request.fitted)
    if labelled["sample_weight"] is None:
        return scores.mean(), scores.notes
    rows = len(scores.densities)
    return scores.mean(_row_weights(labelled, X, rows, setup.names[0])), scores.notes


def left_out(
    setup: Setup, call: Planned, site: str | None
) -> tuple["ELPDDataLOO", tuple[Note, ...]]:
    """Leave each fitted row out of the posterior in turn."""
    request, inputs = call.request, call.inputs
    schema = setup.schema(request.chains, request.draws, inputs.arguments.labels)
    shown = request.to.progress
    with progress_bar(inputs.rows, desc="loo", unit="row", shown=shown) as bar:
        record, notes = leave_out(call.prepared, request, inputs, schema, site, bar.update)
    call.prepared.check_rows_read(request.fitted)
    return record, notes


def summed(record: "ELPDDataLOO") -> "ELPDDataLOO":
    """A record without what it says of each value."""
    absent: dict[str, Any] = dict.fromkeys(("elpd_i", "pareto_k"))
    return replace(record, **absent)


def _row_weights(
    labelled: Mapping[str, ArrayLike | None], X: RowsLike, rows: int, primary: str
) -> np.ndarray:
    """One weight for each row of a score."""
    lined = lined_up(labelled, Value.of(X, primary).labels, rows, primary)
    weights = np.asarray(lined["sample_weight"].array, np.float64)
    if weights.shape != (rows,) or not weights.sum() > 0 or weights.min() < 0:
        msg = (
            f"sample_weight of shape {weights.shape} is not one weight >= 0, some above, for "
            f"each of {rows} rows. Pass one per row."
        )
        raise InputError(msg, code="rows-mismatch")
    return weights
