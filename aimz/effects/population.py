"""Whose effect it is: rows, arms, weights and groups; and what was observed of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aimz.data import Value, as_array, check_outcome, is_given
from aimz.effects.changes import Natural, column_of
from aimz.effects.counterfactual import replays_of
from aimz.effects.estimands import Arms
from aimz.effects.question import Question
from aimz.effects.scenarios import Scenarios
from aimz.errors import InputError
from aimz.libraries import pd
from aimz.prediction import as_site, carries_outcome, presence_in

__all__ = ["Rows", "about", "in_arm", "rows_of"]


@functools.cache
def _no_labels() -> pd.Index:
    return pd.Index([])


@dataclass(frozen=True)
class Rows:
    """Which rows count for what: a weight and a group each; groups have labels.

    `weights` are zero for rows that are not asked about; None where all count alike, `groups` None
    where there is one.
    """

    weights: np.ndarray | None = None
    groups: np.ndarray | None = None
    labels: pd.Index = field(default_factory=_no_labels)

    def asked(self, rows: int) -> np.ndarray:
        """Rows, (row,) of bool, that are asked about."""
        return np.ones(rows, bool) if self.weights is None else self.weights > 0


def about(
    question: Question, scenarios: Scenarios, options: Mapping[str, Value]
) -> tuple[Rows, Scenarios]:
    """Which rows count, and where a scenario is what was.

    `options` are `treatment`, `by`, `weights` and `y`, as they were given.

    Raises
    ------
    InputError
        What `rows_of`, `in_arm` and `replays_of` raise; `outcome-missing`, `rows-lazy`.
    """
    primary, factual = scenarios.primary, scenarios.natural
    needs_outcome = question.population == "finite" or question.rung == "counterfactual"
    of_rows = any(is_given(options, name) for name in ("by", "weights"))
    if needs_outcome or (factual.rows is None and of_rows):
        factual.source.need_all("this question needs something of all rows at once")
    natural, rows = scenarios.values, factual.rows
    lined = factual.arguments.lined(options, primary)
    arms: dict[Any, np.ndarray] = {}
    has_arms = question.meaning.who is not None
    if has_arms or question.population == "finite":
        if rows is None:
            msg = (
                f"'{primary}' gives batches and does not say how many rows they hold, so nobody's "
                "arm is known. Load the rows."
            )
            raise InputError(msg, code="rows-lazy")
        changes = {n: c.settings(primary) for n, c in scenarios.changes.items()}
        arms = in_arm(lined["treatment"].given, natural, rows, changes)
        if question.population == "finite" and not np.any(list(arms.values())):
            msg = (
                "population='finite' keeps what was observed, but nobody had any of the scenarios. "
                "Set the treatment to values that occur, or leave population= out."
            )
            raise InputError(msg, code="treatment-unknown")
    if has_arms and len(scenarios.changes) > 2:
        msg = f"estimand='{question.estimand}' compares two scenarios. Ask for each pair."
        raise InputError(msg, code="scenario-incomplete")
    made = replace(scenarios, arms=arms)
    if needs_outcome:
        outcome, absent = _outcome(question, made, lined["y"])
        made = replace(made, outcome=outcome, absent=absent)
    if question.rung == "counterfactual":
        assert made.outcome is not None  # noqa: S101
        reached = {
            name: change.reach(factual.spec, factual.arguments.arrays)
            for name, change in made.changes.items()
        }
        worlds = made.own, made.prepared, made.changes
        plan = replays_of(question.site, *worlds, reached, made.outcome, made.absent)
        made = replace(made, replays=plan)
    counts = _who_counts(question, made)
    by, weights = lined["by"].given, lined["weights"].given
    chosen = rows_of(question, rows, natural, treated=counts, by=by, weights=weights)
    return chosen, made


def _who_counts(question: Question, scenarios: Scenarios) -> np.ndarray | None:
    """Rows, (row,) of bool, that an estimand is about; None for all."""
    meaning = question.meaning
    if not scenarios.arms or meaning.who is None:
        return None
    old, new = (list(scenarios.arms.values())[n] for n in (0, -1))
    arms = _arms_of(question, scenarios, old, new) if meaning.is_joint else Arms(old, new)
    counts = np.asarray(meaning.who(arms), bool)
    if meaning.needs_all and not counts.all():
        msg = (
            f"estimand='{question.estimand}' needs everybody to have had one of the two scenarios."
        )
        raise InputError(msg, code="treatment-unknown")
    return counts


def _arms_of(question: Question, scenarios: Scenarios, old: np.ndarray, new: np.ndarray) -> Arms:
    """The arms with what was observed in them, of outcomes that are 0 or 1."""
    outcome = scenarios.outcome
    assert outcome is not None  # noqa: S101  # they need it
    is_output = question.site == scenarios.natural.spec.output
    seen = ~scenarios.absent.get(question.site, np.zeros(len(outcome), bool))
    if not is_output or outcome.ndim != 1 or not np.isin(outcome[seen], (0, 1)).all():
        msg = f"estimand='{question.estimand}' is about outcomes of 0 and 1, one for each row."
        raise InputError(msg, code="not-probability")
    if any(question.site in {*c.sites, *c.condition} for c in scenarios.changes.values()):
        msg = f"A scenario sets '{question.site}' itself, so nothing is left to chance there."
        raise InputError(msg, code="rung-mismatch")
    return Arms(old, new, (outcome == 1) & seen, (outcome == 0) & seen)


def _outcome(
    question: Question, scenarios: Scenarios, y: Value
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What was observed, one per row, and where sites have nothing: missing, or masked."""
    spec = scenarios.natural.spec
    is_replayed = question.rung == "counterfactual"
    what = "rung='counterfactual'" if is_replayed else "population='finite'"
    if y.given is None:
        msg = f"{what} keeps observed outcomes: pass y=, one per row."
        raise InputError(msg, code="outcome-missing")
    if not is_replayed and question.site != spec.output:
        msg = f"{what} compares '{spec.output}' with y=. Leave site= out."
        raise InputError(msg, code="rows-mismatch")
    output = spec[spec.output]
    values = np.asarray(y.array)
    there = check_outcome(values, "mask", "y")
    if there is not None and is_replayed and carries_outcome(spec):
        msg = (
            f"Missing values of '{spec.output}' cannot be replayed: later steps read them, so that "
            "these say something of them. Ask for rung='intervention'."
        )
        raise InputError(msg, code="missing-outcomes")
    if there is not None:
        values = np.where(there, values, values[there][0])
    values = as_site(output, values)
    shape = (
        scenarios.natural.rows,
        *np.delete(output.shape, output.axis).astype(int).tolist(),
    )
    if values.shape != shape:
        msg = f"y= has shape {values.shape}, but '{spec.output}' is {shape}. Pass one per row."
        raise InputError(msg, code="rows-mismatch")
    return values, _absent(scenarios, there, values.shape)


def _absent(
    scenarios: Scenarios, there: np.ndarray | None, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Where observed sites have nothing: outcomes that are not `there`, and what is masked."""
    spec = scenarios.natural.spec
    absent = {} if there is None else {spec.output: ~there}
    masked = tuple(s.name for s in spec.sites if s.masked and s.kind == "observed")
    for name, counts in presence_in(scenarios.own.call, masked).items() if masked else ():
        axes = tuple(range(counts.ndim, counts.ndim + spec[name].event_dim))
        without = ~np.expand_dims(counts, axes)
        if name == spec.output:
            without = np.broadcast_to(absent.get(name, False) | without, shape)
        absent[name] = without
    if spec.output in absent and absent[spec.output].all():
        msg = "No outcome counts: all are missing or masked. Pass some."
        raise InputError(msg, code="nothing-observed")
    return {name: where for name, where in absent.items() if where.any()}


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
