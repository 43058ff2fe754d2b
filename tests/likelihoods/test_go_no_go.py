"""Go and no-go trials, fitted by chains with the closed form."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel
from aimz.inference import NUTS
from aimz.likelihoods import DriftDiffusion


@pytest.mark.slow
def test_intervals_hold_the_drift_the_separation_and_the_time():
    def kernel(X, y=None):
        v = numpyro.sample("v", dist.Uniform(0.0, 2.5))
        a = numpyro.sample("a", dist.Uniform(0.6, 2.4))
        t = numpyro.sample("t", dist.Uniform(0.2, 0.8))
        with numpyro.plate("trial", X.shape[0]):
            law = DriftDiffusion(v * X[:, 0], a, 0.5, t).censored(shown=(1,))
            numpyro.sample("y", law, obs=y)

    X, truth = np.repeat([[1.0], [-1.0]], 500, axis=0), {"v": 1.0, "a": 1.5, "t": 0.5}
    y = np.array(DriftDiffusion(X[:, 0], 1.5, 0.5, 0.5).sample(jax.random.key(2)))
    y[y[:, 1] < 0] = 0.0
    model = ImpactModel(kernel, inference=NUTS(chains=2, warmup=400), num_samples=400)
    model.fit(X, y, progress=False)
    for name, value in truth.items():
        low, high = np.quantile(model.posterior[name], [0.05, 0.95])
        assert low < value < high, name
