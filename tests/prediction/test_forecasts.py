"""Rows that follow the fitted ones: a series goes on from where the data left it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel, InputError, OutputWarning
from tests.support.series import SERIES, SPREAD, Series, level_given, local_level, made_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:Rows are predicted together"),
    pytest.mark.filterwarnings("ignore:The loss was still falling"),  # fits are short
]

FITTED, ROWS, DRAWS = 14, 20, 4000
TIME = np.arange(ROWS, dtype=np.float32)[:, None]
Y = np.cumsum(np.random.default_rng(3).normal(size=ROWS) * SPREAD).astype(np.float32) + 2.0


def by_name(name: str) -> Series:
    return next(series for series in SERIES if series.name == name)


@pytest.fixture(scope="module")
def level() -> ImpactModel:
    """The local level with its exact posterior."""
    mean, covariance = level_given(Y[:FITTED], FITTED)
    draws = np.random.default_rng(1).multivariate_normal(mean, covariance, size=DRAWS)
    return ImpactModel(local_level).set_posterior_sample({"level": draws})


DATES = pd.date_range("2024-01-01", periods=ROWS, freq="W")
X = pd.DataFrame({"time": TIME[:, 0]}, index=DATES)
HISTORY = pd.Series(Y[:FITTED], DATES[:FITTED])


@pytest.fixture(scope="module")
def fitted() -> ImpactModel:
    im = ImpactModel(local_level, num_samples=DRAWS)
    return im.fit_on_batch(X[:FITTED], HISTORY, num_steps=1000, progress=False)


def briefly_fitted(kernel: Any, X: Any, y: Any, **arguments: Any) -> ImpactModel:
    """A model that knows its rows, and next to nothing else."""
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    im = ImpactModel(kernel, inference=svi, num_samples=20)
    return im.fit_on_batch(X, y, num_steps=1, progress=False, **arguments)


def agrees_with_the_dense_answer(draws: Any) -> None:
    mean, covariance = level_given(Y[:FITTED], ROWS)
    spread = np.sqrt(np.diag(covariance) + SPREAD**2)[FITTED:]
    future = np.asarray(draws).reshape(-1, ROWS)[:, FITTED:]
    assert np.abs((future.mean(0) - mean[FITTED:]) / spread).max() < 4.5 / np.sqrt(DRAWS) + 0.02
    np.testing.assert_allclose(future.std(0), spread, rtol=0.06)


CALLS: dict[str, dict[str, Any]] = {
    "leading rows": {},
    "other rows": {"in_sample": False},
    "history": {"in_sample": False, "condition": {"y": Y[:FITTED]}},
    "part of the history": {"condition": {"y": Y[:3]}},
}


@pytest.mark.parametrize("call", CALLS)
def test_a_level_goes_on_from_where_the_data_left_it(call, fitted):
    got: Any = fitted.predict_on_batch(X, **CALLS[call])
    group = got.predictions if CALLS[call].get("in_sample") is False else got.posterior_predictive
    agrees_with_the_dense_answer(group["y"])
    history = CALLS[call].get("condition", {}).get("y")
    if history is not None:
        known = group["y"].values[..., : len(history)]
        np.testing.assert_array_equal(known, np.broadcast_to(history, known.shape))


def test_draws_made_elsewhere_go_on_too(level):
    got: Any = level.predict_on_batch(TIME, return_sites=["level", "y"])
    agrees_with_the_dense_answer(got.posterior_predictive["y"])
    levels = got.posterior_predictive["level"].values[0, :, :FITTED]
    np.testing.assert_allclose(levels, level.posterior["level"], rtol=1e-5, atol=1e-6)


def test_the_past_is_kept_in_every_scenario(fitted):
    def means(**settings):
        got: Any = fitted.predict_on_batch(X, return_sites="level", rng_key=1, **settings)
        return got.posterior_predictive["level"].values

    np.testing.assert_array_equal(means()[..., :FITTED], fitted.posterior["level"][None])


def test_a_loaded_model_forecasts_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", local_level)
    one, other = (
        im.predict_on_batch(X, condition={"y": Y[:FITTED]}, return_datatree=False)["y"]
        for im in (fitted, loaded)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("rows", "history"), [(X, Y[: FITTED + 2]), (X + 1, Y[:FITTED]), (X[:9], Y[:9])]
)
def test_a_history_that_the_posterior_does_not_know_is_refused(rows, history, fitted):
    with pytest.raises(InputError, match=r"the posterior of 'level' knows \d+ of them"):
        fitted.predict_on_batch(rows, condition={"y": history}, in_sample=False)


def test_an_autoregression_goes_on_from_its_history():
    draws = {"first": np.full(3, 0.6), "second": np.full(3, 0.3), "noise": np.full(3, 1e-6)}
    im = ImpactModel(by_name("autoregression").kernel).set_posterior_sample(draws)
    got: Any = im.predict_on_batch(TIME, condition={"y": Y[:FITTED]})
    want = list(Y[:FITTED])
    for _ in range(FITTED, ROWS):
        want.append(0.6 * want[-1] + 0.3 * want[-2] + 1.0)
    y = got.posterior_predictive["y"].values[0]
    np.testing.assert_allclose(y, np.broadcast_to(want, y.shape), rtol=1e-4)


@pytest.mark.slow
def test_an_autoregression_without_its_history_warns():
    kernel = by_name("autoregression").kernel
    im = briefly_fitted(kernel, TIME[:FITTED], Y[:FITTED])
    with pytest.warns(OutputWarning, match="'y' follows from its own past, which is not given"):
        im.predict_on_batch(TIME)
    with pytest.warns(OutputWarning, match="Pass the fitted rows before these"):
        im.predict_on_batch(TIME[FITTED:], condition={"y": Y[FITTED:]})


@pytest.mark.slow
@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_forecasts_have_the_moments_of_numpyro(series):
    arguments, y = made_of(series, ROWS)
    arguments = {name: jnp.asarray(value) for name, value in arguments.items()}
    known = 4 if series.by_subject else FITTED
    history = y.T[:known] if series.by_subject else y[:known]
    drawn = Predictive(series.kernel, num_samples=1)(jax.random.key(1), **arguments)
    draws = {n: np.repeat(np.asarray(drawn[n]), DRAWS, 0) for n in series.latents}
    for name in {"level", "slope"} & draws.keys():
        draws[name] = draws[name][:, :known] if draws[name].ndim == 2 else draws[name]
    im = ImpactModel(series.kernel).set_posterior_sample(draws)
    options: Any = {"condition": {"y": history}, "return_datatree": False}
    got = np.asarray(im.predict_on_batch(**arguments, **options)["y"], float)
    held = handlers.condition(series.kernel, {"y": jnp.asarray(history)})
    samples = {name: jnp.asarray(value) for name, value in draws.items()}
    want = Predictive(held, posterior_samples=samples, return_sites=["y"])
    want = np.asarray(want(jax.random.key(2), **arguments)["y"], float)
    error = want.std(0) * np.sqrt(2 / DRAWS)
    assert np.abs((got.mean(0) - want.mean(0)) / (error + 1e-6)).max() < 4.5
    np.testing.assert_allclose(got.std(0), want.std(0), rtol=0.1, atol=1e-5)


def test_an_effect_after_the_data_is_carried_on():
    def kernel(X, push, y=None):
        carried = numpyro.sample("carried", dist.Normal(0.5, 0.1))

        def step(last, seen):
            now = numpyro.sample("y", dist.Normal(carried * last + seen[0], 0.5), obs=seen[1])
            return now, None

        scan(step, 0.0, (push, y), length=X.shape[0])

    shares = np.array([0.5, 0.8])
    im = ImpactModel(kernel).set_posterior_sample({"carried": shares})
    push = (np.arange(ROWS) >= FITTED).astype(np.float32)
    known = {"condition": {"y": Y[:FITTED]}}
    effect = im.effect(
        TIME,
        push=0 * push,
        baseline=known,
        intervention={"push": push, **known},
        estimand="ite",
        progress=False,
    )
    want = np.zeros((2, ROWS))
    want[:, FITTED:] = np.cumsum(shares[:, None] ** np.arange(ROWS - FITTED), axis=1)
    got = effect.draws.transpose("chain", "draw", ...).values[0]
    np.testing.assert_allclose(got, want, atol=1e-5)  # scenarios share the noise of each step


def smooth(X, y=None):
    mean = numpyro.sample("mean", dist.Normal()) * X[:, 0]
    numpyro.sample("y", dist.MultivariateNormal(mean, jnp.asarray(NEAR)), obs=y)


def walking(X, y=None):
    size = jnp.exp(numpyro.sample("mean", dist.Normal()))
    numpyro.sample("y", dist.GaussianRandomWalk(size, num_steps=X.shape[0]), obs=y)


def apart(X, y=None):
    mean = numpyro.sample("mean", dist.Normal()) * X[:, 0]
    numpyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)


NEAR = np.exp(-0.05 * (TIME - TIME.T) ** 2) + 0.1 * np.eye(ROWS, dtype=np.float32)
SHIFTED = np.linalg.solve(NEAR[:FITTED, :FITTED], np.ones(FITTED)) @ NEAR[:FITTED, FITTED:]


@pytest.mark.parametrize(
    ("kernel", "later"), [(smooth, SHIFTED), (walking, np.ones(6)), (apart, np.zeros(6))]
)
def test_means_of_outcomes_that_are_one_event_follow_their_history(kernel, later):
    im = ImpactModel(kernel).set_posterior_sample({"mean": np.ones(2)})
    known = [{"condition": {"y": Y[:FITTED] + shift}} for shift in (0.0, 1.0)]
    effect = im.effect(TIME, *known, estimand="ite", progress=False)
    want = np.concatenate([np.ones(FITTED), later])
    got = effect.draws.mean(("chain", "draw"))
    np.testing.assert_allclose(got, want, atol=2e-3)


# ------------------------------------------------------------------ other kernels of series


def sums(X, y=None):
    """A walk without a scan, of one step less than rows."""
    with numpyro.plate("later", X.shape[0] - 1):
        steps = numpyro.sample("steps", dist.Normal(0.0, SPREAD))
    begin = numpyro.sample("begin", dist.Normal(0.0, SPREAD))
    path = begin + jnp.concatenate([jnp.zeros(1), jnp.cumsum(steps)])
    numpyro.sample("y", dist.Normal(path, SPREAD), obs=y)


def short_scan(X, y=None):
    """A scan over all rows but the first."""
    begin = numpyro.sample("begin", dist.Normal(0.0, SPREAD))

    def step(level, _):
        level = numpyro.sample("level", dist.Normal(level, SPREAD))
        return level, level

    _, later = scan(step, begin, None, length=X.shape[0] - 1)
    path = jnp.concatenate([begin[None], later])
    numpyro.sample("y", dist.Normal(path, SPREAD), obs=y)


def as_one_event(X, y=None):
    walk = dist.GaussianRandomWalk(SPREAD, num_steps=X.shape[0])
    numpyro.sample("y", dist.Normal(numpyro.sample("walk", walk), SPREAD), obs=y)


def correlated(X, y=None):
    time = jnp.arange(1.0, X.shape[0] + 1)
    law = dist.MultivariateNormal(0.0, SPREAD**2 * jnp.minimum(time[:, None], time))
    numpyro.sample("y", dist.Normal(numpyro.sample("walk", law), SPREAD), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [sums, short_scan, as_one_event, correlated])
def test_other_ways_to_write_a_path_go_on(kernel):
    im = ImpactModel(kernel, num_samples=DRAWS)
    im.fit_on_batch(TIME[:FITTED], Y[:FITTED], num_steps=1500, progress=False)
    got: Any = im.predict_on_batch(TIME, in_sample=False, condition={"y": Y[:FITTED]})
    agrees_with_the_dense_answer(got.predictions["y"])


def centered(X, y=None):
    x = X[:, 0] - X.mean()

    def step(level, seen):
        level = numpyro.sample("level", dist.Normal(level, SPREAD))
        numpyro.sample("y", dist.Normal(level + seen[0], SPREAD), obs=seen[1])
        return level, None

    scan(step, 0.0, (x, y), length=X.shape[0])


def backwards(X, y=None):
    def step(level, outcome):
        level = numpyro.sample("level", dist.Normal(level, SPREAD))
        numpyro.sample("y", dist.Normal(level, SPREAD), obs=outcome)
        return level, None

    scan(step, 0.0, y, length=X.shape[0], reverse=True)


@pytest.mark.parametrize(
    ("kernel", "reason"), [(centered, "other values in the first"), (backwards, "in reverse")]
)
def test_a_kernel_whose_rows_look_ahead_does_not_go_on(kernel, reason):
    im = ImpactModel(kernel).set_posterior_sample({"level": np.zeros((5, FITTED))})
    with pytest.raises(InputError, match=reason):
        im.predict_on_batch(TIME)


@pytest.mark.slow
def test_a_changed_argument_keeps_the_path_before_it():
    def kernel(X, push, y=None):
        def step(level, seen):
            level = numpyro.sample("level", dist.Normal(level + seen[0], 1e-3))
            numpyro.sample("y", dist.Normal(level, 1e-3), obs=seen[1])
            return level, None

        scan(step, 0.0, (push, y), length=X.shape[0])

    push = np.zeros(ROWS, np.float32)
    im = briefly_fitted(kernel, TIME, Y, push=push)
    now = push.copy()
    now[FITTED] = 7.0
    got: Any = im.predict_on_batch(TIME, push=now, return_sites="level")
    levels, known = got.posterior_predictive["level"].values[0], im.posterior["level"]
    np.testing.assert_array_equal(levels[:, :FITTED], known[:, :FITTED])
    after = np.repeat(known[:, FITTED - 1 : FITTED] + 7.0, ROWS - FITTED, axis=1)
    np.testing.assert_allclose(levels[:, FITTED:], after, atol=0.05)


def test_a_labelled_history_must_be_that_of_the_first_rows(fitted):
    got: Any = fitted.predict_on_batch(X, condition={"y": HISTORY[::-1]})
    assert (got.posterior_predictive["y"][..., :FITTED] == Y[:FITTED]).all()
    with pytest.raises(InputError, match="'y' and 'X' have row labels that differ"):
        fitted.predict_on_batch(X, condition={"y": HISTORY[1:]})
