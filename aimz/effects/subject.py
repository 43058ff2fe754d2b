"""A question about given scenarios: who counts, and what outcome is compared."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from aimz.data import Value, check_outcome, is_given
from aimz.effects.counterfactual import replays_of
from aimz.effects.estimands import Arms
from aimz.effects.population import Rows, in_arm, rows_of
from aimz.effects.question import Question
from aimz.effects.scenarios import Scenarios
from aimz.errors import InputError
from aimz.prediction import as_site, carries_outcome, presence_in

__all__ = ["about"]


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
