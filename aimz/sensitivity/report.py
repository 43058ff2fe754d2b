"""What a hidden confounder could do to one effect: shares, benchmarks, E-values, a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from aimz.errors import InputError, nearest
from aimz.libraries import pd
from aimz.plots import interval_of, number_text
from aimz.sensitivity.e_values import e_value, e_value_limit, to_risk_ratio
from aimz.sensitivity.strength import (
    Strength,
    adjusted,
    benchmark_bound,
    greatest_multiple,
    partial_r2,
    partial_r2_of_columns,
    robustness_value,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Evidence", "Sensitivity", "sensitivity_of"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the report is made of: draws of one effect, and the rows behind it.

    Parameters
    ----------
    draws : array, shape (draws,)
        Of the effect, where none is 0.
    ratio : array, shape (draws,), optional
        Of the effect on a ratio's scale, or in standard deviations of the outcome.
    measure : str
        Which scale that is: see `to_risk_ratio`.
    treatment, outcome : array, shape (rows,), optional
        The rows of the fit.
    covariates : mapping of str to array, shape (rows,) or (rows, columns)
        What else the kernel reads of each row; a category has a column for each of its levels.
    """

    draws: np.ndarray
    ratio: np.ndarray | None = None
    measure: str = "risk_ratio"
    treatment: np.ndarray | None = None
    outcome: np.ndarray | None = None
    covariates: Mapping[str, np.ndarray] = field(default_factory=dict)

    def others(self, name: str) -> np.ndarray:
        """Columns of all covariates but one."""
        columns = [values for other, values in self.covariates.items() if other != name]
        return np.column_stack([np.zeros((len(self.rows), 0)), *columns])

    @property
    def rows(self) -> np.ndarray:
        """The treatment, which must be known.

        Raises
        ------
        InputError
            `data-gone`
        """
        if self.treatment is None or self.outcome is None:
            msg = (
                "The effect does not know the rows of its fit: its draws were set by hand, or it "
                "was loaded. Pass dof=, and leave benchmarks= out, or fit here."
            )
            raise InputError(msg, code="data-gone")
        return self.treatment


@dataclass(frozen=True, eq=False, repr=False)
class Sensitivity:
    """How strong a hidden confounder would have to be; `Effect.sensitivity` makes it.

    Parameters
    ----------
    draws : array, shape (draws,)
        Of the effect.
    dof : float
        Degrees of freedom of the outcome's residuals.
    partial_r2, robustness_value, robustness_value_alpha : float
        See `aimz.sensitivity`; the last is at level `alpha`.
    q, alpha : float
        Share of the effect that is to be lost, and the level.
    benchmarks : DataFrame
        For each benchmark and multiple `k` the strength of such a confounder, and the effect that
        were left, with its interval. Where it may explain all that is left of the outcome there is
        no interval, and the effect is the least that were left; where there can be no such
        confounder all is NaN.
    e_values : DataFrame or None
        The ratio, its E-value (mean and interval over draws), and that of the limit nearest to no
        effect. None where there is no ratio.
    ci_prob : float
        Probability of the intervals.
    """

    draws: np.ndarray
    dof: float
    partial_r2: float
    robustness_value: float
    robustness_value_alpha: float
    q: float
    alpha: float
    benchmarks: pd.DataFrame
    e_values: pd.DataFrame | None
    ci_prob: float

    @property
    def estimate(self) -> float:
        """Posterior mean of the effect."""
        return float(self.draws.mean())

    @property
    def se(self) -> float:
        """Posterior sd of the effect."""
        return float(self.draws.std(ddof=1))

    def adjusted(self, treatment: float, outcome: float) -> np.ndarray:
        """Draws of the effect as it were with a confounder of these partial R2."""
        strength = Strength(treatment, outcome)
        return _moved(self.draws, self.dof, strength)

    def summary(self) -> pd.DataFrame:
        """One row: the effect, its partial R2, and its robustness values."""
        return pd.DataFrame(
            {
                "estimate": [self.estimate],
                "sd": [self.se],
                "dof": [self.dof],
                "partial_r2": [self.partial_r2],
                "robustness_value": [self.robustness_value],
                f"robustness_value_{self.alpha:g}": [self.robustness_value_alpha],
            }
        )

    def to_text(self) -> str:
        """The report in sentences."""
        what = "to 0" if self.q == 1 else f"to {1 - self.q:.0%} of it"
        text = (
            f"A hidden confounder would have to explain {self.robustness_value:.1%} of what the "
            "covariates leave over of the treatment, and as much of the outcome, to bring the "
            f"effect of {number_text(self.estimate)} {what}, and "
            f"{self.robustness_value_alpha:.1%} to make it uncertain at the level {self.alpha:g}. "
            "One that explains all of the outcome's rest needs "
            f"{self.partial_r2:.1%} of the treatment's."
        )
        for _, row in self._bounded(told=True).iterrows():
            left, low, high = (number_text(row[name]) for name in ("adjusted", "low", "high"))
            text += f" With one {_times(row)} it would be {left} ({low} to {high})."
        text += "".join(f" {sentence}" for sentence in self.beyond())
        if self.e_values is not None:
            row = self.e_values.iloc[0]
            text += (
                f" As a ratio of risks it is {number_text(row['ratio'])}: associations of "
                f"{number_text(row['e_value'])} ({number_text(row['e_value_low'])} to "
                f"{number_text(row['e_value_high'])}) with both treatment and outcome explain it "
                f"away, and of {number_text(row['e_value_limit'])} the nearer end of its interval."
            )
        return text

    def beyond(self) -> list[str]:
        """A sentence for each benchmark and multiple that has no interval."""
        return [
            f"None can be {_times(row)}, which explains too much of the treatment."
            if np.isnan(row["adjusted"])
            else f"One {_times(row)} may explain all that is left of the outcome: it has no "
            f"interval, and {number_text(row['adjusted'])} would be left at worst."
            for _, row in self._bounded(told=False).iterrows()
        ]

    def _bounded(self, *, told: bool) -> pd.DataFrame:
        """Benchmarks that have an interval, or those that have none."""
        return self.benchmarks[self.benchmarks["low"].notna() == told]

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Contours of the effect that were left, over both strengths; 0 is the tipping line."""
        from aimz.sensitivity.plot import plot_sensitivity

        return plot_sensitivity(self, ax=ax)

    def __repr__(self) -> str:
        parts = [self.summary()] + ([self.benchmarks] if len(self.benchmarks) else [])
        parts += [] if self.e_values is None else [self.e_values]
        tables = "\n".join(
            part.to_string(index=False, float_format=lambda v: f"{v:.4g}") for part in parts
        )
        return f"Sensitivity\n{self.to_text()}\n{tables}"


def sensitivity_of(
    evidence: Evidence,
    *,
    benchmarks: Sequence[str] = (),
    multiples: Sequence[float] = (1.0, 2.0, 3.0),
    dof: float | None = None,
    q: float = 1.0,
    alpha: float = 0.05,
    ci_prob: float | None = None,
) -> Sensitivity:
    """Make the report; `Effect.sensitivity` is its public form.

    Raises
    ------
    InputError
        `data-gone`; `option-unknown`: a benchmark that is no covariate.
    """
    prob, _ = interval_of(ci_prob, None)
    draws = np.asarray(evidence.draws, np.float64)
    estimate, se = float(draws.mean()), float(draws.std(ddof=1))
    dof = _degrees(evidence) if dof is None else float(dof)
    seen = {name: _strength_of(evidence, name) for name in benchmarks}
    rows = [
        {"covariate": name, "k": k, **_benchmarked(draws, dof, prob, covariate, k)}
        for name, covariate in seen.items()
        for k in multiples
    ]
    names = ["covariate", "k", "r2_treatment", "r2_outcome", "adjusted", "sd", "low", "high"]
    return Sensitivity(
        draws,
        dof,
        partial_r2(estimate, se, dof),
        robustness_value(estimate, se, dof, q=q),
        robustness_value(estimate, se, dof, q=q, alpha=alpha),
        q,
        alpha,
        pd.DataFrame(rows, columns=names),
        _e_values(evidence, prob),
        prob,
    )


def _moved(draws: np.ndarray, dof: float, strength: Strength) -> np.ndarray:
    """Draws with the mean and sd that an adjusted estimate has."""
    estimate, se = draws.mean(), draws.std(ddof=1)
    then = adjusted(float(estimate), float(se), dof, strength)
    return np.asarray(then.estimate + (draws - estimate) * (then.se / se))


def _benchmarked(
    draws: np.ndarray, dof: float, prob: float, covariate: Strength, k: float
) -> dict[str, float]:
    """What a confounder `k` times as strong as a covariate leaves of an effect."""
    nan = float("nan")
    names = ("r2_treatment", "r2_outcome", "adjusted", "sd", "low", "high")
    if k > greatest_multiple(covariate) * (1 - 1e-9):  # or as near as rounding goes
        return dict.fromkeys(names, nan)
    strength = benchmark_bound(covariate, k=k)
    moved = _moved(draws, dof, strength)
    low, high = _interval(moved, prob)
    spread = (float(moved.std(ddof=1)), low, high) if strength.outcome < 1 else (nan, nan, nan)
    found = (strength.treatment, strength.outcome, float(moved.mean()), *spread)
    return dict(zip(names, found, strict=True))


def _times(row: pd.Series) -> str:
    """How strong a confounder of one row of the benchmarks is, in words."""
    times = "as strong as" if row["k"] == 1 else f"{row['k']:g} times as strong as"
    return f"{times} '{row['covariate']}'"


def _degrees(evidence: Evidence) -> float:
    """Rows, less the rank of a regression on the treatment and all covariates."""
    treatment = evidence.rows
    design = np.column_stack([np.ones(len(treatment)), treatment, evidence.others("")])
    return float(len(treatment) - np.linalg.matrix_rank(design))


def _strength_of(evidence: Evidence, name: str) -> Strength:
    treatment = evidence.rows
    if name not in evidence.covariates:
        msg = f"benchmarks= names '{name}', which is no covariate. "
        raise InputError(msg + nearest(name, evidence.covariates), code="option-unknown")
    columns, others = evidence.covariates[name].reshape(len(treatment), -1), evidence.others(name)
    assert evidence.outcome is not None  # noqa: S101  # asked with the rows
    return Strength(
        partial_r2_of_columns(treatment, columns, others),
        partial_r2_of_columns(evidence.outcome, columns, np.column_stack([others, treatment])),
    )


def _e_values(evidence: Evidence, prob: float) -> pd.DataFrame | None:
    if evidence.ratio is None:
        return None
    ratio = to_risk_ratio(evidence.ratio, evidence.measure)
    values = e_value(ratio)
    low, high = _interval(ratio, prob)
    ends = _interval(values, prob)
    return pd.DataFrame(
        {
            "ratio": [float(np.exp(np.log(ratio).mean()))],
            "ratio_low": [low],
            "ratio_high": [high],
            "e_value": [float(values.mean())],
            "e_value_low": [ends[0]],
            "e_value_high": [ends[1]],
            "e_value_limit": [e_value_limit(low, high)],
        }
    )


def _interval(draws: np.ndarray, prob: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - prob) / 2, (1 + prob) / 2])
    return float(low), float(high)
