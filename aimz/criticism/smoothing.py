"""Leaving one observation out by Pareto-smoothed importance sampling, many observations at once.

The posterior without an observation is the posterior weighted by one over the likelihood of that
observation. A generalised Pareto distribution is fitted to the largest of these weights, they are
replaced by its quantiles, and its shape k says how far to trust the result (Vehtari et al., 2024,
"Pareto smoothed importance sampling", JMLR 25(72); the fit is that of Zhang and Stephens, 2009).

ArviZ does the same for one observation after another, and is what this is held to. Here no matrix
of weights is made: beyond the tail a weight times its likelihood is the same for all draws.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

__all__ = ["LEAST_DRAWS", "LeftOut", "left_out_weights", "smoothed_out", "tail_length"]


#: Fewest draws whose tail, a fifth of them, can be fitted.
LEAST_DRAWS = 25
_PRIOR_WEIGHT, _PRIOR_SHAPE = 10.0, 0.5  # of the shape k
_PRIOR_SCALE = 3.0
_BLOCK = 2**17  # numbers of the largest array: what a processor keeps near


class LeftOut(NamedTuple):
    """Of each observation, without it and in nats: log density, what it lost, and Pareto k.

    k is NaN where the tail is no Pareto distribution, so that nothing says how good the others are.
    """

    elpd: np.ndarray
    lost: np.ndarray
    pareto_k: np.ndarray


def tail_length(draws: int, efficiency: float) -> int:
    """How many of the largest weights are smoothed, by ArviZ's rule.

    >>> tail_length(100, 1.0), tail_length(1000, 1.0), tail_length(1000, 0.5)
    (20, 94, 134)
    """
    if draws * efficiency > 225:  # not of an efficiency that is NaN
        return int(3 * (draws / efficiency) ** 0.5)
    return draws // 5


def left_out_weights(
    log_likelihood: np.ndarray, efficiency: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Log weights of the draws without each observation, (observation, draw), and Pareto k.

    The matrix of weights is made here, by ArviZ. Where some draws find an observation impossible,
    these share all weight, and k is inf; a tail of equal weights, which ArviZ refuses to smooth, is
    as smooth as it can be, and its k is -inf.
    """
    from arviz_stats import base

    smooth: Any = base.array_stats.psislw  # type: ignore[attr-defined]  # as documented
    density = np.asarray(log_likelihood, np.float64)
    weights, pareto_k = np.empty(density.shape), np.empty(len(density))
    for place, row in enumerate(density):
        impossible = np.isneginf(row)
        if impossible.any():
            weights[place] = np.where(impossible, -np.log(impossible.sum()), -np.inf)
            pareto_k[place] = np.inf
            continue
        try:
            weights[place], pareto_k[place] = smooth(row, r_eff=efficiency)
        except ValueError:
            weights[place], pareto_k[place] = -row - logsumexp(-row), -np.inf
    return weights, pareto_k


def smoothed_out(log_likelihood: np.ndarray, tail: int) -> LeftOut:
    """Leave each observation out, given log densities (observation, draw) in double precision.

    An observation that some draw finds impossible is impossible without it: the log density is
    -inf, and k is inf. Where the largest weights are all the same they have an end that they reach:
    k is -inf.
    """
    height = 30 + int(tail**0.5)
    step = max(1, _BLOCK // max(height * tail, log_likelihood.shape[1]))
    starts = range(0, len(log_likelihood), step)
    parts = [_left_out(log_likelihood[start : start + step], tail) for start in starts]
    return LeftOut(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _left_out(log_likelihood: np.ndarray, tail: int) -> LeftOut:
    least, most = log_likelihood.min(axis=1), log_likelihood.max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore"):
        parted = np.partition(log_likelihood, tail, axis=1)
        largest = np.sort(parted[:, :tail], axis=1)[:, ::-1]  # their weights ascend
        weights = np.exp(least[:, None] - largest)
        others = np.exp(least[:, None] - parted[:, tail:])  # the first of them is the largest
        k, smoothed = _smoothed(weights, others[:, 0])
        is_flat = largest[:, 0] == largest[:, -1]
        k = np.where(is_flat, -np.inf, k)
        smoothed = np.where(np.isfinite(k)[:, None], smoothed, least[:, None] - largest)
        # A weight that is not smoothed, times its likelihood, is the least likelihood.
        shares = smoothed + largest - least[:, None]
        peak = np.maximum(shares.max(axis=1), 0.0)
        count = (parted.shape[1] - tail) * np.exp(-peak)
        above = peak + np.log(count + np.exp(shares - peak[:, None]).sum(axis=1))
        below = np.log(others.sum(axis=1) + np.exp(smoothed).sum(axis=1))
        elpd = least + above - below
        density = most + np.log(np.exp(log_likelihood - most[:, None]).mean(axis=1))
    impossible = np.isneginf(least)
    elpd = np.where(impossible, -np.inf, elpd)
    k = np.where(impossible, np.inf, k)
    with np.errstate(invalid="ignore"):  # impossible with it too
        return LeftOut(elpd, density - elpd, k)


def _smoothed(weights: np.ndarray, cutoff: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape k of ascending weights above a cutoff, (observation,), and logs of smoothed weights."""
    count = weights.shape[1]
    k, scale = _pareto_fit(weights - cutoff[:, None])
    probabilities = (np.arange(count) + 0.5) / count
    exceeded = np.expm1(-k[:, None] * np.log1p(-probabilities)) / k[:, None]
    quantiles = cutoff[:, None] + scale[:, None] * exceeded
    return k, np.minimum(np.log(quantiles), 0.0)  # the largest weight is 1


def _pareto_fit(excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape and scale of generalised Pareto distributions of ascending numbers, row by row.

    A quadrature over the ratio of the two, whose posterior mean is taken. The shape is NaN where a
    quarter of the numbers is the smallest of them, and inf where they differ beyond all numbers.
    """
    count = excess.shape[1]
    height = 30 + int(count**0.5)
    quartile = excess[:, int(count / 4 + 0.5) - 1]
    points = 1 - np.sqrt(height / (np.arange(height) + 0.5))
    ratios = points / (_PRIOR_SCALE * quartile[:, None]) + 1 / excess[:, -1:]
    shapes = np.log1p(-ratios[:, :, None] * excess[:, None, :]).mean(axis=2)
    densities = count * (np.log(-ratios / shapes) - shapes - 1)
    weights = np.exp(densities - densities.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    weights[weights < 10 * np.finfo(float).eps] = 0.0  # as ArviZ does
    ratio = (ratios * weights).sum(axis=1) / weights.sum(axis=1)
    shape = np.log1p(-ratio[:, None] * excess).mean(axis=1)
    scale = -shape / ratio
    pooled = (count * shape + _PRIOR_WEIGHT * _PRIOR_SHAPE) / (count + _PRIOR_WEIGHT)
    pooled = np.where(np.isnan(pooled), np.inf, pooled)
    return np.where(quartile > excess[:, 0], pooled, np.nan), scale
