"""Omitted variable bias in terms of partial R2 (Cinelli and Hazlett, 2020, JRSS-B 82, 39-67).

A confounder is described by two shares: of the variance of the treatment that the covariates leave
over, and of that of the outcome which treatment and covariates leave over. Of a linear regression
the formulas are exact; of another model they are those of its linear approximation.
"""

from dataclasses import dataclass

import numpy as np

from aimz.errors import InputError

__all__ = [
    "Adjusted",
    "Strength",
    "adjusted",
    "benchmark_bound",
    "greatest_multiple",
    "partial_r2",
    "partial_r2_of_columns",
    "robustness_value",
]


@dataclass(frozen=True)
class Strength:
    """How strong a confounder is: partial R2 with the treatment, and with the outcome."""

    treatment: float
    outcome: float


@dataclass(frozen=True)
class Adjusted:
    """An estimate and its standard error, as they were with the confounder in the regression."""

    estimate: float
    se: float


def partial_r2(estimate: float, se: float, dof: float) -> float:
    """Share of what is left of the outcome's variance that the treatment explains.

    Parameters
    ----------
    estimate, se : float
        The effect, and its standard error or posterior sd.
    dof : float
        Degrees of freedom of the residuals.

    Returns
    -------
    float
        t^2 / (t^2 + dof).

    Raises
    ------
    InputError
        `option-unknown`: a standard error or degrees of freedom that are not positive.

    Examples
    --------
    >>> round(partial_r2(0.09731582, 0.02325654, 783), 7)
    0.0218731
    """
    t = _t_value(estimate, se, dof)
    return float(t**2 / (t**2 + dof))


def robustness_value(
    estimate: float, se: float, dof: float, *, q: float = 1.0, alpha: float | None = None
) -> float:
    """Partial R2 that a confounder needs with both sides to take a share `q` of the effect away.

    Parameters
    ----------
    estimate, se, dof
        As in `partial_r2`.
    q : float
        Share of the effect: 1 brings it to 0.
    alpha : float, optional
        Ask when the effect is no longer distinguished from what is left, at this level, in place of
        when it is gone.

    Returns
    -------
    float
        Between 0 and 1; equation 18 of Cinelli and Hazlett (2020), and 19 with `alpha`.

    Raises
    ------
    InputError
        `option-unknown`

    Examples
    --------
    >>> round(robustness_value(0.09731582, 0.02325654, 783), 6)
    0.138776
    >>> round(robustness_value(0.09731582, 0.02325654, 783, alpha=0.05), 6)
    0.076258
    """
    if not q >= 0 or (alpha is not None and not 0 < alpha < 1):
        msg = f"q= is a share of the effect, and alpha= between 0 and 1, not {q!r}, {alpha!r}."
        raise InputError(msg, code="option-unknown")
    strength = q * abs(_t_value(estimate, se, dof)) / np.sqrt(dof)
    critical = 0.0
    if alpha is not None:
        from scipy import stats

        critical = float(stats.t.ppf(1 - alpha / 2, dof - 1)) / np.sqrt(dof - 1)
    beyond = strength - critical
    if beyond <= 0:
        return 0.0
    if critical and strength > 1 / critical:  # the outcome side is at its limit of 1
        return float((strength**2 - critical**2) / (1 + strength**2))
    return float((np.sqrt(beyond**4 + 4 * beyond**2) - beyond**2) / 2)


def adjusted(estimate: float, se: float, dof: float, strength: Strength) -> Adjusted:
    """The effect as it were with a confounder of some strength, which has moved it away from 0.

    Parameters
    ----------
    estimate, se, dof
        As in `partial_r2`.
    strength : Strength
        Of the confounder.

    Returns
    -------
    Adjusted
        Equations 14 and 15 of Cinelli and Hazlett (2020).

    Raises
    ------
    InputError
        `option-unknown`

    Examples
    --------
    >>> found = adjusted(0.0973158, 0.0232565, 783, Strength(treatment=0.1, outcome=0.1))
    >>> round(found.estimate, 5), round(found.se, 5)
    (0.02872, 0.02327)
    """
    _t_value(estimate, se, dof)
    if not (0 <= strength.treatment < 1 and 0 <= strength.outcome <= 1):
        msg = f"A partial R2 lies between 0 and 1, that of the treatment below 1: {strength}."
        raise InputError(msg, code="option-unknown")
    odds = strength.treatment / (1 - strength.treatment)
    bias = se * np.sqrt(dof) * np.sqrt(strength.outcome * odds)
    ratio = np.sqrt((1 - strength.outcome) / (1 - strength.treatment) * dof / (dof - 1))
    return Adjusted(float(np.copysign(1.0, estimate) * (abs(estimate) - bias)), float(se * ratio))


def benchmark_bound(covariate: Strength, *, k: float = 1.0) -> Strength:
    """Strength of a confounder that is `k` times as strong as a covariate that was measured.

    Parameters
    ----------
    covariate : Strength
        Partial R2 of the covariate: with the treatment given the other covariates, and with the
        outcome given these and the treatment.
    k : float
        How many times stronger, in both.

    Returns
    -------
    Strength
        Its bound; appendix B of Cinelli and Hazlett (2020). The outcome's is at most 1, which says
        nothing: such a confounder may explain all that is left of the outcome.

    Raises
    ------
    InputError
        `option-unknown`: a confounder stronger than any can be: see `greatest_multiple`.

    Examples
    --------
    >>> bound = benchmark_bound(Strength(treatment=0.0090815, outcome=0.1085)) # as "female" is
    >>> round(bound.treatment, 4), round(bound.outcome, 3)
    (0.0092, 0.124)
    """
    seen, most = covariate.treatment, greatest_multiple(covariate)
    if not 0 <= k < most:
        msg = (
            f"k= is at least 0 and below {most:.3g}, not {k:g}: nothing can be stronger, beside a "
            f"covariate of partial R2 {seen:.3g} with the treatment."
        )
        raise InputError(msg, code="option-unknown")
    treatment = k * seen / (1 - seen)
    shared = k * seen**2 / ((1 - k * seen) * (1 - seen))  # below 1 where `treatment` is
    explained = (np.sqrt(k) + np.sqrt(shared)) ** 2 * covariate.outcome
    left = (1 - shared) * (1 - covariate.outcome)
    return Strength(float(treatment), 1.0 if explained >= left else float(explained / left))


def greatest_multiple(covariate: Strength) -> float:
    """How many times as strong as a covariate a confounder cannot be, for want of treatment.

    It explains `k` times what the covariate does of the treatment, as a share of the covariate's
    rest, and no share reaches 1.
    """
    seen = covariate.treatment
    return (1 - seen) / seen if seen > 0 else float("inf")


def partial_r2_of_columns(outcome: np.ndarray, columns: np.ndarray, others: np.ndarray) -> float:
    """Share of an outcome's variance, of what `others` leave over, that some columns explain.

    Parameters
    ----------
    outcome : array, shape (rows,)
        What is explained.
    columns, others : array, shape (rows, columns)
        By what, and given what; a constant is among the others.

    Returns
    -------
    float
        By least squares: 1 - SSR(both) / SSR(others).

    Examples
    --------
    >>> x, w = np.array([1.0, -1, 1, -1]), np.array([1.0, 1, -1, -1])
    >>> round(partial_r2_of_columns(x + 2 * w, x[:, None], np.zeros((4, 0))), 3)
    0.2
    """
    rows = len(outcome)
    given = np.column_stack([np.ones(rows), others])
    before, after = (
        _residual_sum(outcome, design) for design in (given, np.column_stack([given, columns]))
    )
    return float(np.clip(1 - after / before, 0, 1)) if before > 0 else 0.0


def _residual_sum(outcome: np.ndarray, design: np.ndarray) -> float:
    coefficients = np.linalg.lstsq(design, outcome, rcond=None)[0]
    residuals = outcome - design @ coefficients
    return float(residuals @ residuals)


def _t_value(estimate: float, se: float, dof: float) -> float:
    if not (np.isfinite(estimate) and se > 0 and dof > 1):
        msg = (
            f"An estimate needs a standard error above 0 and degrees of freedom above 1, not "
            f"{se:.6g} and {dof:.6g}."
        )
        raise InputError(msg, code="option-unknown")
    return float(estimate / se)
