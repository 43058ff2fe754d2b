"""Latents whose support ends where another latent says, against sums over a fine grid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints, transforms
from scipy import special, stats

from aimz import ImpactModel
from aimz.inference import NUTS, Problem
from aimz.inference.normal import start
from aimz.kernel import Inputs, inspect

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


class Late(dist.Distribution):  # type: ignore[misc]  # NumPyro has no types
    """Times that follow a latent by a gamma variable: nothing is seen before it."""

    arg_constraints = {"start": constraints.real}
    pytree_data_fields = ("start",)

    def __init__(self, start, *, validate_args=None):
        self.start = start
        super().__init__(jnp.shape(start), (), validate_args=validate_args)

    @property
    def support(self):
        return constraints.greater_than(self.start)

    def sample(self, key, sample_shape=()):
        return self.start + dist.Gamma(3.0, 3.0).sample(key, sample_shape + self.batch_shape)

    def log_prob(self, value):
        later = value > self.start
        elapsed = jnp.where(later, value - self.start, 1.0)
        return jnp.where(later, dist.Gamma(3.0, 3.0).log_prob(elapsed), -jnp.inf)


SUBJECT = np.repeat(np.arange(5), 12)


def late(X, y=None):
    with numpyro.plate("subject", 5):
        start = numpyro.sample("start", dist.Uniform(0.0, 100.0))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", Late(start[X[:, 0].astype(int)]), obs=y)


@pytest.fixture(scope="module")
def times() -> np.ndarray:
    """Each start must be below the least of its own, 1 in 100 of its prior: chance finds none."""
    drawn = stats.gamma(3.0, 0.5, 1 / 3).rvs(len(SUBJECT), random_state=0)
    return np.asarray(drawn, np.float32)


def test_a_place_is_sought_where_all_outcomes_are_possible(times):
    arrays = {"X": jnp.asarray(SUBJECT[:, None], jnp.float32), "y": jnp.asarray(times)}
    inputs = Inputs(arrays, {}, len(times), ("X", "y"))
    problem, key = Problem(late, inputs, inspect(late, inputs, "y")), jax.random.key(0)
    sought, _ = start._informed(problem, key, key, start._search_possible, version="a test")
    least = np.array([times[number == SUBJECT].min() for number in range(5)])
    place = 100.0 * special.expit(np.asarray(sought["loc"]))
    assert bool(sought["usable"])
    assert np.all((place > 0.0) & (place < least))


@pytest.mark.slow
def test_latents_that_outcomes_bound_start_where_all_of_these_are_possible(times):
    model = ImpactModel(late, num_samples=500, inference=NUTS(chains=2, warmup=300))
    model.fit(SUBJECT[:, None].astype(np.float32), times, progress=False, on_bad_fit="ignore")
    grid = np.linspace(0.0, 2.0, 4001)
    for number in range(5):
        own = times[number == SUBJECT, None]
        logs = stats.gamma.logpdf(own, 3.0, grid, 1 / 3).sum(axis=0)
        weights = np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum()
        mean, sd = weights @ grid, np.sqrt(weights @ grid**2 - (weights @ grid) ** 2)
        found = np.asarray(model.posterior["start"])[..., number]
        assert found.mean() == pytest.approx(mean, abs=0.25 * sd)
        assert found.std() == pytest.approx(sd, rel=0.25)
