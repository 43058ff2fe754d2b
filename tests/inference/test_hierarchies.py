"""Default fits of hierarchical kernels of 8 to 1,000 groups, against their exact marginals."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel

pytestmark = pytest.mark.filterwarnings("error")


def centred(groups):
    def kernel(X, g, y=None):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
        with numpyro.plate("groups", groups):
            level = numpyro.sample("level", dist.Normal(mu, tau))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(level[g], sigma), obs=y)

    return kernel


def standard(groups):
    def kernel(X, g, y=None):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
        with numpyro.plate("groups", groups):
            unit = numpyro.sample("unit", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(mu + tau * unit[g], sigma), obs=y)

    return kernel


def data(groups, each, tau=0.15, sigma=0.5):
    rng = np.random.default_rng(groups)
    g = np.repeat(np.arange(groups), each)
    y = 1.0 + tau * rng.normal(size=groups)[g] + sigma * rng.normal(size=len(g))
    return g, y.astype(np.float32)


def exact_moments(y, groups):
    """Mean and sd of mu, tau and sigma: levels and mu are integrated out, the rest is a grid."""
    table = np.asarray(y, float).reshape(groups, -1)
    each, means = table.shape[1], table.mean(axis=1)
    within = ((table - means[:, None]) ** 2).sum()
    logs = np.log(0.05), np.log(5.0), np.log(1e-3), np.log(5.0)
    for _ in range(2):
        log_sigma, log_tau = np.linspace(*logs[:2], 500), np.linspace(*logs[2:], 500)
        sigma, tau = np.meshgrid(np.exp(log_sigma), np.exp(log_tau), indexing="ij")
        spread = tau**2 + sigma**2 / each
        precision = groups / spread + 1 / 25
        mu = means.sum() / spread / precision
        log_density = (
            -groups / 2 * np.log(spread)
            - np.log(precision) / 2
            - ((means**2).sum() / spread - precision * mu**2) / 2
            - groups * (each - 1) * np.log(sigma)
            - within / sigma**2 / 2
            - sigma**2 / 8
            - tau**2 / 2
            + np.log(sigma * tau)
        )
        weight = np.exp(log_density - log_density.max())
        weight /= weight.sum()
        rows = np.flatnonzero(weight.sum(axis=1) > 1e-9)
        logs = log_sigma[max(rows[0] - 1, 0)], log_sigma[min(rows[-1] + 1, 499)], *logs[2:]

    def moments(value, variance=0.0):
        mean = (weight * value).sum()
        return mean, np.sqrt((weight * (variance + value**2)).sum() - mean**2)

    return {"mu": moments(mu, 1 / precision), "tau": moments(tau), "sigma": moments(sigma)}


def assert_moments(draws, exact, *, share=0.15):
    """Means within 0.2 sd and sds within 15%: three standard errors of 400 independent draws."""
    for name, (mean, sd) in exact.items():
        own = np.asarray(draws[name], float)
        assert abs(own.mean() - mean) < 0.2 * sd, (name, own.mean(), mean, sd)
        assert abs(own.std() / sd - 1.0) < share, (name, own.std(), sd)


TABLE = [
    *((kind, groups, 4) for kind in (centred, standard) for groups in (8, 60, 120, 160, 194, 250)),
    (centred, 170, 40),
    (standard, 170, 40),
    (centred, 545, 2),
    (standard, 1000, 2),
]


@pytest.mark.slow
def test_centred_groups_are_right_where_guides_fail():
    g, y = data(150, 4)
    im = ImpactModel(centred(150)).fit(np.zeros((len(y), 1)), y, g=g, progress=False)
    assert im.diagnostics_["verdict"] == "good"
    assert "'level'" in im.diagnostics_["notes"][0]
    draws = im.posterior
    assert draws["level"].shape == (1000, 150)
    assert_moments(draws, exact_moments(y, 150))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "groups", "each"), TABLE, ids=[f"{k.__name__}-{n}-{e}" for k, n, e in TABLE]
)
def test_groups_are_right(kind, groups, each):
    g, y = data(groups, each)
    im = ImpactModel(kind(groups)).fit(np.zeros((len(y), 1)), y, g=g, progress=False)
    assert_moments(im.posterior, exact_moments(y, groups))


def walk_moments(y, tau, sigma):
    """Mean and sd of a random walk from 0 seen with noise."""
    steps = np.arange(1, len(y) + 1)
    prior = tau**2 * np.minimum.outer(steps, steps)
    gain = prior @ np.linalg.inv(prior + sigma**2 * np.eye(len(y)))
    return gain @ y, np.sqrt(np.diag(prior - gain @ prior))


def summed(X, y=None):
    step = numpyro.sample("step", dist.Normal().expand([X.shape[0]]).to_event(1))
    level = numpyro.deterministic("level", 0.3 * jnp.cumsum(step))
    numpyro.sample("y", dist.Normal(level, 0.5), obs=y)


def walking(X, y=None):
    scale = numpyro.deterministic("scale", jnp.asarray(0.3))
    level = numpyro.sample("level", dist.GaussianRandomWalk(scale, num_steps=X.shape[0]))
    numpyro.sample("y", dist.Normal(level, 0.5), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [summed, walking], ids=lambda fn: fn.__name__)
@pytest.mark.parametrize("steps", [160, 300])
def test_a_walk_is_right(kernel, steps):
    rng = np.random.default_rng(steps)
    y = np.cumsum(0.3 * rng.normal(size=steps)) + 0.5 * rng.normal(size=steps)
    im = ImpactModel(kernel).fit(np.zeros((steps, 1)), y.astype(np.float32), progress=False)
    draws = im.posterior
    level = draws["level"] if "level" in draws else 0.3 * np.cumsum(draws["step"], axis=-1)
    mean, sd = walk_moments(y, 0.3, 0.5)
    assert np.max(np.abs(level.mean(axis=0) - mean) / sd) < 0.3
    assert np.median(np.abs(level.std(axis=0) / sd - 1.0)) < 0.05


@pytest.mark.slow
def test_a_sum_of_many_latents_is_right():
    def kernel(X, y=None):
        slope = numpyro.sample("slope", dist.Normal().expand([240]).to_event(1))
        numpyro.sample("y", dist.Normal(slope.sum() + 0.0 * X[:, 0], 1.0), obs=y)

    y = np.full(30, 3.0, np.float32)
    im = ImpactModel(kernel).fit(np.zeros((30, 1)), y, progress=False)
    total = im.posterior["slope"].sum(axis=-1)
    precision = 30.0 + 1.0 / 240.0
    assert_moments({"total": total}, {"total": (90.0 / precision, precision**-0.5)})
