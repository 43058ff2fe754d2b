"""Does `impact` cover a lift that is known? Run it with `python bench/lifts.py [series]`.

Each series has a level that wanders, a season of four rows, two controls and noise: 80 rows before
an intervention, and 20 after it, which are lifted by LIFT. The model is the ready-made kernel with
the default engine. `covered` are shares of times, `total` says whether the sum of the effect is
covered, and `placebo` whether an intervention pretended at row 60 covers 0.
"""

import sys
import time
from typing import Any

import numpy as np
import pandas as pd

from aimz import ImpactModel

KNOWN, AFTER, PRETENDED, LIFT = 80, 20, 60, 2.0
PROB = 0.9


def simulated(seed: int) -> tuple[Any, Any]:
    """Two controls, and the series."""
    rng = np.random.default_rng(seed)
    rows = KNOWN + AFTER
    X = rng.normal(size=(rows, 2))
    level = 10.0 + rng.uniform(0.05, 0.3) * rng.normal(size=rows).cumsum()
    season = rng.normal(size=4)
    y = level + np.tile(season - season.mean(), rows // 4) + X @ rng.normal(size=2)
    y += rng.normal(size=rows) + LIFT * (np.arange(rows) >= KNOWN)
    return X, y


def measured(seed: int) -> dict[str, Any]:
    """What one series gives: coverage, error, and the placebo."""
    X, y = simulated(seed)
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
    return found | {"placebo": bool(placebo["covers_0"]), "placebo times": placebo["coverage"]}


def main(series: int = 30) -> pd.DataFrame:
    start = time.process_time()
    table = pd.DataFrame([measured(seed) for seed in range(series)]).astype(float)
    print(table.mean().to_frame("mean").assign(se=table.sem()).round(3).to_string())
    print(f"{series} series, {time.process_time() - start:.0f} CPU seconds")
    return table


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
