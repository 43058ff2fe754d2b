"""A row's random choices are its own: no neighbour, padding or place in an array changes them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.extend.random import threefry_2x32
from numpyro.contrib.control_flow import scan

from aimz import ImpactModel, PerformanceWarning
from aimz.execution import call as calls
from aimz.execution import plan
from aimz.programs import Draw, call_words, clear_programs, pair_words, site_key
from aimz.programs.keys import fold_words
from tests.support.outcomes import OUTCOMES

DRAWS = 4
FLOAT_ULPS = 4


def rows(n, seed=0):
    return np.random.default_rng(seed).uniform(0.2, 3.0, (n, 1)).astype(np.float32)


# Of each way to draw one family is fast.
FAST = (
    "Bernoulli_logits",
    "Categorical_logits",
    "Gamma",
    "MultivariateNormal_tril",
    "Normal",
    "Uniform",
)
# Families of a group are sites of one kernel, and so one program.
GROUPS = [FAST, *itertools.batched((name for name in OUTCOMES if name not in FAST), 8)]
FAMILIES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in OUTCOMES]


def kernel_of(names):
    """Many families at once: even sites under a plate, odd ones with rows as batch shape."""

    def kernel(X, y=None):
        w = numpyro.sample("w", dist.Normal())
        values = X[:, 0] + 0 * w
        for number, name in enumerate(names):
            if number % 2:
                numpyro.sample(name, OUTCOMES[name](values))
            else:
                with numpyro.plate(f"{name}_plate", X.shape[0]):
                    numpyro.sample(name, OUTCOMES[name](values))
        numpyro.sample("y", dist.Normal(values, 1.0), obs=y)

    return kernel


@functools.cache
def draws_of(sites, case):
    """Draws of all rows, of fewer, of more, or with other parameters in the later rows."""
    model = ImpactModel(kernel_of(sites)).set_posterior_sample({"w": np.zeros(DRAWS)})
    X = rows(20)
    cases = {
        "base": X,
        "changed": np.concatenate([X[:10], rows(10, seed=1)]),
        "fewer": X[:16],
        "padded": np.concatenate([X, rows(12, seed=2)]),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SMALL_BYTES", 1)  # programs of several sizes
        return model.predict_on_batch(
            cases[case],
            rng_key=jax.random.key(7),
            return_sites=sites,
            in_sample=False,
            return_datatree=False,
        )


def group_of(name):
    return next(group for group in GROUPS if name in group)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("case", "keep"), [("changed", 10), ("fewer", 16), ("padded", 20)])
@pytest.mark.slow
def test_draws_of_a_row_are_its_own(name, case, keep):
    expected, got = (draws_of(group_of(name), c)[name][:, :keep] for c in ("base", case))
    if np.issubdtype(expected.dtype, np.integer):
        np.testing.assert_array_equal(got, expected)
    else:
        # A few ulp of the site's scale: a program of another size may fuse differently.
        scale = np.maximum(np.abs(expected), np.float32(1e-3) * np.abs(expected).max())
        assert np.all(np.abs(got - expected) <= FLOAT_ULPS * 4 * np.finfo(np.float32).eps * scale)


@pytest.mark.parametrize("name", [p for p in FAMILIES if p.values != ("Delta",)])
def test_draws_differ_between_rows_and_draws(name):
    values = draws_of(group_of(name), "base")[name]
    assert len(np.unique(values.reshape(DRAWS, 20, -1)[..., 0])) > 1
    assert not np.array_equal(values[0], values[1])


def test_bits_are_those_of_threefry():
    key = site_key(jnp.array([1, 2], jnp.uint32), "a", 5)
    words = jax.random.key_data(key)
    bits = jax.random.bits(key, (3,), np.uint32)
    expected = [threefry_2x32(words[:2], jnp.array([5, i], jnp.uint32))[0] for i in range(3)]
    np.testing.assert_array_equal(bits, np.array(expected))


def test_the_halves_of_a_key_are_those_of_a_block():
    words = jnp.array([1, 2], jnp.uint32)
    keys = [site_key(words, "a", 5, half) for half in (0, 1)]
    block = threefry_2x32(jax.random.key_data(keys[0])[:2], jnp.array([5, 0], jnp.uint32))
    np.testing.assert_array_equal([jax.random.bits(key) for key in keys], block)


def test_what_takes_more_than_half_a_block_differs_between_halves():
    words = jnp.array([1, 2], jnp.uint32)
    keys = [site_key(words, "a", 5, half) for half in (0, 1)]
    with jax.enable_x64(True):
        wide = [int(jax.random.bits(key, (), np.uint64)) for key in keys]
    assert len({number >> 32 for number in wide} | {number % 2**32 for number in wide}) == 4
    for derive in (lambda key: jax.random.fold_in(key, 3), lambda key: jax.random.split(key)[1]):
        first, second = (set(jax.random.key_data(derive(key))[:2].tolist()) for key in keys)
        assert not first & second


def by_draw(words, draw):
    return fold_words(words, 0, draw), 0


def by_pair(words, draw):
    return pair_words(words, Draw.numbered(draw).pair), Draw.numbered(draw).half


@pytest.mark.parametrize("words_of", [by_draw, by_pair])
def test_row_keys_draw_uniforms_without_correlation(words_of):
    words = call_words(jax.random.key(0))

    def uniforms(draw):
        own, half = words_of(words, draw)
        number = jax.vmap(lambda row: jax.random.uniform(site_key(own, "y", row, half)))
        return number(jnp.arange(400))

    values = np.asarray(jax.vmap(uniforms)(jnp.arange(400, dtype=np.uint32)))
    assert abs(values.mean() - 0.5) < 4 * np.sqrt(1 / 12 / values.size)
    assert abs(values.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / values.size)
    correlations = np.corrcoef(values[:40])[np.triu_indices(40, 1)]
    assert np.max(np.abs(correlations)) < 5 / np.sqrt(400)


def coin(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        c = numpyro.sample("c", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Bernoulli(logits=b * X[:, 0] + c), obs=y)


@pytest.mark.parametrize(
    ("chains", "draws", "block", "in_pairs"),
    [(1, 516, 516, True), (2, 516, 516, True), (1, 516, 258, True), (2, 514, 129, False)],
)
def test_two_draws_in_one_loop_are_those_that_each_would_be(
    monkeypatch, chains, draws, block, in_pairs
):
    posterior = {"b": np.linspace(-1.0, 1.0, draws, dtype=np.float32)}
    model = ImpactModel(coin).set_posterior_sample(posterior, num_chains=chains)
    compiled = []

    def recorded(call, plan):
        ready = calls.compile_call(call, plan)
        compiled.append((plan.tile_draws, ready.in_pairs))
        return ready

    def predict(pairs_from):
        monkeypatch.setattr(calls, "PAIRED_VALUES", pairs_from)
        clear_programs()  # what is ready was decided by the other number
        drawn = model.predict_on_batch(
            rows(48), rng_key=3, in_sample=False, return_datatree=False, return_sites=["c", "y"]
        )
        return np.stack([drawn["c"], drawn["y"]])

    monkeypatch.setattr("aimz.prediction.one_call.compile_call", recorded)
    if block < draws:
        monkeypatch.setattr(plan, "TILE_BYTES", 8 * plan.MIN_ROWS * block)
    single, paired = predict(2**40), predict(2**10)
    assert compiled == [(block, False), (block, in_pairs)]
    assert paired.dtype == single.dtype == np.int32
    np.testing.assert_array_equal(paired, single)
    np.testing.assert_allclose(paired[0].mean(), 0.5, atol=5 * 0.5 / np.sqrt(paired[0].size))


def test_an_odd_number_of_draws_has_the_draws_of_an_even_one():
    draws = np.linspace(-1.0, 1.0, 8, dtype=np.float32)
    values = [
        ImpactModel(coin)
        .set_posterior_sample({"b": draws[:count]})
        .predict_on_batch(rows(16), rng_key=3, in_sample=False, return_datatree=False)["y"]
        for count in (7, 8)
    ]
    np.testing.assert_array_equal(values[0], values[1][:7])
    assert not np.array_equal(values[1][::2], values[1][1::2])


def test_sites_scans_and_prng_keys_never_share_noise():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.deterministic("k1", jax.random.normal(numpyro.prng_key()))
        numpyro.deterministic("k2", jax.random.normal(numpyro.prng_key()))
        for name in ("s1", "s2"):
            scan(
                lambda carry, _, name=name: (carry, numpyro.sample(name, dist.Normal())),
                0.0,
                None,
                length=3,
            )
        numpyro.sample("a1", dist.Normal())
        numpyro.sample("a2", dist.Normal())
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    with pytest.warns(PerformanceWarning, match="predicted together"):
        tree = ImpactModel(kernel).sample_prior_predictive_on_batch(
            rows(4),
            num_samples=3,
            return_sites=["b", "k1", "k2", "s1", "s2", "a1", "a2", "y"],
            return_datatree=False,
        )
    values = np.concatenate([np.ravel(value) for value in tree.values()])
    assert len(np.unique(values)) == values.size


def test_missing_global_latent_is_one_number_per_draw():
    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Normal())
        b = numpyro.sample("b", dist.Normal())
        numpyro.sample("y", dist.Normal(a + b * X[:, 0], 1.0), obs=y)
        numpyro.deterministic("mu", a + 0 * X[:, 0])

    model = ImpactModel(kernel).set_posterior_sample({"b": np.zeros(5)})
    with pytest.warns(UserWarning, match="holds no draws of a"):
        mu = model.predict_on_batch(rows(40), return_sites="mu", return_datatree=False)["mu"]
    assert np.all(mu == mu[:, :1])
    assert len(np.unique(mu)) == 5


@pytest.mark.parametrize(
    "name",
    [
        "Normal",
        "VonMises",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("GammaPoisson", "Poisson", "NegativeBinomial2", "Binomial_probs")
        ),
    ],
)
def test_rows_that_interact_keep_their_own_noise(name):
    def coupled(X, y=None):
        w = numpyro.sample("w", dist.Normal())
        values = X[:, 0] + 0 * w
        total = numpyro.deterministic("total", values.sum())
        numpyro.sample("y", OUTCOMES[name](values + 0 * total), obs=y)

    model = ImpactModel(coupled).set_posterior_sample({"w": np.zeros(DRAWS)})
    X = rows(20)
    changed = np.concatenate([X[:10], rows(10, seed=1)])
    with pytest.warns(PerformanceWarning, match="predicted together"):
        first, second = (
            model.predict_on_batch(x, rng_key=3, return_sites="y", return_datatree=False)["y"]
            for x in (X, changed)
        )
    np.testing.assert_array_equal(first[:, :10], second[:, :10])
    assert len(np.unique(first)) > 3
