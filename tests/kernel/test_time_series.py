"""Kernels that observe inside NumPyro's scan: fitted, predicted, scored, like any other kernel."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive, log_likelihood

from aimz import ImpactModel, InputError, KernelValidationError
from tests.support.series import SERIES, Series, level_given, local_level, made_of

pytestmark = pytest.mark.filterwarnings("ignore:Rows are predicted together")

ROWS, DRAWS = 12, 60
ALIKE = ("by_closure", "local_level", "either")  # to others, in the fast suite


def from_prior(series: Series, arguments: dict[str, Any]) -> dict[str, np.ndarray]:
    """Draws of the latents."""
    drawn = Predictive(series.kernel, num_samples=DRAWS)(jax.random.key(1), **arguments)
    return {name: np.asarray(drawn[name]) for name in series.latents}


@pytest.mark.parametrize(
    "series",
    [pytest.param(s, id=s.name, marks=pytest.mark.slow if s.name in ALIKE else ()) for s in SERIES],
)
def test_the_log_likelihood_and_the_score_are_those_of_numpyro(series):
    arguments, y = made_of(series, ROWS)
    arguments = {name: jnp.asarray(value) for name, value in arguments.items()}
    draws = from_prior(series, arguments)
    im = ImpactModel(series.kernel).set_posterior_sample(draws)
    got: Any = im.log_likelihood(**arguments, y=y, store="memory", progress=False)
    want = np.asarray(log_likelihood(series.kernel, draws, **arguments, y=jnp.asarray(y))["y"])
    np.testing.assert_allclose(got.log_likelihood["y"].values[0], want, rtol=1e-5, atol=1e-5)
    by_value = np.log(np.exp(want.astype(float)).mean(axis=0))
    by_row = by_value.sum(axis=0) if series.by_subject else by_value
    if not series.by_subject:
        assert im.score(**arguments, y=y) == pytest.approx(by_row.mean(), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_predictions_have_the_moments_of_numpyro(series):
    arguments, _ = made_of(series, ROWS)
    arguments = {name: jnp.asarray(value) for name, value in arguments.items()}
    count = 8000
    draws = {n: np.repeat(v[:1], count, 0) for n, v in from_prior(series, arguments).items()}
    im = ImpactModel(series.kernel).set_posterior_sample(draws)
    got = np.asarray(im.predict_on_batch(**arguments, return_datatree=False)["y"], float)
    fixed = {name: jnp.asarray(value) for name, value in draws.items()}
    drawn = Predictive(series.kernel, posterior_samples=fixed)(jax.random.key(1), **arguments)
    want = np.asarray(drawn["y"], float)
    error = want.std(0) * np.sqrt(2 / count)
    assert np.abs((got.mean(0) - want.mean(0)) / (error + 1e-9)).max() < 4.5
    np.testing.assert_allclose(got.std(0), want.std(0), rtol=0.08, atol=1e-6)


def ignoring(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    scan(lambda v, _: (numpyro.sample("y", dist.Normal(b * v, 1.0)), None), 0.0, X[:, 0])


def observing_another(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    scan(lambda v, x: (numpyro.sample("y", dist.Normal(b, 1.0), obs=x), None), 0.0, X[:, 0])


@pytest.mark.parametrize("kernel", [ignoring, observing_another])
def test_an_outcome_that_a_scan_does_not_observe_is_refused(kernel):
    with pytest.raises(KernelValidationError, match="does not observe argument 'y'"):
        ImpactModel(kernel).fit(np.ones((9, 1)), np.ones(9), progress=False)


def test_an_observation_that_would_mix_up_steps_is_refused():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))

        def step(carry, outcome):
            numpyro.sample("y", dist.Normal(b, 1.0), obs=outcome)
            return carry, None

        scan(step, 0.0, y, length=X.shape[0])

    with pytest.raises(InputError, match=r"shape \(\) in a step but observes .* shape \(9,\)"):
        ImpactModel(kernel).fit(np.ones((9, 1)), np.ones((9, 9)), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["svi", "nuts"])
def test_a_level_is_found_between_missing_outcomes(inference):
    y = np.cumsum(np.random.default_rng(0).normal(size=30) * 0.5).astype(np.float32)
    y[[3, 10, 11, 12, 29]] = np.nan
    im = ImpactModel(local_level, inference=inference, num_samples=1000)
    im.fit(np.zeros((30, 1)), y, missing="mask", progress=False)
    mean, covariance = level_given(y, 30)
    spread = np.sqrt(np.diag(covariance))
    levels = im.posterior["level"].reshape(-1, 30)
    assert np.abs((levels.mean(0) - mean) / spread).max() < 0.15
    np.testing.assert_allclose(levels.std(0), spread, rtol=0.1)


def test_missing_outcomes_that_later_steps_read_are_refused():
    series = next(s for s in SERIES if s.name == "autoregression")
    arguments, y = made_of(series, ROWS)
    y[3] = np.nan
    with pytest.raises(InputError, match=r"site 'mean' computes with them|'y' computes"):
        ImpactModel(series.kernel).fit(**arguments, y=y, missing="mask", progress=False)


# ------------------------------------------------------------------ what is set in a scan

PATH = np.linspace(-1.0, 2.0, ROWS)


def effect_by_row(im: ImpactModel, baseline: Any, intervention: Any, **arguments: Any) -> Any:
    effect = im.effect(
        baseline=baseline,
        intervention=intervention,
        estimand="ite",
        progress=False,
        **arguments,
    )
    return effect.draws


@pytest.mark.parametrize("name", ["local_level", "local_trend"])
def test_a_level_set_step_by_step_is_the_mean(name):
    series = next(s for s in SERIES if s.name == name)
    arguments, _ = made_of(series, ROWS)
    im = ImpactModel(series.kernel).set_posterior_sample(from_prior(series, arguments))
    got = effect_by_row(im, {"level": PATH}, {"level": PATH**2 + 1}, **arguments)
    want = np.broadcast_to(PATH**2 + 1 - PATH, (DRAWS, ROWS))
    np.testing.assert_allclose(got.transpose(..., "obs").values[0], want, atol=1e-5)


def test_what_is_computed_in_a_scan_is_set_there(autoregressive):
    im, X = autoregressive
    for setting, shift in ((PATH, 0.0), (lambda mean: mean + 1.0, 1.0)):
        want = [0.0, 0.0]
        for place in range(ROWS):
            natural = 0.6 * want[-1] + 0.3 * want[-2] + 1.0 + shift
            want.append(PATH[place] if shift == 0.0 else natural)
        got: Any = im.predict_on_batch(X, intervention={"mean": setting}, return_datatree=False)
        np.testing.assert_allclose(got["y"], np.broadcast_to(want[2:], got["y"].shape), atol=1e-3)


def test_an_outcome_set_in_a_scan_is_carried_on(autoregressive):
    im, X = autoregressive
    got: Any = im.predict_on_batch(X, intervention={"y": PATH}, return_datatree=False)
    last = np.concatenate([[0.0, 0.0], PATH])
    want = 0.6 * last[1:-1] + 0.3 * last[:-2] + 1.0
    np.testing.assert_allclose(got["mean"], np.broadcast_to(want, got["mean"].shape), atol=1e-4)


@pytest.fixture(scope="module")
def autoregressive() -> tuple[ImpactModel, np.ndarray]:
    series = next(s for s in SERIES if s.name == "autoregression")
    draws = {"first": np.full(3, 0.6), "second": np.full(3, 0.3), "noise": np.full(3, 1e-5)}
    return ImpactModel(series.kernel).set_posterior_sample(draws), np.zeros((ROWS, 1))


def test_a_condition_in_a_scan_is_held_step_by_step():
    im = ImpactModel(local_level).set_posterior_sample({"level": np.zeros((DRAWS, ROWS))})
    options: Any = {"return_sites": ["level", "y"], "return_datatree": False}
    got = im.predict_on_batch(np.zeros((ROWS, 1)), condition={"level": PATH * 100}, **options)
    np.testing.assert_allclose(got["level"], np.broadcast_to(PATH * 100, (DRAWS, ROWS)), rtol=1e-6)
    assert np.abs(got["y"] - got["level"]).max() < 4


def test_subjects_are_intervened_on_in_each_trial():
    series = next(s for s in SERIES if s.by_subject)
    arguments, _ = made_of(series, 20)
    im = ImpactModel(series.kernel).set_posterior_sample(from_prior(series, arguments))
    pull = np.random.default_rng(4).normal(size=(7, 20))
    got = effect_by_row(im, {"pull": 0.0}, {"pull": pull}, **arguments)
    share = 1 / (1 + np.exp(-pull)) - 0.5
    values = got.transpose("chain", "draw", "y_dim_0", "subjects").values[0]
    np.testing.assert_allclose(values, np.broadcast_to(share, values.shape), atol=1e-5)


def test_states_that_are_summed_out_go_on_as_they_are_told_to():
    """The forward algorithm: after outcomes that are known, with a chance to stay that is set."""
    kernel = next(s for s in SERIES if s.name == "hidden_markov").kernel
    draws = {"means": np.broadcast_to([-1.0, 2.0], (4000, 2)), "stay": np.full(4000, 0.8)}
    im = ImpactModel(kernel, rng_key=0).set_posterior_sample(draws)
    known, options = np.array([1.5, 2.5, 1.0, 2.2]), {"return_sites": "y", "return_datatree": False}
    for change, stay in (({}, 0.8), ({"stay": 0.98}, 0.98), ({"means": [3.0, -2.0]}, 0.8)):
        means, weights = np.array(change.get("means", [-1.0, 2.0])), np.array([0.5, 0.5])
        moves, want = np.array([[stay, 1 - stay], [1 - stay, stay]]), []
        for place in range(ROWS):
            weights = weights @ moves
            want.append(weights @ means)
            if place < len(known):
                weights = weights * np.exp(-0.5 * (known[place] - means) ** 2)
                weights = weights / weights.sum()
        held: Any = {"condition": {"y": known}, "intervention": change, **options}
        got: Any = im.predict_on_batch(np.zeros((ROWS, 1)), **held)
        later = got["y"][:, len(known) :]
        error = later.std(0) / np.sqrt(len(later))
        assert np.abs((later.mean(0) - want[len(known) :]) / error).max() < 4.0


def test_a_function_of_a_level_that_follows_from_itself_is_refused():
    im = ImpactModel(local_level).set_posterior_sample({"level": np.zeros((DRAWS, ROWS))})
    with pytest.raises(InputError, match="'level' is inside a scan and follows from its last step"):
        im.predict_on_batch(np.zeros((ROWS, 1)), intervention={"level": lambda v: v + 1})
