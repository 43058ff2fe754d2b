"""Functions of sites of whole numbers, judged by what they give and not by what they might."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

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
    "by where": (lambda z: jnp.where(z > 2, z - 5, 0), -2.0),
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
