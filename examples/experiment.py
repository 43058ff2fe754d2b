"""Did training raise earnings? An experiment answers, with and without covariates.

The data are 445 men of the National Supported Work demonstration (package `causaldata`): 185 were
drawn at random into a training programme in 1976 and 1977, and `re78` is what each earned in 1978,
in dollars. The rows are those of Dehejia and Wahba (1999), "Causal Effects in Nonexperimental
Studies", JASA 94:1053; the difference of means is 1,794 dollars, with a standard error of 671.
Run it with `make examples`.
"""

from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist
from causaldata import nsw_mixtape

from aimz import ImpactModel

FIGURE = Path(__file__).with_name("experiment.png")
COVARIATES = ["age", "educ", "black", "hisp", "marr", "nodegree", "re74", "re75"]
PRACTICALLY_NONE = (-500.0, 500.0)  # dollars a year


def load():
    """Standardised covariates, who was trained, earnings in dollars, and who has a degree."""
    men = nsw_mixtape.load_pandas().data
    X = men[COVARIATES].astype(float)
    X = ((X - X.mean()) / X.std()).astype(np.float32)
    degree = np.where(men["nodegree"] == 1, "no degree", "degree")
    return X, men["treat"].to_numpy(np.float32), men["re78"].to_numpy(np.float32), degree


def unadjusted(X, t, y=None):
    """Earnings with a mean and a spread for each arm; the covariates have no part in them."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 20e3).expand([2]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(20e3).expand([2]).to_event(1))
    arm = (t == 1).astype(int)
    with numpyro.plate("man", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean[arm], sd[arm]), obs=y)


def kernel(X, t, y=None):
    """Earnings with a regression in each arm, so that the effect varies with the covariates."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 20e3).expand([2]).to_event(1))
    slopes = numpyro.sample("slopes", dist.Normal(0.0, 5e3).expand([2, X.shape[1]]).to_event(2))
    sd = numpyro.sample("sd", dist.HalfNormal(20e3).expand([2]).to_event(1))
    arm = (t == 1).astype(int)
    mu = mean[arm] + (slopes[arm] * X).sum(1)
    with numpyro.plate("man", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sd[arm]), obs=y)


def ask(model, X, t, y, draws):
    """Fit a model; what asks it about training."""
    im = ImpactModel(model, num_samples=draws).fit(X, y, t=t, progress=False)
    return partial(im.effect, X, {"t": 0}, {"t": 1}, t=t, progress=False)


def answers(draws):
    """Effects of training, by model and population."""
    X, t, y, degree = load()
    plain, adjusted = (ask(model, X, t, y, draws) for model in (unadjusted, kernel))
    finite = {"population": "finite", "target": "prediction", "y": y}
    return {
        "unadjusted": plain(),
        "unadjusted, superpopulation": plain(population="superpopulation"),
        "unadjusted, finite": plain(**finite),
        "adjusted": adjusted(),
        "adjusted, superpopulation": adjusted(population="superpopulation"),
        "adjusted, finite": adjusted(**finite),
        "by degree": adjusted(estimand="cate", by=degree),
    }


def main(draws=4_000, figure=FIGURE):
    found = answers(draws)
    for name, effect in found.items():
        for row in effect.summary().to_dict("records"):
            who = ": ".join(filter(None, (name, row.get("group", ""))))
            print(f"{who:30}{row['mean']:6,.0f} dollars, sd {row['sd']:5,.0f}")
    table = found["adjusted"].summary(rope=PRACTICALLY_NONE)
    numbers = table.drop(columns=["estimand", "comparison", "contrast"])
    print(f"\n{numbers.round(3).to_string(index=False)}")
    print(f"\n{found['adjusted'].to_text()}")

    mpl.use("agg")
    from matplotlib import pyplot as plt

    picture, (above, below) = plt.subplots(
        2, 1, figsize=(7, 5.6), sharex=True, layout="constrained"
    )
    found["adjusted"].plot(ax=above).set_xlabel("average effect of training (dollars a year)")
    found["by degree"].plot(ax=below).set(xlabel="the same, by degree (dollars a year)", ylabel="")
    picture.savefig(figure, dpi=110)
    return found


if __name__ == "__main__":
    main()
