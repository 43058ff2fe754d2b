"""What is compiled, how often, and that a kernel's surroundings are read at every call."""

import inspect
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel
from aimz.execution import plan_tiles, run_in_threads
from aimz.kernel import Inputs
from aimz.kernel import inspect as inspect_kernel
from aimz.programs import Bound, as_key, clear_programs, compile_program
from aimz.programs.tracing import num_compiled

SLOPE = 2.0
TABLE = np.array([1.0, 2.0])


def nested(x):
    return SLOPE * x


@jax.jit
def nested_jit(x):
    return SLOPE * x


def kernel(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    mu = numpyro.deterministic("mu", a + nested(X[:, 0]) + jnp.asarray(TABLE).sum())
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def kernel_with_jit(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    mu = numpyro.deterministic("mu", a + nested_jit(X[:, 0]))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


class CallableKernel:
    def __init__(self, slope):
        self.slope = slope

    def __call__(self, X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        mu = numpyro.deterministic("mu", a + self.slope * X[:, 0])
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def closure(slope):
    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        mu = numpyro.deterministic("mu", a + slope[0] * X[:, 0])
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    return kernel


def make(kernel):
    return ImpactModel(kernel).set_posterior_sample({"a": np.zeros(8)})


def rows(n):
    return np.linspace(-1, 1, n, dtype=np.float32)[:, None]


def mean(model, X):
    return model.predict_on_batch(X, return_datatree=False)["mu"][0]


class XlaCompiles:
    """Counts the executables that XLA makes."""

    def __enter__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def _listen(self, event, duration_secs, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self._listen)


def test_second_call_compiles_nothing():
    model = make(kernel)
    mean(model, rows(100))
    with XlaCompiles() as compiles:
        mean(model, rows(100) + 1)
        mean(model, rows(90))
    assert compiles.count == 0


def test_a_first_call_compiles_its_check_and_its_program_and_nothing_else():
    def fresh(X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Gumbel(X @ a, 1.25), obs=y)

    model = ImpactModel(fresh, 17).set_posterior_sample({"a": np.zeros((7, 3))})
    X = np.ones((11, 3), np.float32)
    clear_programs()
    jax.clear_caches()
    with XlaCompiles() as compiles:
        model.predict_on_batch(X)
    assert compiles.count == 2


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**32 - 1, -1, -(2**31), 2**40 + 3, 2**63 - 1])
def test_the_key_of_a_seed_is_that_of_jax(seed, bits):
    if bits == 32 and seed >= 2**32:
        pytest.skip("refused: beyond 32 bits")
    with jax.enable_x64(bits == 64):
        ours, theirs = as_key(seed), jax.random.key(seed)
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))


@pytest.mark.parametrize(
    ("option", "value"), [("jax_default_prng_impl", "rbg"), ("jax_random_seed_offset", 5)]
)
def test_the_key_of_a_seed_follows_the_settings_of_jax(option, value):
    before = jax.config.values[option]
    jax.config.update(option, value)
    try:
        ours, theirs = as_key(3), jax.random.key(3)
    finally:
        jax.config.update(option, before)
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))


@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_many_sizes_use_at_most_eight_programs(count):
    model = make(kernel)
    sizes = np.unique(np.geomspace(1, 5000, 75).astype(int))[-60:]
    sizes[0] = 1
    sizes = sizes[np.linspace(0, 59, count).astype(int)]
    before = num_compiled()
    for n in sizes:
        mean(model, rows(n))
    assert len(np.unique(sizes)) == count
    assert num_compiled() - before <= 8


def test_small_requests_of_any_size_use_one_program():
    model = make(kernel)
    before = num_compiled()
    values = {n: mean(model, rows(100)[:n]) for n in (100, 1, 7, 20, 64)}
    assert num_compiled() - before <= 1
    assert all(np.array_equal(v, values[100][:n]) for n, v in values.items())


def test_a_kernel_that_computes_much_for_a_row_is_not_padded_as_others_are():
    def net(X, y=None):
        w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([8]).to_event(1))
        hidden = jnp.tanh(X[:, None] * (jnp.ones((4096, 8)) @ w))
        numpyro.sample("y", dist.Normal(hidden.mean(1), 1.0), obs=y)

    def tile_rows(kernel, X, *, by_element=True):
        spec = inspect_kernel(kernel, Inputs({"X": X}, {}, 10, ("X",)), "y")
        return plan_tiles(spec, 10, 1, 1000, by_element=by_element).tile_rows

    X = rows(10)
    assert (tile_rows(kernel, X), tile_rows(net, X[:, 0])) == (64, 16)
    assert tile_rows(kernel, X, by_element=False) == 16


def test_changed_global_is_seen_and_compiles_nothing(monkeypatch):
    model, X = make(kernel), rows(20)
    np.testing.assert_allclose(mean(model, X), 2 * X[:, 0] + 3, rtol=1e-6)
    module = sys.modules[__name__]
    before = num_compiled()
    monkeypatch.setattr(module, "SLOPE", 5.0)
    monkeypatch.setattr(module, "TABLE", np.array([3.0, 4.0]))
    np.testing.assert_allclose(mean(model, X), 5 * X[:, 0] + 7, rtol=1e-6)
    assert num_compiled() == before


def test_changed_global_is_seen_inside_a_jitted_function(monkeypatch):
    model, X = make(kernel_with_jit), rows(20)
    np.testing.assert_allclose(mean(model, X), 2 * X[:, 0], rtol=1e-6)
    monkeypatch.setattr(sys.modules[__name__], "SLOPE", -1.0)
    np.testing.assert_allclose(mean(model, X), -X[:, 0], rtol=1e-6)


@jax.tree_util.register_pytree_node_class
class Drift:
    """A function of the user's that looks like a pytree of numbers, in a distribution of NumPyro's.

    It is jitted, and reads a global.
    """

    def __init__(self, slope):
        self.slope = slope

    def tree_flatten(self):
        return (self.slope,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)

    @jax.jit
    def __call__(self, x, t):
        return SLOPE * self.slope * jnp.ones_like(x), 1e-4 * jnp.ones_like(x)


def diffusion(X, y=None):
    steps = dist.EulerMaruyama(jnp.linspace(0.0, 1.0, 5), Drift(1.0), dist.Normal(0.0, 1e-4))
    w = numpyro.sample("w", steps)
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(w[-1] + 0 * X[:, 0], 1e-4), obs=y)


def test_changed_global_is_seen_inside_a_function_that_a_distribution_holds(monkeypatch):
    for slope in (2.0, 5.0):
        monkeypatch.setattr(sys.modules[__name__], "SLOPE", slope)
        drawn = ImpactModel(diffusion).sample_prior_predictive_on_batch(
            rows(6), num_samples=4, rng_key=0, return_datatree=False
        )
        np.testing.assert_allclose(drawn["y"], slope, atol=0.01)


def test_changed_global_table_in_place_is_seen(monkeypatch):
    model, X = make(kernel), rows(20)
    monkeypatch.setattr(sys.modules[__name__], "TABLE", np.array([1.0, 2.0]))
    mean(model, X)
    TABLE[0] = 11.0
    np.testing.assert_allclose(mean(model, X), 2 * X[:, 0] + 13, rtol=1e-6)


@pytest.mark.parametrize(
    "dtype", [np.float64, pytest.param(np.int64, marks=pytest.mark.slow), np.float32]
)
def test_an_array_that_changed_in_place_is_seen_though_jax_holds_a_copy(dtype):
    """JAX converts an array of another precision once, and takes that copy as long as it lives."""
    table = np.array([1, 2], dtype)
    held = jax.make_jaxpr(lambda x: x + table)(0.0)  # of the user's own, or of a trace that stayed

    def whole(X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        _, inner = jax.lax.scan(lambda c, x: (c, (x + table).sum()), 0.0, jnp.zeros(1))
        mu = numpyro.deterministic("mu", a + X[:, 0] + (X + table).sum(-1) + inner[0])
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    model, X = make(whole), rows(20)
    for values in ([1, 2], [4, 5], [1, 2]):
        table[:] = values
        np.testing.assert_allclose(mean(model, X), 3 * X[:, 0] + 2 * sum(values), rtol=1e-5)
    assert held is not None


def test_changed_attribute_is_seen_and_compiles_nothing():
    kernel = CallableKernel(1.0)
    model, X = make(kernel), rows(20)
    np.testing.assert_allclose(mean(model, X), X[:, 0], rtol=1e-6)
    before = num_compiled()
    kernel.slope = 4.0
    np.testing.assert_allclose(mean(model, X), 4 * X[:, 0], rtol=1e-6)
    assert num_compiled() == before


def test_changed_closure_is_seen_and_compiles_nothing():
    slope = [1.0]
    model, X = make(closure(slope)), rows(20)
    np.testing.assert_allclose(mean(model, X), X[:, 0], rtol=1e-6)
    before = num_compiled()
    slope[0] = -3.0
    np.testing.assert_allclose(mean(model, X), -3 * X[:, 0], rtol=1e-6)
    assert num_compiled() == before


def test_two_models_of_equal_structure_share_programs():
    X = rows(20)
    mean(make(closure([1.0])), X)
    before = num_compiled()
    mean(make(closure([2.0])), X)
    assert num_compiled() == before


def test_predict_crosses_at_most_six_of_our_frames(monkeypatch):
    depths = []
    call = Bound.__call__

    def frames():
        files = [frame.filename for frame in inspect.stack()]
        return sum(f"{os.sep}aimz{os.sep}" in name for name in files)

    def spy(self, *inputs):
        depths.append(frames() + 1)
        return call(self, *inputs)

    def thread_and_spy(*args, **kwargs):
        depths.append(frames() + 1)
        run_in_threads(*args, **kwargs)

    monkeypatch.setattr(Bound, "__call__", spy)
    monkeypatch.setattr("aimz.execution.tiles.run_in_threads", thread_and_spy)
    for count in (20, 2000):  # in the calling thread, and in others
        make(kernel).predict(rows(count), progress=False)
    assert len(depths) >= 4
    assert max(depths) <= 6


@pytest.mark.parametrize("value", [2, 3])
def test_changed_static_argument_is_another_program(value):
    def kernel(X, power=2, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        mu = numpyro.deterministic("mu", a + X[:, 0] ** power)
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    model, X = make(kernel), rows(20)
    got = model.predict_on_batch(X, power=value, return_datatree=False)["mu"][0]
    np.testing.assert_allclose(got, X[:, 0] ** value, rtol=1e-5, atol=1e-7)


def test_searching_a_sorted_table_compiles_once():
    def lookup(X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        place = jnp.searchsorted(jnp.array([0.0, 0.5]), X[:, 0])
        mu = numpyro.deterministic("mu", a + place)
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    model, X = make(lookup), rows(20)
    expected = np.searchsorted([0.0, 0.5], X[:, 0])
    np.testing.assert_array_equal(mean(model, X), expected)
    before = num_compiled()
    np.testing.assert_array_equal(mean(model, X), expected)
    assert num_compiled() == before


def test_constants_follow_the_precision_of_the_call():
    offset = np.linspace(0.0, 1.0, 3)
    rows = np.ones((4, 3))
    with jax.enable_x64(True):
        double = compile_program(lambda X: X - offset, rows)
        assert double(rows).dtype == np.float64
    single = compile_program(lambda X: X - offset, rows.astype(np.float32))
    np.testing.assert_allclose(single(rows.astype(np.float32)), rows - offset, rtol=1e-6)
