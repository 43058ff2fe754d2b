"""Tiny kernels with a known verdict: do their rows interact?

Each record gives a valid NumPyro model of `X` and `y`, a function that makes its inputs, and
whether row i may depend on row j. `false_alarm` says why a kernel whose rows keep apart is called
coupled all the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import lax
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import flax_module, random_flax_module, random_nnx_module

__all__ = ["KERNELS", "Kernel"]

type Arrays = dict[str, Any]
NUM_LITERAL = 20


@dataclass(frozen=True)
class Kernel:
    """One kernel, its inputs, and its verdict."""

    name: str
    kernel: Callable[..., Any]
    make_inputs: Callable[[int, int], Arrays]
    coupled: bool = False
    false_alarm: str = ""
    by_outcome: bool = False  # rows interact through the outcome: only where it is given

    def is_called_coupled(self, *, with_outcome: bool = True) -> bool:
        """The verdict to expect."""
        if self.by_outcome and not with_outcome:
            return False
        return self.coupled or bool(self.false_alarm)


def _features(n: int, seed: int, width: int = 3) -> Arrays:
    rng = np.random.default_rng(seed)
    return {"X": rng.normal(size=(n, width)).astype(np.float32), "y": _normal(rng, n)}


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def _column(n: int, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {"X": _normal(rng, n), "y": _normal(rng, n)}


def _with(make: Callable[[int, int], Arrays], **extra: Callable[[np.random.Generator, int], Any]):
    """Inputs with more arguments, each made from a generator and the number of rows."""

    def make_inputs(n: int, seed: int) -> Arrays:
        rng = np.random.default_rng(seed + 1)
        return make(n, seed) | {name: build(rng, n) for name, build in extra.items()}

    return make_inputs


def _counts(n: int, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {"X": _normal(rng, n), "y": rng.poisson(1.5, n).astype(np.int32)}


def _classes(n: int, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {"X": _normal(rng, n, 3), "y": rng.integers(0, 3, n).astype(np.int32)}


def _groups(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 4, n).astype(np.int32)


def _weights(width: int = 3) -> Any:
    return numpyro.sample("b", dist.Normal(0.0, 1.0).expand([width]).to_event(1))


def _slope() -> Any:
    return numpyro.sample("b", dist.Normal(0.0, 1.0))


def _outcome(mu: Any, y: Any) -> None:
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


# ------------------------------------------------------------------ rows keep apart


def linear(X, y=None):
    mu = numpyro.deterministic("mu", X @ _weights())
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def batch_shape_only(X, y=None):
    _outcome(X @ _weights(), y)


def multi_output(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, 1.0).to_event(1), obs=y)


def multivariate(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))
    chol = numpyro.sample("chol", dist.LKJCholesky(2, 2.0))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.MultivariateNormal(X @ b, scale_tril=chol), obs=y)


def group_table(X, group, y=None):
    with numpyro.plate("groups", 4):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    mu = a[group] + X @ _weights()
    with numpyro.plate("rows", X.shape[0]):
        _outcome(mu, y)


def groups_as_many_as_rows(X, group, y=None):
    with numpyro.plate("groups", NUM_LITERAL):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", X.shape[0]):
        _outcome(a[group] + X, y)


def table_as_long_as_rows(X, group, table, y=None):
    _outcome(table[group] + _slope() * X, y)


def time_table(X, day, calendar, y=None):
    season = calendar @ numpyro.sample("season", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    _outcome(season[day] + X @ _weights(), y)


def neighbour_of_a_table(X, nearest, dose, y=None):
    """Reads other rows of `dose`, which therefore goes whole."""
    _outcome(_slope() * X + dose[nearest], y)


def one_hot(X, group, y=None):
    _outcome(jax.nn.one_hot(group, 3) @ _weights() + X[:, 0], y)


def two_way_table(X, group, day, y=None):
    cell = numpyro.sample("cell", dist.Normal(0.0, 1.0).expand([4, 4]).to_event(2))
    _outcome(cell[group, day] + X, y)


def row_softmax(X, y=None):
    _outcome(jax.nn.softmax(X * _weights(), axis=-1)[:, 0], y)


def row_median(X, y=None):
    _outcome(jnp.median(X * _weights(), axis=1), y)


def row_sort(X, y=None):
    _outcome(jnp.sort(X, axis=1) @ _weights(), y)


def row_cumsum(X, y=None):
    _outcome(jnp.cumsum(X * _weights(), axis=1)[:, -1], y)


def row_top_k(X, y=None):
    _outcome(lax.top_k(X * _weights(), 2)[0].sum(-1), y)


def row_argmax(X, y=None):
    _outcome(_weights()[jnp.argmax(X, axis=1)], y)


def where(X, y=None):
    b = _slope()
    _outcome(jnp.where(X > 0, b * X, jnp.exp(-X)), y)


def local_latents(X, y=None):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 2.0))
    with numpyro.plate("rows", X.shape[0]):
        z = numpyro.sample("z", dist.Gamma(2.0, rate))
        numpyro.sample("y", dist.Poisson(z * jnp.exp(0.1 * X)), obs=y)


def negative_binomial(X, y=None):
    size = numpyro.sample("size", dist.Gamma(2.0, 2.0))
    mean = jnp.exp(_slope() * X)
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.NegativeBinomial2(mean, size), obs=y)


def zero_inflated(X, y=None):
    gate = numpyro.sample("gate", dist.Beta(1.0, 3.0))
    rate = jnp.exp(_slope() * X)
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.ZeroInflatedPoisson(gate, rate), obs=y)


def mixture(X, y=None):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    means = jnp.stack([_slope() * X, X + 1.0], axis=-1)
    components = dist.Normal(means, 1.0)
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample(
            "y", dist.MixtureSameFamily(dist.Categorical(probs=weights), components), obs=y
        )


def ordered(X, y=None):
    cuts = numpyro.sample(
        "cuts",
        dist.TransformedDistribution(
            dist.Normal(0.0, 1.0).expand([2]).to_event(1),
            dist.transforms.OrderedTransform(),
        ),
    )
    mu = X @ _weights()
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.OrderedLogistic(mu, cuts), obs=y)


def categorical(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([3, 3]).to_event(2))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=X @ b), obs=y)


def masked_handler(X, y=None):
    mu = _slope() * X
    with numpyro.plate("rows", X.shape[0]), numpyro.handlers.mask(mask=X > -1.0):
        _outcome(mu, y)


def masked_distribution(X, keep, y=None):
    numpyro.sample("y", dist.Normal(_slope() * X, 1.0).mask(keep), obs=y)


def scaled(X, y=None):
    mu = _slope() * X
    with numpyro.plate("rows", X.shape[0]), numpyro.handlers.scale(scale=2.0):
        _outcome(mu, y)


def scaled_to_population(X, y=None):
    with numpyro.handlers.scale(scale=1000 / X.shape[0]):
        _outcome(_slope() * X, y)


def rows_inside(X, y=None):
    """The row plate at dim -1, replicates at dim -2: the row axis of `z` is 1."""
    rows = numpyro.plate("rows", X.shape[0], dim=-1)
    with numpyro.plate("replicates", 2, dim=-2), rows:
        z = numpyro.sample("z", dist.Normal(X, 1.0))
    with rows:
        _outcome(z.mean(0), y)


def rows_outside(X, y=None):
    with numpyro.plate("rows", X.shape[0], dim=-2), numpyro.plate("items", 2, dim=-1):
        z = numpyro.sample("z", dist.Normal(X[:, None], 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def plate_index(X, y=None):
    b = _weights()
    with numpyro.plate("rows", X.shape[0]) as i:
        _outcome(X[i] @ b, y)


def plate_index_of_columns(X, group, y=None):
    b = _weights()
    with numpyro.plate("rows", X.shape[0]) as i:
        _outcome((X * b)[i, group], y)


def subsampled_plate(X, y=None):
    """A minibatch that the kernel draws itself."""
    b = _weights()
    with numpyro.plate("rows", X.shape[0], subsample_size=5) as i:
        _outcome(X[i] @ b, None if y is None else y[i])


def subsample_statement(X, y=None):
    b = _weights()
    with numpyro.plate("rows", X.shape[0], subsample_size=5):
        x = numpyro.subsample(X, event_dim=1)
        _outcome(x @ b, None if y is None else numpyro.subsample(y, event_dim=0))


def population_plate(X, y=None):
    """Each call is a minibatch of a known population."""
    mu = _slope() * X
    with numpyro.plate("rows", 1000, subsample_size=X.shape[0]):
        _outcome(mu, y)


def literal_plate(X, y=None):
    with numpyro.plate("rows", NUM_LITERAL):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        _outcome(z + X, y)


def layers(X, y=None):
    weights = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([3, 3, 3]).to_event(3))
    hidden, _ = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), X, weights)
    _outcome(hidden.sum(-1), y)


def fixed_loop(X, y=None):
    _outcome(lax.fori_loop(0, 3, lambda i, mu: 0.5 * mu + i, _slope() * X), y)


def lax_map(X, y=None):
    b = _weights()
    _outcome(lax.map(lambda row: jnp.sort(row) @ b, X), y)


def vmap_rows(X, y=None):
    b = _weights()
    _outcome(jax.vmap(lambda row: jnp.linalg.norm(jnp.outer(row, b)))(X), y)


def vmap_solve(X, y=None):
    b = _weights()
    solve = jax.vmap(lambda row: jnp.linalg.solve(jnp.eye(3) + jnp.outer(row, row), b)[0])
    _outcome(solve(X), y)


def vmap_cholesky(X, y=None):
    b = _weights()
    chol = jax.vmap(lambda row: jnp.linalg.cholesky(jnp.eye(3) + jnp.outer(row, row)))(X)
    _outcome((chol @ b).sum(-1), y)


def global_branch(X, y=None):
    b = _slope()
    _outcome(lax.cond(b > 0, lambda x: b * x, lambda x: x - 1.0, X), y)


def take_along(X, group, y=None):
    chosen = jnp.take_along_axis(X * _weights(), group[:, None] % 3, axis=1)
    _outcome(chosen[:, 0], y)


def batched_take(X, group, y=None):
    _outcome(jax.vmap(lambda row, g: row[g])(X * _weights(), group % 3), y)


def column_update(X, y=None):
    _outcome(X.at[:, 0].set(jnp.exp(X[:, 1])) @ _weights(), y)


def knots(X, y=None):
    edges = jnp.array([-1.0, 0.0, 1.0])
    steps = numpyro.sample("steps", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    _outcome(steps[jnp.searchsorted(edges, X)], y)


def interpolated(X, y=None):
    heights = numpyro.sample("heights", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
    _outcome(jnp.interp(X, jnp.linspace(-2.0, 2.0, 5), heights), y)


def row_convolution(X, y=None):
    """Each row is a short series."""
    lags = numpyro.sample("lags", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    _outcome(jax.vmap(lambda row: jnp.convolve(row, lags, mode="valid"))(X).sum(-1), y)


def row_spectrum(X, y=None):
    _outcome(_slope() * jnp.abs(jnp.fft.rfft(X, axis=1)).sum(-1), y)


def jitted_part(X, y=None):
    _outcome(jax.jit(lambda x, b: jnp.tanh(x @ b))(X, _weights()), y)


def factor_by_row(X, y=None):
    mu = _slope() * X
    if y is None:
        numpyro.deterministic("y", mu)
    else:
        numpyro.factor("log_lik", -0.5 * (y - mu) ** 2)


_LINEAR = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
_DENSE = nn.Dense(1)


def nnx_net(X, y=None):
    net = random_nnx_module("net", _LINEAR, prior=dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", X.shape[0]):
        _outcome(jnp.tanh(net(X))[:, 0], y)


def flax_net(X, y=None):
    net = random_flax_module("net", _DENSE, prior=dist.Normal(0.0, 1.0), input_shape=(3,))
    _outcome(net(X)[:, 0], y)


def flax_params(X, y=None):
    net = flax_module("net", _DENSE, input_shape=(3,))
    _outcome(net(X)[:, 0] + _slope(), y)


def global_param(X, y=None):
    scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
    numpyro.sample("y", dist.Normal(_slope() * X, scale), obs=y)


# ------------------------------------------------------------------ rows interact


def centred(X, y=None):
    _outcome((X - X.mean(0)) @ _weights(), y)


def standardised(X, y=None):
    _outcome(_slope() * X / X.std(), y)


def running_sum(X, y=None):
    _outcome(_slope() * jnp.cumsum(X), y)


def lagged(X, y=None):
    _outcome(_slope() * jnp.concatenate([jnp.zeros(1), X[:-1]]), y)


def lagged_outcome(X, y=None):
    before = jnp.zeros(X.shape[0]) if y is None else jnp.concatenate([jnp.zeros(1), y[:-1]])
    _outcome(_slope() * before + X, y)


def rolled(X, y=None):
    _outcome(_slope() * jnp.roll(X, 1), y)


def reversed_rows(X, y=None):
    _outcome(_slope() * X[::-1], y)


def ranked(X, y=None):
    _outcome(_slope() * jnp.argsort(jnp.argsort(X)) / 10.0, y)


def sorted_rows(X, y=None):
    _outcome(_slope() * jnp.sort(X), y)


def softmax_over_rows(X, y=None):
    _outcome(_slope() * jax.nn.softmax(X), y)


def minus_median(X, y=None):
    _outcome(_slope() * (X - jnp.median(X)), y)


def minus_maximum(X, y=None):
    _outcome(_slope() * (X - X.max()), y)


def row_share(X, y=None):
    """A mean written with the number of rows: no reduction keeps its rows apart."""
    _outcome(_slope() * X / X.shape[0], y)


def gram(X, y=None):
    _outcome((X @ X.T).sum(1) * _slope(), y)


def outer_difference(X, y=None):
    _outcome(_slope() * jnp.abs(X[:, None] - X[None, :]).sum(1), y)


def convolved(X, y=None):
    _outcome(_slope() * jnp.convolve(X, jnp.ones(3), mode="same"), y)


def spectrum(X, y=None):
    _outcome(_slope() * jnp.fft.irfft(jnp.fft.rfft(X), n=X.shape[0]), y)


def group_sums(X, group, y=None):
    _outcome(_slope() * jax.ops.segment_sum(X, group, 4)[group], y)


def gaussian_process(X, y=None):
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    covariance = jnp.exp(-0.5 * ((X[:, None] - X[None, :]) / scale) ** 2)
    covariance += 0.1 * jnp.eye(X.shape[0])
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(X.shape[0]), covariance), obs=y)


def latent_process(X, y=None):
    covariance = jnp.exp(-0.5 * (X[:, None] - X[None, :]) ** 2) + 0.1 * jnp.eye(X.shape[0])
    noise = numpyro.sample("noise", dist.Normal(0.0, 1.0).expand([X.shape[0]]))
    _outcome(jnp.linalg.cholesky(covariance) @ noise, y)


def spill_over(X, neighbours, y=None):
    _outcome(_slope() * X + neighbours @ X, y)


def spill_over_of_a_latent(X, nearest, y=None):
    with numpyro.plate("rows", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(X, 1.0))
    _outcome(z[nearest], y)


def first_row(X, y=None):
    _outcome(_slope() * (X - X[0]), y)


def trend(X, y=None):
    _outcome(_slope() * jnp.arange(X.shape[0]) / 10.0 + X, y)


def numpy_trend(X, y=None):
    _outcome(_slope() * np.linspace(0.0, 1.0, X.shape[0]) + X, y)


def random_walk(X, y=None):
    steps = numpyro.sample("steps", dist.Normal(0.0, 1.0).expand([X.shape[0] - 1]).to_event(1))
    _outcome(jnp.concatenate([jnp.zeros(1), jnp.cumsum(steps)]) + X, y)


def gaussian_random_walk(X, y=None):
    level = numpyro.sample("level", dist.GaussianRandomWalk(0.1, num_steps=X.shape[0]))
    _outcome(level + X, y)


def autoregression(X, y=None):
    def step(previous, x):
        level = numpyro.sample("level", dist.Normal(0.5 * previous + x, 1.0))
        return level, level

    _, level = scan(step, 0.0, X)
    _outcome(level, y)


def recursion(X, y=None):
    decay = numpyro.sample("decay", dist.Beta(2.0, 2.0))
    _, level = lax.scan(lambda h, x: (decay * h + x, decay * h + x), 0.0, X)
    _outcome(level, y)


def carries_a_count(X, y=None):
    """A loop over rows whose step number reaches the values."""
    _, mu = lax.scan(lambda i, x: (i + 1, x * i), 0, X)
    _outcome(_slope() * mu, y)


def until_all_small(X, y=None):
    mu = lax.while_loop(lambda m: jnp.max(jnp.abs(m)) > 1.0, lambda m: 0.5 * m, X)
    _outcome(_slope() * mu, y)


def branch_on_rows(X, y=None):
    _outcome(_slope() * lax.cond(X.sum() > 0, lambda x: x, lambda x: -x, X), y)


def rows_as_event(X, y=None):
    numpyro.sample("y", dist.Normal(_slope() * X, 1.0).to_event(1), obs=y)


def rows_as_categories(X, y=None):
    """Every row picks one of the rows."""
    logits = _slope() * X
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=logits), obs=y)


def factor_of_all(X, y=None):
    mu = _slope() * X
    if y is None:
        numpyro.deterministic("y", mu)
    else:
        numpyro.factor("log_lik", -0.5 * ((y - mu) ** 2).sum())


def average_site(X, y=None):
    mu = numpyro.deterministic("mu", _slope() * X)
    numpyro.deterministic("average", mu.mean())
    _outcome(mu, y)


def prior_from_data(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0 / (0.1 + jnp.abs(X).mean())))
    _outcome(b * X, y)


def wrong_reshape(X, y=None):
    """Mixes rows and columns: the rows of the result are columns of the input's transpose."""
    _outcome(X.T.reshape(X.shape) @ _weights(), y)


def squeezed(X, y=None):
    """Loses its axis when there is one row."""
    _outcome(_slope() * jnp.squeeze(X), y)


def shuffled(X, order, y=None):
    _outcome(_slope() * X[order], y)


def weighted_by_position(X, y=None):
    _outcome(_slope() * X * jnp.where(jnp.arange(X.shape[0]) < 3, 1.0, 2.0), y)


def searched_among_rows(X, y=None):
    _outcome(_slope() * jnp.searchsorted(jnp.sort(X), X), y)


def batch_norm(X, y=None):
    z = (X - X.mean(0)) / (1.0 + X.var(0))
    _outcome(z @ _weights(), y)


# ------------------------------------------------------------------ false alarms


def newton_by_row(X, y=None):
    """Iterates until every row has converged; each row's answer is its own."""
    root = lax.while_loop(
        lambda m: jnp.any(jnp.abs(m**3 + m - X) > 1e-3),
        lambda m: m - (m**3 + m - X) / (3 * m**2 + 1),
        X,
    )
    _outcome(_slope() * root, y)


def noise_of_its_own(X, y=None):
    noise = jax.random.normal(numpyro.prng_key(), X.shape)
    _outcome(_slope() * X + 0.0 * noise, y)


def series_by_row(X, y=None):
    """Rows are independent series; the recursion runs over time, inside each row."""

    def step(level, x):
        with numpyro.plate("rows", X.shape[0]):
            level = numpyro.sample("level", dist.Normal(0.5 * level + x, 1.0))
        return level, None

    level, _ = scan(step, jnp.zeros(X.shape[0]), X.T)
    _outcome(level, y)


def flattened(X, y=None):
    flat = jnp.tanh(X.reshape(-1)).reshape(X.shape)
    _outcome(flat @ _weights(), y)


def there_and_back(X, y=None):
    _outcome(_slope() * X[::-1][::-1], y)


def known_missing(X, y=None):
    offset = numpyro.param("offset", jnp.zeros(X.shape[0]))
    _outcome(_slope() * X + offset, y)


def _two_outputs(n: int, seed: int) -> Arrays:
    made = _features(n, seed)
    return made | {"y": _normal(np.random.default_rng(seed + 2), n, 2)}


def _repeated(n: int, seed: int) -> Arrays:
    return _column(n, seed) | {"y": _normal(np.random.default_rng(seed + 2), n, 2)}


def _row_numbers(n: int, seed: int) -> Arrays:
    made = _column(n, seed)
    return made | {"y": np.random.default_rng(seed + 2).integers(0, n, n).astype(np.int32)}


_grouped = _with(_features, group=_groups)
_grouped_column = _with(_column, group=_groups)
_order = {"order": lambda rng, n: rng.permutation(n).astype(np.int32)}
_nearest = {"nearest": lambda rng, n: rng.integers(0, n, n).astype(np.int32)}

KERNELS: tuple[Kernel, ...] = (
    Kernel("linear", linear, _features),
    Kernel("batch_shape_only", batch_shape_only, _features),
    Kernel("multi_output", multi_output, _two_outputs),
    Kernel("multivariate", multivariate, _two_outputs),
    Kernel("group_table", group_table, _grouped),
    Kernel("groups_as_many_as_rows", groups_as_many_as_rows, _grouped_column),
    Kernel(
        "table_as_long_as_rows",
        table_as_long_as_rows,
        _with(_grouped_column, table=lambda rng, n: _normal(rng, n)),
    ),
    Kernel(
        "time_table",
        time_table,
        _with(
            _features,
            day=lambda rng, n: rng.integers(0, n, n).astype(np.int32),
            calendar=lambda rng, n: _normal(rng, n, 2),
        ),
    ),
    Kernel(
        "neighbour_of_a_table",
        neighbour_of_a_table,
        _with(_column, **_nearest, dose=lambda rng, n: _normal(rng, n)),
    ),
    Kernel("one_hot", one_hot, _grouped),
    Kernel("two_way_table", two_way_table, _with(_grouped_column, day=_groups)),
    Kernel("row_softmax", row_softmax, _features),
    Kernel("row_median", row_median, _features),
    Kernel("row_sort", row_sort, _features),
    Kernel("row_cumsum", row_cumsum, _features),
    Kernel("row_top_k", row_top_k, _features),
    Kernel("row_argmax", row_argmax, _features),
    Kernel("where", where, _column),
    Kernel("local_latents", local_latents, _counts),
    Kernel("negative_binomial", negative_binomial, _counts),
    Kernel("zero_inflated", zero_inflated, _counts),
    Kernel("mixture", mixture, _column),
    Kernel("ordered", ordered, _classes),
    Kernel("categorical", categorical, _classes),
    Kernel("masked_handler", masked_handler, _column),
    Kernel(
        "masked_distribution",
        masked_distribution,
        _with(_column, keep=lambda r, n: r.random(n) > 0.3),
    ),
    Kernel("scaled", scaled, _column),
    Kernel("scaled_to_population", scaled_to_population, _column),
    Kernel("rows_inside", rows_inside, _column),
    Kernel("rows_outside", rows_outside, _repeated),
    Kernel("plate_index", plate_index, _features),
    Kernel(
        "plate_index_of_columns",
        plate_index_of_columns,
        _with(_features, group=lambda rng, n: rng.integers(0, 3, n).astype(np.int32)),
    ),
    Kernel("subsampled_plate", subsampled_plate, _features),
    Kernel("subsample_statement", subsample_statement, _features),
    Kernel("population_plate", population_plate, _column),
    Kernel("literal_plate", literal_plate, _column),
    Kernel("layers", layers, _features),
    Kernel("fixed_loop", fixed_loop, _column),
    Kernel("lax_map", lax_map, _features),
    Kernel("vmap_rows", vmap_rows, _features),
    Kernel("vmap_solve", vmap_solve, _features),
    Kernel("vmap_cholesky", vmap_cholesky, _features),
    Kernel("global_branch", global_branch, _column),
    Kernel("take_along", take_along, _grouped),
    Kernel("batched_take", batched_take, _grouped),
    Kernel("column_update", column_update, _features),
    Kernel("knots", knots, _column),
    Kernel("interpolated", interpolated, _column),
    Kernel("row_convolution", row_convolution, _features),
    Kernel("row_spectrum", row_spectrum, _features),
    Kernel("jitted_part", jitted_part, _features),
    Kernel("factor_by_row", factor_by_row, _column),
    Kernel("nnx_net", nnx_net, _features),
    Kernel("flax_net", flax_net, _features),
    Kernel("flax_params", flax_params, _features),
    Kernel("global_param", global_param, _column),
    Kernel("centred", centred, _features, coupled=True),
    Kernel("standardised", standardised, _column, coupled=True),
    Kernel("running_sum", running_sum, _column, coupled=True),
    Kernel("lagged", lagged, _column, coupled=True),
    Kernel("lagged_outcome", lagged_outcome, _column, coupled=True, by_outcome=True),
    Kernel("rolled", rolled, _column, coupled=True),
    Kernel("reversed_rows", reversed_rows, _column, coupled=True),
    Kernel("ranked", ranked, _column, coupled=True),
    Kernel("sorted_rows", sorted_rows, _column, coupled=True),
    Kernel("softmax_over_rows", softmax_over_rows, _column, coupled=True),
    Kernel("minus_median", minus_median, _column, coupled=True),
    Kernel("minus_maximum", minus_maximum, _column, coupled=True),
    Kernel("row_share", row_share, _column, coupled=True),
    Kernel("gram", gram, _features, coupled=True),
    Kernel("outer_difference", outer_difference, _column, coupled=True),
    Kernel("convolved", convolved, _column, coupled=True),
    Kernel("spectrum", spectrum, _column, coupled=True),
    Kernel("group_sums", group_sums, _grouped_column, coupled=True),
    Kernel("gaussian_process", gaussian_process, _column, coupled=True),
    Kernel("latent_process", latent_process, _column, coupled=True),
    Kernel(
        "spill_over",
        spill_over,
        _with(_column, neighbours=lambda rng, n: _normal(rng, n, n)),
        coupled=True,
    ),
    Kernel(
        "spill_over_of_a_latent", spill_over_of_a_latent, _with(_column, **_nearest), coupled=True
    ),
    Kernel("first_row", first_row, _column, coupled=True),
    Kernel("trend", trend, _column, coupled=True),
    Kernel("numpy_trend", numpy_trend, _column, coupled=True),
    Kernel("random_walk", random_walk, _column, coupled=True),
    Kernel("gaussian_random_walk", gaussian_random_walk, _column, coupled=True),
    Kernel("autoregression", autoregression, _column, coupled=True),
    Kernel("recursion", recursion, _column, coupled=True),
    Kernel("carries_a_count", carries_a_count, _column, coupled=True),
    Kernel("until_all_small", until_all_small, _column, coupled=True),
    Kernel("branch_on_rows", branch_on_rows, _column, coupled=True),
    Kernel("rows_as_event", rows_as_event, _column, coupled=True),
    Kernel("rows_as_categories", rows_as_categories, _row_numbers, coupled=True),
    Kernel("factor_of_all", factor_of_all, _column, coupled=True, by_outcome=True),
    Kernel("average_site", average_site, _column, coupled=True),
    Kernel("prior_from_data", prior_from_data, _column, coupled=True),
    Kernel("wrong_reshape", wrong_reshape, _features, coupled=True),
    Kernel(
        "squeezed",
        squeezed,
        lambda n, s: _column(n, s) | {"X": _features(n, s, 1)["X"]},
        coupled=True,
    ),
    Kernel("shuffled", shuffled, _with(_column, **_order), coupled=True),
    Kernel("weighted_by_position", weighted_by_position, _column, coupled=True),
    Kernel("searched_among_rows", searched_among_rows, _column, coupled=True),
    Kernel("batch_norm", batch_norm, _features, coupled=True),
    Kernel(
        "newton_by_row",
        newton_by_row,
        _column,
        false_alarm="A loop that stops when all rows have converged looks at all rows.",
    ),
    Kernel(
        "noise_of_its_own",
        noise_of_its_own,
        _column,
        false_alarm="Noise drawn outside a site is an array in which the position counts.",
    ),
    Kernel(
        "series_by_row",
        series_by_row,
        _features,
        false_alarm="Sites inside NumPyro's scan are kept whole, whatever axis it runs along.",
    ),
    Kernel(
        "flattened",
        flattened,
        _features,
        false_alarm="A merged row axis is not followed until it is split again.",
    ),
    Kernel(
        "there_and_back",
        there_and_back,
        _column,
        false_alarm="A reversed row axis is not followed until it is reversed again.",
    ),
    Kernel(
        "known_missing",
        known_missing,
        _column,
        false_alarm="A parameter with one value per row belongs to the fitted rows.",
    ),
)
