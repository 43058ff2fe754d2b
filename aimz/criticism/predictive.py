"""Whether outcomes fall where a model predicts them: by arm, by region, along each column.

Each outcome becomes the normal score of its place among its own predictions (a randomised quantile
residual, Dunn and Smyth, 1996, doi:10.2307/1390802): standard normal where the model is right,
whatever the family. A row that the fit has learned from is predicted by the posterior without it,
by Pareto-smoothed weights (Vehtari et al., 2024); else wide models would look too wide.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from aimz.criticism.smoothing import left_out_weights
from aimz.libraries import pd, stats
from aimz.plots import interval_of, label_text, label_texts, number_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Compared", "PredictiveCheck", "predictive_check"]


_SURE = 0.01  # of an adjusted p-value: a misfit
_LEAST_ROWS = 20  # of a part that is judged
_HIGH_K = 0.7
_TOLD = 5  # misfits in a text
_ALL = "all"
_SEED = 8_437_120_331_729_054_113  # nobody's: outcomes simulated by the same would not be split


@dataclass(frozen=True, eq=False, repr=False)
class PredictiveCheck:
    """How outcomes fall among their predictions.

    Parameters
    ----------
    rows : DataFrame
        For each row that counts: `observed`; `predicted`, the mean of its draws; `pit`, the
        share of these below it; `score`, the normal score of that; `arm`; `region`.
    regions : DataFrame
        For all rows, each arm, each region and each region of an arm: the number of `rows`, mean
        outcomes `observed` and `predicted`, the `shift` (mean score) and the `spread` (root mean
        square score), which should be 0 and 1, the share `inside` of central intervals, p-values,
        and a `verdict`.
    columns : DataFrame
        For each column of numbers, and arm: the `slope` and the `curvature` of scores along it,
        which should be 0, p-values, and a `verdict`.
    ci_prob : float
        Probability of the intervals.
    left_out : int
        Rows that the fit has learned from, and are judged by the posterior without them.
    uncertain : int
        Of these, rows whose leaving out by weights is not reliable (Pareto k above 0.7).

    Notes
    -----
    All p-values are adjusted for their number (Holm, 1979); a verdict is a misfit below 0.01. A
    region of fewer than 20 rows is "few rows" and has no p-values.
    """

    rows: pd.DataFrame
    regions: pd.DataFrame
    columns: pd.DataFrame
    ci_prob: float
    left_out: int = 0
    uncertain: int = 0
    along: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def misfits(self) -> list[str]:
        """What is wrong, in sentences, the surest first; empty where nothing was found."""
        told = [
            (row[_p_columns(table)].min(), sentence(row))
            for table, sentence in ((self.regions, _of_region), (self.columns, _of_column))
            for _, row in table.iterrows()
            if row["verdict"] not in ("", "few rows")
        ]
        return [text for _, text in sorted(told, key=lambda pair: pair[0])]

    def to_text(self) -> str:
        """Say what was found, with the numbers of the tables."""
        whole = self.regions.iloc[0]
        count = sum(int(t[_p_columns(t)].notna().sum().sum()) for t in (self.regions, self.columns))
        first = (
            f"{len(self.rows):,} outcomes among their predictions: mean score "
            f"{number_text(whole['shift'])} (0 if right), spread {number_text(whole['spread'])} "
            f"(1 if right), {100 * whole['inside']:.1f}% inside of {100 * self.ci_prob:.4g}% "
            "intervals."
        )
        misfits = self.misfits
        parts = [first, *(misfits[:_TOLD] or [f"No misfit was found by {count} tests."])]
        if len(misfits) > _TOLD:
            parts.append(f"The tables have {len(misfits) - _TOLD} more.")
        if self.left_out:
            parts.append(f"{self.left_out:,} rows of the fit were left out of it in turn.")
        if self.uncertain:
            parts.append(
                f"Of {self.uncertain:,} this is uncertain (Pareto k above {_HIGH_K}): they may "
                "look better predicted than they are."
            )
        return " ".join(parts)

    def plot(self, *, path: Any = None) -> Figure:
        """Draw the calibration by arm, scores by region, and along the column that fits worst.

        Parameters
        ----------
        path : path, optional
            Where to save the figure.

        Returns
        -------
        Figure
            Matplotlib's.

        Raises
        ------
        InputError
            `plots-missing`.
        """
        from aimz.criticism.predictive_plot import plot_check

        figure = plot_check(self)
        if path is not None:
            figure.savefig(path)
        return figure

    def __repr__(self) -> str:
        return self.to_text()


@dataclass(frozen=True)
class Compared:
    """Outcomes, (row,), beside draws of them, (row, draw).

    `log_likelihood` (row, draw) of the rows of the fit, which are left out; None where there are
    none. `learned` (row,) says which these are.
    """

    observed: np.ndarray
    draws: np.ndarray
    log_likelihood: np.ndarray | None
    learned: np.ndarray


def predictive_check(
    compared: Compared,
    arm: np.ndarray | None,
    regions: int | np.ndarray,
    along: Mapping[str, np.ndarray],
) -> PredictiveCheck:
    """Judge places of outcomes among their predictions.

    Parameters
    ----------
    compared : Compared
        Outcomes and draws.
    arm : array, shape (rows,), optional
        Treatment of each row; one of more than six values is divided in four.
    regions : int or array, shape (rows,)
        Number of bins of the mean predictions, or a label of each row.
    along : mapping of str to array, shape (rows,)
        Columns of numbers.
    """
    prob, _ = interval_of(None, None)
    weights, uncertain = _weights(compared)
    # Regions come of other draws than the ranks: chance puts no row high in one and low in both.
    is_of_mean = np.arange(compared.draws.shape[1]) % 4 == 0
    first, others = compared.draws[:, is_of_mean], compared.draws[:, ~is_of_mean]
    expected = (_normed(weights[:, is_of_mean]) * first).sum(axis=1)
    weights = _normed(weights[:, ~is_of_mean])
    share = _places(compared.observed, others, weights)
    region = regions
    if isinstance(region, int):
        region = _binned(expected, region, least=region)
    rows = pd.DataFrame(
        {
            "observed": compared.observed,
            "predicted": (weights * others).sum(axis=1),
            "pit": share,
            "score": special.ndtri(share),
            "arm": _ALL if arm is None else _binned(arm, 4, least=6),
            "region": [_named(value) for value in np.asarray(region).tolist()],
        }
    )
    order = pd.Series(expected).groupby(rows["region"]).mean().sort_values().index.tolist()
    parts = _parts(rows, order)
    judged = pd.DataFrame([_judged(rows, *names, prob) for names in parts])
    score = rows["score"].to_numpy()
    curves = [
        {"arm": name, "column": column, **_curved(values[at], score[at])}
        for column, values in along.items()
        for name, region, at in parts
        if region == _ALL
    ]
    columns = pd.DataFrame(curves, columns=["arm", "column", "rows", *_CURVE])
    _adjust(judged, columns)
    judged["verdict"] = [_verdict(row) for _, row in judged.iterrows()]
    columns["verdict"] = [_bend(row) for _, row in columns.iterrows()]
    left_out = int(compared.learned.sum())
    return PredictiveCheck(rows, judged, columns, prob, left_out, uncertain, along)


def _weights(compared: Compared) -> tuple[np.ndarray, int]:
    """Weights of the draws (row, draw), as of a posterior without a learned row; unsure rows."""
    weights = np.ones(compared.draws.shape)
    at = np.flatnonzero(compared.learned)
    if compared.log_likelihood is None or not len(at):
        return weights, 0
    log_weights, k = left_out_weights(compared.log_likelihood[at])
    is_there = k < np.inf  # not where a draw finds it impossible
    some = log_weights[is_there]
    weights[at[is_there]] = np.exp(some - some.max(axis=-1, keepdims=True))
    return weights, int((~(k <= _HIGH_K)).sum())


def _places(observed: np.ndarray, draws: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the draws (row, draw) below each outcome.

    Equal draws, and the last step, are split by uniform numbers of a fixed seed: among draws of its
    own law an outcome's share is uniform.
    """
    outcome = observed[:, None]
    below, equal = ((weights * at).sum(axis=1) for at in (draws < outcome, draws == outcome))
    size = 1.0 / np.square(weights).sum(axis=1)
    split = np.random.default_rng(_SEED).uniform(size=len(draws))
    place = (size * (below + split * equal) + split) / (size + 1.0)
    clipped: np.ndarray = np.clip(place, 1e-12, 1.0 - 1e-12)
    return clipped


def _normed(weights: np.ndarray) -> np.ndarray:
    normed: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return normed


def _binned(values: np.ndarray, bins: int, *, least: int) -> np.ndarray:
    """Labels of bins with about as many values each, or of the values where they are few."""
    unique, place = np.unique(values, return_inverse=True)
    names = label_texts(unique.tolist()) if len(unique) <= least else []
    if not names:
        edges = np.unique(np.quantile(values, np.linspace(0.0, 1.0, bins + 1)))
        place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
        ends = [number_text(edge) for edge in edges]
        names = [" to ".join(pair) for pair in itertools.pairwise(ends)]
    if len(set(names)) < len(names):  # digits that do not tell them apart
        names = [f"{number}: {name}" for number, name in enumerate(names, 1)]
    return np.array(names, object)[place]


def _named(label: object) -> str:
    """A region's label, told from that of all rows."""
    text = label_text(label)
    return f"'{text}'" if text == _ALL else text


# ---------------------------------------------------------------------- parts
_CURVE = ("slope", "curvature", "p_slope", "p_curvature")


def _parts(rows: pd.DataFrame, order: list[str]) -> list[tuple[str, str, np.ndarray]]:
    """All rows, each arm, each region, each region of an arm: names, and which rows."""
    arm, region = rows["arm"].to_numpy(), rows["region"].to_numpy()
    arms = [_ALL, *(sorted(set(arm)) if len(set(arm)) > 1 else [])]
    regions = [_ALL, *(order if len(order) > 1 else [])]
    everywhere = np.ones(len(rows), bool)
    return [
        (a, r, (everywhere if a == _ALL else arm == a) & (everywhere if r == _ALL else region == r))
        for r in regions
        for a in arms
    ]


def _judged(
    rows: pd.DataFrame, arm: str, region: str, at: np.ndarray, prob: float
) -> dict[str, Any]:
    """Numbers of one part, with p-values that are not adjusted yet."""
    few = rows[at]
    score, pit, count = few["score"].to_numpy(), few["pit"].to_numpy(), len(few)
    judged: dict[str, Any] = {
        "arm": arm,
        "region": region,
        "rows": count,
        "observed": few["observed"].mean(),
        "predicted": few["predicted"].mean(),
        "shift": score.mean() if count else np.nan,
        "spread": np.sqrt(np.square(score).mean()) if count else np.nan,
        "inside": (np.abs(pit - 0.5) <= prob / 2).mean() if count else np.nan,
    }
    tests = dict.fromkeys(("p_shift", "p_spread", "p_shape"), np.nan)
    if count >= _LEAST_ROWS:
        around = np.square(score - score.mean()).sum()
        tail = stats.chi2.cdf(around, count - 1)
        tests = {
            "p_shift": 2 * stats.norm.sf(abs(score.mean()) * np.sqrt(count)),
            "p_spread": 2 * min(tail, stats.chi2.sf(around, count - 1)),
            "p_shape": stats.kstest(pit, "uniform").pvalue,
        }
    return {**judged, **tests}


def _curved(values: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """Slope and curvature of scores along a column, each in sd of a prediction by sd of it."""
    there = np.isfinite(values)
    x, z = values[there].astype(np.float64), score[there]
    curve: dict[str, Any] = {"rows": len(x), **dict.fromkeys(_CURVE, np.nan)}
    if len(x) < _LEAST_ROWS or len(np.unique(x)) < 2:
        return curve
    x = (x - x.mean()) / x.std()
    bend = x**2 - 1.0 - (x**3).mean() * x
    for name, shape in (("slope", x), ("curvature", bend)):
        size = float(shape @ shape)
        if size > 1e-6 * len(x):  # a column of two values has no curvature
            curve[name] = float(shape @ z) / size
            curve[f"p_{name}"] = 2 * stats.norm.sf(abs(curve[name]) * np.sqrt(size))
    return curve


def _p_columns(table: pd.DataFrame) -> list[str]:
    return [name for name in table.columns if name.startswith("p_")]


def _adjust(*tables: pd.DataFrame) -> None:
    """Adjust all p-values together, in place: Holm's step-down."""
    places = [(t, name) for t in tables for name in _p_columns(t)]
    whole = np.concatenate([t[name].to_numpy(np.float64) for t, name in places])
    at = np.flatnonzero(np.isfinite(whole))
    order = at[np.argsort(whole[at])]
    steps = whole[order] * np.arange(len(order), 0, -1)
    whole[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    start = 0
    for table, name in places:
        table[name] = whole[start : start + len(table)]
        start += len(table)


# ---------------------------------------------------------------------- words
def _verdict(row: pd.Series) -> str:
    if row["rows"] < _LEAST_ROWS:
        return "few rows"
    told = []
    if row["p_shift"] < _SURE:
        told.append("too low" if row["shift"] > 0 else "too high")
    if row["p_spread"] < _SURE:
        told.append("too narrow" if row["spread"] > 1 else "too wide")
    if row["p_shape"] < _SURE and not told:
        told.append("of another shape")
    return ", ".join(told)


def _bend(row: pd.Series) -> str:
    return ", ".join(name for name in ("slope", "curvature") if row[f"p_{name}"] < _SURE)


def _where(row: pd.Series) -> str:
    return "" if row["arm"] == _ALL else f" in arm {row['arm']}"


def _of_region(row: pd.Series) -> str:
    region = "" if row["region"] == _ALL else f" in region {row['region']}"
    everywhere = " of all rows" if not region and row["arm"] == _ALL else ""
    return (
        f"Predictions{everywhere}{region}{_where(row)} are {row['verdict']}: over {row['rows']:,} "
        f"rows the mean score is {number_text(row['shift'])}, the spread "
        f"{number_text(row['spread'])}."
    )


def _of_column(row: pd.Series) -> str:
    sizes = [f"{name} {number_text(row[name])}" for name in row["verdict"].split(", ")]
    return (
        f"Scores have a {' and a '.join(row['verdict'].split(', '))} along '{row['column']}'"
        f"{_where(row)} that the model misses ({', '.join(sizes)})."
    )
