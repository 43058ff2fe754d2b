"""What is asked of an effect, checked and as data: estimand, comparison, target and population."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.choices import number_of, quantiles_of
from aimz.effects.comparisons import COMPARISONS, Comparison, Derived, not_kept
from aimz.effects.estimands import ESTIMANDS, Estimand
from aimz.effects.reduction import Summarised
from aimz.errors import InputError, nearest

__all__ = ["POPULATIONS", "RUNGS", "TARGETS", "Question", "question_of"]


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
        built_in, _ = COMPARISONS.get(self.comparison, (None, 0.0))
        compare = self.compare if self.compare is built_in else not_kept
        derive = None if self.derive is None else not_kept
        return {**vars(self), "compare": compare, "derive": derive}

    @property
    def wording(self) -> str:
        """The estimand in words."""
        return self.worded("", f"'{self.site}'")

    def worded(self, cause: str, site: str) -> str:
        """The estimand in words, with what is changed, as ` of t`, and the name of the site."""
        return self.meaning.words.format(cause=cause, site=site)

    @property
    def meaning(self) -> Estimand:
        """What the estimand means; one of a user's own is computed from averages."""
        if self.derive is None:
            return ESTIMANDS[self.estimand]
        name = self.estimand.replace("{", "{{").replace("}", "}}")
        return Estimand(f"estimand '{name}' of {{site}}", unit="any")


def question_of(
    site: str,
    estimand: str | Derived,
    comparison: str | Comparison,
    target: str | None,
    population: str,
    mediator: str | None = None,
    rung: str = "intervention",
    row_summary: object = None,
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
    null: float | None
    compare, null = (comparison, None) if callable(comparison) else COMPARISONS[comparison]
    asked = _summarised(row_summary, null)
    meaning = Estimand("", unit="any") if derive is not None else ESTIMANDS[name]
    _check_sites(meaning, site, mediator)
    if derive is not None and asked is not None:
        msg = "row_summary= is of a comparison of two scenarios, not of an estimand of your own."
        raise InputError(msg, code="option-unknown")
    _check_population(meaning, target, population, summarised=asked is not None)
    _check_rung(name, meaning, (comparison, target, population, rung))
    how = _name_of(comparison)
    if derive is not None or meaning.is_joint:
        how, null = "none", None
    return Question(
        name, how, target, population, site, compare, null, mediator, rung, derive, asked
    )


def _default_target(rung: object) -> str:
    is_replayed = isinstance(rung, str) and rung == "counterfactual"
    return "prediction" if is_replayed else "expectation"


def _check_sites(meaning: Estimand, site: object, mediator: object) -> None:
    """Refuse what names no site, such as data of the same name, and a mediator out of place."""
    for option, value in (("site", site), ("mediator", mediator)):
        if not (value is None or isinstance(value, str)):
            msg = f"{option}= is the name of a site of the kernel, not {value!r:.40}."
            raise InputError(msg, code="option-unknown")
    if (mediator is None) != (meaning.mediated is None):
        mediated = [repr(n) for n, estimand in ESTIMANDS.items() if estimand.mediated is not None]
        listed = f"{', '.join(mediated[:-1])} and {mediated[-1]}"
        msg = f"estimand={listed} need mediator=, a site, and no other does."
        raise InputError(msg, code="mediator-missing")


def _name_of(option: object) -> str:
    return str(getattr(option, "__name__", "callable") if callable(option) else option)


def _check_population(meaning: Estimand, target: str, population: str, *, summarised: bool) -> None:
    if meaning.unit == "row" and population == "superpopulation":
        msg = "An effect on each row has no population beyond: leave it out, or ask for 'ate'."
        raise InputError(msg, code="option-unknown")
    if population == "finite" and target != "prediction":
        msg = (
            "population='finite' keeps observed outcomes, which compare with outcomes and not with "
            "means. Pass target='prediction'."
        )
        raise InputError(msg, code="finite-expectation")
    if summarised and (meaning.is_joint or population == "superpopulation"):
        msg = "row_summary= is of effects on these rows: leave population= out, or ask for 'ate'."
        raise InputError(msg, code="option-unknown")


def _summarised(asked: object, null: float | None) -> Summarised | None:
    """Options of summaries of rows, with their defaults."""
    if not (asked is None or isinstance(asked, bool | Mapping)):
        msg = f"row_summary= is True, or a dict of quantiles= and threshold=: {asked!r:.40}."
        raise InputError(msg, code="option-unknown")
    if asked is None or asked is False:
        return None
    chosen: Mapping[str, Any] = asked if isinstance(asked, Mapping) else {}
    options = {"quantiles": (0.055, 0.945), "threshold": null, **chosen}
    unknown = sorted(options.keys() - {"quantiles", "threshold"})
    if unknown:
        listed = nearest(unknown[0], ["quantiles", "threshold"])
        msg = f"row_summary= has no '{unknown[0]}'. {listed}"
        raise InputError(msg, code="option-unknown")
    quantiles = quantiles_of(options["quantiles"], "Quantiles of row_summary=")
    threshold = 0.0 if options["threshold"] is None else options["threshold"]
    return Summarised(quantiles, number_of(threshold, "The threshold of row_summary="))


def _check_rung(name: str, meaning: Estimand, options: tuple[Any, str, str, str]) -> None:
    comparison, target, population, rung = options
    msg = ""
    if rung == "counterfactual" and target == "expectation":
        msg = (
            "A counterfactual is an outcome: the unit's own noise is in it. Leave target= out, or "
            "ask for rung='intervention'."
        )
    elif rung == "counterfactual" and (
        population == "finite" or (meaning.mediated is not None and 2 in meaning.mediated)
    ):
        option = "population='finite'" if population == "finite" else f"estimand='{name}'"
        msg = (
            f"{option} belongs to rung='intervention'. Counterfactuals keep what was observed; a "
            "site on the path is set by a scenario."
        )
    elif meaning.is_joint and (rung != "counterfactual" or comparison != "difference"):
        msg = (
            f"estimand='{name}' asks what a unit has in two worlds. Pass "
            "rung='counterfactual', and leave comparison= out."
        )
    if msg:
        raise InputError(msg, code="rung-mismatch")
