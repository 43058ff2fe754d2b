"""What is asked of an effect, checked and as data: estimand, comparison, target and population."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from aimz.data import as_array, as_labels, check_container
from aimz.effects.reduction import Summarised
from aimz.effects.scenarios import Natural, column_of
from aimz.errors import InputError, nearest
from aimz.labels import column_names

__all__ = [
    "Question",
    "Rows",
    "compared",
    "derived",
    "in_arm",
    "question_of",
    "rows_of",
]

# `cause` is nothing, or " of " and what is changed.
ESTIMANDS = {
    "ate": "average effect{cause} on {site}",
    "att": "average effect{cause} on {site} in the treated",
    "atc": "average effect{cause} on {site} in the untreated",
    "cate": "average effect{cause} on {site} in each group",
    "ite": "effect{cause} on {site} in each row",
    "nde": "natural direct effect{cause} on {site}",
    "nie": "natural indirect effect{cause} on {site}",
    "total": "total effect{cause} on {site}",
    "benefit": "probability that {site} is 1 with, and 0 without, the intervention{cause}",
    "necessity": (
        "probability that {site} would have been 0 without the intervention{cause}, among rows "
        "that had it and a 1,"
    ),
    "sufficiency": (
        "probability that {site} would have been 1 with the intervention{cause}, among rows that "
        "had neither it nor a 1,"
    ),
}
#: Estimands that are probabilities of what a unit has in two worlds at once.
PROBABILITIES = ("benefit", "necessity", "sufficiency")
RUNGS = {
    "intervention": "what would happen to rows like these",
    "counterfactual": "what would have happened to these rows, given what was observed of them",
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
type Derived = Callable[[Mapping[Any, np.ndarray]], np.ndarray]


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


def _difference(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    return np.asarray(new - old)


def _lift(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    return np.asarray(_ratio(new, old) - 1.0)


def _odds_ratio(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    return np.asarray(_odds(new) / _odds(old))


def _not_kept(*averages: np.ndarray) -> np.ndarray:
    del averages
    msg = "A pickled effect does not keep its comparison, which was a function. Compare anew."
    raise InputError(msg, code="comparison-absent")


COMPARISONS: dict[str, tuple[Comparison, float]] = {
    "difference": (_difference, 0.0),
    "ratio": (_ratio, 1.0),
    "lift": (_lift, 0.0),
    "odds_ratio": (_odds_ratio, 1.0),
}


@dataclass(frozen=True)
class Question:
    """What is compared, of whom and how; `null` is the value that says "no effect", or None.

    With a mediator three worlds are compared: each scenario with the mediator that it brings about,
    and the second with that of the first. `derive` computes an estimand of a user's own from the
    averages.
    """

    estimand: str
    comparison: str
    target: str
    population: str
    site: str
    compare: Comparison
    null: float | None
    mediator: str | None = None
    rung: str = "intervention"
    derive: Callable[[Mapping[Any, np.ndarray]], np.ndarray] | None = None
    row_summary: Summarised | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A user's own functions have done their work, and pickle may not know them: names stay.
        own, _ = COMPARISONS.get(self.comparison, (None, 0.0))
        compare = self.compare if self.compare is own else _not_kept
        derive = None if self.derive is None else _not_kept
        return {**vars(self), "compare": compare, "derive": derive}

    @property
    def wording(self) -> str:
        """The estimand in words."""
        return self.worded("", f"'{self.site}'")

    def worded(self, cause: str, site: str) -> str:
        """The estimand in words, with what is changed, as ` of t`, and the name of the site."""
        if self.derive is not None:
            return f"estimand '{self.estimand}' of {site}"
        return ESTIMANDS[self.estimand].format(cause=cause, site=site)

    @property
    def is_probability(self) -> bool:
        """Whether it asks about two worlds of a unit at once."""
        return self.estimand in PROBABILITIES


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


def question_of(
    site: str,
    estimand: str | Derived,
    comparison: str | Comparison,
    target: Any,
    population: Any,
    mediator: Any = None,
    rung: Any = "intervention",
    row_summary: Any = None,
) -> Question:
    """Check the options of an effect; the default target follows from the rung.

    Raises
    ------
    InputError
        `option-unknown`; `finite-expectation`: observed outcomes cannot stand in for means;
        `rung-mismatch`: options that the rung does not have.
    """
    target = _default_target(rung) if target is None else target
    derive = estimand if callable(estimand) else None
    name = _name_of(estimand)
    if derive is not None and name in ESTIMANDS:
        name = f"{name} of the user"
    options: dict[str, tuple[Any, Any]] = {
        "estimand": (name, ESTIMANDS if derive is None else (name,)),
        "target": (target, TARGETS),
        "population": (population, POPULATIONS),
        "rung": (rung, RUNGS),
        "comparison": (
            _name_of(comparison),
            (_name_of(comparison),) if callable(comparison) else COMPARISONS,
        ),
    }
    for option, (value, valid) in options.items():
        if not isinstance(value, str) or value not in valid:
            msg = f"There is no {option} {value!r:.40}. {nearest(str(value), list(valid))}"
            raise InputError(msg, code="option-unknown")
    _check_kinds(site, mediator, row_summary)
    if (mediator is None) != (name not in ("nde", "nie", "total")):
        msg = "estimand='nde', 'nie' and 'total' need mediator=, a site, and no other does."
        raise InputError(msg, code="mediator-missing")
    if derive is not None and row_summary:
        msg = "row_summary= is of a comparison of two scenarios, not of an estimand of your own."
        raise InputError(msg, code="option-unknown")
    _check_population(name, target, population, summarised=bool(row_summary))
    _check_rung(name, comparison, target, population, rung)
    null: float | None
    compare, null = (comparison, None) if callable(comparison) else COMPARISONS[comparison]
    how = _name_of(comparison)
    asked = _summarised(row_summary, null)
    if derive is not None or name in PROBABILITIES:
        how, null = "none", None
    return Question(
        name, how, target, population, site, compare, null, mediator, rung, derive, asked
    )


def _default_target(rung: Any) -> str:
    is_replayed = isinstance(rung, str) and rung == "counterfactual"
    return "prediction" if is_replayed else "expectation"


def _check_kinds(site: Any, mediator: Any, row_summary: Any) -> None:
    """Refuse options that are no names of sites, or no dict, such as data of the same name."""
    if not (row_summary is None or isinstance(row_summary, bool | Mapping)):
        msg = f"row_summary= is True, or a dict of quantiles= and threshold=: {row_summary!r:.40}."
        raise InputError(msg, code="option-unknown")
    for option, given in (("site", site), ("mediator", mediator)):
        if not (given is None or isinstance(given, str)):
            msg = f"{option}= is the name of a site of the kernel, not {given!r:.40}."
            raise InputError(msg, code="option-unknown")


def _name_of(option: Any) -> str:
    return str(getattr(option, "__name__", "callable") if callable(option) else option)


def _check_population(name: str, target: str, population: str, *, summarised: bool) -> None:
    if name == "ite" and population == "superpopulation":
        msg = "An effect on each row has no population beyond: leave it out, or ask for 'ate'."
        raise InputError(msg, code="option-unknown")
    if population == "finite" and target != "prediction":
        msg = (
            "population='finite' keeps observed outcomes, which compare with outcomes and not with "
            "means. Pass target='prediction'."
        )
        raise InputError(msg, code="finite-expectation")
    if summarised and (name in PROBABILITIES or population == "superpopulation"):
        msg = "row_summary= is of effects on these rows: leave population= out, or ask for 'ate'."
        raise InputError(msg, code="option-unknown")


def _summarised(given: Any, null: float | None) -> Summarised | None:
    """Options of summaries of rows, with their defaults."""
    if given is None or given is False:
        return None
    own: Mapping[str, Any] = {} if given is True else given
    options = {"quantiles": (0.055, 0.945), "threshold": null, **own}
    unknown = sorted(options.keys() - {"quantiles", "threshold"})
    if unknown:
        listed = nearest(unknown[0], ["quantiles", "threshold"])
        msg = f"row_summary= has no '{unknown[0]}'. {listed}"
        raise InputError(msg, code="option-unknown")
    quantiles = tuple(float(q) for q in np.atleast_1d(options["quantiles"]))
    if not all(0 <= q <= 1 for q in quantiles):
        msg = f"Quantiles of row_summary= must be between 0 and 1, not {quantiles!s:.60}."
        raise InputError(msg, code="option-unknown")
    return Summarised(quantiles, float(options["threshold"] or 0.0))


def _check_rung(
    estimand: str, comparison: str | Comparison, target: str, population: str, rung: str
) -> None:
    msg = ""
    if rung == "counterfactual" and target == "expectation":
        msg = (
            "A counterfactual is an outcome: the unit's own noise is in it. Leave target= out, or "
            "ask for rung='intervention'."
        )
    elif rung == "counterfactual" and (population == "finite" or estimand in ("nde", "nie")):
        option = "population='finite'" if population == "finite" else f"estimand='{estimand}'"
        msg = (
            f"{option} belongs to rung='intervention'. Counterfactuals keep what was observed; a "
            "site on the path is set by a scenario."
        )
    elif estimand in PROBABILITIES and (rung != "counterfactual" or comparison != "difference"):
        msg = (
            f"estimand='{estimand}' asks what a unit has in two worlds. Pass "
            "rung='counterfactual', and leave comparison= out."
        )
    if msg:
        raise InputError(msg, code="rung-mismatch")


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
    found = {}
    for arm, change in changes.items():
        value = change.get(treatment)
        if callable(value) or value is None or np.ndim(value):
            msg = (
                f"Scenario '{arm}' does not set '{treatment}' to one value, so it is not known who "
                "was in it. Set it, or pass treatment= as an array of bool."
            )
            raise InputError(msg, code="treatment-unknown")
        found[arm] = _as_seen(had) == _as_seen(value)
    return found


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
    if (by is None and question.estimand == "cate") or (
        by is not None and question.estimand != "cate" and question.derive is None
    ):
        msg = (
            "estimand='cate' needs by=: a label per row, or the name of a column."
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
    check_container(by, "by")
    known = [natural.has(name) for name in by] if isinstance(by, list | tuple) else []
    if known and (all(known) or (any(known) and len(by) != rows)):  # an unknown one is refused
        return [(name, name) for name in by]
    names = column_names(by, "by") if np.ndim(by) == 2 else None
    if names is not None:
        return [(name, column_of(by, place)) for place, name in enumerate(names)]
    if isinstance(by, np.ndarray) and by.ndim == 2:
        return [(f"by {place}", column) for place, column in enumerate(by.T)]
    return [("by", by)]


def _named_values(given: Any, natural: Natural, rows: int, option: str) -> np.ndarray:
    """One value per row: as given, of an argument, or of a column of the primary input."""
    named = natural.by_name(given, option) if isinstance(given, str) else given
    values = as_labels(named, option)
    if isinstance(given, str) and values.ndim == 0:
        values = np.broadcast_to(values, (rows,))
    if values.shape != (rows,):
        msg = f"{option}= has shape {values.shape} but there are {rows} rows. Pass one per row."
        raise InputError(msg, code="rows-mismatch")
    return values


def compared(question: Question, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """The comparison of two aggregates, draw by draw."""
    if not (np.all(np.isfinite(new)) and np.all(np.isfinite(old))):
        if question.rung == "counterfactual":
            msg = (
                f"Counterfactuals of '{question.site}' are not finite: what was observed cannot "
                "come from its distribution. Check the outcomes, or the fit."
            )
            raise InputError(msg, code="not-finite")
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


def derived(question: Question, averages: Mapping[Any, np.ndarray]) -> np.ndarray:
    """An estimand of a user's own, from each scenario's averages (group, draw, ...)."""
    assert question.derive is not None  # noqa: S101  # asked by the caller
    values = np.asarray(question.derive({n: v.copy() for n, v in averages.items()}), np.float64)
    shape = next(iter(averages.values())).shape
    if values.shape != shape or not np.all(np.isfinite(values)):
        msg = (
            f"estimand={question.estimand} returned shape {values.shape}, or values that are not "
            f"finite, for averages of shape {shape}. Return one finite number for each."
        )
        raise InputError(msg, code="comparison-shape")
    return values


def _row_values(given: Any, name: str, rows: int) -> np.ndarray:
    values = np.asarray(as_array(given, name), np.float64)
    if values.shape != (rows,):
        msg = f"{name}= has shape {values.shape} but there are {rows} rows. Pass one per row."
        raise InputError(msg, code="rows-mismatch")
    return values
