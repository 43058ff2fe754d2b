"""Outcomes beside their predictions: what a predictive check needs of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from aimz.criticism import Compared, PredictiveCheck, predictive_check
from aimz.data import check_positive
from aimz.errors import InputError
from aimz.kernel import KernelSpec
from aimz.libraries import xr
from aimz.model.criticising import prepared_for
from aimz.model.fitting import Data
from aimz.model.predicting import Planned, planned
from aimz.model.setup import KeyLike, Setup
from aimz.prediction import Delivery, Fitted, Given, origin_of
from aimz.sampling import predict_block

__all__ = ["checked"]


_LEAST_DRAWS = 100


def checked(
    setup: Setup,
    fitted: Fitted,
    data: Data,
    streamed: Callable[[Planned], xr.DataTree],
    *,
    by: Mapping[str, Any],
    rng_key: KeyLike | None,
    progress: bool,
) -> PredictiveCheck:
    """Compare outcomes with draws of them; `by` has the `treatment` and the `regions`."""
    output = setup.names[1]
    of_density = prepared_for(setup, fitted, "log_likelihood", data, progress=progress)
    asked = of_density.inputs
    _check_can_be_ranked(asked.spec)
    draws_of = setup.request(
        fitted,
        program=predict_block,
        method="check",
        group="predictions",
        return_sites=output,
        to=Delivery(store="memory", progress=progress),
        rng_key=rng_key,
        in_sample=False,
    )
    if draws_of.chains * draws_of.draws < _LEAST_DRAWS:
        msg = f"A check takes {_LEAST_DRAWS} posterior draws or more. Draw more: num_samples=."
        raise InputError(msg, code="draws-few")
    columns = _by_row(asked, output)
    observed = columns.pop(output)
    arm, regions = _groups(columns, by, asked, len(observed))
    inputs = {name: value for name, value in data.arguments.items() if name != output}
    tree = streamed(planned(setup, draws_of, inputs))
    draws = np.asarray(tree["predictions"][output])
    draws = draws.reshape(-1, draws.shape[-1]).T
    counts = np.isfinite(observed)
    learned = _learned(of_density, len(observed))[counts]
    density = None
    if learned.any():
        density = np.asarray(streamed(of_density)["log_likelihood"][output])
        density = density.reshape(-1, density.shape[-1]).T
    compared = Compared(observed[counts].astype(draws.dtype), draws[counts], density, learned)
    at = {name: values[counts] for name, values in columns.items()}
    regions = regions if isinstance(regions, int) else regions[counts]
    return predictive_check(compared, None if arm is None else arm[counts], regions, at)


def _check_can_be_ranked(spec: KernelSpec) -> None:
    """Refuse outcomes whose places among their draws would not be uniform and independent.

    Raises
    ------
    InputError
        `check-site`.
    """
    site = spec[spec.output]
    in_scan = [s.name for s in spec.sites if s.rows == "scan" or s.is_series]
    reasons = {
        "follow from one another by a scan or a series. Ask im.impact(...).check": bool(in_scan),
        "are not one number a row": len(site.shape) != 1 or not site.follows_rows,
        "are drawn jointly": bool(site.event_dim),
        "are categories without an order": site.categories > 2,
        "are censored, but their predictions are not": "Censored" in site.law,
        "are masked by the kernel. Leave these rows out": site.masked,
    }
    for reason, holds in reasons.items():
        if holds:
            msg = f"Outcomes of '{site.name:.40}' cannot be ranked among their predictions: they "
            raise InputError(f"{msg}{reason}.", code="check-site")


def _by_row(asked: Given, output: str) -> dict[str, np.ndarray]:
    """Outcomes, and numbers of rows by column, in the order of the call."""
    arguments, columns = asked.arguments, {}
    for name in (output, *sorted(asked.spec.row_inputs - {output})):
        value = arguments.arrays.get(name)
        if not isinstance(value, np.ndarray | jax.Array) or value.ndim not in (1, 2):
            continue
        array = np.asarray(value, np.float64)
        array = array if asked.kept is None else array[asked.kept]
        if array.ndim == 1:
            columns[name] = array
            continue
        titles = arguments.columns.get(name) or [f"{name}[{n}]" for n in range(array.shape[1])]
        for n, title in enumerate(titles):
            is_taken = title in columns or title in asked.spec.row_inputs
            columns[f"{name}[{title}]" if is_taken else str(title)] = array[:, n]
    if output not in columns or (asked.rows is not None and len(columns[output]) != asked.rows):
        msg = f"A check takes rows in memory and their outcomes: pass arrays for X and '{output}'."
        raise InputError(msg, code="outcome-missing")
    return columns


def _groups(
    columns: dict[str, np.ndarray], by: Mapping[str, Any], asked: Given, rows: int
) -> tuple[np.ndarray | None, int | np.ndarray]:
    """Treatment, which is no column then, and regions of each row.

    Raises
    ------
    InputError
        `treatment-unknown`, `rows-mismatch`, `not-positive`.
    """
    treatment, regions = by["treatment"], by["regions"]
    if treatment is not None and not (isinstance(treatment, str) and treatment in columns):
        listed = ", ".join(sorted(columns)) or "none"
        msg = f"treatment={treatment!r:.40} has no number for each row. Others: {listed:.90}."
        raise InputError(msg, code="treatment-unknown")
    arm = None if treatment is None else columns.pop(treatment)
    if isinstance(regions, int | np.integer):
        check_positive(regions, "regions")
        return arm, int(regions)
    labels = np.asarray(asked.arguments.lined({"regions": regions}, "X")["regions"].given)
    if labels.shape != (rows,):
        msg = (
            f"regions= of shape {labels.shape} is not a number of bins or a label for {rows} rows."
        )
        raise InputError(msg, code="rows-mismatch")
    return arm, labels


def _learned(call: Planned, rows: int) -> np.ndarray:
    """Which rows the posterior has learned from, as far as is known.

    Some of the fitted rows are taken to have their outcomes; all of them are asked for theirs.
    """
    request, asked = call.request, call.inputs
    origin, is_learned = origin_of(request, asked), np.zeros(rows, bool)
    if origin.by_hand:
        return is_learned
    is_same = origin.is_known and not origin.leading and not origin.changed
    if asked.rows == request.fitted.rows:
        is_learned[:] = asked.has_rows_of(request.fitted, is_same=is_same)
    elif origin.is_known and not origin.changed:
        is_learned[: origin.leading or None] = True
    return is_learned
