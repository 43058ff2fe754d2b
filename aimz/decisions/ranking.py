"""How well scores rank rows by their gain, on held-out rows with a randomised treatment.

Every measure is a function of scores, outcomes and who was treated, so that its interval is that of
a draw of the scores and of rows with replacement (Efron, 1979). Random weights of the rows in their
place (Rubin, 1981) leave the top row what it is in every draw: they held the truth of a useless
score's AUTOC in 132 of 200 simulations at 90%, and drawn rows in 179.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from aimz.choices import check_choice, check_interval, number_of, shown
from aimz.data import check_positive, lined_up, values_of
from aimz.errors import InputError
from aimz.libraries import pd, xr

__all__ = [
    "RANKINGS",
    "auuc_score",
    "calibration",
    "qini_score",
    "rank_scores",
    "rate_of_effects",
    "rate_score",
    "toc_curve",
    "uplift_at",
]


class _Sums(NamedTuple):
    """Running sums over rows from the highest score down: weights and outcomes of both arms."""

    treated: np.ndarray
    control: np.ndarray
    outcome_treated: np.ndarray
    outcome_control: np.ndarray


def qini_score(
    score: ArrayLike,
    outcome: ArrayLike,
    treated: ArrayLike,
    *,
    normalize: bool = True,
) -> float:
    """Area between the Qini curve and a random order's (Radcliffe, 2007).

    Parameters
    ----------
    score, outcome, treated : array-like, shape (rows,)
        The predicted gain, the outcome, and 1 where a row was treated, at random, else 0. Labelled
        ones are lined up by their labels; rows of equal scores share the mean of what they have.
    normalize : bool
        Divide by the gain of treating everybody.

    Returns
    -------
    float
        0 for a useless score; as CausalML's `qini_score`.

    Raises
    ------
    InputError
        `arms-missing`: no treated, or no untreated row; `rows-mismatch`, `row-labels`.

    Examples
    --------
    >>> round(qini_score([4, 3, 2, 1], [1, 0, 0, 0], [1, 0, 1, 0]), 2)
    0.2
    """
    sums = _sums(score, outcome, treated)
    with np.errstate(invalid="ignore", divide="ignore"):
        curve = sums.outcome_treated - sums.outcome_control * sums.treated / sums.control
    curve = _from_zero(curve)
    straight = np.linspace(0.0, curve[-1], len(curve))
    return float((curve - straight).mean() / (abs(curve[-1]) if normalize else 1.0))


def auuc_score(
    score: ArrayLike,
    outcome: ArrayLike,
    treated: ArrayLike,
    *,
    normalize: bool = True,
) -> float:
    """Area under the curve of cumulative gain (Gutierrez and Gerardy, 2017).

    Parameters
    ----------
    score, outcome, treated, normalize
        As in `qini_score`.

    Returns
    -------
    float
        As CausalML's `auuc_score`; about 0.5 for a useless score.

    Raises
    ------
    InputError
        `arms-missing`, `rows-mismatch`

    Examples
    --------
    >>> round(auuc_score([4, 3, 2, 1], [1, 0, 0, 0], [1, 0, 1, 0]), 2)
    0.6
    """
    sums = _sums(score, outcome, treated)
    lift = _from_zero(_lift(sums))
    gain = lift * np.concatenate([[0.0], sums.treated + sums.control])
    return float(gain.mean() / (abs(gain[-1]) if normalize else 1.0))


def toc_curve(score: ArrayLike, outcome: ArrayLike, treated: ArrayLike) -> np.ndarray:
    """Targeting operator characteristic: effect among the top rows, less that among all.

    Parameters
    ----------
    score, outcome, treated
        As in `qini_score`.

    Returns
    -------
    ndarray, shape (rows + 1,)
        For the top 0, 1, ..., all rows (Yadlowsky et al., 2025, JASA 120); 0 where the top rows
        have one arm only.

    Raises
    ------
    InputError
        `arms-missing`, `rows-mismatch`

    Examples
    --------
    >>> toc_curve([4, 3, 2, 1], [1, 0, 0, 0], [1, 0, 1, 0]).tolist()
    [0.0, 0.0, 0.5, 0.0, 0.0]
    """
    lift = _lift(_sums(score, outcome, treated))
    return np.concatenate([[0.0], np.nan_to_num(lift - lift[-1])])


def rate_score(
    score: ArrayLike,
    outcome: ArrayLike,
    treated: ArrayLike,
    *,
    weighting: str = "autoc",
) -> float:
    """Rank-weighted average treatment effect: the area under `toc_curve`.

    Parameters
    ----------
    score, outcome, treated
        As in `qini_score`.
    weighting : {"autoc", "qini"}
        Weigh the top rows by 1 / q, or by q.

    Returns
    -------
    float
        0 for a useless score; as CausalML's `rate_score`.

    Raises
    ------
    InputError
        `arms-missing`, `option-unknown`, `rows-mismatch`

    Examples
    --------
    >>> round(rate_score([4, 3, 2, 1], [1, 0, 0, 0], [1, 0, 1, 0], weighting="qini"), 3)
    0.125
    """
    check_choice(weighting, "weighting", ("autoc", "qini"))
    curve = toc_curve(score, outcome, treated)
    middles = (np.arange(len(curve) - 1) + 0.5) / (len(curve) - 1)
    by = 1 / middles if weighting == "autoc" else middles
    return float(np.average((curve[1:] + curve[:-1]) / 2, weights=by))


def rate_of_effects(
    score: ArrayLike, effects: ArrayLike, *, percentiles: ArrayLike, weighting: str = "toc"
) -> float:
    """The area under the curve of targeting where each row has an estimate of its effect.

    Parameters
    ----------
    score : array-like, shape (rows,)
        The predicted gain.
    effects : array-like, shape (rows,)
        Doubly robust estimates of each row's effect, from held-out data.
    percentiles : array-like
        Of the score, from 0 to 100 and ascending, between which the area is summed.
    weighting : {"toc", "qini"}
        The effect among the rows above each percentile, less that among all; times their share.

    Returns
    -------
    float
        As the coefficient of EconML's `DRTester.evaluate_uplift`.

    Raises
    ------
    InputError
        `not-finite`, `option-unknown`, `rows-mismatch`

    Examples
    --------
    >>> round(rate_of_effects([3, 2, 1], [2.0, 1.0, 0.0], percentiles=[0, 50, 100]), 3)
    0.25
    """
    check_choice(weighting, "weighting", ("toc", "qini"))
    scores, values = _by_row(score=score, effects=effects)
    shares = np.asarray(percentiles, np.float64)
    if (
        shares.ndim != 1
        or not ((shares >= 0) & (shares <= 100)).all()
        or (np.diff(shares) < 0).any()
    ):
        msg = f"percentiles= are numbers from 0 to 100 that ascend, not {shown(percentiles)}."
        raise InputError(msg, code="option-unknown")
    curve = []
    for threshold in np.percentile(scores, shares):
        top = scores >= threshold
        gain = values[top].mean() - values.mean()
        curve.append(gain * top.mean() if weighting == "qini" else gain)
    return float(np.sum(np.array(curve)[:-1] * np.diff(shares)) / 100)


def uplift_at(
    score: ArrayLike,
    outcome: ArrayLike,
    treated: ArrayLike,
    *,
    share: float = 0.3,
) -> float:
    """Effect among the rows with the highest scores.

    Parameters
    ----------
    score, outcome, treated
        As in `qini_score`.
    share : float
        Of the rows, above 0 and up to 1.

    Returns
    -------
    float
        Difference of the arms' means among them.

    Raises
    ------
    InputError
        `arms-missing`, `option-unknown`, `rows-mismatch`

    Examples
    --------
    >>> uplift_at([4, 3, 2, 1], [1, 0, 0, 0], [1, 0, 1, 0], share=0.5)
    1.0
    """
    if not 0 < number_of(share, "share=") <= 1:
        raise InputError("share= is above 0 and at most 1.", code="option-unknown")
    lift = _lift(_sums(score, outcome, treated))
    value = lift[max(1, round(share * len(lift))) - 1]
    if not np.isfinite(value):
        raise _one_arm(f"The top {share:.0%}")
    return float(value)


def calibration(
    score: ArrayLike, outcome: ArrayLike, treated: ArrayLike, *, groups: int = 5
) -> pd.DataFrame:
    """Predicted and observed effects by groups of rows with like scores.

    Parameters
    ----------
    score, outcome, treated
        As in `qini_score`.
    groups : int
        Of about equal size, from the lowest scores up. Rows of equal scores stay together, so that
        few different scores make fewer groups.

    Returns
    -------
    DataFrame
        For each group its rows, the mean score, the difference of the arms' means, its standard
        error, and how many of these lie between; NaN where an arm has one row, or no spread.

    Raises
    ------
    InputError
        `arms-missing`, `not-positive`, `rows-mismatch`

    Examples
    --------
    >>> table = calibration([1, 1, 2, 2], [0, 1, 0, 2], [0, 1, 0, 1], groups=2)
    >>> table[["predicted", "observed"]].values.tolist()
    [[1.0, 1.0], [2.0, 2.0]]
    """
    check_positive(groups, "groups=")
    scores, y, arm = _checked(score, outcome, treated)
    order = np.argsort(scores, kind="stable")
    rows = []
    for number, members in enumerate(_of_like(order, scores[order], groups)):
        parts = [y[members][arm[members] == side] for side in (1, 0)]
        if not all(len(part) for part in parts):
            raise _one_arm(f"Group {number + 1}, of {len(members)} rows,")
        observed = parts[0].mean() - parts[1].mean()
        is_spread = all(len(part) > 1 for part in parts)
        se = np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)) if is_spread else np.nan
        predicted = scores[members].mean()
        score_of = (observed - predicted) / se if se > 0 else np.nan
        rows.append((number + 1, len(members), predicted, observed, se, score_of))
    return pd.DataFrame(rows, columns=["group", "rows", "predicted", "observed", "se", "z"])


#: Measures of a ranking, by name.
RANKINGS: dict[str, Callable[..., float]] = {
    "qini": qini_score,
    "auuc": auuc_score,
    "autoc": rate_score,
    "uplift@30%": uplift_at,
}


def rank_scores(
    scores: ArrayLike,
    outcome: ArrayLike,
    treated: ArrayLike,
    *,
    repeats: int = 500,
    seed: int = 0,
    ci_prob: float = 0.9,
) -> pd.DataFrame:
    """Measure a ranking, with an interval that carries the posterior of the scores and the rows.

    Parameters
    ----------
    scores : array-like, shape (rows,) or (draws, rows), or DataArray
        One score, or posterior draws of it, such as `Effect.draws` of each row.
    outcome, treated : array-like, shape (rows,)
        As in `qini_score`; of rows that the model was not fitted to.
    repeats : int
        Draws of scores and of rows.
    seed : int
        Of these.
    ci_prob : float
        Probability of the interval.

    Returns
    -------
    DataFrame
        For each of `RANKINGS` its value at the mean score, the interval, its sd, and the parts of
        the sd that come of the scores alone and of the rows alone.

    Raises
    ------
    InputError
        `arms-missing`, `rows-mismatch`

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, t = rng.normal(size=400), rng.integers(0, 2, size=400)
    >>> table = rank_scores(x, x * t + rng.normal(size=400), t, repeats=50)
    >>> bool(table.loc["qini", "low"] > 0)
    True
    """
    check_interval(ci_prob, None)
    check_positive(repeats, "repeats=")
    by_row = _rows_first(scores)
    table, y, arm = _by_row(scores=by_row, outcome=outcome, treated=treated)
    drawn = table.reshape(len(table), -1).T
    mean, rng = drawn.mean(axis=0), np.random.default_rng(seed)
    _check_arms(arm)
    rows = []
    for measure in RANKINGS.values():
        both, of_scores, of_rows = (np.empty(repeats) for _ in range(3))
        for number in range(repeats):
            draw, again = drawn[rng.integers(len(drawn))], _resampled(arm, rng)
            both[number] = measure(draw[again], y[again], arm[again])
            of_rows[number] = measure(mean[again], y[again], arm[again])
            of_scores[number] = measure(draw, y, arm) if len(drawn) > 1 else 0.0
        low, high = np.quantile(both, [(1 - ci_prob) / 2, (1 + ci_prob) / 2])
        value = measure(mean, y, arm)
        rows.append((value, low, high, both.std(), of_scores.std(), of_rows.std()))
    names = ["value", "low", "high", "sd", "sd_scores", "sd_rows"]
    return pd.DataFrame(rows, index=pd.Index(RANKINGS, name="measure"), columns=names)


def _resampled(arm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Numbers of rows drawn with replacement within each arm, so that both stay."""
    taken = np.arange(len(arm))
    for side in (0.0, 1.0):
        members = np.flatnonzero(arm == side)
        taken[members] = rng.choice(members, len(members))
    return taken


def _rows_first(scores: Any) -> Any:
    """Scores with their rows on the first axis, and the labels of these."""
    if isinstance(scores, xr.DataArray):
        return scores.transpose(..., *(dim for dim in ("chain", "draw") if dim in scores.dims))
    drawn = np.asarray(scores)
    return drawn.T if drawn.ndim > 1 else scores


def _sums(score: ArrayLike, outcome: ArrayLike, treated: ArrayLike) -> _Sums:
    scores, y, arm = _checked(score, outcome, treated)
    order = np.argsort(-scores, kind="stable")
    y, arm = y[order], arm[order]
    parts: list[Any] = [arm, 1 - arm, arm * y, (1 - arm) * y]
    block = np.cumsum(np.diff(scores[order], prepend=np.inf) != 0) - 1
    if block[-1] < len(scores) - 1:  # rows of equal scores come in no order: each has their mean
        sizes = np.bincount(block)
        parts = [(np.bincount(block, part) / sizes)[block] for part in parts]
    return _Sums(*(np.cumsum(part) for part in parts))


def _of_like(order: np.ndarray, ascending: np.ndarray, groups: int) -> list[np.ndarray]:
    """Rows in groups of about equal size that leave equal scores together."""
    ends = np.append(np.flatnonzero(np.diff(ascending)) + 1, len(order))
    wanted = np.cumsum([len(members) for members in np.array_split(order, groups)])
    after = np.searchsorted(ends, wanted)
    before = np.maximum(after - 1, 0)
    is_nearer = wanted - ends[before] < ends[np.minimum(after, len(ends) - 1)] - wanted
    cuts = np.unique(ends[np.where(is_nearer & (ends[before] < wanted), before, after)])
    return [members for members in np.split(order, cuts[:-1]) if len(members)]


def _checked(
    score: ArrayLike, outcome: ArrayLike, treated: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three arrays of one number per row, both arms among them."""
    scores, y, arm = _by_row(score=score, outcome=outcome, treated=treated)
    if scores.ndim != 1:
        raise _other_shapes(scores, y, arm)
    _check_arms(arm)
    return scores, y, arm


def _check_arms(arm: np.ndarray) -> None:
    if {*np.unique(arm)} != {0.0, 1.0}:
        raise _one_arm("What says who was treated")


def _by_row(**columns: Any) -> list[np.ndarray]:
    """Arrays of finite numbers per row each; the first may have several."""
    values = values_of(columns)
    first = next(iter(values.values()))
    rows = np.shape(first.given)[0] if np.ndim(first.given) else 0
    named = {n: v.labels for n, v in values.items() if v.labels is not None}
    if named:
        reference = next(iter(named))
        values = lined_up(values, named[reference], rows, reference)
    arrays = [np.asarray(value.array, np.float64) for value in values.values()]
    if not rows or any(array.shape != (rows,) for array in arrays[1:]):
        raise _other_shapes(*arrays)
    if not all(np.isfinite(array).all() for array in arrays):
        msg = "Scores and outcomes are finite numbers. Leave rows without one out."
        raise InputError(msg, code="not-finite")
    return arrays


def _other_shapes(*arrays: np.ndarray) -> InputError:
    shapes = ", ".join(str(array.shape) for array in arrays)
    msg = f"Scores, outcomes and arms have one number per row, and not {shapes}."
    return InputError(msg, code="rows-mismatch")


def _one_arm(what: str) -> InputError:
    msg = f"{what} does not have both arms, 0 and 1, so that nothing can be compared."
    return InputError(msg, code="arms-missing")


def _lift(sums: _Sums) -> np.ndarray:
    """Difference of the arms' means among the top rows; NaN where an arm is absent."""
    with np.errstate(invalid="ignore", divide="ignore"):
        lift = sums.outcome_treated / sums.treated - sums.outcome_control / sums.control
    return np.asarray(lift)


def _from_zero(curve: np.ndarray) -> np.ndarray:
    """A curve that begins at 0, with what is not known between drawn straight."""
    whole = np.concatenate([[0.0], curve])
    known = np.isfinite(whole)
    return np.asarray(np.interp(np.arange(len(whole)), np.flatnonzero(known), whole[known]))
