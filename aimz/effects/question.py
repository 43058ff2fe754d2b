"""What is asked of an effect, checked and as data: estimand, comparison, target and population."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from aimz.data import as_array
from aimz.errors import InputError, nearest
from aimz.labels import column_names

__all__ = [
    "Question",
    "Rows",
    "changes_of",
    "compared",
    "in_arm",
    "question_of",
    "rows_of",
    "split_scenario",
]

ESTIMANDS = {
    "ate": "average effect on '{site}'",
    "att": "average effect on '{site}' of the treated",
    "atc": "average effect on '{site}' of the untreated",
    "cate": "average effect on '{site}' in each group",
    "ite": "effect on '{site}' of each row",
    "nde": "natural direct effect on '{site}'",
    "nie": "natural indirect effect on '{site}'",
    "total": "total effect on '{site}'",
}
TARGETS = {
    "expectation": "the mean of its distribution, without outcome noise",
    "prediction": "outcomes, with their noise",
}
POPULATIONS = {
    "sample": "these rows",
    "superpopulation": "the population that these rows are a sample of (Bayesian bootstrap)",
    "finite": "these rows, with the outcome that was observed in the arm that was observed",
}

type Comparison = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _odds(share: np.ndarray) -> np.ndarray:
    if np.any((share <= 0) | (share >= 1)):
        msg = (
            "An odds ratio needs probabilities between 0 and 1, and an average outcome is "
            f"{float(share[(share <= 0) | (share >= 1)].flat[0]):.3g}. Use comparison='difference'."
        )
        raise InputError(msg, code="not-probability")
    odds: np.ndarray = share / (1 - share)
    return odds


def _ratio(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    if np.any(old == 0):
        msg = "The baseline's total is 0 in a draw, so there is no ratio. Compare by 'difference'."
        raise InputError(msg, code="ratio-undefined")
    ratio: np.ndarray = new / old
    return ratio


COMPARISONS: dict[str, tuple[Comparison, float]] = {
    "difference": (lambda new, old: new - old, 0.0),
    "ratio": (_ratio, 1.0),
    "lift": (lambda new, old: _ratio(new, old) - 1.0, 0.0),
    "odds_ratio": (lambda new, old: _odds(new) / _odds(old), 1.0),
}


@dataclass(frozen=True)
class Question:
    """What is compared, of whom and how. `null` is the value that says "no effect".

    With a mediator three worlds are compared: each scenario with the mediator that it brings about,
    and the second with that of the first.
    """

    estimand: str
    comparison: str
    target: str
    population: str
    site: str
    compare: Comparison
    null: float
    mediator: str | None = None
    rung: str = "intervention"


@dataclass(frozen=True)
class Rows:
    """Which rows count for what: a weight and a group each; groups have labels.

    `weights` are zero for rows that are not asked about.
    """

    weights: np.ndarray
    groups: np.ndarray
    labels: tuple[Any, ...]

    @property
    def count(self) -> int:
        """Rows that are asked about."""
        return int(np.count_nonzero(self.weights))


def question_of(
    site: str,
    estimand: str,
    comparison: str | Comparison,
    target: str,
    population: str,
    mediator: str | None = None,
) -> Question:
    """Check the options of an effect.

    Raises
    ------
    InputError
        `option-unknown`; `finite-expectation`: observed outcomes cannot stand in for means.
    """
    options = {
        "estimand": (estimand, ESTIMANDS),
        "target": (target, TARGETS),
        "population": (population, POPULATIONS),
    }
    if not callable(comparison):
        options["comparison"] = (comparison, COMPARISONS)  # type: ignore[assignment]
    for name, (value, valid) in options.items():
        if value not in valid:
            msg = f"There is no {name} {value!r:.40}. {nearest(str(value), list(valid))}"
            raise InputError(msg, code="option-unknown")
    if (mediator is None) != (estimand not in ("nde", "nie", "total")):
        msg = "estimand='nde', 'nie' and 'total' need mediator=, a site, and no other does."
        raise InputError(msg, code="mediator-missing")
    if estimand == "ite" and population != "sample":
        msg = "An effect on each row has no population: leave population= out, or ask for 'ate'."
        raise InputError(msg, code="option-unknown")
    if population == "finite" and target != "prediction":
        msg = (
            "population='finite' keeps observed outcomes, which compare with outcomes and not with "
            "means. Pass target='prediction'."
        )
        raise InputError(msg, code="finite-expectation")
    if callable(comparison):
        name = getattr(comparison, "__name__", "callable")
        return Question(estimand, name, target, population, site, comparison, 0.0, mediator)
    compare, null = COMPARISONS[comparison]
    return Question(estimand, comparison, target, population, site, compare, null, mediator)


def changes_of(
    baseline: Mapping[str, Any] | None,
    intervention: Mapping[str, Any] | None,
    scenarios: Mapping[Any, Mapping[str, Any]] | None,
) -> dict[Any, Mapping[str, Any]]:
    """Scenarios by name, the reference first.

    Raises
    ------
    InputError
        `scenario-incomplete`
    """
    if scenarios is None and baseline is not None and intervention is not None:
        return {"baseline": baseline, "intervention": intervention}
    if scenarios is None or len(scenarios) < 2 or not (baseline is None and intervention is None):
        msg = "An effect compares: pass baseline= and intervention=, or two or more scenarios=."
        raise InputError(msg, code="scenario-incomplete")
    return dict(scenarios)


def split_scenario(
    scenario: Mapping[str, Any],
    natural: Mapping[str, Any],
    arguments: Sequence[str],
    sites: Sequence[str],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that a scenario replaces, and the sites that it sets.

    A callable of an argument is called here, once, with the natural value.

    Raises
    ------
    InputError
        `scenario-unknown`
    """
    replaced: dict[str, Any] = {}
    set_sites: dict[str, Any] = {}
    for name, value in scenario.items():
        if name in sites:
            set_sites[name] = value
        elif name in arguments:
            replaced[name] = value(natural.get(name)) if callable(value) else value
        else:
            valid = [*arguments, *sites]
            msg = f"A scenario sets '{name}', which is no argument or site of the kernel. "
            raise InputError(msg + nearest(str(name), valid), code="scenario-unknown")
    return replaced, set_sites


def in_arm(
    treatment: Any,
    natural: Mapping[str, Any],
    primary: str,
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
        msg = f"Several things are set ({', '.join(sorted(names))}). Pass treatment=, one of them."
        raise InputError(msg, code="treatment-unknown")
    treatment = next(iter(names)) if treatment is None else treatment
    had = _named_values(treatment, natural, primary, rows, "treatment")
    arms = list(changes)
    if not isinstance(treatment, str):
        if had.dtype != bool or len(arms) != 2:
            msg = "treatment= as an array must be of bool and say who had the second scenario."
            raise InputError(msg, code="treatment-unknown")
        return {arms[0]: ~had, arms[1]: had}
    found = {}
    for arm, change in changes.items():
        value = change.get(treatment)
        if callable(value) or value is None or np.ndim(value):
            msg = (
                f"Scenario '{arm}' does not set '{treatment}' to one value, so it is not known who "
                "was in it. Set it, or pass treatment= as an array of bool."
            )
            raise InputError(msg, code="treatment-unknown")
        found[arm] = had == value
    return found


def rows_of(
    question: Question,
    rows: int,
    natural: Mapping[str, Any],
    primary: str,
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
    weight = np.ones(rows) if weights is None else _row_values(weights, "weights", rows)
    if not np.all(np.isfinite(weight)) or np.any(weight < 0) or not np.any(weight):
        msg = "weights must be finite and not negative, and some above 0."
        raise InputError(msg, code="not-finite")
    if treated is not None:
        weight = np.where(treated, weight, 0.0)
        if not np.any(weight):
            msg = f"No row is asked about: nobody counts for estimand='{question.estimand}'."
            raise InputError(msg, code="no-rows")
    if (by is None) != (question.estimand != "cate"):
        msg = (
            "estimand='cate' needs by=, a label per row or the name of a column, and no other does."
        )
        raise InputError(msg, code="by-missing")
    if by is None:
        return Rows(weight, np.zeros(rows, np.intp), ())
    groups, labels = pd.factorize(_named_values(by, natural, primary, rows, "by"), sort=True)
    if np.any(groups < 0):
        msg = f"by= has {np.sum(groups < 0)} missing labels. Give them a label of their own."
        raise InputError(msg, code="not-finite")
    return Rows(weight, groups.astype(np.intp), tuple(np.asarray(labels).tolist()))


def _named_values(
    given: Any, natural: Mapping[str, Any], primary: str, rows: int, option: str
) -> np.ndarray:
    """One value per row: as given, of an argument, or of a column of the primary input."""
    if not isinstance(given, str):
        values = np.asarray(given)
    elif given in natural and given != primary:
        values = np.asarray(natural[given])
        values = np.broadcast_to(values, (rows,)) if values.ndim == 0 else values
    else:
        columns = column_names(natural[primary], primary) or ()
        if given not in columns:
            valid = [*(n for n in natural if n != primary), *columns]
            msg = f"{option}='{given}' is no argument and no column of '{primary}'. "
            raise InputError(msg + nearest(given, valid), code="column-unknown")
        values = np.asarray(natural[primary][given])
    if values.shape != (rows,):
        msg = f"{option}= has shape {values.shape} but there are {rows} rows. Pass one per row."
        raise InputError(msg, code="rows-mismatch")
    return values


def compared(question: Question, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """The comparison of two aggregates, draw by draw."""
    if not (np.all(np.isfinite(new)) and np.all(np.isfinite(old))):
        msg = (
            f"An average of '{question.site}' is not finite, so it has no effect to report. If the "
            "mean of its distribution does not exist, ask for target='prediction' of a bounded "
            "site."
        )
        raise InputError(msg, code="no-mean")
    values = np.asarray(question.compare(new, old))
    if values.shape != new.shape:
        msg = f"comparison= returned shape {values.shape} for aggregates of shape {new.shape}."
        raise InputError(msg, code="comparison-shape")
    return values


def _row_values(given: Any, name: str, rows: int) -> np.ndarray:
    values = np.asarray(as_array(given, name), np.float64)
    if values.shape != (rows,):
        msg = f"{name}= has shape {values.shape} but there are {rows} rows. Pass one per row."
        raise InputError(msg, code="rows-mismatch")
    return values
