"""Does `impact` cover a lift that is known? Run it with `python bench/lifts.py [series]`.

Each series has a level that wanders, a season of four rows, two controls and noise: 80 rows before
an intervention, and 20 after it, which are lifted by LIFT. The model is the ready-made kernel with
the default engine. `covered` are shares of times, `total` says whether the sum of the effect is
covered, and `placebo` whether an intervention pretended at row 60 covers 0. `best` is the error of
who knows all variances (the dense normal distribution), `best width` of an interval of theirs, and
`best placebo` whether it covers 0: what no model can do better.
"""

import sys
import time
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from aimz import ImpactModel

KNOWN, AFTER, PRETENDED, LIFT = 80, 20, 60, 2.0
PROB = 0.9


def simulated(seed: int) -> tuple[Any, Any, float]:
    """Two controls, the series, and how far its level steps."""
    rng = np.random.default_rng(seed)
    rows = KNOWN + AFTER
    X = rng.normal(size=(rows, 2))
    step = rng.uniform(0.05, 0.3)
    level = 10.0 + step * rng.normal(size=rows).cumsum()
    season = rng.normal(size=4)
    y = level + np.tile(season - season.mean(), rows // 4) + X @ rng.normal(size=2)
    y += rng.normal(size=rows) + LIFT * (np.arange(rows) >= KNOWN)
    return X, y, step


def best(X: Any, y: Any, step: float, known: int) -> tuple[float, float]:
    """Error and sd of the mean of AFTER rows given those before, where variances are known."""
    rows = np.arange(known + AFTER)
    centred = np.eye(4) - 0.25  # of a season
    cover = 1e4 + step**2 * (1.0 + np.minimum.outer(rows, rows)) + np.eye(len(rows))
    cover += X[: len(rows)] @ X[: len(rows)].T + centred[np.ix_(rows % 4, rows % 4)]
    gain = np.linalg.solve(cover[:known, :known], cover[:known, known:]).T
    error = np.mean(y[known : known + AFTER] - gain @ y[:known])
    left = cover[known:, known:] - gain @ cover[:known, known:]
    return float(error), float(np.sqrt(left.mean()))


def measured(seed: int) -> dict[str, Any]:
    """What one series gives: coverage, error, and the placebo."""
    X, y, step = simulated(seed)
    im = ImpactModel("structural_time_series", seed, season=4)
    impact = im.impact(X, y, intervention_time=KNOWN, progress=False)
    sums = {"covered": impact.pointwise, "so far": impact.cumulative}
    truth = {"covered": LIFT, "so far": LIFT * np.arange(1, AFTER + 1)}
    tails = [(1 - PROB) / 2, (1 + PROB) / 2]
    found = {}
    for name, draws in sums.items():
        low, high = draws.quantile(tails, dim=("chain", "draw")).values
        found[name] = float(np.mean((low < truth[name]) & (truth[name] < high)))
    low, high = impact.average.quantile(tails).values
    found |= {"total": low < LIFT < high, "error": float(impact.average.mean()) - LIFT}
    found["width"] = high - low
    placebo = impact.check(times=[PRETENDED], ci_prob=PROB).iloc[0]
    error, sd = best(X, y, step, KNOWN)
    found |= {"best": error - LIFT, "best width": 2 * NormalDist().inv_cdf(tails[1]) * sd}
    error, sd = best(X, y, step, PRETENDED)
    found["best placebo"] = abs(error) < NormalDist().inv_cdf(tails[1]) * sd
    return found | {"placebo": bool(placebo["covers_0"]), "placebo times": placebo["coverage"]}


def main(series: int = 30) -> pd.DataFrame:
    start = time.process_time()
    table = pd.DataFrame([measured(seed) for seed in range(series)]).astype(float)
    print(table.mean().to_frame("mean").assign(se=table.sem()).round(3).to_string())
    print(f"{series} series, {time.process_time() - start:.0f} CPU seconds")
    return table


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
