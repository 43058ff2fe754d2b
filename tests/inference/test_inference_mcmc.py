"""Chains: NUTS by name and any NumPyro `MCMC` object, against closed forms."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import HMC, MCMC, NUTS, DiscreteHMCGibbs

from aimz import ImpactModel
from aimz.errors import AimzError, KernelValidationError
from aimz.inference import Problem, Settings, as_engine
from aimz.kernel import Inputs, inspect
from aimz.programs.tracing import num_compiled

QUIET = Settings(progress=False)


def problem_of(kernel, weights=None, **arrays):
    inputs = Inputs(
        {n: jnp.asarray(v) for n, v in arrays.items()}, {}, len(arrays["X"]), ("X", "y")
    )
    return Problem(kernel, inputs, inspect(kernel, inputs, "y"), weights)


def regression(X, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 100.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ slope, 2.0), obs=y)


def mixture(X, y=None):
    rate = numpyro.sample("rate", dist.Beta(2.0, 2.0))
    with numpyro.plate("obs", X.shape[0]):
        which = numpyro.sample("which", dist.Bernoulli(rate))
        numpyro.sample("y", dist.Normal(6.0 * which, 1.0), obs=y)


def data(n=60, p=2, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    X = (scale * (rng.normal(size=(n, p)) + 1.0)).astype(np.float32)
    y = X @ (rng.normal(size=p) / scale) + 2.0 * rng.normal(size=n)
    return X, y.astype(np.float32)


def closed_form(X, y, weights=None):
    """Mean and standard deviations of the posterior, in double precision."""
    Z = np.asarray(X, float)
    w = np.ones(len(Z)) if weights is None else np.asarray(weights, float)
    covariance = np.linalg.inv((Z.T * w) @ Z / 4.0 + np.eye(Z.shape[1]) / 1e4)
    return covariance @ (Z.T * w) @ np.asarray(y, float) / 4.0, np.sqrt(np.diag(covariance))


def assert_close_to(draws, oracle):
    """Chains of about 10,000 effective draws: standard error 0.01 sd of means, 0.7% of sds."""
    mean, sd = draws.mean(axis=(0, 1), dtype=float), draws.std(axis=(0, 1), dtype=float)
    assert np.max(np.abs(mean - oracle[0]) / oracle[1]) < 0.05
    np.testing.assert_allclose(sd, oracle[1], rtol=0.05)


def chains(kernel, samples=100, sampler=HMC, **options):
    """An object; HMC unless NUTS is asked for, because it compiles faster."""
    options = {"num_chains": 2, "chain_method": "vectorized", "num_warmup": 100, **options}
    return MCMC(sampler(kernel), num_samples=samples, progress_bar=False, **options)


@pytest.mark.parametrize(
    "scale",
    [
        pytest.param(1.0, id="unit", marks=pytest.mark.slow),
        pytest.param(np.array([1e-3, 1e4]), id="raw"),
    ],
)
def test_nuts_by_name_is_the_closed_form_posterior(scale):
    X, y = data(scale=scale)
    engine = as_engine("nuts", regression)
    fit = engine.fit(0, problem_of(regression, X=X, y=y), replace(QUIET, num_samples=3000))
    assert fit.attrs["ess_min"] > 7000
    assert_close_to(fit.draws["slope"], closed_form(X, y))
    assert fit.notes == ()
    assert fit.draws["slope"].shape == (4, 3000, 2)
    assert {"diverging", "energy", "acceptance_rate", "lp"} <= set(fit.stats)
    assert fit.stats["diverging"].shape == (4, 3000)


@pytest.mark.parametrize(
    "method", [pytest.param("vectorized", marks=pytest.mark.slow), "sequential"]
)
def test_an_object_is_run_as_it_says(method):
    X, y = data()
    given = chains(regression, 60, chain_method=method, thinning=2)
    before = dict(vars(given.sampler))
    fit = as_engine(given, regression).fit(0, problem_of(regression, X=X, y=y), QUIET)
    assert fit.draws["slope"].shape == (2, 30, 2)
    assert vars(given.sampler) == before
    assert given.last_state is None


@pytest.mark.slow
def test_weights_count_rows():
    X, y = data()
    weights = (np.arange(60) % 3).astype(np.float32)
    engine = as_engine(chains(regression, 4000, NUTS, num_warmup=500), regression)
    fit = engine.fit(0, problem_of(regression, weights, X=X, y=y), QUIET)
    assert_close_to(fit.draws["slope"], closed_form(X, y, weights))


@pytest.mark.slow
def test_models_that_share_an_object_fit_like_fresh_ones():
    shared = chains(regression)
    for X, y in (data(), data(n=80, p=4, seed=1), data()):
        problem = problem_of(regression, X=X, y=y)
        fit = as_engine(shared, regression).fit(0, problem, QUIET)
        fresh = as_engine(chains(regression), regression).fit(0, problem, QUIET)
        np.testing.assert_array_equal(fit.draws["slope"], fresh.draws["slope"])


@pytest.mark.slow
def test_second_fit_compiles_nothing():
    X, y = data()
    engine = as_engine(chains(regression), regression)
    first = engine.fit(0, problem_of(regression, X=X, y=y), QUIET)
    made = num_compiled()
    second = engine.fit(1, problem_of(regression, X=X + 1, y=y), QUIET)
    assert num_compiled() == made
    assert not np.isin(first.draws["slope"], second.draws["slope"]).any()


def test_draw_continues_and_never_repeats():
    X, y = data()
    problem, engine = problem_of(regression, X=X, y=y), as_engine(chains(regression), regression)
    fit = engine.fit(0, problem, QUIET)
    first = engine.proceed(1, problem, fit, 50)
    once, twice = first.draws, engine.proceed(1, problem, first, 50).draws
    assert once["slope"].shape == (2, 50, 2)
    assert not np.isin(once["slope"], fit.draws["slope"]).any()
    assert not np.isin(twice["slope"], once["slope"]).any()


@pytest.mark.parametrize("inference", ["nuts", "object"])
def test_a_discrete_site_that_would_be_summed_out_is_refused(inference):
    X, y = data(n=20)
    engine = as_engine("nuts" if inference == "nuts" else chains(mixture), mixture)
    with pytest.raises(KernelValidationError, match="'which'") as caught:
        engine.fit(0, problem_of(mixture, X=X, y=y), QUIET)
    assert caught.value.code == "enumerated"


@pytest.mark.slow
def test_a_discrete_site_that_is_sampled_is_fine():
    y = np.array([0.0, 6.0, 6.0, 6.0], np.float32)
    sampler = DiscreteHMCGibbs(NUTS(mixture))
    given = MCMC(sampler, num_warmup=50, num_samples=100, progress_bar=False)
    problem = problem_of(mixture, X=np.zeros((4, 1), np.float32), y=y)
    engine = as_engine(given, mixture)
    fit = engine.fit(0, problem, QUIET)
    np.testing.assert_array_equal(np.round(fit.draws["which"].mean(axis=(0, 1))), [0, 1, 1, 1])
    more = engine.draw(1, problem, fit, 30)
    assert more["rate"].shape == (1, 30)
    assert not np.isin(more["rate"], fit.draws["rate"]).any()


@pytest.mark.slow
def test_chains_that_have_not_mixed_say_so():
    def kernel(X, y=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, 20.0))
        numpyro.sample("y", dist.Normal(jnp.abs(mean), 0.1).expand([X.shape[0]]), obs=y)

    problem = problem_of(kernel, X=np.zeros((5, 1), np.float32), y=np.full(5, 9.0, np.float32))
    given = chains(kernel, 50, num_chains=6)
    fit = as_engine(given, kernel).fit(0, problem, QUIET)
    assert "r-hat" in [note.code for note in fit.notes]
    assert fit.attrs["rhat_max"] > 1.05


@pytest.mark.slow
def test_param_sites_keep_their_values_and_a_note_says_so():
    def kernel(X, y=None):
        sd = numpyro.param("sd", 2.0)
        mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
        numpyro.sample("y", dist.Normal(mean, sd).expand([X.shape[0]]), obs=y)

    X, y = data()
    engine = as_engine(chains(kernel), kernel)
    fit = engine.fit(0, problem_of(kernel, X=X, y=y), QUIET)
    assert float(fit.params["sd"]) == 2.0
    assert [note.code for note in fit.notes] == ["param-fixed"]


def test_an_impossible_outcome_is_an_error():
    def kernel(X, y=None):
        rate = numpyro.sample("rate", dist.HalfNormal())
        numpyro.sample("y", dist.Poisson(rate).expand([X.shape[0]]), obs=y)

    X, y = data(n=5)
    with pytest.raises(AimzError) as caught:
        as_engine(chains(kernel), kernel).fit(0, problem_of(kernel, X=X, y=y * jnp.nan), QUIET)
    assert caught.value.code == "fit-diverged"


def test_an_object_of_another_kernel_is_refused():
    with pytest.raises(KernelValidationError) as caught:
        as_engine(chains(mixture), regression)
    assert caught.value.code == "inference-kernel"


def subsampled(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("some", X.shape[0], subsample_size=2) as index:
        outcome = None if y is None else y[index]
        numpyro.sample("y", dist.Normal(b * X[index, 0], 1.0), obs=outcome)


def test_chains_refuse_to_see_a_part_of_the_data():
    rows = np.ones((6, 1), np.float32)
    for inference in ("nuts", MCMC(NUTS(subsampled), num_warmup=5, num_samples=5)):
        with pytest.raises(KernelValidationError, match="'some' takes a subsample") as caught:
            ImpactModel(subsampled, inference=inference).fit(rows, rows[:, 0], progress=False)
        assert caught.value.code == "terms"
