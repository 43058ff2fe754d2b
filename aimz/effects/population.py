"""Whose effect it is: rows, arms, weights and groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.data import Value, as_array
from aimz.effects.changes import Natural, column_of
from aimz.effects.question import Question
from aimz.errors import InputError
from aimz.libraries import pd

__all__ = ["Rows", "in_arm", "rows_of"]


@dataclass(frozen=True)
class Rows:
    """Which rows count for what: a weight and a group each; groups have labels.

    `weights` are zero for rows that are not asked about; None where all count alike, `groups` None
    where there is one.
    """

    weights: np.ndarray | None = None
    groups: np.ndarray | None = None
    labels: pd.Index = field(default_factory=lambda: pd.Index([]))

    def asked(self, rows: int) -> np.ndarray:
        """Rows, (row,) of bool, that are asked about."""
        return np.ones(rows, bool) if self.weights is None else self.weights > 0


def in_arm(
    treatment: Any,
    natural: Natural,
    rows: int,
    changes: Mapping[str, Mapping[str, Any]],
) -> dict[str, np.ndarray]:
    """Rows, (row,) of bool, that were in the arm of each scenario, by the treatment they had.

    `treatment` is a name, or one value per row; None takes the one thing that the scenarios set. An
    array of bool says who was treated, which is the last scenario's arm.

    Raises
    ------
    InputError
        `treatment-unknown`: it is not known who was in which arm.
    """
    names = {name for change in changes.values() for name in change}
    if treatment is None and len(names) != 1:
        listed = f"Several things are set ({', '.join(sorted(names)):.80})"
        listed = listed if names else "No argument or site is set"
        msg = f"{listed}, so it is not known who was treated. Pass treatment=, one that is set."
        raise InputError(msg, code="treatment-unknown")
    treatment = next(iter(names)) if treatment is None else treatment
    had = _named_values(treatment, natural, rows, "treatment")
    arms = list(changes)
    if not isinstance(treatment, str):
        if had.dtype != bool or len(arms) != 2:
            msg = "treatment= as an array must be of bool and say who had the second scenario."
            raise InputError(msg, code="treatment-unknown")
        return {arms[0]: ~had, arms[1]: had}
    by_arm = {}
    for arm, change in changes.items():
        value = change.get(treatment)
        if callable(value) or value is None or np.ndim(value):
            msg = (
                f"Scenario '{arm}' does not set '{treatment}' to one value, so it is not known who "
                "was in it. Set it, or pass treatment= as an array of bool."
            )
            raise InputError(msg, code="treatment-unknown")
        by_arm[arm] = _as_seen(had) == _as_seen(value)
    return by_arm


def _as_seen(value: Any) -> Any:
    """Numbers in the precision that the kernel gets them in."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def rows_of(
    question: Question,
    rows: int | None,
    natural: Natural,
    *,
    treated: np.ndarray | None,
    by: Any,
    weights: Any,
) -> Rows:
    """Weights and groups of the rows that an estimand is about; `treated` are those that count.

    Raises
    ------
    InputError
        `by-missing`, `rows-mismatch`, `not-finite`, `no-rows`, `column-unknown`.
    """
    unit = question.meaning.unit
    if (by is None and unit == "group") or (by is not None and unit not in ("group", "any")):
        msg = (
            f"estimand='{question.estimand}' needs by=: a label per row, or the name of a column."
            if by is None
            else f"by= is for estimand='cate', not {question.estimand!r}. Name that, or drop by=."
        )
        raise InputError(msg, code="by-missing")
    if rows is None:
        return Rows()
    weight = None if weights is None else _row_values(weights, "weights", rows)
    if weight is not None and not (
        np.all(np.isfinite(weight)) and np.all(weight >= 0) and np.any(weight)
    ):
        msg = "weights must be finite and not negative, and some above 0."
        raise InputError(msg, code="not-finite")
    if treated is not None:
        weight = np.where(treated, 1.0 if weight is None else weight, 0.0)
        if not np.any(weight):
            msg = f"No row is asked about: nobody counts for estimand='{question.estimand}'."
            raise InputError(msg, code="no-rows")
    if by is None:
        return Rows(weight)
    groups, labels = _groups(by, natural, rows)
    totals = np.bincount(groups, weight, len(labels))
    if not totals.all():
        msg = (
            f"Group {labels[int(np.argmin(totals))]!s:.40} of by= has weight 0, so it has no "
            "average. Leave its rows out, or give it weight."
        )
        raise InputError(msg, code="no-rows")
    return Rows(weight, groups.astype(np.int32), labels)


def _groups(by: Any, natural: Natural, rows: int) -> tuple[np.ndarray, pd.Index]:
    """Number of each row's group, and the labels of the groups: several, of each combination."""
    parts = _grouping(by, natural, rows)
    values = [_named_values(v, natural, rows, "by") for _, v in parts]
    missing = sum(pd.isna(value) for value in values)
    if np.any(missing):
        msg = f"by= has {np.count_nonzero(missing)} missing labels. Give them one of their own."
        raise InputError(msg, code="not-finite")
    try:
        if len(values) == 1:
            groups, labels = pd.factorize(values[0], sort=True)
            return groups, pd.Index(labels)
        groups, combined = pd.MultiIndex.from_arrays(values).factorize(sort=True)
    except TypeError as error:  # what has no hash
        msg = f"by= holds what is no label ({error!s:.60}). Pass numbers, text or dates."
        raise InputError(msg, code="option-unknown") from error
    return groups, pd.MultiIndex.from_tuples(combined, names=[name for name, _ in parts])


def _grouping(by: Any, natural: Natural, rows: int) -> list[tuple[str, Any]]:
    """What rows are grouped by: one thing, names in a list, or the columns of a frame."""
    are_names = [natural.has(name) for name in by] if isinstance(by, list | tuple) else []
    if are_names and (
        all(are_names) or (any(are_names) and len(by) != rows)
    ):  # an unare_names one is refused
        return [(name, name) for name in by]
    names = Value.of(by, "by").columns if len(getattr(by, "shape", ())) == 2 else None
    if names is not None:
        return [(name, column_of(by, place)) for place, name in enumerate(names)]
    if isinstance(by, np.ndarray) and by.ndim == 2:
        return [(f"by {place}", column) for place, column in enumerate(by.T)]
    return [("by", by)]


def _named_values(wanted: Any, natural: Natural, rows: int, option: str) -> np.ndarray:
    """One value per row: as given, of an argument, or of a column of the primary input."""
    named = natural.by_name(wanted, option) if isinstance(wanted, str) else wanted
    values = Value.of(named, option).as_labels()
    if isinstance(wanted, str) and values.ndim == 0:
        values = np.broadcast_to(values, (rows,))
    if values.shape != (rows,):
        msg = f"{option}= has shape {values.shape} but there are {rows} rows. Pass one per row."
        raise InputError(msg, code="rows-mismatch")
    return values


def _row_values(wanted: Any, name: str, rows: int) -> np.ndarray:
    values = np.asarray(as_array(wanted, name), np.float64)
    if values.shape != (rows,):
        msg = f"{name}= has shape {values.shape} but there are {rows} rows. Pass one per row."
        raise InputError(msg, code="rows-mismatch")
    return values
