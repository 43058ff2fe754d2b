"""Whole numbers that wrap around in a kernel's own arithmetic are refused before they are used."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel, InputError
from aimz.kernel import check_whole_numbers
from aimz.kernel.graph import graph_of
from aimz.kernel.whole_numbers import totals_of

ROWS = np.array([70_000, 3, 4, 5])
X = np.zeros((4, 2), np.float32)


def check(function, t):
    t = np.asarray(t, np.int32)
    totals = totals_of(graph_of(jax.make_jaxpr(function)(t), ["t"]))
    check_whole_numbers((), totals, {"t": t})


# What the kernel computes, and the number that int32 cannot hold.
WRAPS = {
    "square": (lambda t: t * t, 4.9e9),
    "power": (lambda t: t**2, 4.9e9),
    "jnp.power": (lambda t: jnp.power(t, 3), 3.43e14),
    "jnp.square": (lambda t: jnp.square(t), 4.9e9),
    "polynomial": (lambda t: jnp.polyval(jnp.array([1, 2, 3]), t), 4900140003),
    "constant": (lambda t: t * 40_000, 2.8e9),
    "negative": (lambda t: -t * t, -4.9e9),
    "then a sum": (lambda t: t * t + 1, 4900000001),
    "then a division": (lambda t: t * t / 100, 4.9e9),
    "then a whole division": (lambda t: t * t // 100, 4.9e9),
    "then a remainder": (lambda t: (t * t) % 97, 4.9e9),
    "then the greatest": (lambda t: jnp.maximum(t * t, 3), 4.9e9),
    "then a comparison": (lambda t: jnp.where(t * t > 10, 1.0, 0.0), 4.9e9),
    "then a choice": (lambda t: jnp.where(t > 50, t * t, 0), 4.9e9),
    "then an index": (lambda t: jnp.arange(5.0)[(t * t) % 5], 4.9e9),
    "sum": (lambda t: (t * 31_000).sum() * jnp.ones(4), 2170372000),
    "running sum": (lambda t: jnp.cumsum(t * 30_679), 2147530000),
    "inner product": (lambda t: (t @ t) * jnp.ones(4), 4900000050),
    "matrix": (lambda t: (jnp.stack([t, t], 1) @ jnp.array([[31_000], [2]]))[:, 0], 2170140000),
    "product": (lambda t: jnp.prod(t) * t[0] * jnp.ones(4), 2.94e11),
    "by segment": (
        lambda t: jax.ops.segment_sum(t * 31_000, jnp.zeros(4, int), 1)[0] * jnp.ones(4),
        2170372000,
    ),
    "of powers of two": (lambda t: (t // 70_000 * 65_536) ** 4, 2.0**64),
    "exponential": (lambda t: 2 ** (t // 2000), 2.0**35),
    "shift": (lambda t: t << 16, 70_000 * 2**16),
    "of each row": (lambda t: jax.vmap(lambda one: one * one)(t), 4.9e9),
    "compiled": (lambda t: jax.jit(lambda many: many * many)(t), 4.9e9),
    "of a number with a point": (lambda t: (t * 1e5).astype(int), 7e9),
    "narrowed": (lambda t: t.astype(jnp.int16), 7e4),
    "of places": (lambda t: t * 0.0 + (jnp.arange(4) * 50_000) ** 2, 2.5e9),
}


@pytest.mark.parametrize("name", WRAPS)
def test_a_number_that_would_wrap_around_is_refused(name):
    function, number = WRAPS[name]
    with pytest.raises(InputError, match="cannot hold") as caught:
        check(function, ROWS)
    assert caught.value.code == "cast-overflow"
    assert f"makes {number:.0f} of" in str(caught.value)
    if name != "of places":
        check(function, [3, 2, 1, 1])


FITS = {
    "made floating-point": lambda t: 1.0 * t * t,
    "an index": lambda t: jnp.arange(80_000.0)[t],
    "a sum that fits": lambda t: jnp.cumsum(t * 30_673),  # 2,147,478,076 of 2,147,483,647
    "right modulo 2**32": lambda t: t * 40_000 - t * 39_999,
    "low bits": lambda t: (t * 1_103_515_245 + 12_345) & 0x7FFF,
    "a hash": lambda t: (((t ^ (t >> 16)) * 0x45D9F3B) & 0xFF) * 1.0,
    "unsigned": lambda t: (t.astype(jnp.uint32) * jnp.uint32(2_654_435_761)) % 97 * 1.0,
    "not chosen": lambda t: jnp.where(t < 1000, t * t, 0),
    "limited before": lambda t: jnp.clip(t, 0, 9) ** 3,
    "parts": lambda t: (t % 1000) * (t // 1000),
    "mean": lambda t: t.mean() * jnp.ones(4),
    "one-hot": lambda t: jax.nn.one_hot(t % 3, 3)[:, 0],
    "a seed": lambda t: jax.random.normal(jax.random.fold_in(jax.random.key(0), t[0]), (4,)),
}


@pytest.mark.parametrize("name", FITS)
def test_what_fits_or_is_meant_to_wrap_is_taken(name):
    check(FITS[name], ROWS)


def squares(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * (t * t), 1.0), obs=y)


SMALL, Y = np.array([1, 2, 3, 4]), np.zeros(4)
ASKED = {
    "predict": lambda im: im.predict(X, t=ROWS, progress=False),
    "predict_on_batch": lambda im: im.predict_on_batch(X, t=ROWS),
    "log_likelihood": lambda im: im.log_likelihood(X, Y, t=ROWS, progress=False),
    "score": lambda im: im.score(X, Y, t=ROWS),
    "effect": lambda im: im.effect(X, {"t": SMALL}, {"t": ROWS}, t=SMALL, progress=False),
    "effect of a number": lambda im: im.effect(X, {"t": 1}, {"t": 70_000}, t=SMALL, progress=False),
    "effect of a function": lambda im: im.effect(
        X, {}, {"t": lambda t: t * 70_000}, t=SMALL, progress=False
    ),
    "estimate_effect": lambda im: im.estimate_effect(
        args_baseline={"X": X, "t": SMALL}, args_intervention={"X": X, "t": ROWS}
    ),
    "fit": lambda im: im.fit(X, Y, t=ROWS, progress=False),
    "fit_on_batch": lambda im: im.fit_on_batch(X, Y, t=ROWS, progress=False),
    "train_on_batch": lambda im: im.train_on_batch(X, Y, t=ROWS),
    "sample_prior_predictive": lambda im: im.sample_prior_predictive(X, t=ROWS),
}


@pytest.mark.parametrize("method", ASKED)
def test_every_method_refuses_it(method):
    im = ImpactModel(squares).set_posterior_sample({"b": np.ones(2)})
    with pytest.raises(InputError, match="makes 4900000000 of 't'"):
        ASKED[method](im)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i8"])
def test_narrow_numbers_do_not_wrap_around(dtype):
    im = ImpactModel(squares).set_posterior_sample({"b": np.ones(2)})
    t = np.array([100, 3, 4, 5], dtype)
    effect = im.effect(X, {"t": 0}, {"t": lambda t: t}, t=t, progress=False)
    assert np.array_equal(effect.summary()["mean"], [10_050 / 4])
