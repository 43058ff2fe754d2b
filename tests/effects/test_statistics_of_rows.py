"""A statistic of the rows inside the kernel: a change of what it is taken of may cancel itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel, InputError, OutputWarning

ROWS = 12
X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
GROUP = np.arange(ROWS) % 3
quiet = pytest.mark.filterwarnings("ignore::aimz.AimzWarning")


def model(mean, draws=None) -> ImpactModel:
    """A model of the rows' mean, which is a function of X, the coefficient and the groups."""

    def kernel(X, group, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.sample("y", dist.Normal(mean(X, b, group), 1.0), obs=y)

    return ImpactModel(kernel).set_posterior_sample(draws or {"b": np.array([1.0, 2.0])})


def group_mean(x, group):
    ones = jnp.ones_like(x)
    return (jax.ops.segment_sum(x, group, 3) / jax.ops.segment_sum(ones, group, 3))[group]


CANCELS: dict[str, Any] = {
    "centred": lambda X, b, g: b * (X - X.mean(0))[:, 0],
    "a column centred": lambda X, b, g: b * (X[:, 0] - X[:, 0].mean()),
    "standardised": lambda X, b, g: b * (X[:, 0] - X[:, 0].mean()) / X[:, 0].std(),
    "shares": lambda X, b, g: b * (X[:, 0] / X[:, 0].sum()),
    "ranks": lambda X, b, g: b * jnp.argsort(jnp.argsort(X[:, 0])),
    "group centred": lambda X, b, g: b * (X[:, 0] - group_mean(X[:, 0], g)),
    "above the median": lambda X, b, g: b * (X[:, 0] > jnp.median(X[:, 0])),
    "weighted": lambda X, b, g: b * (X[:, 0] - (X[:, 1] @ X[:, 0]) / X[:, 1].sum()),
    "in 64 bits": lambda X, b, g: b * (X - jnp.mean(X.astype(float), axis=0))[:, 0],
}
ASKED: dict[str, Any] = {
    "effect": lambda im, now: im.effect(X, {}, {"X": now}, group=GROUP, progress=False),
    "two predictions": lambda im, now: im.estimate_effect(
        im.predict_on_batch(X, group=GROUP), im.predict_on_batch(now, group=GROUP)
    ),
    "two sets of arguments": lambda im, now: im.estimate_effect(
        args_baseline={"X": X, "group": GROUP},
        args_intervention={"X": now, "group": GROUP},
        on_batch=True,
    ),
}
SHIFTED = X + np.array([5, 0, 0], np.float32)


@quiet
@pytest.mark.parametrize("mean", CANCELS)
def test_a_change_that_its_own_statistic_cancels_is_refused(mean):
    with pytest.raises(InputError, match="'X', which the kernel sets against") as caught:
        ASKED["effect"](model(CANCELS[mean]), SHIFTED)
    assert caught.value.code == "statistic-cancels"


@quiet
@pytest.mark.parametrize("way", list(ASKED)[1:])
def test_so_it_is_between_two_predictions(way):
    with pytest.raises(InputError, match="which the kernel sets against"):
        ASKED[way](model(CANCELS["centred"]), SHIFTED)


@quiet
def test_a_site_that_is_measured_by_its_mean_is_not_set_in_an_effect():
    def kernel(X, y=None):
        with numpyro.plate("rows", len(X)):
            z = numpyro.sample("z", dist.Normal(X[:, 0], 1.0))
            numpyro.sample("y", dist.Normal(z - z.mean(), 1.0), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"z": np.zeros((2, ROWS))})

    with pytest.raises(InputError, match="changes 'z', which the kernel sets against"):
        im.effect(X, {"z": 0.0}, {"z": 4.0}, progress=False)
    low: Any = im.predict_on_batch(X, intervention={"z": 0.0})
    high: Any = im.predict_on_batch(X, intervention={"z": 4.0})
    with pytest.raises(InputError, match="differ in 'z'"):
        im.estimate_effect(low, high)


@quiet
def test_what_is_set_beside_the_statistic_has_its_effect():
    mean = CANCELS["a column centred"]
    moved = X + np.array([0, 3, 0], np.float32)
    im = model(lambda X, b, g: mean(X, b, g) + X[:, 1])

    for way in ("effect", "two sets of arguments"):
        answer = ASKED[way](im, moved)
        draws = answer.draws if hasattr(answer, "draws") else answer["posterior_predictive"]["y"]
        np.testing.assert_allclose(draws, 3.0, atol=1e-5)
    with pytest.raises(InputError, match="'X', which"):
        ASKED["effect"](im, SHIFTED)


#: Means of rows that depend on all rows and in which a statistic is an exposure: mean, slope.
EXPOSURES: dict[str, Any] = {
    "spill-over": (lambda X, b, g: b * X[:, 0] + 2.0 * b * X[:, 0].mean(), 3.0),
    "market share": (lambda X, b, g: b * (X[:, 0] + X[:, 0].mean()), 2.0),
    "peers": (lambda X, b, g: b * X[:, 0] - 0.5 * b * group_mean(X[:, 0], g), 0.5),
}


@pytest.mark.parametrize("mean", list(EXPOSURES)[:2])
def test_an_exposure_to_all_rows_has_its_effect_and_warns(mean):
    law, slope = EXPOSURES[mean]
    with (
        pytest.warns(match="predicted together"),
        pytest.warns(OutputWarning, match="computes a statistic over the rows"),
    ):
        answer = ASKED["effect"](model(law), SHIFTED)

    np.testing.assert_allclose(answer.draws.values.ravel(), 5 * slope * np.array([1, 2]), rtol=1e-4)


#: Means of rows that are set against a statistic of a function of the rows: no average can change.
CENTRED: dict[str, Any] = {
    "predictor": lambda eta: eta - eta.mean(),
    "shares": jax.nn.softmax,
}


@pytest.mark.parametrize("of", CENTRED)
def test_a_statistic_of_a_function_of_the_rows_is_said(of):
    im = model(lambda X, b, g: CENTRED[of](b * (X @ jnp.array([1.0, 2.0, 0.0]))))
    with (
        pytest.warns(match="predicted together"),
        pytest.warns(OutputWarning, match="may cancel a shift"),
    ):
        answer = ASKED["effect"](im, SHIFTED)
    np.testing.assert_allclose(answer.draws, 0.0, atol=1e-6)
