"""SVI: the default guide against closed forms, minibatches, and every kind of user's object."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import SVI, Trace_ELBO, autoguide

from aimz import ImpactModel
from aimz.errors import AimzError, InputError, KernelValidationError, PerformanceWarning
from aimz.inference import Problem, Settings, as_engine
from aimz.inference.binding import moving_supports
from aimz.kernel import Inputs, inspect
from aimz.programs.tracing import num_compiled

QUIET = Settings(progress=False)
SHORT = replace(QUIET, num_steps=30)


def problem_of(kernel, weights=None, **arrays):
    inputs = Inputs(
        {n: jnp.asarray(v) for n, v in arrays.items()}, {}, len(arrays["X"]), ("X", "y")
    )
    return Problem(kernel, inputs, inspect(kernel, inputs, "y"), weights)


def regression(X, y=None):
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 100.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 100.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(intercept + X @ slope, 2.0), obs=y)


def subsampled_regression(X, y=None, total=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 100.0).expand([X.shape[1]]).to_event(1))
    with handlers.scale(scale=4.0):
        numpyro.sample("y", dist.Normal(X @ slope, 2.0), obs=y)


# Tests share shapes where they can, and so share compiled programs.
def data(n=300, p=3, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    X = (scale * (rng.normal(size=(n, p)) + 1.0)).astype(np.float32)
    y = 5.0 + X @ (rng.normal(size=p) / scale) + 2.0 * rng.normal(size=n)
    return X, y.astype(np.float32)


def closed_form(X, y, weights=None, intercept=True):
    """Mean and standard deviations of the posterior, in double precision."""
    Z = np.asarray(X, float)
    Z = np.column_stack([np.ones(len(Z)), Z]) if intercept else Z
    w = np.ones(len(Z)) if weights is None else np.asarray(weights, float)
    precision = (Z.T * w) @ Z / 4.0 + np.eye(Z.shape[1]) / 1e4
    covariance = np.linalg.inv(precision)
    return covariance @ (Z.T * w) @ np.asarray(y, float) / 4.0, np.sqrt(np.diag(covariance))


def guide_moments(fit):
    """Mean and standard deviations of the default guide, from its parameters."""
    _, (params, _) = fit.state.svi.optim_state
    loc, scale = (np.asarray(fit.state.start[n], float) for n in ("loc", "scale"))
    inner = np.asarray(params["aimz_scale"], float)
    inner = np.tril(inner, -1) + np.diag(np.exp(np.diag(inner)))
    mean = loc + scale @ np.asarray(params["aimz_mu"], float)
    return mean, np.linalg.norm(scale @ inner, axis=1)


def assert_close_to(moments, oracle, *, mean=0.05, sd=0.05):
    assert np.max(np.abs(moments[0] - oracle[0]) / oracle[1]) < mean
    np.testing.assert_allclose(moments[1], oracle[1], rtol=sd)


def assert_same_draws(first, second):
    assert first.draws.keys() == second.draws.keys()
    for name in first.draws:
        np.testing.assert_array_equal(first.draws[name], second.draws[name])


def own_svi(kernel, guide=None, loss=None):
    guide = autoguide.AutoNormal(kernel) if guide is None else guide
    return SVI(kernel, guide, numpyro.optim.Adam(0.02), loss or Trace_ELBO())


# --- the default guide ------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, np.array([1e-2, 1e3, 1e5])], ids=["unit", "raw"])
def test_default_guide_is_the_closed_form_posterior(scale):
    X, y = data(scale=scale)
    fit = as_engine("svi", regression).fit(0, problem_of(regression, X=X, y=y), QUIET)
    assert_close_to(guide_moments(fit), closed_form(X, y))
    assert fit.notes == ()
    assert fit.attrs["plateau"]
    assert fit.draws["slope"].shape == (1, 1000, 3)


def test_second_fit_is_equal_and_compiles_nothing():
    X, y = data()
    problem = problem_of(regression, X=X, y=y)
    first = as_engine("svi", regression).fit(0, problem, QUIET)
    made = num_compiled()
    second = as_engine("svi", regression).fit(0, problem, QUIET)
    assert num_compiled() == made
    assert_same_draws(first, second)


@pytest.mark.slow
def test_centred_hierarchy_keeps_its_spread():
    effect = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], np.float32)
    error = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], np.float32)

    def schools(X, y=None):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(theta[jnp.arange(8)], X[:, 0]), obs=y)

    problem = problem_of(schools, X=error[:, None], y=effect)
    fit = as_engine("svi", schools).fit(0, problem, QUIET)
    # Long NUTS runs of the non-centred kernel: mu 4.4 (sd 3.3), tau's mean 3.6.
    assert abs(fit.draws["mu"].mean() - 4.4) < 1.0
    assert 2.5 < fit.draws["mu"].std() < 4.0
    assert 1.5 < fit.draws["tau"].mean() < 6.0


@pytest.mark.slow
def test_a_guide_that_misses_correlations_says_so():
    def kernel(X, y=None):
        slope = numpyro.sample("slope", dist.Normal(0.0, 100.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(X @ slope, 0.1), obs=y)

    x = np.random.default_rng(0).normal(size=(100, 1)).astype("f4")
    X = np.hstack([x, x + 0.1 * x[::-1]])
    engine = as_engine(own_svi(kernel, autoguide.AutoNormal(kernel), Trace_ELBO(4)), kernel)
    fit = engine.fit(0, problem_of(kernel, X=X, y=X.sum(1)), replace(QUIET, num_steps=4000))
    assert [note.code for note in fit.notes] == ["k-hat"]
    assert fit.attrs["k_hat"] > 0.7


@pytest.mark.slow
def test_poisson_with_raw_covariates_matches_newton():
    rng = np.random.default_rng(1)
    X = (np.array([40.0, 3.0]) + np.array([10.0, 0.5]) * rng.normal(size=(400, 2))).astype("f4")
    y = rng.poisson(np.exp(X @ [0.03, 0.2])).astype("f4")

    def kernel(X, y=None):
        slope = numpyro.sample("slope", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Poisson(jnp.exp(X @ slope)), obs=y)

    fit = as_engine("svi", kernel).fit(0, problem_of(kernel, X=X, y=y), QUIET)
    mode = np.array([0.03, 0.2])
    for _ in range(50):
        rate = np.exp(X @ mode)
        hessian = (X.T * rate) @ X + np.eye(2) / 100
        mode = mode - np.linalg.solve(hessian, X.T @ (rate - y) + mode / 100)
    assert_close_to(guide_moments(fit), (mode, np.sqrt(np.diag(np.linalg.inv(hessian)))), mean=0.1)
    assert fit.notes == ()


@pytest.mark.slow
def test_weights_count_rows():
    X, y = data(n=120)
    weights = np.arange(120) % 3
    repeated = closed_form(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    problem = problem_of(regression, weights.astype(np.float32), X=X, y=y)
    fit = as_engine("svi", regression).fit(0, problem, QUIET)
    assert_close_to(guide_moments(fit), repeated)


def test_weights_of_the_wrong_length_are_refused():
    X, y = data(n=20)
    problem = problem_of(regression, np.ones(19, np.float32), X=X, y=y)
    with pytest.raises(InputError, match="19") as caught:
        as_engine("svi", regression).fit(0, problem, SHORT)
    assert caught.value.code == "weights-shape"


@pytest.mark.slow
def test_many_latents_get_a_mean_field_guide():
    def kernel(X, y=None):
        slope = numpyro.sample("slope", dist.Normal().expand([240]).to_event(1))
        numpyro.sample("y", dist.Normal(slope[:2].sum() + 0.0 * X[:, 0], 1.0), obs=y)

    X, y = data(n=30)
    problem = problem_of(kernel, X=X, y=y)
    fit = as_engine("svi", kernel).fit(0, problem, replace(QUIET, num_steps=400))
    assert fit.state.start["scale"].shape == (240,)
    assert np.isnan(fit.attrs["k_hat"])


# --- minibatches --------------------------------------------------------------------------------


@pytest.mark.slow
def test_minibatches_reach_the_posterior_of_all_rows():
    X, y = data(n=1030)
    problem = problem_of(regression, X=X, y=y)
    fit = as_engine("svi", regression).fit(0, problem, replace(QUIET, batch_size=256))
    assert_close_to(guide_moments(fit), closed_form(X, y), mean=0.15, sd=0.1)
    assert fit.attrs["batch_size"] == 256
    assert "4.02" in fit.attrs["notes"][0]


@pytest.mark.parametrize("rows", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_batches_of_very_many_rows_end_with_all_of_them(rows):
    X, y = data(n=rows)
    problem = problem_of(regression, X=X, y=y)
    fit = as_engine("svi", regression).fit(0, problem, QUIET)
    assert fit.attrs["batch_size"] == 1024
    assert_close_to(guide_moments(fit), closed_form(X, y), mean=0.05, sd=0.02)
    assert fit.attrs["verdict"] == "good"
    assert fit.attrs["k_hat"] < 0.7


@pytest.mark.slow
def test_a_kernel_that_scales_itself_is_not_scaled_again():
    X, y = data(n=1024)
    y = y - 5.0
    problem = problem_of(subsampled_regression, X=X, y=y)
    settings = replace(QUIET, batch_size=256)
    fit = as_engine("svi", subsampled_regression).fit(0, problem, settings)
    assert_close_to(guide_moments(fit), closed_form(X, y, intercept=False), mean=0.2, sd=0.1)
    assert fit.attrs["notes"] == []


def test_every_row_is_used_equally_often():
    from aimz.inference.svi.course import Batches, Plan

    source = Batches(Plan(rows=10, batch=4, steps=None, shuffle=True), jax.random.key(0))
    rows = source.chunk(5).numbers[:5]
    np.testing.assert_array_equal(np.bincount(rows.ravel()), np.full(10, 2))


@pytest.mark.parametrize("rows", [4, 10, 103])
def test_batches_made_ready_before_are_those_that_would_come(rows):
    from aimz.inference.svi.course import CHUNK, Batches, Plan

    plan = Plan(rows=rows, batch=4, steps=None, shuffle=True)
    plain, ahead = (Batches(plan, jax.random.key(0)) for _ in range(2))
    for count, ready in ((3, 1), (1, 0), (CHUNK, CHUNK), (2, 7)):
        first, same = plain.chunk(count).numbers, ahead.chunk(count).numbers
        ahead.prepare(ready)
        np.testing.assert_array_equal(first, same)
        assert first.shape == (CHUNK, 4)


def test_epochs_and_steps_are_exact():
    (X, y), (many_X, many_y) = data(), data(n=1030)
    engine = as_engine("svi", regression)
    steps = engine.fit(
        0, problem_of(regression, X=X, y=y), replace(QUIET, num_steps=77, whole=True)
    )
    problem = problem_of(regression, X=many_X, y=many_y)
    epochs = engine.fit(0, problem, replace(QUIET, epochs=3, batch_size=256))
    assert (len(epochs.trace["loss"]), len(steps.trace["loss"])) == (13, 77)


# Through the estimator it is in test_fit.py, and the plan in test_minibatch.py.
@pytest.mark.slow
def test_coupled_rows_are_fitted_whole_with_a_note():
    def kernel(X, y=None):
        slope = numpyro.sample("slope", dist.Normal())
        numpyro.sample("y", dist.Normal(slope * (X[:, 0] - X[:, 0].mean()), 1.0), obs=y)

    X, y = data(n=60)
    settings = replace(SHORT, num_steps=None, epochs=20, batch_size=16)
    fit = as_engine("svi", kernel).fit(0, problem_of(kernel, X=X, y=y), settings)
    assert fit.attrs["batch_size"] == 60
    assert (fit.notes[0].category, fit.notes[0].code) == (PerformanceWarning, "fit-whole")


# --- the user's objects -------------------------------------------------------------------------


@pytest.mark.slow
def test_models_that_share_an_object_fit_like_fresh_ones():
    shared = own_svi(regression)
    before = dict(vars(shared.guide))
    small, large = data(n=40, p=2, seed=1), data(n=60)
    for X, y in (large, small, large):
        problem = problem_of(regression, X=X, y=y)
        fit = as_engine(shared, regression).fit(0, problem, SHORT)
        assert_same_draws(fit, as_engine(own_svi(regression), regression).fit(0, problem, SHORT))
    assert vars(shared.guide) == before


GUIDES = {
    "normal": autoguide.AutoNormal,
    "delta": autoguide.AutoDelta,
    "laplace": autoguide.AutoLaplaceApproximation,
    "flow": partial(autoguide.AutoIAFNormal, num_flows=1, hidden_dims=[4]),
}


@pytest.mark.parametrize(
    "guide",
    [pytest.param(guide, id=name, marks=pytest.mark.slow) for name, guide in GUIDES.items()],
)
def test_any_guide_fits_and_draws(guide):
    X, y = data(n=60)
    engine = as_engine(own_svi(regression, guide(regression)), regression)
    fit = engine.fit(0, problem_of(regression, X=X, y=y), replace(SHORT, num_samples=20))
    assert {n: v.shape for n, v in fit.draws.items()} == {
        "intercept": (1, 20),
        "slope": (1, 20, 3),
    }


@pytest.mark.slow
def test_a_list_of_guides_over_parts_of_the_kernel():
    guide = autoguide.AutoGuideList(regression)
    guide.append(autoguide.AutoNormal(handlers.block(regression, hide=["intercept"])))
    guide.append(autoguide.AutoDelta(handlers.block(regression, expose=["intercept"])))
    X, y = data(n=60)
    problem = problem_of(regression, X=X, y=y)
    fit = as_engine(own_svi(regression, guide), regression).fit(0, problem, SHORT)
    assert np.ptp(fit.draws["intercept"]) == 0.0
    assert fit.draws["slope"].std() > 0.0


@pytest.mark.slow
def test_a_function_can_be_the_guide():
    def kernel(X, y=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
        numpyro.sample("y", dist.Normal(mean, 1.0).expand([X.shape[0]]), obs=y)

    def guide(X, y=None):
        loc = numpyro.param("loc", 0.0)
        scale = numpyro.param("scale", 1.0, constraint=constraints.positive)
        numpyro.sample("mean", dist.Normal(loc, scale))

    X, y = data(n=100)
    problem = problem_of(kernel, X=X, y=y)
    settings = replace(QUIET, num_steps=1500)
    fit = as_engine(own_svi(kernel, guide, Trace_ELBO(10)), kernel).fit(0, problem, settings)
    assert abs(fit.draws["mean"].mean() - y.mean()) < 0.05
    assert fit.params == {}


def test_a_guide_that_misses_a_latent_site_is_an_error():
    def guide(X, y=None):
        numpyro.sample("intercept", dist.Normal(numpyro.param("loc", 0.0), 1.0))

    X, y = data(n=20)
    engine = as_engine(own_svi(regression, guide), regression)
    with pytest.warns(UserWarning, match="slope"), pytest.raises(KernelValidationError) as caught:
        engine.fit(0, problem_of(regression, X=X, y=y), SHORT)
    assert caught.value.code == "latent-missing"


@pytest.mark.parametrize(
    "own", [pytest.param(False, marks=pytest.mark.slow), True], ids=["default", "given"]
)
def test_param_sites_and_mutable_state_are_learned_and_returned(own):
    def kernel(X, y=None):
        seen = numpyro.primitives.mutable("seen", {"count": jnp.zeros(())})
        seen["count"] = seen["count"] + 1.0
        sd = numpyro.param("sd", 1.0, constraint=constraints.positive)
        mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(mean, sd), obs=y)

    X, y = data(n=200)
    inference = own_svi(kernel) if own else "svi"
    settings = replace(QUIET, num_steps=1500)
    fit = as_engine(inference, kernel).fit(0, problem_of(kernel, X=X, y=y), settings)
    assert abs(float(fit.params["sd"]) / y.std() - 1.0) < 0.05
    assert float(fit.params["seen"]["count"]) >= 1500.0


def test_a_kernel_without_latents_learns_its_parameters():
    def kernel(X, y=None):
        mean = numpyro.param("mean", 0.0)
        numpyro.sample("y", dist.Normal(mean, 1.0).expand([X.shape[0]]), obs=y)

    X, y = data(n=50)
    fit = as_engine("svi", kernel).fit(0, problem_of(kernel, X=X, y=y), QUIET)
    assert abs(float(fit.params["mean"]) - y.mean()) < 0.05
    assert fit.draws == {}


@pytest.mark.slow
def test_neural_networks_keep_their_weights_in_params():
    nnx = pytest.importorskip("flax.nnx")
    from numpyro.contrib.module import nnx_module

    def kernel(X, y=None):
        net = nnx_module("net", nnx.Linear(3, 1, rngs=nnx.Rngs(0)))
        sd = numpyro.sample("sd", dist.HalfNormal(5.0))
        numpyro.sample("y", dist.Normal(net(X)[:, 0], sd), obs=y)

    X, y = data(n=100)
    fit = as_engine("svi", kernel).fit(0, problem_of(kernel, X=X, y=y), QUIET)
    assert fit.params["net$params"]["kernel"].shape == (3, 1)
    assert abs(fit.draws["sd"].mean() - 2.0) < 0.3


@pytest.mark.slow
def test_neural_networks_with_priors_draw_their_weights():
    nnx = pytest.importorskip("flax.nnx")
    from numpyro.contrib.module import random_nnx_module

    def kernel(X, y=None):
        net = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
        net = random_nnx_module("net", net, prior=dist.Normal(0.0, 5.0))
        numpyro.sample("y", dist.Normal(net(X)[:, 0], 2.0), obs=y)

    X, y = data(n=100)
    fit = as_engine("svi", kernel).fit(0, problem_of(kernel, X=X, y=y), QUIET)
    assert fit.draws["net/kernel"].shape == (1, 1000, 3, 1)


@pytest.mark.slow
def test_optax_and_static_arguments_of_an_object_are_used():
    def kernel(X, y=None, sd=1.0):
        mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
        numpyro.sample("y", dist.Normal(mean, sd).expand([X.shape[0]]), obs=y)

    X, y = data()
    guide = autoguide.AutoMultivariateNormal(kernel)
    svi = SVI(kernel, guide, optax.adam(0.02), Trace_ELBO(5), sd=2.0)
    problem = problem_of(kernel, X=X, y=y)
    fit = as_engine(svi, kernel).fit(0, problem, replace(QUIET, num_steps=1500))
    assert fit.draws["mean"].std() == pytest.approx(2.0 / np.sqrt(300), rel=0.1)


# --- steps, continuing, failing -----------------------------------------------------------------


def test_steps_go_on_from_the_state():
    X, y = data()
    problem, engine = problem_of(regression, X=X, y=y), as_engine("svi", regression)
    state, first = engine.step(0, problem)
    made = num_compiled()
    for _ in range(20):
        state, loss = engine.step(1, problem, state)
    assert num_compiled() == made
    assert (state.steps, np.isfinite(first), np.isfinite(loss)) == (21, True, True)
    assert engine.fit_of(state, 2, problem, 50).draws["slope"].shape == (1, 50, 3)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"family": dist.Cauchy}, {"scale": 3.0}])
def test_a_step_sees_a_change_that_no_value_of_a_site_shows(change):
    settings = {"family": dist.Normal, "scale": 1.0}

    def kernel(X, y=None):
        slope = numpyro.sample("slope", dist.Normal())
        with numpyro.plate("obs", X.shape[0]), handlers.scale(scale=settings["scale"]):
            numpyro.sample("y", settings["family"](slope * X[:, 0], 1.0), obs=y)

    X, y = data()
    engine = as_engine("svi", kernel)
    state, _ = engine.step(0, problem_of(kernel, X=X, y=y))
    before = engine.step(1, problem_of(kernel, X=X, y=y), state)[1]
    settings.update(change)
    assert abs(engine.step(1, problem_of(kernel, X=X, y=y), state)[1] - before) > 10.0


@pytest.mark.slow
def test_a_fit_continues_from_its_state():
    X, y = data(n=60)
    problem = problem_of(regression, X=X, y=y)
    engine = as_engine(own_svi(regression), regression)
    first = engine.fit(0, problem, SHORT)
    second = engine.fit(0, problem, SHORT, state=first.state)
    assert second.attrs["steps"] == 60
    assert second.trace["loss"][0] < first.trace["loss"][0]


def test_draws_differ_between_keys():
    X, y = data()
    problem, engine = problem_of(regression, X=X, y=y), as_engine("svi", regression)
    fit = engine.fit(0, problem, SHORT)
    more = engine.draw(1, problem, fit, 50)
    assert more["slope"].shape == (1, 50, 3)
    assert not np.isin(more["slope"], fit.draws["slope"]).any()


def test_a_loss_that_is_not_finite_names_its_step():
    X, y = data()
    svi = SVI(regression, autoguide.AutoNormal(regression), optax.sgd(1e8), Trace_ELBO())
    engine = as_engine(svi, regression)
    with pytest.raises(AimzError, match="step") as caught:
        engine.fit(0, problem_of(regression, X=X, y=y), replace(QUIET, num_steps=200))
    assert caught.value.code == "fit-diverged"


@pytest.mark.slow
def test_a_short_fit_says_that_it_has_not_converged():
    X, y = data(n=60, scale=1e3)
    engine = as_engine(own_svi(regression), regression)
    fit = engine.fit(0, problem_of(regression, X=X, y=y), replace(QUIET, num_steps=60))
    assert [note.code for note in fit.notes] == ["not-converged"]


def test_interruption_keeps_what_was_reached(monkeypatch):
    from aimz.inference.svi import course

    calls = []

    def interrupt(losses, before, phase):
        del losses, phase
        calls.append(before)
        if len(calls) > 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(course, "_check_finite", interrupt)
    X, y = data()
    fit = as_engine("svi", regression).fit(0, problem_of(regression, X=X, y=y), QUIET)
    assert fit.attrs["interrupted"]
    assert [note.code for note in fit.notes] == ["interrupted"]


def test_discrete_latents_are_refused_by_name():
    def kernel(X, y=None):
        which = numpyro.sample("which", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(which, 1.0).expand([X.shape[0]]), obs=y)

    X, y = data(n=10)
    with pytest.raises(KernelValidationError, match="which") as caught:
        as_engine("svi", kernel).fit(0, problem_of(kernel, X=X, y=y), SHORT)
    assert caught.value.code == "enumerated"


def test_names_and_objects_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="nuts"):
        as_engine("nut", regression)
    with pytest.raises(InputError, match="dict"):
        as_engine({}, regression)
    with pytest.raises(KernelValidationError) as caught:
        as_engine(own_svi(subsampled_regression), regression)
    assert caught.value.code == "inference-kernel"


def test_support_that_depends_on_a_latent_is_refused_by_the_guide():
    def moving(X, y=None):
        b = numpyro.sample("b", dist.LogNormal(0.0, 1.0))
        u = numpyro.sample("u", dist.Uniform(0.0, b))
        numpyro.sample("y", dist.Normal(u * X[:, 0], 1.0), obs=y)

    with pytest.raises(KernelValidationError, match="'u' depends on another latent"):
        ImpactModel(moving, inference="svi").fit(np.ones((5, 1)), np.ones(5), progress=False)


def test_support_that_depends_on_data_alone_is_accepted():
    def bounded(X, y=None):
        u = numpyro.sample("u", dist.Uniform(0.0, jnp.max(X)))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(u, 1.0), obs=y)

    X = np.linspace(1, 4, 30, dtype=np.float32)[:, None]
    inputs = Inputs({"X": X, "y": X[:, 0]}, {}, 30, ("X", "y"))
    assert moving_supports(Problem(bounded, inputs, inspect(bounded, inputs, "y"))) == []
