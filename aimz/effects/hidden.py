"""Refits of an effect with a hidden cause of treatment and outcome: which, and of what strength.

The cause is given what each row had, so that a scenario changes the treatment and not the cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist

from aimz.choices import check_choice, progress_bar
from aimz.effects.behind import Change
from aimz.effects.refuting import Case, Course, case_of
from aimz.effects.robustness import Answer, single_draws
from aimz.effects.wording import fault_of
from aimz.errors import InputError
from aimz.refutation import HIDDEN, with_hidden_cause
from aimz.sensitivity import HiddenCause, Points, hidden_cause_report

__all__ = ["KINDS", "Strengths", "hidden_cause_of"]


KINDS = ("binary", "normal")
type Strengths = float | Sequence[float] | dist.Distribution
_FIRST = 50_000  # of the numbers of these fits, beyond those of tests


def hidden_cause_of(
    effect: Answer,
    strengths: tuple[Strengths, Strengths],
    kind: str,
    treatment: str | None,
    course: Course,
    ci_prob: float | None,
) -> HiddenCause:
    """Fit with a hidden cause of some strengths; `Effect.hidden_cause` is its public form.

    Raises
    ------
    InputError
        `option-unknown`, `data-gone`, `data-differ`, `effect-several`, `effect-scale`,
        `treatment-unknown`, `family-unknown`.
    """
    check_choice(kind, "kind", list(KINDS))
    pairs, are_random = _pairs(strengths, course)
    case = case_of(effect, treatment)
    _check_treatment(case)
    had = case.behind.values_of(case.treatment)
    lean = (had - had.mean()).astype(np.float32)
    kernel = with_hidden_cause(case.behind.problem.kernel, case.effect.question.site, kind)
    draws, healthy = [], []
    with progress_bar(len(pairs), desc="hidden", unit="refit", shown=course.progress) as bar:
        for place, (on_treatment, on_outcome) in enumerate(pairs):
            number = _FIRST + course.seed * 100_000 + place * are_random  # a grid has one noise
            values = np.float32(on_treatment) * lean, np.full_like(lean, on_outcome)
            arrays = dict(zip(HIDDEN, values, strict=True))
            answer = case.behind.again(Change(arrays, kernel=kernel, number=number))
            draws.append(single_draws(answer, "hidden_cause"))
            healthy.append(not fault_of(answer.diagnostics))
            bar.update(1)
    points = Points(pairs, np.stack(draws), np.array(healthy), are_random)
    return hidden_cause_report(case.draws, points, kind, case.null, ci_prob)


def _check_treatment(case: Case) -> None:
    behind = case.behind
    if not behind.is_same_rows:
        msg = (
            "The effect was asked of other rows than those of the fit, whose hidden cause nobody "
            "knows. Ask for it with the rows of the fit."
        )
        raise InputError(msg, code="data-differ")
    levels = len(np.unique(behind.values_of(case.treatment)))
    if case.treatment in behind.coded() and levels > 2:
        msg = (
            f"'{case.treatment}' is a category of {levels} levels, and a strength is of one "
            "number. Fit two levels, or a number."
        )
        raise InputError(msg, code="option-unknown")


def _pairs(strengths: tuple[Strengths, Strengths], course: Course) -> tuple[np.ndarray, bool]:
    """Strengths on treatment and outcome, (points, 2), and whether they are random."""
    random = [isinstance(strength, dist.Distribution) for strength in strengths]
    if all(random):
        keys = jax.random.split(jax.random.key(course.seed), 2)
        both = zip(strengths, keys, strict=True)
        return np.stack([_drawn(prior, key, course.repeats) for prior, key in both], 1), True
    if any(random):
        msg = "Pass two grids of strengths, or two priors, and not one of each."
        raise InputError(msg, code="option-unknown")
    on_treatment, on_outcome = (_grid(side) for side in strengths)
    on_treatment = np.union1d(0.0, np.abs(on_treatment)) * (-1 if on_treatment.min() < 0 else 1)
    return np.array([(x, y) for x in on_treatment + 0.0 for y in on_outcome]), False


def _drawn(prior: Any, key: jax.Array, count: int) -> np.ndarray:
    values = np.asarray(prior.sample(key, (count,)), np.float64)
    if values.shape != (count,) or not np.isfinite(values).all():
        msg = "The prior of a strength is of one finite number."
        raise InputError(msg, code="option-unknown")
    return values


def _grid(values: Any) -> np.ndarray:
    """Strengths of one sign, the weakest first."""
    numbers = np.unique(np.asarray(values, np.float64).ravel())
    if not len(numbers) or not np.isfinite(numbers).all() or numbers[0] * numbers[-1] < 0:
        msg = (
            "A grid of strengths has finite numbers of one sign. Ask for the other sign by itself."
        )
        raise InputError(msg, code="option-unknown")
    return numbers[np.argsort(np.abs(numbers))]
