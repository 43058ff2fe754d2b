"""Whole numbers that wrap around in a kernel's own arithmetic are refused before they are used."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st

from aimz import ImpactModel, InputError
from aimz.kernel import check_whole_numbers
from aimz.kernel.graph import graph_of
from aimz.kernel.whole_numbers import totals_of
from aimz.prediction import problem_of

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


# ------------------------------------------------------------------ single precision
DAYS = np.array([20_230_101, 20_230_102, 20_230_130, 20_230_131])  # 32 bits round the odd ones
ROUNDED = {
    "times a number": lambda t: t * 1.0,
    "made floating-point": lambda t: t.astype(float),
    "divided": lambda t: t / 100,
    "logarithm": lambda t: jnp.log(t),
    "inner product": lambda t: t @ jnp.ones(4),
    "matrix": lambda t: jnp.stack([t, t % 7], 1) @ jnp.ones(2),
    "chosen": lambda t: jnp.where(t > 3, t, 0.5),
    "mean": lambda t: t - t.mean(),
    "in columns": lambda t: (t[None, :] * 1.0)[0],
    "row by row": lambda t: jax.vmap(lambda one: one * 0.5)(t),
    "compiled": lambda t: jax.jit(lambda many: many * 0.5)(t),
    "of a sum": lambda t: (t + 1) * 1.0,
    "step by step": lambda t: jax.lax.scan(lambda c, one: (c + one * 0.5, c), 0.0, t)[1],
    "in a branch": lambda t: jax.lax.cond(t[0] > 3, lambda a: a * 1.0, lambda a: a * 0.5, t),
    "in a loop": lambda t: jax.lax.fori_loop(0, 3, lambda _, c: c + t * 0.5, jnp.zeros(4)),
}
HELD = {
    "less a constant": lambda t: (t - 20_230_000) * 1.0,
    "less the least": lambda t: (t - t.min()) * 1.0,
    "differences": lambda t: jnp.diff(t, prepend=t[:1]) * 1.0,
    "parts": lambda t: (t % 100) * 1.0 + (t // 100) * 1.0,
    "compared": lambda t: (t > 20_230_101) * 1.0 + (t[:, None] == t[None, :]).sum(1) * 1.0,
    "one-hot": lambda t: jax.nn.one_hot(t % 100, 40) @ jnp.ones(40),
    "of a wide range": lambda t: jnp.where(t % 2 == 0, t, 3) * 1.0,
    "the same in all rows": lambda t: (t // 100 * 101) * 1.0,
    "in 16 bits, as is asked": lambda t: t.astype(jnp.bfloat16),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_a_number_whose_differences_32_bits_round_away_is_refused(name):
    with pytest.raises(InputError, match="'t' holds large numbers") as caught:
        check(ROUNDED[name], DAYS)
    assert caught.value.code == "cast-precision"
    check(ROUNDED[name], DAYS - 20_230_000)


@pytest.mark.parametrize("name", HELD)
def test_a_number_that_32_bits_hold_well_enough_is_taken(name):
    check(HELD[name], DAYS)


def line(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * t, 1.0), obs=y)


@pytest.mark.parametrize("method", ASKED)
def test_every_method_refuses_differences_that_are_lost(method, monkeypatch):
    monkeypatch.setitem(globals(), "ROWS", DAYS)
    im = ImpactModel(line).set_posterior_sample({"b": np.ones(2)})
    if method == "effect of a number":
        baseline, intervention = {"t": DAYS[0] - 1}, {"t": DAYS[0]}
        with pytest.raises(InputError) as caught:
            im.effect(X, baseline, intervention, t=SMALL, progress=False)
    elif method == "effect of a function":
        with pytest.raises(InputError) as caught:
            im.effect(X, {}, {"t": lambda t: t + 20_230_000}, t=SMALL, progress=False)
    else:
        with pytest.raises(InputError) as caught:
            ASKED[method](im)
    assert caught.value.code == "cast-precision"


LAWS = {
    "Normal": (lambda b: dist.Normal(b, 1.0), True),
    "StudentT": (lambda b: dist.StudentT(3.0, b, 1.0), True),
    "LogNormal": (lambda b: dist.LogNormal(b, 1.0), True),
    "Gamma": (lambda b: dist.Gamma(2.0, jnp.exp(-b)), True),
    "location": (lambda b: dist.Normal(jnp.asarray(DAYS), 1.0 + b**2), False),
    "Poisson": (lambda b: dist.Poisson(jnp.exp(b)), None),
    "NegativeBinomial2": (lambda b: dist.NegativeBinomial2(jnp.exp(b), 3.0), None),
    "Binomial": (lambda b: dist.Binomial(2**30, logits=b), None),
}


@pytest.mark.parametrize("law", LAWS)
def test_a_fit_refuses_outcomes_whose_digits_its_density_would_lose(law):
    make, is_of_outcome = LAWS[law]

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 20.0))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", make(b), obs=y)

    def problem(y):
        return problem_of(kernel, ("X", "y"), {"X": X, "y": y}, None, "raise")

    if is_of_outcome is None:  # counts have a spread of their own, beside which rounding is nothing
        assert problem(DAYS)
        return
    for y in [DAYS, np.full(4, 20_230_101)] if is_of_outcome else [SMALL]:
        with pytest.raises(InputError) as caught:
            problem(y)
        assert caught.value.code == "cast-precision"


def test_densities_of_large_whole_numbers_keep_all_digits():
    im = ImpactModel(line).set_posterior_sample({"b": np.array([1.0, 20_230_100.0])})
    tree = im.log_likelihood(X, DAYS, t=np.ones(4, int), progress=False)
    exact = st.norm([[1.0], [20_230_100.0]]).logpdf(DAYS)
    np.testing.assert_allclose(tree.log_likelihood["y"][0], exact, rtol=1e-12)


def test_rows_that_are_read_by_the_piece_are_judged_together():
    t = np.repeat(DAYS, 1000)
    batches = [{"X": np.zeros((1000, 2)), "t": part} for part in np.split(t, 4)]
    im = ImpactModel(line).set_posterior_sample({"b": np.ones(2)})
    with pytest.raises(InputError) as caught:
        im.predict(batches, progress=False)
    assert caught.value.code == "cast-precision"
    assert im.predict(batches[:1], progress=False)
