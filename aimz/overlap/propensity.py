"""How likely rows are to be in each arm of a binary treatment, by logistic regression.

The ridge penalty is the number of columns (a prior of log odds that vary by about one over the
rows, whatever their number); a fixed one finds differences in experiments with many columns and few
treated. The score is linear: it does not see that only a middle was treated.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from aimz.overlap.columns import ColumnTable

__all__ = ["Score", "score_of", "unlikely"]


#: Part of an arm's median chance below which a row is outside that arm.
SHARE = 0.1
#: Rows that a score is fitted on, and values where there are many columns.
SCORE_ROWS, SCORE_VALUES = 20_000, 4_000_000
#: Columns for which a matrix of second derivatives is cheap.
NEWTON = 200


@dataclass(frozen=True)
class Score:
    """Log odds of the second arm of a binary treatment, on the standardised columns.

    `slopes` (column,) are 0 for the treatment itself; `medians` are the median chances of each arm
    among the rows that had it.
    """

    treatment: str
    arms: tuple[float, float]
    intercept: float
    slopes: np.ndarray
    medians: tuple[float, float]


def score_of(data: ColumnTable, k: int) -> Score | None:
    """The score of a binary column; none if the complete rows lack an arm."""
    rows, treatment = data.complete, data.names[k]
    values = data.views[k][rows]
    arms = np.unique(values)
    if len(arms) != 2:
        return None
    who = [rows[values == arm] for arm in arms]
    intercept, slopes = _regression(data, who, k)
    score = Score(treatment, (float(arms[0]), float(arms[1])), intercept, slopes, (0.0, 0.0))
    medians = []
    for side, had in zip((-1, 1), who):
        odds = _log_odds(score, data.at(_evenly(had, SCORE_ROWS)))
        medians.append(float(np.median(special.expit(side * odds))))
    return replace(score, medians=(medians[0], medians[1]))


def _regression(data: ColumnTable, arms: Sequence[np.ndarray], k: int) -> tuple[float, np.ndarray]:
    """Intercept and slopes, (column,), of the log odds that column `k` is in the second arm."""
    others = np.setdiff1d(np.flatnonzero(data.scale > 0), k)
    slopes = np.zeros(len(data.views))
    if not len(others):
        return float(np.log(len(arms[1]) / len(arms[0]))), slopes
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    limit = max(4, min(SCORE_ROWS, SCORE_VALUES // len(others)))
    fewer = min(limit // 2, *map(len, arms))
    taken = [_evenly(arm, max(fewer, limit - fewer)) for arm in arms]
    # A small arm is taken whole, so that much is known about it; weights give back the shares.
    weights = [np.full(len(few), len(arm) / len(few)) for few, arm in zip(taken, arms)]
    z = np.concatenate([data.at(few)[others].T for few in taken])
    is_second = np.repeat([0, 1], [len(few) for few in taken])
    solver = "newton-cholesky" if len(others) <= NEWTON else "lbfgs"
    # The tolerance is one of the mean gradient, to which a rare arm contributes little.
    model = LogisticRegression(C=1 / len(others), tol=1e-7, max_iter=500, solver=solver)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(z, is_second, sample_weight=np.concatenate(weights))
    slopes[others] = model.coef_[0]
    return float(model.intercept_[0]), slopes


def _evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows, one of each stretch; a fixed step would meet one day of every week."""
    if len(rows) <= count:
        return rows
    inside = (np.arange(count) * 0.6180339887498949) % 1.0  # the golden ratio, of no period
    return rows[((np.arange(count) + inside) * (len(rows) / count)).astype(np.intp)]


def _log_odds(score: Score, z: np.ndarray) -> np.ndarray:
    """Log odds of the second arm, summed term by term and so the same for any number of rows."""
    total = np.full(z.shape[1], score.intercept)
    for k in np.flatnonzero(score.slopes):
        total += score.slopes[k] * z[k]
    return total


def unlikely(score: Score, z: np.ndarray, given: np.ndarray, slack: float) -> Iterator[np.ndarray]:
    """For each arm, the standardised rows that are `given` it and whose chance is too small."""
    odds = _log_odds(score, z)
    for side, arm, median in zip((-1, 1), score.arms, score.medians):
        # On the scale of log odds, which keeps its digits where chances come close to 0.
        least = np.log(SHARE * median) - np.log1p(-SHARE * median) if median > 0 else -np.inf
        yield (np.abs(given - arm) <= slack) & ~(side * odds >= least)
