"""What is behind an effect: the rows of its fit, and a way to fit changed ones and ask again.

An effect refers to what the model already holds and copies nothing; files do not keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.errors import InputError, nearest
from aimz.inference import Problem
from aimz.kernel import coded_columns

__all__ = ["Behind", "Change"]


_LEVELS = 60  # of a category that becomes columns


@dataclass(frozen=True, eq=False)
class Change:
    """What another fit has in place of the fit's own.

    Parameters
    ----------
    arrays : mapping of str to array
        Arguments in place of the fit's, or beside them.
    weights : array, shape (rows,), optional
        How often each row counts, in the fit and in averages over the rows of the fit.
    kernel : callable, optional
        Another kernel.
    number : int
        Of the fit, from which its key follows.
    options : mapping
        Options of `effect` in place of those that were given.
    draws : int, optional
        Fit nothing, and ask so many draws of the fit, of the rows of the fit.
    """

    arrays: Mapping[str, Any] = field(default_factory=dict)
    weights: np.ndarray | None = None
    kernel: Callable[..., Any] | None = None
    number: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    draws: int | None = None


@dataclass(frozen=True, eq=False)
class Behind:
    """The fit that an effect was asked of.

    Parameters
    ----------
    problem : Problem
        Kernel, arrays and weights of the fit.
    columns : mapping of str to tuple of str
        Names of the columns of arguments that have some.
    again : callable
        Fit with a `Change`, from a clean start and with the same settings, and ask for the
        same effect.
    is_same_rows : bool
        Whether the effect was asked of the rows of the fit.
    may_refit : bool
        Whether the draws are those of the fit, so that another one is like it.
    changes : mapping of str to mapping
        What each scenario sets, as it was given.
    """

    problem: Problem
    columns: Mapping[str, tuple[str, ...]]
    again: Callable[[Change], Any]
    is_same_rows: bool
    may_refit: bool
    changes: Mapping[Any, Mapping[str, Any]] = field(default_factory=dict)

    def variables(self) -> dict[str, np.ndarray]:
        """What the kernel reads of each row by name: arguments, and the columns of wide ones."""
        inputs, rows = self.problem.inputs, self.problem.inputs.rows
        named: dict[str, np.ndarray] = {}
        for argument in sorted(self.problem.spec.row_inputs & inputs.arrays.keys()):
            values = inputs.arrays[argument]
            if isinstance(values, dict) or np.ndim(values) not in (1, 2) or len(values) != rows:
                continue
            table = np.asarray(values, np.float64)
            if table.ndim == 1:
                named[argument] = table
                continue
            named |= dict(zip(self.labels_of(argument), table.T, strict=True))
        return named

    def with_variable(
        self, name: str, change: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[str, np.ndarray]:
        """The argument that a variable is, or is a column of, with the variable changed."""
        arrays = self.problem.inputs.arrays
        if name in arrays:
            values = np.asarray(arrays[name])
            return name, np.asarray(change(values), values.dtype)
        for argument in sorted(self.problem.spec.row_inputs & arrays.keys()):
            labels = self.labels_of(argument)
            if name in labels:
                values = np.array(arrays[argument])
                place = labels.index(name)
                values[:, place] = change(values[:, place])
                return argument, values
        self.values_of(name)
        raise AssertionError(name)  # what has values is an argument or a column

    def labels_of(self, argument: str) -> list[str]:
        """Names of the columns of an argument; `X[0]` and so on where it has none."""
        shape = np.shape(self.problem.inputs.arrays[argument])
        if len(shape) != 2:
            return []
        numbered = [f"{argument}[{place}]" for place in range(shape[1])]
        return list(self.columns.get(argument, numbered))

    def values_of(self, name: str) -> np.ndarray:
        """One variable of the rows.

        Raises
        ------
        InputError
            `treatment-unknown`
        """
        named = self.variables()
        if name not in named:
            msg = f"'{name}' is nothing that the kernel reads of each row. "
            raise InputError(msg + nearest(name, named), code="treatment-unknown")
        return named[name]

    def argument_of(self, name: str) -> str:
        """The variable that a scenario sets: itself, or the argument that a site observes."""
        spec = self.problem.spec
        if name in spec and len(spec[name].observes) == 1 and name not in self.variables():
            return next(iter(spec[name].observes))
        return name

    def outcome(self, site: str) -> np.ndarray | None:
        """What a site of rows observed, one number for each; None where that is not so."""
        problem = self.problem
        names = problem.spec[site].observes if site in problem.spec else frozenset()
        values = problem.inputs.arrays.get(next(iter(names), ""))
        if problem.presence is not None or values is None or len(names) != 1:
            return None
        if np.shape(values) != (problem.inputs.rows,):
            return None
        return np.asarray(values, np.float64)

    def covariates(self, treatment: str) -> dict[str, np.ndarray]:
        """What the kernel reads of each row beside the treatment and outcomes, as columns."""
        spec = self.problem.spec
        outcomes = {*spec.observed_arguments, spec.output, treatment}
        coded = self.coded()
        return {
            name: _levels(values) if name in coded else values
            for name, values in self.variables().items()
            if name not in outcomes
        }

    def coded(self) -> set[str]:
        """Names of variables that are codes of categories."""
        inputs = self.problem.inputs
        places = coded_columns(self.problem.spec.lookups, inputs.arrays)
        names = set()
        for argument, columns in places.items():
            labels = self.labels_of(argument)
            names |= {labels[place] for place in columns} if labels else {argument}
        return names


def _levels(codes: np.ndarray) -> np.ndarray:
    """A column for each level but the first, where there are few."""
    levels = np.unique(codes)
    if len(levels) > _LEVELS:
        return codes
    return np.asarray(codes[:, None] == levels[1:], np.float64)
