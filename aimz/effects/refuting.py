"""The refits that put an effect to the test: what each test changes, and what should come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aimz.choices import progress_bar
from aimz.effects.behind import Behind, Change
from aimz.effects.robustness import Answer, single_draws
from aimz.effects.wording import fault_of
from aimz.errors import InputError, nearest
from aimz.plots import interval_of
from aimz.refutation import Refutation, Trial, refutation_of, with_cause

__all__ = ["TESTS", "Case", "Course", "case_of", "refuted"]


_SHARE = 0.8  # of the rows, in a subset
_CAUSE = "random_cause"
# What asks for outcomes of each row, in place of what was asked.
_OUTCOMES: dict[str, Any] = {
    **dict.fromkeys(("mediator", "weights", "by", "treatment", "baseline", "intervention")),
    "estimand": "ite",
    "comparison": "difference",
    "target": "prediction",
    "population": "sample",
    "rung": "intervention",
    "row_summary": False,
    "y": None,
}


@dataclass(frozen=True)
class Course:
    """How often each test is made, from which seed, and whether a bar shows it."""

    repeats: int
    seed: int
    progress: bool


@dataclass(frozen=True, eq=False)
class Case:
    """An effect with what is behind it, and the treatment that a test may permute."""

    effect: Answer
    behind: Behind
    treatment: str
    null: float
    draws: np.ndarray


@dataclass(frozen=True)
class _Test:
    """What a test does in words, its changes with the truth of each, whether the effect stays."""

    asks: str
    changes: Callable[[Case, np.random.Generator, int], Iterator[tuple[Change, float]]]
    stays: bool = False
    spread: float = 0.0


def refuted(
    effect: Answer,
    tests: Sequence[str],
    treatment: str | None,
    course: Course,
    ci_prob: float | None,
) -> Refutation:
    """Put an effect to some tests; `Effect.refute` is its public form.

    Raises
    ------
    InputError
        `option-unknown`, `data-gone`, `effect-several`, `effect-scale`, `treatment-unknown`,
        `family-unknown`.
    """
    for name in tests:
        if name not in TESTS:
            msg = f"There is no test {name!r:.40}. {nearest(str(name), TESTS)}"
            raise InputError(msg, code="option-unknown")
    case, (prob, _) = case_of(effect, treatment), interval_of(ci_prob, None)
    total = len(tests) * course.repeats
    with progress_bar(total, desc="refute", unit="refit", shown=course.progress) as bar:
        trials = [_tried(name, case, course, bar) for name in tests]
    return refutation_of(case.draws, trials, case.null, prob)


def case_of(effect: Answer, treatment: str | None) -> Case:
    """What refits need to know of an effect, which must be one number of a fit of this process.

    Raises
    ------
    InputError
        `data-gone`, `effect-several`, `effect-scale`, `treatment-unknown`.
    """
    draws = single_draws(effect, "refute")
    behind = None if effect.behind is None else effect.behind()
    if behind is None or not behind.may_refit:
        msg = (
            "There is no fit to repeat: the draws were set by hand, or the model or the effect was "
            "loaded. Fit here, and ask for the effect again."
        )
        raise InputError(msg, code="data-gone")
    null = effect.question.null
    if null is None:
        msg = "Refits need to know what no effect is: ask by difference, ratio, lift or odds_ratio."
        raise InputError(msg, code="effect-scale")
    named = effect.scenarios.treatment if treatment is None else treatment
    if named is None:
        msg = "The scenarios set more than one thing. Pass treatment=, the name of one of them."
        raise InputError(msg, code="treatment-unknown")
    name = behind.argument_of(named)
    behind.values_of(name)
    return Case(effect, behind, name, null, draws)


def _tried(name: str, case: Case, course: Course, bar: Any) -> Trial:
    """The refits of one test."""
    test = TESTS[name]
    random = np.random.default_rng([course.seed, list(TESTS).index(name)])
    draws, truths, unsettled = [], [], 0
    for number, (change, truth) in enumerate(test.changes(case, random, course.repeats)):
        offset = 1 + number + 1000 * (1 + list(TESTS).index(name))
        answer = case.behind.again(replace(change, number=offset + course.seed * 100_000))
        draws.append(single_draws(answer, "refute"))
        truths.append(truth)
        unsettled += bool(fault_of(answer.diagnostics))
        bar.update(1)
    return Trial(
        name, test.asks, np.stack(draws), np.array(truths), test.stays, test.spread, unsettled
    )


def _placebo(
    case: Case, random: np.random.Generator, repeats: int
) -> Iterator[tuple[Change, float]]:
    for _ in range(repeats):
        argument, values = case.behind.with_variable(case.treatment, random.permutation)
        yield Change({argument: values}), case.null


def _subset(
    case: Case, random: np.random.Generator, repeats: int
) -> Iterator[tuple[Change, float]]:
    rows = case.behind.problem.inputs.rows
    for _ in range(repeats):
        weights = np.zeros(rows)
        weights[random.permutation(rows)[: round(_SHARE * rows)]] = 1.0
        yield Change(weights=weights), float(case.draws.mean())


def _bootstrap(
    case: Case, random: np.random.Generator, repeats: int
) -> Iterator[tuple[Change, float]]:
    """Weights of Rubin's Bayesian bootstrap (1981, Annals of Statistics 9, 130-134)."""
    rows = case.behind.problem.inputs.rows
    for _ in range(repeats):
        weights = random.exponential(size=rows)
        yield Change(weights=weights / weights.mean()), float(case.draws.mean())


def _random_cause(
    case: Case, random: np.random.Generator, repeats: int
) -> Iterator[tuple[Change, float]]:
    problem, site = case.behind.problem, case.effect.question.site
    outcome = case.behind.outcome(site)
    spread = 1.0 if outcome is None else float(np.std(outcome))
    is_shift = np.issubdtype(problem.spec[site].dtype, np.floating)
    kernel = with_cause(problem.kernel, site, max(spread, 1e-6) if is_shift else 1.0, _CAUSE)
    for _ in range(repeats):
        cause = random.normal(size=problem.inputs.rows).astype(np.float32)
        yield Change({_CAUSE: cause}, kernel=kernel), float(case.draws.mean())


def _dummy_outcome(
    case: Case, random: np.random.Generator, repeats: int
) -> Iterator[tuple[Change, float]]:
    """Outcomes that a draw of the model gives where everybody has the first scenario."""
    del random
    outcomes, _ = _simulated(case, repeats)
    first = next(iter(case.effect.scenarios.settings))
    for column in outcomes[first].T:
        yield _with_outcome(case, column), case.null


def _injected(
    case: Case, random: np.random.Generator, repeats: int
) -> Iterator[tuple[Change, float]]:
    """Outcomes that a draw of the model gives where everybody has what they had."""
    del random
    outcomes, effects = _simulated(case, repeats)
    for column, truth in zip(outcomes[_NATURAL].T, effects, strict=True):
        yield _with_outcome(case, column), float(truth)


_NATURAL = "as it was"


def _simulated(case: Case, repeats: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Outcomes (row, draw) of each scenario under some draws of the fit, and their effects."""
    effects = single_draws(case.behind.again(Change(draws=repeats)), "refute")
    changes = case.behind.changes
    scenarios = {_NATURAL: {}, **changes}
    options = {**_OUTCOMES, "scenarios": scenarios, "site": case.effect.question.site}
    averages = case.behind.again(Change(draws=repeats, options=options)).averages
    if averages.ndim != 4:
        msg = "Outcomes of several numbers each cannot be simulated here. Leave this test out."
        raise InputError(msg, code="family-unknown")
    rows = averages.stack(sample=("chain", "draw")).transpose("scenario", ..., "sample")
    names = [str(name) for name in scenarios]
    return dict(zip(names, np.asarray(rows, np.float64), strict=True)), effects


def _with_outcome(case: Case, outcome: np.ndarray) -> Change:
    problem, site = case.behind.problem, case.effect.question.site
    (name,) = problem.spec[site].observes or {site}
    dtype = np.asarray(problem.inputs.arrays[name]).dtype
    return Change({name: outcome.astype(dtype)})


#: Tests by name.
TESTS: dict[str, _Test] = {
    "placebo": _Test("treatment permuted among the rows: no effect is left", _placebo),
    "dummy_outcome": _Test("outcomes without an effect, simulated: none comes", _dummy_outcome),
    "injected": _Test("outcomes with a known effect, simulated: it comes back", _injected),
    "random_cause": _Test(
        "another, random covariate: the effect stays", _random_cause, stays=True, spread=0.0
    ),
    "subset": _Test(
        "four rows of five: the effect stays",
        _subset,
        stays=True,
        spread=float(np.sqrt(1 / _SHARE - 1)),
    ),
    "bootstrap": _Test(
        "rows weighed anew at random: the effect stays", _bootstrap, stays=True, spread=1.0
    ),
}
