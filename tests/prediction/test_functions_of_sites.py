"""Functions of sites of whole numbers, judged by what they give and not by what they might."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

from aimz import ImpactModel, InputError

X = np.zeros((8, 1))
RATE = 3.0


def counted(X, y=None):
    rate = numpyro.sample("rate", dist.HalfNormal(1e4))
    with numpyro.plate("rows", len(X)):
        z = numpyro.sample("z", dist.Poisson(rate))
        numpyro.sample("y", dist.Normal(z.astype(float), 1.0), obs=y)


def of_counts(rate):
    draws = {"rate": np.full(50, rate), "z": np.full((50, 8), rate)}
    return ImpactModel(counted).set_posterior_sample(draws)


FUNCTIONS = {  # and what they give for 3
    "fourth power": (lambda z: z**4, 81.0),
    "seventeenth power": (lambda z: z**17, 129_140_163.0),
    "by NumPy": (lambda z: np.int64(7) * z, 21.0),
    "by where": (lambda z: jnp.where(z > 2, z - 1, 0), 2.0),
    "rounded": (lambda z: jnp.round(z * 1.5).astype(int), 4.0),
    "by a table": (lambda z: jnp.asarray(np.arange(10) * 5)[z], 15.0),
    "by numbers with a point": (lambda z: jnp.floor(z * np.array(2.5)).astype(int), 7.0),
    "through large numbers": (lambda z: (z * 2**40) // 2**38, 12.0),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_what_fits_is_set(case):
    function, want = FUNCTIONS[case]
    im = of_counts(RATE)

    effect = im.effect(X, {}, {"z": function}, progress=False)
    tree = im.predict_on_batch(X, intervention={"z": function}, return_sites=["z"])

    np.testing.assert_allclose(effect.averages.values[1], want, rtol=1e-6)
    np.testing.assert_array_equal(tree.posterior_predictive["z"].values, want)


@pytest.mark.parametrize("target", ["expectation", "prediction"])
@pytest.mark.parametrize("power", [3, -3])
def test_what_32_bits_cannot_hold_is_refused_where_it_comes(target, power):
    im = of_counts(3000.0)
    function = lambda z: jnp.sign(power) * z ** abs(power)

    with pytest.raises(InputError, match=r"function for site 'z' gives -?2.7e\+10 in row 0") as no:
        im.effect(X, {}, {"z": function}, target=target, progress=False)
    assert no.value.code == "cast-overflow"
    im.effect(X, {}, {"z": lambda z: z * 700}, target=target, progress=False)


def test_a_function_of_what_is_computed_is_held_to_the_same():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        size = numpyro.deterministic("size", jnp.full(len(X), 100_000))
        numpyro.sample("y", dist.Normal(b + size / 1e5, 1.0), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"b": np.zeros(20)})

    found = im.effect(X, {}, {"size": lambda n: n * 3}, progress=False)
    assert float(found.draws.mean()) == pytest.approx(2.0, rel=1e-6)
    with pytest.raises(InputError, match="function for site 'size' gives 1e\\+10"):
        im.predict_on_batch(X, intervention={"size": lambda n: n * n})


def of_a_table(X, y=None):
    """A count, a category that indexes a table, a truth value, a duration and shares."""
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("rows", len(X)):
        count = numpyro.sample("count", dist.Poisson(3.0))
        category = numpyro.sample("category", dist.Categorical(jnp.ones(3) / 3))
        flag = numpyro.sample("flag", dist.Bernoulli(0.5))
        wait = numpyro.sample("wait", dist.Exponential(1.0))
        shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(3)))
        mean = jnp.arange(3.0)[category] + count + flag + wait + shares[..., 0]
        numpyro.sample("y", dist.Normal(b + mean, 1.0), obs=y)


TABLE_DRAWS = {
    "b": np.zeros(4),
    "count": np.full((4, 8), 2),
    "category": np.full((4, 8), 2),
    "flag": np.ones((4, 8), int),
    "wait": np.full((4, 8), 0.5),
    "shares": np.full((4, 8, 3), 1 / 3),
}
OUTSIDE = {
    "below no count": ("count", lambda v: v - 3, "-1"),
    "beyond the table": ("category", lambda v: v + 1, "3"),
    "twice the truth": ("flag", lambda v: v + 1, "2"),
    "a negative wait": ("wait", lambda v: v - 1.0, "-0.5"),
    "shares of more": ("shares", lambda v: v * 2, "0.66"),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_what_a_site_cannot_take_is_refused_as_a_value_is(case):
    site, function, shown = OUTSIDE[case]
    im = ImpactModel(of_a_table).set_posterior_sample(TABLE_DRAWS)
    with pytest.raises(InputError, match=f"'{site}' gives {shown}.* in row 0, which the") as no:
        im.predict_on_batch(X, intervention={site: function})
    assert no.value.code == "site-support"


def test_the_border_of_a_support_is_taken_as_a_value_is():
    im = ImpactModel(of_a_table).set_posterior_sample(TABLE_DRAWS)
    settings = {"wait": lambda v: v - v, "count": lambda v: v * 0, "flag": lambda v: 1 - v}
    tree = im.predict_on_batch(X, intervention=settings, return_sites=list(settings))
    assert all(not tree.posterior_predictive[name].any() for name in settings)


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_a_function_in_a_scan_is_tried_at_the_bounds():
    def kernel(X, y=None):
        def step(last, seen):
            flag = numpyro.sample("flag", dist.Bernoulli(0.5))
            numpyro.sample("y", dist.Normal(flag.astype(float), 1.0), obs=seen)
            return last, None

        numpyro.sample("b", dist.Normal())
        scan(step, 0.0, y, length=len(X))

    draws = {"b": np.zeros(4), "flag": np.ones((4, 8), int)}
    im = ImpactModel(kernel).set_posterior_sample(draws)
    with pytest.raises(InputError, match="gives 2 where the site is 1, which it cannot") as no:
        im.predict_on_batch(X, intervention={"flag": lambda v: v + 1})
    assert no.value.code == "site-support"
    tree = im.predict_on_batch(X, intervention={"flag": lambda v: 1 - v}, return_sites="flag")
    assert not tree.posterior_predictive["flag"].any()


@pytest.mark.parametrize("function", [lambda z: np.maximum(z, 2), lambda z: z.no_such_thing])
def test_a_function_that_jax_cannot_run_is_named(function):
    with pytest.raises(InputError, match="function for site 'z' does not") as no:
        of_counts(RATE).predict_on_batch(X, intervention={"z": function})
    assert no.value.code == "site-function"
