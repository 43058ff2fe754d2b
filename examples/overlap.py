"""Did training raise earnings? Observational data, and which rows they say nothing about.

The 185 men of the National Supported Work demonstration who were trained are compared with 15,992
men of the Current Population Survey who were not (package `causaldata`); `re78` is what each earned
in 1978, in dollars. The setting is that of LaLonde (1986), "Evaluating the Econometric Evaluations
of Training Programs", AER 76:604, with the rows of Dehejia and Wahba (1999), JASA 94:1053. The
experiment itself found 1,794 dollars, with a standard error of 671. Run it with `make examples`.
"""

import warnings
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from causaldata import cps_mixtape, nsw_mixtape

from aimz import ImpactModel, OutputWarning

FIGURE = Path(__file__).with_name("overlap.png")
WARNS = 0.01  # share of rows outside above which a scenario warns
EXPERIMENT = 1794  # dollars: what the experiment found
COVARIATES = ["age", "educ", "black", "hisp", "marr", "nodegree", "re74", "re75"]


def load():
    """Covariates, in sds of the trained from their mean, who was trained, earnings in dollars."""
    trained = nsw_mixtape.load_pandas().data.query("treat == 1")
    men = pd.concat([trained, cps_mixtape.load_pandas().data], ignore_index=True)
    own = trained[COVARIATES].astype(float)
    X = ((men[COVARIATES] - own.mean()) / own.std()).astype(np.float32)
    return X, men["treat"].to_numpy(np.float32), men["re78"].to_numpy(np.float32)


def kernel(X, t, y=None):
    """Earnings with a regression in each arm, so that the effect varies with the covariates."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 20e3).expand([2]).to_event(1))
    slopes = numpyro.sample("slopes", dist.Normal(0.0, 5e3).expand([2, X.shape[1]]).to_event(2))
    sd = numpyro.sample("sd", dist.HalfNormal(20e3).expand([2]).to_event(1))
    arm = (t == 1).astype(int)
    mu = mean[arm] + (slopes[arm] * X).sum(1)
    with numpyro.plate("man", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sd[arm]), obs=y)


def ask(X, t, y, draws):
    """Fit the model; what asks it about training."""
    im = ImpactModel(kernel, num_samples=draws).fit(X, y, t=t, progress=False)
    return partial(im.effect, X, {"t": 0}, {"t": 1}, t=t, progress=False)


def answers(draws):
    """Effects by who is asked about, the warnings on the way, and the naive difference.

    Rows that are outside the data in either arm are left out until no scenario warns.
    """
    X, t, y = load()
    naive = float(y[t == 1].mean() - y[t == 0].mean())
    everybody = ask(X, t, y, draws)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", OutputWarning)
        found = {"everybody": everybody(), "the trained": everybody(estimand="att")}
        effect = found["everybody"]
        while effect.support["fraction"].max() > WARNS:
            keep = ~effect.support["outside"].any("scenario").values
            X, t, y = X[keep], t[keep], y[keep]
            comparable = ask(X, t, y, draws)
            effect = found[f"all of {len(t):,}"] = comparable()
        found[f"the trained among {len(t):,}"] = comparable(estimand="att")
    return found, [str(warning.message) for warning in said], naive


def main(draws=2_000, figure=FIGURE):
    found, said, naive = answers(draws)
    print(f"difference of means       {naive:7,.0f} dollars")
    for name, effect in found.items():
        (row,) = effect.summary().to_dict("records")
        shares = ", ".join(f"{share:.1%}" for share in effect.support["fraction"].values)
        print(
            f"{name:26}{row['mean']:7,.0f} dollars, sd {row['sd']:5,.0f}; {effect.rows:6,} asked "
            f"about; outside without and with training {shares}"
        )
    print(f"\nwarning: {said[0]}")

    mpl.use("agg")
    from matplotlib import pyplot as plt

    shown = ["everybody", "the trained", list(found)[-1]]
    picture, axes = plt.subplots(3, 1, figsize=(7, 8.4), sharex=True, layout="constrained")
    for ax, name in zip(axes, shown):
        found[name].plot(ax=ax).set_xlabel(f"effect of training on {name} (dollars a year)")
        ax.axvline(EXPERIMENT, color="#D55E00", lw=1.2, label="experiment")
    axes[0].legend(*axes[0].get_legend_handles_labels(), loc="center left", frameon=False)
    picture.savefig(figure, dpi=100)
    return found, said, naive


if __name__ == "__main__":
    main()
