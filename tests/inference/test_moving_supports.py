"""Latents whose support ends where another latent says, against sums over a fine grid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints, transforms
from scipy import stats

from aimz import ImpactModel

Y = np.random.default_rng(0).normal(2.0, 1.0, 40).astype(np.float32)
X = np.zeros((len(Y), 1), np.float32)


@dataclass(frozen=True)
class Case:
    """Laws of an edge and of a latent given it, in NumPyro and as log densities on a grid."""

    edge: Any
    latent: Callable[[Any], Any]
    edge_density: Any
    density: Callable[[np.ndarray, np.ndarray], np.ndarray]


def shifted(base, by, scale=1.0, **domain) -> Any:
    shift = transforms.AffineTransform(by, scale, **domain)
    return dist.TransformedDistribution(base, shift)


POSITIVE = {"domain": constraints.positive}
NEAR_ONE = (dist.Normal(1.0, 0.5), stats.norm(1.0, 0.5).logpdf)
CASES = {
    "exponential, shifted": Case(
        NEAR_ONE[0],
        lambda b: shifted(dist.Exponential(1.0), b),
        NEAR_ONE[1],
        lambda b, e: stats.expon.logpdf(e - b),
    ),
    "exponential, shifted, with its domain": Case(
        NEAR_ONE[0],
        lambda b: shifted(dist.Exponential(1.0), b, **POSITIVE),
        NEAR_ONE[1],
        lambda b, e: stats.expon.logpdf(e - b),
    ),
    "half-normal, shifted": Case(
        NEAR_ONE[0],
        lambda b: shifted(dist.HalfNormal(1.0), b, 2.0),
        NEAR_ONE[1],
        lambda b, e: stats.halfnorm.logpdf(e - b, scale=2.0),
    ),
    "gamma, shifted": Case(
        dist.Normal(1.8, 1.0),
        lambda b: shifted(dist.Gamma(3.0, 3.0), b),
        stats.norm(1.8, 1.0).logpdf,
        lambda b, e: stats.gamma.logpdf(e - b, 3.0, scale=1 / 3),
    ),
    "uniform below a latent": Case(
        dist.Normal(),
        lambda b: dist.Uniform(0.0, jnp.exp(b) + 2.0),
        stats.norm.logpdf,
        lambda b, e: np.where(e < np.exp(b) + 2, -np.log(np.exp(b) + 2), -np.inf),
    ),
    "normal above a latent": Case(
        NEAR_ONE[0],
        lambda b: dist.TruncatedNormal(2.0, 1.0, low=b),
        NEAR_ONE[1],
        lambda b, e: np.where(e > b, stats.norm.logpdf(e, 2.0) - stats.norm.logsf(b, 2.0), -np.inf),
    ),
    "pareto": Case(
        dist.LogNormal(0.0, 0.5),
        lambda b: dist.Pareto(b, 3.0),
        stats.lognorm(0.5).logpdf,
        lambda b, e: stats.pareto.logpdf(e, 3.0, scale=np.maximum(b, 1e-9)),
    ),
}


def on_a_grid(case: Case) -> dict[str, tuple[float, float]]:
    """Mean and sd of the edge and of the latent, by sums."""
    b, e = np.linspace(-4, 6, 1501)[:, None], np.linspace(0.5, 3.5, 1201)[None]
    log_p = case.edge_density(b) + case.density(b, e) - 0.5 * len(Y) * (e - Y.mean()) ** 2
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    moments = {}
    for name, value in {"b": b, "e": e}.items():
        mean = float((p * value).sum())
        moments[name] = (mean, float((p * (value - mean) ** 2).sum() ** 0.5))
    return moments


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::aimz.FitWarning")  # walls make some transitions diverge
def test_a_support_that_follows_a_latent_is_fitted(name):
    case = CASES[name]

    def kernel(X, y=None):
        b = numpyro.sample("b", case.edge)
        e = numpyro.sample("e", case.latent(b))
        with numpyro.plate("rows", len(X)):
            numpyro.sample("y", dist.Normal(e, 1.0), obs=y)

    im = ImpactModel(kernel).fit(X, Y, progress=False, num_samples=2000)

    for site, (mean, sd) in on_a_grid(case).items():
        draws = np.asarray(im.posterior[site])
        assert abs(draws.mean() - mean) < 0.12 * sd + 0.01, site
        np.testing.assert_allclose(draws.std(), sd, rtol=0.1)
