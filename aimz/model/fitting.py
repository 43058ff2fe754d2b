"""Fits: the kernel with its data, what an engine makes of them, and what later calls must know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aimz import inference
from aimz.arrays import stamp_of
from aimz.choices import check_choice, check_switches, names_of
from aimz.data import (
    Arguments,
    Known,
    Value,
    check_positive,
    row_fingerprint,
)
from aimz.errors import AimzError, FitWarning, InputError, Note, check_names
from aimz.inference import (
    Fit,
    ObjectEngine,
    Problem,
    Settings,
    SteppingEngine,
    VariationalEngine,
    more_draws,
)
from aimz.kernels import OutcomeUnits
from aimz.model.files import TableRows
from aimz.model.setup import KeyLike, Setup
from aimz.outcomes import is_there
from aimz.prediction import Fitted, Use, check_same_data, fitted_on, problem_of
from aimz.results import check_labels

__all__ = [
    "Data",
    "checked",
    "data_of",
    "fit",
    "from_run",
    "more",
    "numpyro_object",
    "problem_for",
    "refusal",
    "reweighted",
    "showing",
    "step",
    "variational",
    "vi_result",
    "with_categories",
]


_TELLING = 20  # rows whose mean and spread say what the units are


class _NoResultError(InputError, AttributeError):
    """An engine has no such record; an AttributeError, so that looking through attributes works."""


@dataclass(frozen=True)
class Data:
    """What is fitted, as it was passed: the kernel's arguments, and how the rows count."""

    arguments: Mapping[str, Any]
    weights: ArrayLike | None = None
    missing: str = "raise"


def data_of(setup: Setup, method: Callable[..., Any], named: Mapping[str, Any]) -> Data:
    """Data that are passed by name only, the weights of their rows among them."""
    arguments = dict(named)
    options = arguments.pop("sample_weight", None), arguments.pop("missing", "raise")
    rows = {name: arguments.pop(name, None) for name in setup.names}
    return Data({**rows, **setup.arguments(method, arguments)}, *options)


def fit(
    setup: Setup,
    data: Data,
    settings: Settings,
    rng_key: KeyLike | None,
    before: Fitted | None,
    on_bad_fit: str,
) -> tuple[Fitted, tuple[Note, ...]]:
    """Fit afresh, or go on from the fit `before`; returns what the fit leaves, and its notes."""
    _check_options(data, settings)
    stamps = {name: stamp_of(given) for name, given in data.arguments.items()}
    check_choice(on_bad_fit, "on_bad_fit", ("warn", "raise", "ignore"))
    engine = setup.engine
    state = None if before is None else before.fit.state
    known = None if before is None or state is None else before.known
    setup = with_categories(setup, data.arguments)
    problem, arguments = _problem(setup, data, known)
    settled = _settled(setup, problem)
    if settled is not setup:
        setup, engine = settled, settled.engine
        problem, arguments = _problem(setup, data, known)
    _check_units(setup, problem)
    try:
        done = engine.fit(setup.key(rng_key, Use.FIT), problem, settings, state=state)
    except KeyboardInterrupt as stop:  # before there was anything that an engine could keep
        stop.add_note("Nothing of this fit was kept. The model is as it was before the call.")
        raise
    notes = (*problem.notes, *done.notes)
    done = replace(done, attrs=_judged(done.attrs, _bad(notes)))
    kernel = setup.kernel if _is_in_units(setup.kernel) else None
    fitted = replace(fitted_on(problem, arguments, done), course=settings, kernel=kernel)
    _check_unchanged(data.arguments, stamps)
    if on_bad_fit == "ignore":
        return fitted, tuple(note for note in notes if note not in _bad(notes))
    return fitted, notes


def refusal(notes: tuple[Note, ...], on_bad_fit: str) -> AimzError | None:
    """Why a fit with these notes is refused, if it is; before all that it was interrupted."""
    bad = sorted(_bad(notes), key=lambda note: note.code != "interrupted")
    if on_bad_fit != "raise" or not bad:
        return None
    return AimzError(bad[0].message, code=bad[0].code)


def _check_unchanged(arguments: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Refuse a fit during which somebody wrote a file that it read more than once.

    Raises
    ------
    InputError
        `rows-changed`.
    """
    for name, then in before.items():
        now = stamp_of(arguments[name])
        # Another file under the same name leaves the one that is mapped as it was.
        if then is not None and now is not None and now[0] == then[0] and now != then:
            msg = f"The file of '{name}' was written while the model was fitted. Fit again."
            raise InputError(msg, code="rows-changed")


def _bad(notes: tuple[Note, ...]) -> list[Note]:
    return [note for note in notes if issubclass(note.category, FitWarning)]


def _judged(attrs: Mapping[str, Any], bad: list[Note]) -> dict[str, Any]:
    """The account of a fit, whose verdict names all that its warnings do.

    Whether it was interrupted is an entry of its own.
    """
    verdict = str(attrs.get("verdict", ""))
    said = verdict.removeprefix("bad: ").split(", ") if verdict.startswith("bad: ") else []
    codes = [note.code for note in bad if note.code not in (*said, "interrupted")]
    faults = ", ".join([*said, *dict.fromkeys(codes)])
    return {**attrs, "verdict": f"bad: {faults}"} if codes else dict(attrs)


def step(
    setup: Setup, data: Data, rng_key: KeyLike | None, last: Fitted | None
) -> tuple[Fitted, float]:
    """Take one step on the rows, from the state of the `last` fit if it has one."""
    engine = _stepping(setup)
    before = last if last is not None and last.fit.state is not None else None
    problem, arguments = _problem(setup, data, before.known if before else None)
    steps = before.steps if before else 0
    if before is None:
        _check_units(setup, problem)
    key = setup.key(rng_key, Use.STEP, steps)
    state, loss = engine.step(key, problem, before.fit.state if before else None)
    moved = replace(before.fit, state=state) if before else Fit(draws={}, state=state)
    fitted = fitted_on(problem, arguments, moved.with_draws({}, attrs={}), steps + 1)
    return fitted, float(loss)


def checked(
    num_samples: object, return_sites: object, *, return_datatree: object
) -> tuple[str, ...] | None:
    """The sites to return of further draws; refuses options that are none."""
    check_positive(num_samples, "num_samples")
    check_switches(return_datatree=return_datatree)
    return None if return_sites is None else names_of(return_sites, "return_sites")


def more(
    setup: Setup,
    fitted: Fitted,
    data: Data | None,
    rng_key: KeyLike | None,
    num_samples: int,
    sites: tuple[str, ...] | None = None,
) -> tuple[Fit, Fitted]:
    """Draw more from a fit; returns it with these draws, and what it is from now on.

    `sites` are those whose draws are returned. Without `data` it is the fit's own, which only the
    process that has fitted holds.
    """
    problem = fitted.problem
    if fitted.fit.state is None or (problem is None and data is None):
        msg = "There is no fit to continue, or no data. Fit first, or pass the fit's arguments."
        raise InputError(msg, code="no-data")
    if data is not None:
        problem, arguments = _problem(setup, data)
        check_same_data(fitted, problem, arguments)
    elif problem and row_fingerprint(problem.inputs.arrays[setup.names[0]]) != fitted.fingerprint:
        msg = f"'{setup.names[0]}' has been changed in place since the fit. Fit again."
        raise InputError(msg, code="data-differ")
    key = setup.key(rng_key, Use.SAMPLE, fitted.steps)
    drawn = more_draws(setup.engine, key, problem, fitted.fit, num_samples)
    now = replace(fitted.fit, state=drawn.state) if fitted.fit.draws else drawn
    if sites is not None:
        check_names(dict.fromkeys(sites), tuple(drawn.draws), what="site")
        drawn = replace(drawn, draws={name: drawn.draws[name] for name in sites})
    return drawn, replace(fitted, steps=fitted.steps + 1, fit=now)


def reweighted(setup: Setup, fitted: Fitted, rng_key: KeyLike | None, num_samples: int) -> Fitted:
    """The fit with draws that weights have made those of the posterior."""
    check_positive(num_samples, "num_samples")
    key = setup.key(rng_key, Use.SAMPLE, fitted.steps)
    made = inference.reweighted(setup.engine, key, fitted.problem, fitted.fit, num_samples)
    return replace(fitted, fit=made, course=None)


def from_run(setup: Setup, result: Any) -> Fitted:
    """What a run of NumPyro's SVI elsewhere leaves."""
    key = setup.key(None, Use.FIT)
    return Fitted(variational(setup).fit_from(key, result, setup.num_samples))


def numpyro_object(engine: ObjectEngine, fitted: Fitted) -> Any:
    """NumPyro's own object with the result of a fit."""
    if "engine" not in fitted.fit.attrs:
        msg = "The draws were set by hand, so no engine holds them. Use posterior_tree."
        raise _NoResultError(msg, code="no-object")
    return _or_absent(engine.fitted_object, fitted.fit, fitted.problem)


def vi_result(engine: VariationalEngine, fitted: Fitted) -> Any:
    """NumPyro's record of a fit by SVI."""
    return _or_absent(engine.vi_result, fitted.fit)


def _or_absent(shown: Callable[..., Any], *fit: Any) -> Any:
    try:
        return shown(*fit)
    except InputError as error:
        raise _NoResultError(str(error), code=error.code) from None


def showing(setup: Setup) -> ObjectEngine:
    """The engine, which must show its fits as objects of NumPyro's."""
    engine = setup.engine
    if not isinstance(engine, ObjectEngine):
        who = "A loaded model" if engine.name == "absent" else f"Engine '{engine.name}'"
        msg = f"{who} has no object of NumPyro's. Use posterior_tree."
        raise _NoResultError(msg, code="no-object")
    return engine


def variational(setup: Setup) -> VariationalEngine:
    """The engine, which must run NumPyro's SVI."""
    engine = setup.engine
    if not isinstance(engine, VariationalEngine):
        msg = f"Engine '{engine.name}' has no vi_result. Use inference='svi' or an SVI object."
        raise _NoResultError(msg, code="vi-result")
    return engine


def _stepping(setup: Setup) -> SteppingEngine:
    engine = setup.engine
    if not isinstance(engine, SteppingEngine):
        msg = f"Engine '{engine.name}' cannot train by steps. Use inference='svi', or call fit."
        raise InputError(msg, code="no-steps")
    return engine


def problem_for(setup: Setup, fitted: Fitted | None, arguments: Mapping[str, Any]) -> Problem:
    """The kernel with arguments, or with those of the fit, where none are given."""
    if any(value is not None for value in arguments.values()):
        return _problem(with_categories(setup, arguments), Data(arguments, missing="mask"))[0]
    if fitted is None or fitted.problem is None:
        msg = "There is no data to run the kernel on. Fit first, or pass its arguments."
        raise InputError(msg, code="no-data")
    return fitted.problem


def _check_options(data: Data, settings: Settings) -> None:
    check_switches(progress=settings.progress, shuffle=settings.shuffle)
    check_choice(data.missing, "missing", ("raise", "mask"))
    for name in ("num_samples", "epochs", "batch_size", "num_steps", "num_shards", "num_chains"):
        check_positive(getattr(settings, name), name)


def _problem(setup: Setup, data: Data, known: Known | None = None) -> tuple[Problem, Arguments]:
    """The kernel with its data, checked and inspected."""
    has_start = not isinstance(setup.inference, str)  # an object may know where to start
    problem, arguments = problem_of(
        setup.kernel,
        setup.names,
        data.arguments,
        data.weights,
        data.missing,
        known,
        has_own_start=has_start,
    )
    check_labels(problem.spec, setup.schema(1, 0))
    return problem, arguments


def _is_in_units(kernel: Any) -> bool:
    return isinstance(kernel, OutcomeUnits)


def with_categories(setup: Setup, arguments: Mapping[str, Any]) -> Setup:
    """The setup with a ready-made regression that knows the categories of a frame of rows."""
    kernel: Any = setup.kernel
    rows = arguments.get(setup.names[0])
    if rows is None or not _is_in_units(kernel) or getattr(kernel, "categories", None) != ():
        return setup
    if isinstance(rows, TableRows):
        rows.check_numbers()
        return setup
    categories = Value.of(rows, setup.names[0]).categories
    return replace(setup, kernel=replace(kernel, categories=categories)) if categories else setup


def _settled(setup: Setup, problem: Problem) -> Setup:
    """The setup with a ready-made kernel in the units of the data, where it has none of its own."""
    kernel: Any = setup.kernel
    if not _is_in_units(kernel):
        return setup
    settled = kernel.settled(*_rows_and_outcomes(setup, problem), problem.inputs.arrays)
    return setup if settled == kernel else replace(setup, kernel=settled)


def _check_units(setup: Setup, problem: Problem) -> None:
    """Refuse data in other units than a ready-made kernel's priors; a few rows cannot say."""
    kernel: Any = setup.kernel
    if _is_in_units(kernel) and problem.inputs.rows >= _TELLING:
        kernel.check(*_rows_and_outcomes(setup, problem))


def _rows_and_outcomes(setup: Setup, problem: Problem) -> tuple[Any, Any]:
    """The two; what is missing of the outcomes is NaN."""
    rows, outcome = (np.asarray(problem.inputs.arrays.get(name)) for name in setup.names)
    if outcome.dtype.kind == "f":  # none is infinite
        return rows, outcome
    return rows, np.where(is_there(outcome), outcome, np.nan)
