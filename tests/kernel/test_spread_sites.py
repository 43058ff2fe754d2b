"""Sites that observe more values than their distribution has, in and out of plates."""

import contextlib

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import log_likelihood

from aimz import ImpactModel
from aimz.errors import InputError
from tests.support.tolerance import assert_close

ROWS, COLUMNS = 6, 3
RNG = np.random.default_rng(1)
X = RNG.normal(size=(ROWS, 2)).astype(np.float32)
DRAWS = {"a": np.array([0.5, -1.0], np.float32)}
SIZES = {"n": ROWS, "k": COLUMNS}


def kernel_of(own, event, plates):
    """A kernel with an outcome of a shape, in which "n" are the rows, inside plates by axis."""

    def kernel(X, y=None):
        sizes = {"n": X.shape[0], "k": COLUMNS}
        a = numpyro.sample("a", dist.Normal())
        mu = a + jnp.zeros([sizes.get(size, size) for size in own])
        if "n" in own:
            mu = mu + X[:, 0].reshape([-1, *[1] * (len(own) - 1 - own.index("n"))])
        with contextlib.ExitStack() as stack:
            for axis, size in plates.items():
                stack.enter_context(numpyro.plate(f"plate{-axis}", sizes[size], dim=axis))
            numpyro.sample("y", dist.Normal(mu, 2.0).to_event(event), obs=y)

    return kernel


# Shape of the distribution's parameters, its event dimensions, its plates, shape of the outcome.
SPREAD = [
    ((), 0, {}, ("n",)),
    ((1,), 0, {}, ("n",)),
    ((), 0, {}, ("n", 1)),
    ((1,), 0, {}, ("n", 1)),
    ((), 0, {}, ("n", "k")),
    ((1,), 0, {}, ("n", "k")),
    (("k",), 0, {}, ("n", "k")),
    ((1, "k"), 0, {}, ("n", "k")),
    (("n", 1), 0, {}, ("n", "k")),
    (("k",), 1, {}, ("n", "k")),
    (("n", 1), 0, {-2: "n"}, ("n", "k")),
    ((), 0, {-1: "k"}, ("n", "k")),
    (("k",), 0, {-1: "k"}, ("n", "k")),
    ((1, "k"), 1, {}, ("n", "k")),
]
SAME = [
    (("n",), 0, {}, ("n",)),
    ((), 0, {-1: "n"}, ("n",)),
    ((1,), 0, {-1: "n"}, ("n",)),
    (("n", 1), 0, {}, ("n", 1)),
    (("n", "k"), 0, {}, ("n", "k")),
    (("n", "k"), 1, {-1: "n"}, ("n", "k")),
]
REFUSED = [
    (("n",), 0, {}, ("n", 1)),
    ((), 0, {-1: "n"}, ("n", 1)),
    (("n", 1), 0, {}, ("n",)),
    (("n", 1), 0, {-2: "n"}, ("n",)),
    (("n",), 0, {}, ("n", "k")),
    (("n",), 0, {}, ("n", "n")),
    ((), 0, {-1: "n"}, ("n", "n")),
    (("n", "k"), 0, {}, ("n", 1)),
    (("k",), 1, {}, ("n",)),
]


def values_of(shape):
    return RNG.normal(size=[SIZES.get(size, size) for size in shape]).astype(np.float32)


@pytest.mark.parametrize(("own", "event", "plates", "shape"), SPREAD + SAME)
def test_outcomes_are_taken_as_numpyro_takes_them(own, event, plates, shape):
    kernel, y = kernel_of(own, event, plates), values_of(shape)
    im = ImpactModel(kernel).set_posterior_sample(DRAWS)
    ours = im.log_likelihood(X, y, store="memory", progress=False).log_likelihood["y"]
    theirs = log_likelihood(kernel, DRAWS, X=X, y=y)["y"]
    assert_close(ours.values[0], theirs)


@pytest.mark.parametrize(("own", "event", "plates", "shape"), REFUSED)
def test_outcomes_that_would_meet_each_other_are_refused(own, event, plates, shape):
    im = ImpactModel(kernel_of(own, event, plates)).set_posterior_sample(DRAWS)
    with pytest.raises(InputError) as caught:
        im.log_likelihood(X, values_of(shape), store="memory", progress=False)
    assert caught.value.code == "shape"


@pytest.mark.parametrize(
    ("own", "event", "plates", "shape"),
    [case for case in SPREAD if (case[0][:1] in ((), (1,)) and not case[2]) or case[1]],
)
def test_an_intercept_predicts_one_outcome_per_row(own, event, plates, shape):
    im = ImpactModel(kernel_of(own, event, plates)).set_posterior_sample(DRAWS)
    y = im.predict(X, store="memory", progress=False).posterior_predictive["y"].values[0]
    assert y.shape[:2] == (2, ROWS)
    assert len(np.unique(y)) == y.size  # drawn one by one
    assert abs(float((y - DRAWS["a"].reshape(2, *[1] * (y.ndim - 1))).mean())) < 5 * 2 / y.size**0.5
    few = im.predict(X[:2], store="memory", progress=False, rng_key=3)
    all_rows = im.predict(X, store="memory", progress=False, rng_key=3)
    np.testing.assert_array_equal(
        few.posterior_predictive["y"], all_rows.posterior_predictive["y"][:, :, :2]
    )


def intercept(X, C=None, G=None, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    c = numpyro.sample("c", dist.Exponential(2.0), obs=C)
    g = numpyro.sample("g", dist.Normal(), obs=G)
    numpyro.deterministic("load", mu + c + g.sum())
    numpyro.sample("y", dist.Normal(mu, 0.5), obs=y)


@pytest.fixture(scope="module")
def fitted():
    y, C = RNG.normal(3.0, 0.5, 400), RNG.exponential(0.5, 400)
    return ImpactModel(intercept, inference="laplace", num_samples=400).fit(
        np.zeros((400, 1)), y, C=C, G=np.ones(5), progress=False
    ), y


def test_an_intercept_without_a_plate_fits(fitted):
    model, y = fitted
    mu = np.asarray(model.posterior["mu"]).ravel()
    assert abs(mu.mean() - y.mean()) < 0.01
    assert abs(mu.std() / (0.5 / np.sqrt(400)) - 1) < 0.15


@pytest.mark.parametrize("given", [{}, {"C": None, "G": None}], ids=["left out", "None"])
def test_what_was_data_of_the_fit_is_drawn_per_row_where_it_is_not_given(fitted, given):
    tree = fitted[0].predict(
        np.zeros((50, 1)),
        **given,
        in_sample=False,
        return_sites=["c", "g", "load", "y"],
        store="memory",
        progress=False,
    )
    drawn = tree.predictions
    assert drawn["c"].shape == drawn["y"].shape == drawn["load"].shape == (1, 400, 50)
    assert drawn["g"].shape == (1, 400, 5)
    c = drawn["c"].values[0]
    assert abs(c.mean() - 0.5) < 4 * 0.5 / np.sqrt(c.size)
    assert abs(np.corrcoef(c[:, 0], c[:, 1])[0, 1]) < 4 / np.sqrt(400)


def test_a_spread_covariate_can_be_set_row_by_row(fitted):
    values = np.array([0.0, 1.0, 2.0, 3.0])
    ask = {"G": np.zeros(5), "return_sites": ["load"], "in_sample": False, "store": "memory"}

    def load(**setting):
        tree = fitted[0].predict(np.zeros((4, 1)), C=np.ones(4), progress=False, **ask, **setting)
        return tree.predictions["load"]

    with pytest.warns(match="no path leads there"):  # to the outcome, that is
        change = load(intervention={"c": values}) - load()
    np.testing.assert_allclose(change, np.broadcast_to(values - 1, (1, 400, 4)), atol=1e-5)
