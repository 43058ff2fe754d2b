"""Outcomes simulated from a kernel's prior, and fits to them that share one compiled program."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from aimz.errors import AimzWarning, FitWarning, InputError, OutputWarning
from aimz.model import ImpactModel

__all__ = [
    "Design",
    "drawn_outcomes",
    "fit_again",
    "quiet",
    "say_bad_fits",
    "say_unsure",
    "split_design",
    "taken_by",
]


_OWN = str(Path(__file__).parents[1])


type Design = tuple[Any, dict[str, Any]]


def split_design(design: Mapping[str, Any]) -> Design:
    """The rows of a design, and what else a kernel takes but for its outcome."""
    given = dict(design)
    if "X" not in given or "y" in given:
        msg = "The design is what the kernel takes but for its outcome, and has an 'X'. Pass both."
        raise InputError(msg, code="recovery")
    return given.pop("X"), given


def taken_by(kernel: Callable[..., Any], design: Design) -> Design:
    """Those arguments of a design that a kernel has."""
    X, given = design
    names = inspect.signature(kernel).parameters
    return X, {name: value for name, value in given.items() if name in names}


def drawn_outcomes(
    kernel: Callable[..., Any], design: Design, sites: Sequence[str], n: int, key: int
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Sites drawn from the prior, and the outcomes that go with them, rows first."""
    X, given = design
    with quiet():
        prior: Any = ImpactModel(kernel, rng_key=key).sample_prior_predictive_on_batch(
            X, num_samples=n, return_sites=[*sites, "y"], return_datatree=False, **given
        )
    outcomes = [_by_row(outcome, len(X)) for outcome in np.asarray(prior["y"])]
    return {name: np.asarray(prior[name]) for name in sites}, outcomes


def fit_again(model: ImpactModel, design: Design, y: np.ndarray, key: int) -> str:
    """Fit a model, and return its verdict: of many fits all is said at once."""
    X, given = design
    with quiet():
        model.fit(X, y, rng_key=key, progress=False, on_bad_fit="ignore", **given)
    return str(model.diagnostics_["verdict"])


@contextmanager
def quiet() -> Iterator[None]:
    """Say nothing of single fits and predictions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AimzWarning)
        yield


def say_bad_fits(verdicts: Sequence[str]) -> None:
    """Warn of fits that said of themselves that they are bad."""
    bad = [verdict for verdict in verdicts if verdict.startswith("bad")]
    if bad:
        text = (
            f"{len(bad)} of {len(verdicts)} fits say that they are bad ('{bad[0]:.60}'): what is "
            "told of them may be the engine's fault, not the design's. Take a longer or another "
            "engine."
        )
        warnings.warn(FitWarning(text, code="refits"), skip_file_prefixes=(_OWN,))


def say_unsure(fits: Sequence[bool]) -> None:
    """Warn of comparisons by rows left out that Pareto k puts in doubt."""
    if any(fits):
        text = (
            f"In {sum(fits)} of {len(fits)} fits some values left out have a high Pareto k: scores "
            "near each other may be in the wrong order. Take by='evidence', or simpler parameters "
            "of rows."
        )
        warnings.warn(OutputWarning(text, code="pareto-k"), skip_file_prefixes=(_OWN,))


def _by_row(outcome: np.ndarray, rows: int) -> np.ndarray:
    """An outcome with its rows first: that of a scan has its trials first."""
    fits = [axis for axis in range(min(2, outcome.ndim)) if outcome.shape[axis] == rows]
    if len(fits) == 1:
        return np.moveaxis(outcome, fits[0], 0)
    msg = (
        f"Outcomes of the shape {outcome.shape} have their {rows} rows in none of the first two "
        "axes, or in both. Simulate another number of trials, or pass simulator=."
    )
    raise InputError(msg, code="recovery")
