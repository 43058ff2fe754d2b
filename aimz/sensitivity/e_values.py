"""E-values (VanderWeele and Ding, 2017, Annals of Internal Medicine 167, 268-274).

The least association, as a ratio of risks, that a confounder needs with both treatment and outcome
to explain a ratio away. Of draws of the ratio there is one for each, so that it has an interval.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from aimz.choices import check_choice
from aimz.errors import InputError

__all__ = ["MEASURES", "e_value", "e_value_limit", "to_risk_ratio"]


#: Each measure as an approximate ratio of risks; section "Other scales" of the paper.
MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "risk_ratio": lambda ratio: ratio,
    "odds_ratio": np.sqrt,  # of a common outcome: of a rare one it is a ratio of risks
    "hazard_ratio": lambda hr: (1 - 0.5 ** np.sqrt(hr)) / (1 - 0.5 ** np.sqrt(1 / hr)),
    "difference": lambda d: np.exp(0.91 * d),  # in standard deviations of the outcome
}


def to_risk_ratio(value: ArrayLike, measure: str = "risk_ratio") -> np.ndarray:
    """An effect on some scale as an approximate ratio of risks.

    Parameters
    ----------
    value : array-like
        One number, or draws.
    measure : {"risk_ratio", "odds_ratio", "hazard_ratio", "difference"}
        Its scale. Odds and hazards are of a common outcome (of a rare one they are ratios of
        risks); a difference is in standard deviations of the outcome.

    Returns
    -------
    ndarray
        As many ratios.

    Raises
    ------
    InputError
        `option-unknown`; `ratio-undefined`: a ratio that is not positive.

    Examples
    --------
    >>> to_risk_ratio([1.0, 4.0], "odds_ratio").tolist()
    [1.0, 2.0]
    """
    check_choice(measure, "measure", list(MEASURES))
    numbers = np.asarray(value, np.float64)
    is_sound = np.isfinite(numbers) & ((numbers > 0) | (measure == "difference"))
    if not is_sound.all():
        msg = f"A {measure.replace('_', ' ')} is a finite number, and a ratio above 0."
        raise InputError(msg, code="ratio-undefined")
    return np.asarray(MEASURES[measure](numbers))


def e_value(value: ArrayLike, measure: str = "risk_ratio") -> np.ndarray:
    """Least association with treatment and outcome that explains an effect away.

    Parameters
    ----------
    value, measure
        As in `to_risk_ratio`; of draws there is an E-value for each.

    Returns
    -------
    ndarray
        R + sqrt(R (R - 1)) of the ratio R, or of 1 / R where that is greater; 1 at no effect.

    Raises
    ------
    InputError
        `option-unknown`, `ratio-undefined`

    Examples
    --------
    >>> e_value([3.9, 1.8, 1.0]).round(3).tolist()
    [7.263, 3.0, 1.0]
    """
    ratio = to_risk_ratio(value, measure)
    above = np.maximum(ratio, 1 / ratio)
    return np.asarray(above + np.sqrt(above * (above - 1)))


def e_value_limit(low: float, high: float, measure: str = "risk_ratio") -> float:
    """E-value of the end of an interval that is nearest to no effect; 1 where it holds no effect.

    Parameters
    ----------
    low, high : float
        The interval, on the scale of `measure`.
    measure
        As in `to_risk_ratio`.

    Returns
    -------
    float
        An E-value.

    Raises
    ------
    InputError
        `option-unknown`, `ratio-undefined`

    Examples
    --------
    >>> round(e_value_limit(1.8, 8.7), 3), e_value_limit(0.9, 1.2)
    (3.0, 1.0)
    """
    ends = to_risk_ratio([low, high], measure)
    if ends[0] > ends[1]:
        msg = f"The lower end of an interval comes first, not {low:.6g} before {high:.6g}."
        raise InputError(msg, code="option-unknown")
    if ends[0] <= 1 <= ends[1]:
        return 1.0
    return float(e_value(ends[0] if ends[0] > 1 else ends[1]))
