"""The gate: fits whose numbers are wrong say so, and fits that are right do not."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import optim
from numpyro.infer import MCMC, NUTS, SA, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

from aimz import FitWarning, ImpactModel

SAMPLE = numpyro.sample


# Fits that are checked with every change; the others take minutes.
QUICK = {"linear, 30 rows"}
MANY_KEYS = ("linear, 30 rows", "bernoulli", "poisson", "correlated", "events in both arms")


class Case:
    """A kernel with its data, the engine that is to fit it, and settings of the fit."""

    def __init__(self, kernel, X, y, inference: Any = "svi", inputs=None, **settings: Any) -> None:
        self.kernel, self.X, self.y = kernel, X, y
        self.inference, self.inputs, self.settings = inference, inputs or {}, settings

    def fitted(self, key: int = 0, **options: Any) -> ImpactModel:
        """The fit, whatever it says."""
        engine = self.inference(self.kernel) if callable(self.inference) else self.inference
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)
            im = ImpactModel(self.kernel, inference=engine, rng_key=key, **options)
            return im.fit(self.X, self.y, progress=False, **self.inputs, **self.settings)


def by_guide(guide, rate=0.01, kernel=None):
    return SVI(kernel, guide(kernel), optim.Adam(rate), Trace_ELBO())


def users(guide, rate=0.01):
    """A user's own SVI with such a guide."""
    return lambda kernel: by_guide(guide, rate, kernel)


# ------------------------------------------------------------------ kernels
SCHOOL_ERRORS = np.array([15, 10, 16, 11, 9, 11, 10, 18], np.float32)
SCHOOL_EFFECTS = np.array([28, 8, -3, 7, -1, 1, 18, 12], np.float32)


def schools(law, *, centred, inference="svi"):
    def kernel(X, y=None):
        mu = SAMPLE("mu", dist.Normal(0.0, 10.0))
        tau = SAMPLE("tau", law)
        if centred:
            theta = SAMPLE("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
        else:
            theta = mu + tau * SAMPLE("unit", dist.Normal().expand([8]).to_event(1))
        SAMPLE("y", dist.Normal(theta, X[:, 0]), obs=y)

    return Case(kernel, SCHOOL_ERRORS[:, None], SCHOOL_EFFECTS, inference)


def local_level():
    rng = np.random.default_rng(1)
    steps = 120
    x = rng.normal(size=steps)
    y = np.cumsum(0.3 * rng.normal(size=steps)) + 0.5 * x + 0.5 * rng.normal(size=steps)

    def kernel(X, y=None):
        spread = SAMPLE("spread", dist.HalfNormal(1.0))
        sigma = SAMPLE("sigma", dist.HalfNormal(1.0))
        slope = SAMPLE("slope", dist.Normal(0.0, 2.0))
        step = SAMPLE("step", dist.Normal(0.0, spread).expand([X.shape[0]]).to_event(1))
        SAMPLE("y", dist.Normal(jnp.cumsum(step) + slope * X[:, 0], sigma), obs=y)

    return Case(kernel, x[:, None], y)


def random_features():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3)).astype(np.float32)
    t = (rng.random(300) < 0.5).astype(np.float32)
    y = np.sin(2 * X[:, 0]) + t * np.cos(X[:, 1]) + 0.5 * rng.normal(size=300)
    W = rng.normal(size=(3, 200)).astype(np.float32)
    b = rng.uniform(0, 2 * np.pi, 200).astype(np.float32)

    def kernel(X, t, y=None):
        features = jnp.sqrt(2.0 / 200) * jnp.cos(X @ W + b)
        scale = SAMPLE("scale", dist.HalfNormal(1.0).expand([2]).to_event(1))
        coefs = SAMPLE("coefs", dist.Normal().expand([2, 200]).to_event(2))
        f = features @ (scale[:, None] * coefs).T
        sigma = SAMPLE("sigma", dist.HalfNormal(1.0))
        SAMPLE("y", dist.Normal(f[:, 0] + t * f[:, 1], sigma), obs=y)

    return Case(kernel, X, y, inputs={"t": t})


def horseshoe():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 120))
    y = X[:, :4] @ [2.0, -1.5, 1.0, 0.7] + rng.normal(size=200)

    def kernel(X, y=None):
        tau = SAMPLE("tau", dist.HalfCauchy(0.1))
        local = SAMPLE("local", dist.HalfCauchy(1.0).expand([120]).to_event(1))
        b = SAMPLE("b", dist.Normal(0.0, 1.0).expand([120]).to_event(1)) * tau * local
        sigma = SAMPLE("sigma", dist.HalfNormal(2.0))
        SAMPLE("y", dist.Normal(X @ b, sigma), obs=y)

    return Case(kernel, X, y)


def logit(events_in_arms, rows=150):
    X = np.repeat([0.0, 1.0], rows)[:, None]
    y = np.concatenate([np.arange(rows) < n for n in events_in_arms])

    def kernel(X, y=None):
        a = SAMPLE("a", dist.Normal(0.0, 5.0))
        b = SAMPLE("b", dist.Normal(0.0, 5.0))
        SAMPLE("y", dist.Bernoulli(logits=a + b * X[:, 0]), obs=y)

    return Case(kernel, X, y.astype(np.int32))


def separated():
    rng = np.random.default_rng(3)
    x = np.sort(rng.normal(size=40))
    y = (x > 0.1).astype(np.int32)
    y[18] = 1

    def kernel(X, y=None):
        a = SAMPLE("a", dist.Normal(0.0, 10.0))
        b = SAMPLE("b", dist.Normal(0.0, 10.0))
        SAMPLE("y", dist.Bernoulli(logits=a + b * X[:, 0]), obs=y)

    return Case(kernel, x[:, None], y)


def student(rows=60):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 1))
    y = X[:, 0] + rng.standard_t(4, size=rows)

    def kernel(X, y=None):
        nu = SAMPLE("nu", dist.Gamma(2.0, 0.1))
        b = SAMPLE("b", dist.Normal())
        s = SAMPLE("s", dist.HalfNormal(2.0))
        SAMPLE("y", dist.StudentT(nu, b * X[:, 0], s), obs=y)

    return Case(kernel, X, y)


def many_groups():
    rng = np.random.default_rng(0)
    g = np.arange(20_000) % 400
    y = rng.normal(size=400)[g] + 0.5 * rng.normal(size=20_000)

    def kernel(X, g, y=None):
        tau = SAMPLE("tau", dist.HalfNormal(1.0))
        sigma = SAMPLE("sigma", dist.HalfNormal(1.0))
        with numpyro.plate("groups", 400):
            level = SAMPLE("level", dist.Normal(0.0, tau))
        with numpyro.plate("obs", X.shape[0]):
            SAMPLE("y", dist.Normal(level[g], sigma), obs=y)

    return Case(kernel, np.zeros((20_000, 1), np.float32), y.astype(np.float32), inputs={"g": g})


def confounded():
    rng = np.random.default_rng(0)
    u = rng.normal(size=150)
    t = (u + rng.normal(size=150) > 0).astype(np.float32)
    y = (t + u + 0.3 * rng.normal(size=150)).astype(np.float32)

    def kernel(X, t=None, y=None):
        a, b = SAMPLE("a", dist.Normal()), SAMPLE("b", dist.Normal(0.0, 2.0))
        sigma = SAMPLE("sigma", dist.HalfNormal(1.0))
        with numpyro.plate("obs", X.shape[0]):
            u = SAMPLE("u", dist.Normal())
            t = SAMPLE("t", dist.Bernoulli(logits=2.0 * u), obs=t)
            SAMPLE("y", dist.Normal(a + b * t + u, sigma), obs=y)

    return Case(kernel, np.zeros((150, 1)), y, inputs={"t": t})


def two_modes(inference="svi", **settings):
    def kernel(X, y=None):
        theta = SAMPLE("theta", dist.Normal(0.0, 3.0))
        SAMPLE("y", dist.Normal(theta**2 + X[:, 0], 1.0), obs=y)

    return Case(kernel, np.zeros((50, 1)), np.full(50, 4.0), inference, **settings)


def poisson(inference="svi", rows=200, **settings):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 3))
    y = rng.poisson(np.exp(0.5 + X @ [0.3, -0.2, 0.1])).astype(np.int32)

    def kernel(X, y=None):
        a = SAMPLE("a", dist.Normal(0.0, 2.0))
        b = SAMPLE("b", dist.Normal().expand([3]).to_event(1))
        SAMPLE("y", dist.Poisson(jnp.exp(a + X @ b)), obs=y)

    return Case(kernel, X, y, inference, **settings)


def correlated(inference="svi", **settings):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 1)) + 0.2 * rng.normal(size=(200, 3))
    y = X @ [1.0, 0.0, -1.0] + rng.normal(size=200)

    def kernel(X, y=None):
        b = SAMPLE("b", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
        sigma = SAMPLE("sigma", dist.HalfNormal(2.0))
        SAMPLE("y", dist.Normal(X @ b, sigma), obs=y)

    return Case(kernel, X, y, inference, **settings)


def of_a_prior(law):
    def kernel(X, y=None):
        value = SAMPLE("value", law)
        SAMPLE("y", dist.Normal(0.0 * value + X[:, 0], 1.0), obs=y)

    return Case(kernel, np.zeros((20, 1)), np.zeros(20))


def funnel(inference="svi", **settings):
    def kernel(X, y=None):
        v = SAMPLE("v", dist.Normal(0.0, 3.0))
        x = SAMPLE("x", dist.Normal(0.0, jnp.exp(v / 2)).expand([9]).to_event(1))
        SAMPLE("y", dist.Normal(0.0 * x.sum() + X[:, 0], 1.0), obs=y)

    return Case(kernel, np.zeros((20, 1)), np.zeros(20), inference, **settings)


def bent():
    def kernel(X, y=None):
        a = SAMPLE("a", dist.Normal())
        SAMPLE("b", dist.Normal(a**2, 0.2))
        SAMPLE("y", dist.Normal(X[:, 0], 1.0), obs=y)

    return Case(kernel, np.zeros((20, 1)), np.zeros(20))


def mixture(inference="svi", **settings):
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-2, 1, 60), rng.normal(2, 1, 40)])

    def kernel(X, y=None):
        w = SAMPLE("w", dist.Beta(2.0, 2.0))
        m = SAMPLE("m", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
        parts = dist.Normal(m, 1.0)
        law = dist.MixtureSameFamily(dist.Categorical(jnp.stack([w, 1 - w])), parts)
        SAMPLE("y", law.expand([X.shape[0]]), obs=y)

    return Case(kernel, np.zeros((100, 1)), y, inference, **settings)


def chains(sampler=NUTS, warmup=200, samples=500, count=4, **options):
    def make(kernel):
        return MCMC(
            sampler(kernel, **options),
            num_warmup=warmup,
            num_samples=samples,
            num_chains=count,
            progress_bar=False,
            chain_method="sequential",
        )

    return make


def linear(rows, slopes, unit=1.0, size=1.0, inference="svi", **settings):
    rng = np.random.default_rng(rows)
    X = unit * rng.normal(size=(rows, slopes))
    y = X @ rng.normal(size=slopes) * size / unit + size * rng.normal(size=rows)

    def kernel(X, y=None):
        a = SAMPLE("a", dist.Normal(0.0, 5.0 * size))
        b = SAMPLE("b", dist.Normal(0.0, 5.0 * size / unit).expand([slopes]).to_event(1))
        sigma = SAMPLE("sigma", dist.HalfNormal(5.0 * size))
        with numpyro.plate("obs", X.shape[0]):
            SAMPLE("y", dist.Normal(a + X @ b, sigma), obs=y)

    return Case(kernel, X, y, inference, **settings)


LAWS = {
    "bernoulli": lambda eta: dist.Bernoulli(logits=eta),
    "negative binomial": lambda eta: dist.NegativeBinomial2(
        jnp.exp(eta), SAMPLE("c", dist.Gamma(2.0, 0.5))
    ),
    "gamma": lambda eta: (lambda c: dist.Gamma(c, c / jnp.exp(eta)))(
        SAMPLE("c", dist.Exponential(0.2))
    ),
    "beta": lambda eta: dist.BetaProportion(
        jax.nn.sigmoid(eta), SAMPLE("c", dist.Exponential(0.2))
    ),
    "student": lambda eta: dist.StudentT(4.0, eta, SAMPLE("s", dist.HalfNormal(2.0))),
}


def generalised(family, rows=300, slopes=3, inference="svi", **settings):
    rng = np.random.default_rng(rows)
    X = rng.normal(size=(rows, slopes))
    eta = 0.3 + X @ rng.normal(size=slopes) * 0.5
    draws = {
        "bernoulli": lambda: (rng.random(rows) < 1 / (1 + np.exp(-eta))).astype(np.int32),
        "negative binomial": lambda: rng.poisson(
            np.exp(eta) * rng.gamma(2.0, 0.5, size=rows)
        ).astype(np.int32),
        "gamma": lambda: np.exp(eta) * rng.gamma(3.0, 1 / 3, size=rows),
        "beta": lambda: rng.beta(1.0 + np.exp(eta), 2.0),
        "student": lambda: eta + rng.standard_t(4, size=rows),
    }
    law = LAWS[family]

    def kernel(X, y=None):
        a = SAMPLE("a", dist.Normal(0.0, 2.5))
        b = SAMPLE("b", dist.Normal(0.0, 2.5).expand([slopes]).to_event(1))
        SAMPLE("y", law(a + X @ b), obs=y)

    return Case(kernel, X, draws[family](), inference, **settings)


HALF_CAUCHY = dist.HalfCauchy(5.0)
SICK: dict[str, Callable[[], Case]] = {
    "local level": local_level,
    "random features": random_features,
    "horseshoe": horseshoe,
    "schools, centred": partial(schools, dist.LogNormal(5.0, 1.0), centred=True),
    "schools, not centred": partial(schools, dist.LogNormal(5.0, 1.0), centred=False),
    "schools, half-Cauchy": partial(schools, HALF_CAUCHY, centred=False),
    "separated": separated,
    "no event in an arm": partial(logit, (15, 0)),
    "Student's degrees of freedom, 150 rows": partial(student, 150),
    "400 groups in batches": many_groups,
    "a confounder of each row": confounded,
    "two modes": two_modes,
    "two modes, chains": partial(two_modes, "nuts", num_chains=4, num_warmup=200, num_samples=200),
    "two modes, one chain": partial(two_modes, chains(SA, 100, 1000, 1)),
    "Cauchy": partial(of_a_prior, dist.Cauchy()),
    "exponential": partial(of_a_prior, dist.Exponential()),
    "funnel": funnel,
    "funnel, chains": partial(funnel, chains()),
    "bent": bent,
    "mixture": mixture,
    "mixture, chains": partial(mixture, chains()),
    "a point": partial(poisson, users(AutoDelta)),
    "a guide left early, too wide": partial(poisson, users(AutoNormal)),
    "a guide cut short": partial(poisson, users(AutoNormal, 0.001), num_steps=300),
    "independent guide of correlated slopes": partial(correlated, users(AutoNormal, 0.005)),
    "one short chain": partial(poisson, chains(SA, 50, 100, 1)),
    "one slow chain": partial(
        correlated,
        chains(NUTS, 0, 1000, 1, step_size=1e-3, adapt_step_size=False, max_tree_depth=2),
    ),
}

HEALTHY: dict[str, Callable[[], Case]] = {
    "linear, 30 rows": partial(linear, 30, 2),
    "linear, 500 rows": partial(linear, 500, 10),
    "linear, raw units": partial(linear, 100, 2, 1e5, 1e-5),
    "linear, in batches": partial(linear, 20_000, 4),
    "linear, steps that are enough": partial(linear, 200, 2, num_steps=3000),
    **{family: partial(generalised, family) for family in LAWS},
    "poisson": poisson,
    "Student's degrees of freedom, 25 rows": partial(student, 25),
    "correlated": correlated,
    "events in both arms": partial(logit, (60, 45)),
    "full guide": partial(correlated, users(AutoMultivariateNormal, 0.005), num_steps=20_000),
    "linear, chains": partial(linear, 100, 2, inference="nuts", num_chains=2, num_samples=500),
    "poisson, chains": partial(poisson, "nuts", num_chains=2, num_samples=500),
    "bernoulli, chains": partial(generalised, "bernoulli", inference=chains(samples=500)),
    "linear, an independent guide that is well trained": partial(
        linear, 300, 2, inference=users(AutoNormal, 0.001), num_steps=30_000
    ),
    "one long chain": partial(linear, 100, 2, inference=chains(samples=1000, count=1)),
    "schools, chains": partial(schools, HALF_CAUCHY, centred=False, inference="nuts"),
}


def marked(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", marked(SICK))
def test_no_bad_fit_passes_in_silence(name):
    im = SICK[name]().fitted()
    notes = im._fitted.fit.notes
    assert im.diagnostics_["verdict"].startswith("bad: ")
    assert any(issubclass(note.category, FitWarning) for note in notes)
    assert all(len(note.message) <= 240 for note in notes)


@pytest.mark.parametrize("name", marked(HEALTHY))
def test_a_good_fit_raises_no_alarm(name):
    im = HEALTHY[name]().fitted()
    assert im.diagnostics_["verdict"] == "good"
    assert not im._fitted.fit.notes


@pytest.mark.slow
def test_good_fits_of_twenty_keys_raise_at_most_two_alarms_in_a_hundred():
    alarms = []
    for name in MANY_KEYS:
        case = HEALTHY[name]()
        verdicts = [case.fitted(key).diagnostics_["verdict"] for key in range(20)]
        alarms += [(name, key, one) for key, one in enumerate(verdicts) if one != "good"]
    assert len(alarms) <= 2, alarms
