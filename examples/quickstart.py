"""Does quitting smoking make people gain weight?

The data are 1,566 smokers of the NHANES I follow-up study (package `causaldata`): some quit between
1971 and 1982, and `wt82_71` is the weight in kg that each gained meanwhile. The kernel holds the
outcome model of Hernan and Robins, "Causal Inference: What If", chapter 13, whose answer by least
squares is 3.5 kg. Run it with `make quickstart`.
"""

from pathlib import Path

import arviz as az
import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from causaldata import nhefs_complete

from aimz import ImpactModel

FIGURE = Path(__file__).with_name("quickstart.png")
PROB, KIND = az.rcParams["stats.ci_prob"], az.rcParams["stats.ci_kind"]
INTENSITY = 3  # column of the covariates: cigarettes smoked per day in 1971


def load():
    """Covariates in their own units, who quit, and the weight gained in kg."""
    people = nhefs_complete.load_pandas().data.astype(float)
    columns = {
        name: people[name] for name in ["sex", "race", "age", "smokeintensity", "smokeyrs", "wt71"]
    }
    columns |= {
        f"{name}^2": people[name] ** 2 for name in ["age", "smokeintensity", "smokeyrs", "wt71"]
    }
    for name, levels in {"education": [2, 3, 4, 5], "exercise": [1, 2], "active": [1, 2]}.items():
        columns |= {f"{name}={level}": people[name] == level for level in levels}
    X = pd.DataFrame(columns).to_numpy(np.float32)
    return X, people["qsmk"].to_numpy(np.float32), people["wt82_71"].to_numpy(np.float32)


def kernel(X, qsmk, intensity, y=None):
    """Weight gained: linear in the covariates, and an effect of quitting that varies."""
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 10.0))
    slopes = numpyro.sample("slopes", dist.Normal(0.0, 10.0).expand([X.shape[1]]).to_event(1))
    effect = numpyro.sample("effect", dist.Normal(0.0, 10.0))
    per_cigarette = numpyro.sample("per_cigarette", dist.Normal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    with numpyro.plate("person", X.shape[0]):
        gained = intercept + X @ slopes + qsmk * (effect + per_cigarette * intensity)
        mu = numpyro.deterministic("mu", gained)
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def estimate(covariates, qsmk, gained):
    """Effect of quitting on each person's expected gain: everybody quits, against nobody."""
    X = (covariates - covariates.mean(0)) / covariates.std(0)
    intensity = covariates[:, INTENSITY]
    im = ImpactModel(kernel).fit(X, gained, qsmk=qsmk, intensity=intensity)
    natural = {"qsmk": qsmk, "intensity": intensity}
    effect = im.effect(X, {"qsmk": 0}, {"qsmk": 1}, **natural, estimand="ite")
    return effect.draws


def plot(effect, intensity, unadjusted):
    """Save the average effect, and how it varies with the cigarettes smoked per day."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    average = effect.mean("person")
    left.hist(average.values.ravel(), bins=25, density=True, color="#8fb8de")
    left.axvspan(
        *interval(average), color="#1b4f72", alpha=0.12, label=f"{PROB:.0%} interval ({KIND})"
    )
    left.axvline(average.mean(), color="#1b4f72", label=f"mean {float(average.mean()):.2f} kg")
    left.axvline(
        unadjusted, color="#b03a2e", linestyle="--", label=f"unadjusted {unadjusted:.2f} kg"
    )
    left.set(xlabel="average effect of quitting (kg)", ylabel="density", title="Average effect")
    left.set_ylim(top=1.4 * left.get_ylim()[1])
    left.legend(frameon=False, loc="upper right")

    cigarettes, person = np.unique(intensity, return_index=True)
    curve = effect.isel(person=person)
    low, high = interval(curve)
    right.fill_between(
        cigarettes, low, high, color="#8fb8de", alpha=0.6, label=f"{PROB:.0%} interval ({KIND})"
    )
    right.plot(cigarettes, curve.mean(("chain", "draw")), color="#1b4f72", label="mean")
    right.plot(intensity, np.zeros_like(intensity), "|", color="grey", alpha=0.2, label="people")
    right.set(
        xlabel="cigarettes per day in 1971",
        ylabel="effect of quitting (kg)",
        title="Effect by smoking",
    )
    right.legend(frameon=False, loc="upper left")
    figure.savefig(FIGURE, dpi=120)
    plt.close(figure)


def interval(draws):
    """Bounds of ArviZ's default interval."""
    bounds = az.eti(draws, prob=PROB)
    return bounds.sel(ci_bound="lower").values, bounds.sel(ci_bound="upper").values


def main():
    covariates, qsmk, gained = load()
    effect = estimate(covariates, qsmk, gained)
    average = effect.mean("person")
    low, high = interval(average)
    unadjusted = gained[qsmk == 1].mean() - gained[qsmk == 0].mean()
    plot(effect, covariates[:, INTENSITY], unadjusted)

    print(f"people                       {len(gained):,}, of whom {int(qsmk.sum())} quit smoking")
    print(f"unadjusted difference        {unadjusted:.2f} kg")
    print(f"average effect of quitting   {float(average.mean()):.2f} kg")
    print(f"{PROB:.0%} interval ({KIND})           {low:.2f} to {high:.2f} kg")
    print(f"figure                       {FIGURE.relative_to(Path.cwd(), walk_up=True)}")
    print(
        f"\nHad everybody quit, people would have gained {float(average.mean()):.1f} kg more on "
        "average than had nobody quit,\nif these covariates account for who quits."
    )


if __name__ == "__main__":
    main()
