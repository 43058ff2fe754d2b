"""Eight schools: one kernel, fitted from the prior to the posterior, with its evidence.

Effects of coaching on a test in eight schools, each with a known standard error (Rubin, 1981). Do
the schools differ? The spread `tau` of their effects is hard to sample where it is small: tempered
particles move each site by its own terms, without a gradient, a step size, or a second way to
write the model. Run it with `python examples/eight_schools.py` (needs Blackjax).
"""

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist

import aimz
from aimz import ImpactModel
from aimz.inference import SMC

EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], np.float32)
ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], np.float32)[:, None]


def centred(X, y=None):
    """The effects themselves are latent."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.LogNormal(5.0, 1.0))
    with numpyro.plate("schools", X.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, X[:, 0]), obs=y)


def not_centred(X, y=None):
    """The effects in units of their spread are latent: the same model, another geometry."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.LogNormal(5.0, 1.0))
    with numpyro.plate("schools", X.shape[0]):
        z = numpyro.sample("z", dist.Normal())
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("y", dist.Normal(theta, X[:, 0]), obs=y)


def alike(X, y=None):
    """All schools have the same effect."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    with numpyro.plate("schools", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, X[:, 0]), obs=y)


def main(particles: int = 4000) -> dict[str, Any]:
    """Fit the three kernels; print and return what came out."""
    models = {
        kernel.__name__: ImpactModel(kernel, inference=SMC(particles), rng_key=0).fit(
            ERROR, EFFECT, progress=False
        )
        for kernel in (centred, not_centred, alike)
    }
    for name, model in models.items():
        health = model.diagnostics_
        error = health["log_evidence_se"]
        print(f"{name}: log evidence {model.log_evidence_:.2f} +- {error:.2f}", end="")
        if "tau" in model.posterior:
            tau = model.posterior["tau"]
            print(f", tau {tau.mean():.1f} (sd {tau.std():.1f})", end="")
        print(f", {health['verdict']}")
    table = aimz.compare({name: models[name] for name in ("centred", "alike")})
    factor = np.exp(models["alike"].log_evidence_ - models["centred"].log_evidence_)
    print(f"Bayes factor of schools that are alike, against schools that differ: {factor:.0f}")
    return {"models": models, "table": table}


if __name__ == "__main__":
    main()
