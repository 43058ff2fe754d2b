"""A series whose state is integrated out, through every question that a model is asked."""

import sys
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st

from aimz import ImpactModel, InputError
from aimz.kernels import kalman

pytestmark = pytest.mark.filterwarnings("ignore:Rows are predicted together")

STEPS, KNOWN = 16, 10
X = np.sin(np.arange(STEPS, dtype=np.float32))[:, None]
Y = np.random.default_rng(2).normal(2.0, 1.0, STEPS)
# The level's first value has standard deviation 3, its steps 0.4, and the noise 0.5.
COVER = 9 + 0.16 * np.minimum.outer(np.arange(STEPS), np.arange(STEPS)) + 0.25 * np.eye(STEPS)


def level(X: Any, y: Any = None, parallel: bool = False) -> None:
    step = numpyro.sample("step", dist.LogNormal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal())
    law: Any = {
        "transition": [[1.0]],
        "noise": [step],
        "observe": [1.0],
        "scale": 0.5,
        "spread": 3.0,
    }
    kalman("y", b * X[:, 0], **law, obs=y, parallel=parallel)


@pytest.fixture(scope="module")
def im() -> ImpactModel:
    draws = {"step": np.full(2000, 0.4), "b": np.full(2000, 1.5)}
    return ImpactModel(level).set_posterior_sample(draws)


MEAN = 1.5 * X[:, 0]


def given(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of all values given some of `Y`."""
    gain = np.linalg.solve(COVER[np.ix_(known, known)], COVER[known])
    mean = MEAN + gain.T @ (Y - MEAN)[known]
    return mean, np.sqrt(np.maximum(np.diag(COVER) - (gain * COVER[known]).sum(0), 0.0))


def test_a_history_is_held_and_goes_on(im):
    tree = im.predict_on_batch(X, condition={"y": Y[:KNOWN]}, in_sample=False)
    path = tree.predictions["y"].values[0]
    mean, sd = given(np.arange(KNOWN))
    np.testing.assert_array_equal(
        path[:, :KNOWN], np.broadcast_to(np.float32(Y[:KNOWN]), (2000, KNOWN))
    )
    np.testing.assert_allclose(path.mean(0)[KNOWN:], mean[KNOWN:], atol=0.1)
    np.testing.assert_allclose(path.std(0)[KNOWN:], sd[KNOWN:], rtol=0.1)


@pytest.mark.slow
def test_an_intervention_and_an_effect_given_a_history(im):
    known: Any = {"condition": {"y": Y[:KNOWN]}}
    effect = im.effect(X, known, {"b": 2.5, **known}, estimand="ite", progress=False)
    gain = np.linalg.solve(COVER[:KNOWN, :KNOWN], COVER[:KNOWN])
    want = X[:, 0] - gain.T @ X[:KNOWN, 0]
    got = effect.draws.mean(("chain", "draw")).values
    np.testing.assert_allclose(got[KNOWN:], want[KNOWN:], atol=1e-4)
    np.testing.assert_allclose(got[:KNOWN], 0.0, atol=1e-6)


@pytest.mark.parametrize(
    "hole", [pytest.param(None, id="whole", marks=pytest.mark.slow), pytest.param(3, id="hole")]
)
def test_densities_of_rows_add_up_and_rows_are_left_out(im, hole):
    y = Y.copy()
    options: Any = {"store": "memory", "progress": False}
    if hole is not None:
        y[hole] = np.nan
        options["missing"] = "mask"
    seen = np.flatnonzero(~np.isnan(y))
    densities = im.log_likelihood(X, y, **options).log_likelihood["y"]
    assert densities.sizes["obs"] == len(seen)
    cover = COVER[np.ix_(seen, seen)]
    joint = st.multivariate_normal(MEAN[seen], cover).logpdf(y[seen])
    assert float(densities.sum("obs")[0, 0]) == pytest.approx(joint, rel=1e-5)
    del options["store"]
    left_out = im.loo(X, y, **options)
    precision = np.linalg.inv(cover)
    pull, weight = precision @ (y - MEAN)[seen], np.diag(precision)
    alone = st.norm(y[seen] - pull / weight, weight**-0.5).logpdf(y[seen])
    np.testing.assert_allclose(left_out.elpd_i.values, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("transition", np.ones((2, 3))),
        ("transition", 1.0),
        ("noise", np.ones(3)),
        ("observe", np.ones((STEPS + 1, 2))),
        ("start", np.ones(3)),
        ("spread", np.ones((2, 3))),
    ],
)
def test_arrays_that_do_not_fit_are_refused(option, value):
    parts: Any = {"transition": np.eye(2), "noise": np.ones(2), "observe": np.ones(2), "scale": 1.0}
    with pytest.raises(InputError, match=f"{option}=|transition=") as caught:
        kalman("y", np.zeros(STEPS), **{**parts, option: value})
    assert caught.value.code == "series-shape"


def test_parallel_without_cuthbert_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuthbert", None)
    im = ImpactModel(level).set_posterior_sample({"step": np.ones(2), "b": np.ones(2)})
    with pytest.raises(InputError, match="pip install") as caught:
        im.fit(X, Y, parallel=True, progress=False)
    assert caught.value.code == "timeseries-missing"


@pytest.mark.slow
def test_a_fit_finds_the_parameters_of_a_long_series():
    rng = np.random.default_rng(0)
    steps = 400
    rows = rng.normal(size=(steps, 1))
    y = 1.5 * rows[:, 0] + np.cumsum(0.4 * rng.normal(size=steps)) + 0.5 * rng.normal(size=steps)
    y[rng.random(steps) < 0.1] = np.nan
    im = ImpactModel(level).fit(rows, y, missing="mask", progress=False)
    for name, truth in (("step", 0.4), ("b", 1.5)):
        draws = im.posterior[name]
        assert abs(draws.mean() - truth) < 4 * draws.std() < 0.4
