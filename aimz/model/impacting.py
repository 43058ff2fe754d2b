"""Impact over time: the rows before and after an intervention, and what the model says of both."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aimz.data import Value, check_outcome, lined_up, row_fingerprint, values_of
from aimz.effects import Impact, beside_time
from aimz.errors import InputError
from aimz.inference import Fit
from aimz.kernel import Inputs, KernelSpec, SiteSpec
from aimz.libraries import pd, xr
from aimz.model.predicting import Planned, inputs_of
from aimz.model.setup import Setup
from aimz.outcomes import check_outcomes
from aimz.prediction import Delivery, Fitted, carries_outcome
from aimz.sampling import expectation_block, predict_block

__all__ = [
    "Halves",
    "Pass",
    "check_fitted_before",
    "check_missing",
    "donors_of",
    "halves_of",
    "impact_of",
    "without_coupling",
    "without_donor",
]


@dataclass(frozen=True)
class Halves:
    """The arguments of all rows by name, the outcome, and how many rows come before.

    Parameters
    ----------
    arguments : mapping of str to Value
        Without the outcome.
    outcome : Value
        The series, in the order of the rows.
    known : int
        Rows before the intervention.
    labels : array, optional
        Times of the rows.
    spec : KernelSpec
        Of all rows.
    by_row : frozenset of str
        Arguments with a value for each row.
    """

    arguments: Mapping[str, Value]
    outcome: Value
    known: int
    labels: np.ndarray | None
    spec: KernelSpec
    by_row: frozenset[str]

    @property
    def series(self) -> np.ndarray:
        """The outcome as numbers; what is missing is NaN."""
        array = np.asarray(self.outcome.array)
        return array if array.dtype.kind == "f" else array.astype(np.float64)

    def first(self, rows: int) -> dict[str, Any]:
        """Arguments of so many first rows, without the outcome."""
        order = np.arange(rows)
        cut = {
            name: value.in_rows(order).given
            if name in self.by_row and np.ndim(value.given)
            else value.given
            for name, value in self.arguments.items()
        }
        return {name: value for name, value in cut.items() if value is not None}

    @property
    def outcome_before(self) -> Any:
        """The outcome before the intervention, labelled as it was."""
        return self.outcome.in_rows(np.arange(self.known)).given


def halves_of(
    setup: Setup,
    fitted: Fitted | None,
    arguments: Mapping[str, Any],
    post: ArrayLike | None,
    intervention_time: object,
) -> Halves:
    """Split the rows of a call at the intervention.

    Raises
    ------
    InputError
        `post-unclear`: neither or both of `post` and `intervention_time`, or no rows on one side;
        `time-unknown`: times that the rows do not have, or are not in order; `not-quantity`,
        `outcome-support`, `statistic-cancels`; and as in `predict`.
    """
    primary, output = setup.names
    values = values_of({name: _as_array(value) for name, value in arguments.items()})
    if values[output].given is None:
        msg = f"An impact compares outcomes with predictions: '{output}' is None. Pass one per row."
        raise InputError(msg, code="outcome-missing")
    others = {name: value for name, value in values.items() if name != output}
    fitted = fitted or Fitted(Fit(draws={}))
    given = inputs_of(setup, fitted, others)
    rows = given.arguments.rows
    outcome = lined_up({output: values[output]}, values[primary].labels, rows, primary)[output]
    if np.ndim(outcome.array) == 0 or len(outcome.array) != rows:
        msg = f"'{output}' has shape {np.shape(outcome.array)}, but there are {rows} rows."
        raise InputError(f"{msg} Pass an outcome for each row.", code="rows-mismatch")
    _check_quantity(given.spec[output])
    array = np.asarray(outcome.array)
    array = array.astype(np.float32) if array.dtype.kind == "f" else array
    arrays, static = {**given.arguments.arrays, output: array}, dict(given.arguments.static)
    possible = Inputs(arrays, static, rows, (primary, output), fitted.known.spread)
    check_outcomes(setup.kernel, possible, is_fit=False)  # a fit sees those before only
    labels = values[primary].labels if values[primary].labels is not None else outcome.labels
    lined = lined_up({"post": post}, labels, rows, primary)["post"]
    known = _rows_before(lined, intervention_time, rows, labels)
    _check_statistics(given.spec, given.arguments.arrays)
    by_row = frozenset({primary, *given.spec.row_inputs})
    return Halves(others, outcome, known, labels, given.spec, by_row)


def _check_quantity(site: SiteSpec) -> None:
    """Refuse outcomes whose differences and sums are no effect.

    Raises
    ------
    InputError
        `not-quantity`.
    """
    if site.is_angle:
        msg = f"'{site.name}' is an angle, which has no sum over time. Model its sine and cosine."
        raise InputError(msg, code="not-quantity")
    if site.categories > 2:
        msg = (
            f"'{site.name}' is a category without an order, whose codes have no difference. Model "
            "whether it is the one of interest."
        )
        raise InputError(msg, code="not-quantity")


def _check_statistics(spec: KernelSpec, arrays: Mapping[str, Any]) -> None:
    """Refuse a kernel that sets rows against a statistic of them: a fit knows that of some only.

    Raises
    ------
    InputError
        `statistic-cancels`.
    """
    for name, column in sorted(spec.measured, key=str):
        if name in arrays:
            values = np.asarray(arrays[name])
            values = values if column is None else values[:, column]
            is_same = not np.ptp(values, axis=0).any()  # of any of the rows
        else:
            is_same = name not in spec or not spec[name].follows_rows
        if not is_same:
            msg = (
                f"The kernel sets '{name}' against a statistic of it over the rows, as in "
                "x - x.mean(). That of the whole series is not that of the rows before, which the "
                "fit has seen. Pass the statistic as an argument."
            )
            raise InputError(msg, code="statistic-cancels")


def donors_of(halves: Halves, primary: str) -> Sequence[Hashable]:
    """Columns of the rows that may be taken for the outcome, by name or number."""
    value = halves.arguments[primary]
    if value.categories:
        return ()
    array = value.array
    is_table = array.ndim == 2 and array.dtype.kind in "fiu"
    return (value.columns or range(array.shape[1])) if is_table else ()


def without_donor(halves: Halves, primary: str, at: int) -> tuple[Any, np.ndarray]:
    """The rows without a column, and the column."""
    value = halves.arguments[primary]
    array: Any = np.asarray(value.array)
    rest = np.delete(array, at, 1)
    if value.columns is None and halves.labels is None:
        return rest, array[:, at]
    names = None if value.columns is None else np.delete(np.array(value.columns, object), at)
    return pd.DataFrame(rest, index=halves.labels, columns=names), array[:, at]


def check_missing(halves: Halves, missing: str, output: str) -> None:
    """Refuse outcomes that are missing where they may not be, before and after."""
    for part in (halves.series[: halves.known], halves.series[halves.known :]):
        check_outcome(part, missing, output)


def _as_array(value: object) -> Any:
    """Lists as arrays, of which rows can be taken."""
    return np.asarray(value) if isinstance(value, list | tuple) else value


def _rows_before(post: Value, time: object, rows: int, labels: np.ndarray | None) -> int:
    if (post.given is None) == (time is None):
        msg = "Say when the intervention was: post=, True from there on, or intervention_time=."
        raise InputError(msg, code="post-unclear")
    index: Any = pd.RangeIndex(rows) if labels is None else pd.Index(labels)
    if time is None:
        after = _mask_of(post, rows)
    else:
        after = beside_time(index, time, "intervention_time") >= 0
    known = int(rows - after.sum())
    if not 0 < known < rows or after[:known].any():
        msg = (
            f"{known} of {rows} rows come before the intervention. There must be some before and "
            "some after, and none before that comes after: put the rows in order of time."
        )
        raise InputError(msg, code="post-unclear")
    return known


def _mask_of(post: Value, rows: int) -> np.ndarray:
    mask = np.asarray(post.array)
    if mask.shape != (rows,) or not (mask.dtype == bool or np.isin(mask, (0, 1)).all()):
        msg = f"post= of shape {mask.shape} is not True or False for each of {rows} rows."
        raise InputError(msg, code="post-unclear")
    return mask.astype(bool)


def check_fitted_before(fitted: Fitted, halves: Halves, primary: str) -> None:
    """Refuse a fit that has seen rows after the intervention.

    Raises
    ------
    InputError
        `fit-saw-after`.
    """
    if fitted.spec is None or not halves.known < fitted.rows <= len(halves.outcome.array):
        return
    seen = halves.arguments[primary].in_rows(np.arange(fitted.rows))
    if row_fingerprint(seen.seen) == fitted.fingerprint:
        msg = (
            f"The model was fitted on {fitted.rows} of these rows, and {halves.known} come before "
            "the intervention: it has seen its effect. Fit the rows before, or a fresh model."
        )
        raise InputError(msg, code="fit-saw-after")


def without_coupling(call: Planned) -> Planned:
    """A call that does not say that rows are predicted together, as a series is."""
    notes = tuple(note for note in call.prepared.notes if note.code != "rows-coupled")
    return replace(call, prepared=replace(call.prepared, notes=notes))


@dataclass(frozen=True)
class Pass:
    """One prediction: options of its request, and arguments of the kernel."""

    options: Mapping[str, Any]
    arguments: Mapping[str, Any]


def impact_of(
    halves: Halves, drawn: Callable[[Pass], xr.DataTree], *, target: str, site: str
) -> Impact:
    """The answer: the whole series, and the draws of the rows after the intervention.

    Raises
    ------
    InputError
        `no-mean`: of a series whose state is integrated out, so that a mean knows no path of it;
        `cast-precision`: draws of 32 bits are too coarse beside such outcomes.
    """
    if target == "prediction":
        _ = halves.outcome.seen  # as draws are
    if target == "expectation" and halves.spec[site].is_series:
        msg = (
            f"The state behind '{site}' is integrated out, so that its mean leaves out where the "
            "state may go. Ask for target='prediction'."
        )
        raise InputError(msg, code="no-mean")
    options: dict[str, Any] = {
        "program": expectation_block if target == "expectation" else predict_block,
        "method": "impact",
        "group": "predictions",
        "return_sites": site,
        "to": Delivery(store="memory", progress=False),
        "in_sample": False,
    }
    whole = halves.first(len(halves.outcome.array))
    history = {"condition": {site: halves.outcome_before}} if _needs_history(halves.spec) else {}
    predicted = drawn(Pass({**options, **history}, whole)).predictions[site]
    predicted = _labelled(halves, predicted)
    time, *others = (dim for dim in predicted.dims if dim not in ("chain", "draw"))
    series = halves.series.astype(np.float64)
    if series.shape != tuple(predicted.sizes[dim] for dim in (time, *others)):
        msg = (
            f"The outcome has shape {series.shape}, but site '{site}' gives {predicted.shape[2:]} "
            "for each draw. An impact is of numbers by row."
        )
        raise InputError(msg, code="rows-mismatch")
    before = None if history else predicted.isel({time: slice(None, halves.known)})
    coords = {dim: predicted.coords[dim] for dim in (time, *others) if dim in predicted.coords}
    observed = xr.DataArray(series, dims=(time, *others), coords=coords, name=site)
    after = predicted.isel({time: slice(halves.known, None)}).astype(np.float64)
    return Impact(observed, after, target, site, before)


def _needs_history(spec: KernelSpec) -> bool:
    """Whether later outcomes follow from those before, rather than from latents behind them."""
    site = spec[spec.output]
    is_joint = site.axis >= len(site.shape) - site.joint_dim
    return carries_outcome(spec) or (site.follows_rows and is_joint)


def _labelled(halves: Halves, drawn: xr.DataArray) -> xr.DataArray:
    """Draws with the times of the rows, and the names of the series."""
    drawn = drawn.transpose("chain", "draw", ...)
    time, *others = drawn.dims[2:]
    if halves.labels is not None:
        drawn = drawn.assign_coords({time: halves.labels[: drawn.sizes[time]]})
    elif time in drawn.coords:
        drawn = drawn.drop_vars([time])
    names = halves.outcome.columns
    if len(others) == 1 and names is not None and len(names) == drawn.sizes[others[0]]:
        drawn = drawn.assign_coords({others[0]: list(names)})
    return drawn
