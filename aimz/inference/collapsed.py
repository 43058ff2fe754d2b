"""Ready-made kernels whose mean is a sum of normal latents: these are integrated out, exactly.

Given the spreads and the noise, a few numbers, the posterior of all other latents is normal, and
its integral is known. The few are drawn by importance sampling from a t distribution that was
moved to where they are (adaptive importance sampling: Cappé et al., 2004), the others given them.
The kernel's own density at the draws says whether its mean is such a sum, and Pareto smoothing
whether the weights can be relied on; where not, there is no fit, and other engines take over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from scipy import special

from aimz.arrays import Seed
from aimz.inference import health
from aimz.inference.binding import check_draws
from aimz.inference.engine import Draws, Fit, Problem, Settings
from aimz.inference.linear import generator
from aimz.inference.vector import VectorPosterior, View
from aimz.kernels import OutcomeUnits
from aimz.libraries import stats
from aimz.programs import as_key

__all__ = ["collapsed_draws", "collapsed_fit", "is_collapsible"]

_FEW = 8  # numbers that are drawn by weights
_MANY = 640  # numbers that are integrated out: a matrix of them is inverted at each point
_BATCH, _AT_ONCE = 256, 16
_ROUNDS, _SETTLED = 30, 3
_POOL = 4096
_MOVES = 2  # of a place that left the tails to few points
_NOTHING = 500.0  # nats below the largest weight
_FREEDOM = 3.0
_LEAST_ESS = 400.0
_ROUNDING = 1e-3  # nats


def is_collapsible(problem: Problem) -> bool:
    """Whether the kernel says that its mean is a sum of latents."""
    kernel: object = problem.kernel
    is_sum = isinstance(kernel, OutcomeUnits) and kernel.family == "normal"
    return is_sum and not any(problem.spec[name].discrete for name in problem.spec.latents)


def collapsed_fit(rng_key: Seed, problem: Problem, settings: Settings) -> Fit | None:
    """A fit whose draws are the posterior's own; None where that cannot be said of them."""
    posterior = VectorPosterior("collapsed", problem, as_key(rng_key))
    split = _Split(posterior)
    if not 0 < len(split.few) <= _FEW or not 0 < len(split.many) <= _MANY:
        return None
    rng = generator(rng_key)
    place = _found(split, rng)
    if place is None:
        return None
    count = settings.num_samples or 1000
    pool = _weighed(split, rng, place, count)
    for _ in range(_MOVES):
        if pool is None or pool.k_hat <= health.k_limit(_pool_of(count)):
            break
        place = _place_of(pool.points, pool.weights)  # of more draws than it was found by
        pool = _weighed(split, rng, place, count)
    if pool is None:
        return None
    points, told = _drawn(split, rng, pool, count)
    judged = (told["k_hat"], -told["ess_min"], told["error"])
    if not all(at <= limit for at, limit in zip(judged, _limits(count), strict=True)):
        return None
    draws = posterior.draws(points[None])
    check_draws(problem.spec.latents, draws, "collapsed")
    told.pop("error")
    notes = [f"{len(split.many)} latents were integrated out, {len(split.few)} weighted."]
    attrs = {"engine": "collapsed", "verdict": "good", **told, "notes": notes}
    state = {"loc": place[0], "root": place[1], "params": posterior.params}
    return Fit(draws, {}, {}, attrs, state, posterior.params)


def collapsed_draws(rng_key: Seed, problem: Problem, fit: Fit, num_samples: int) -> Draws:
    """More draws of such a fit, (1, draw, ...), of new weights."""
    state = fit.state
    posterior = VectorPosterior("collapsed", problem, as_key(rng_key), state["params"])
    split, rng = _Split(posterior), generator(rng_key)
    pool = _weighed(split, rng, (state["loc"], state["root"]), num_samples)
    assert pool is not None  # noqa: S101  # the fit had one from there
    return posterior.draws(_drawn(split, rng, pool, num_samples)[0][None])


def _limits(count: int) -> tuple[float, float, float]:
    return health.k_limit(_pool_of(count)), -_LEAST_ESS, _ROUNDING


def _pool_of(count: int) -> int:
    return -(-max(_POOL, 2 * count) // _BATCH) * _BATCH


class _Split:
    """The posterior, with the places of the few numbers in its vector, and those of the many."""

    def __init__(self, posterior: VectorPosterior) -> None:
        kernel: Any = posterior.problem.kernel
        names = [name.split("[")[0] for name in posterior.names]
        is_summed = np.isin(names, kernel.summed)
        self.posterior = posterior
        self.few, self.many = np.flatnonzero(~is_summed), np.flatnonzero(is_summed)
        start = np.zeros(len(names))
        self.shape = posterior.call(_shape_of, start, self.many)
        self._program: Any = None

    def log_marginals(self, points: np.ndarray) -> np.ndarray:
        """Log densities of the few, (point,), the many integrated out."""
        return self.completed(points, np.zeros((len(points), len(self.many))))[0]

    def completed(self, points: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
        """The same; whole vectors, the many drawn given the few; how far their density is off."""
        beside = (self.few, self.many, self.shape)
        parts = []
        with jax.enable_x64(True):
            for first in range(0, len(points), _BATCH):
                size = len(points[first : first + _BATCH])
                pad = ((0, _BATCH - size), (0, 0))
                pair = [np.pad(a[first : first + _BATCH], pad, "edge") for a in (points, noise)]
                if self._program is None:
                    self._program = self.posterior.program(_completed, *pair, *beside)
                parts.append([np.asarray(a)[:size] for a in self._program(*pair, *beside)])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


type _Place = tuple[np.ndarray, np.ndarray]


def _found(split: _Split, rng: np.random.Generator) -> _Place | None:
    """Where the few are and how far they spread: rounds of weights, weakened while few count."""
    dim = len(split.few)
    loc, root = np.full(dim, -1.0), 2.0 * np.eye(dim)
    settled = 0
    for _ in range(_ROUNDS):
        points, log_q = _of_t(rng, loc, root, _BATCH)
        logs = split.log_marginals(points) - log_q
        logs = np.where(np.isfinite(logs), logs, -np.inf)
        if not np.isfinite(logs).any():
            return None
        power = _power_of(logs, _BATCH / 4)
        loc, root = _place_of(points, special.softmax(_weakened(logs, power)))
        settled += power == 1.0
        if settled == _SETTLED:
            return loc, root
    return None


def _place_of(points: np.ndarray, weights: np.ndarray) -> _Place:
    """Mean of weighted points, and the root of their covariance."""
    loc = weights @ points
    moved = points - loc
    cover = (weights * moved.T) @ moved + 1e-10 * np.eye(len(loc))
    return loc, np.linalg.cholesky(cover)


def _weakened(logs: np.ndarray, power: float) -> np.ndarray:
    """Logarithms of powers of weights; what is impossible stays so, even in the power 0."""
    weakened = np.full_like(logs, -np.inf)
    np.multiply(power, logs, out=weakened, where=np.isfinite(logs))
    return weakened


def _power_of(logs: np.ndarray, least: float) -> float:
    """The largest power of weights, at most 1, that leaves so many to count."""

    def counts(power: float) -> bool:
        weights = special.softmax(power * np.maximum(logs, -1e300))
        return bool(1.0 / (weights @ weights) >= least)

    if counts(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if counts(middle) else (low, middle)
    return low


def _of_t(
    rng: np.random.Generator, loc: np.ndarray, root: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws of a t distribution, and their log densities."""
    law = stats.multivariate_t(loc, root @ root.T, df=_FREEDOM, seed=rng)
    points = np.reshape(law.rvs(count), (count, len(loc)))
    return points, np.reshape(law.logpdf(points), count)


class _Pool(NamedTuple):
    """Points of the few, (point, number), their smoothed weights, and Pareto k."""

    points: np.ndarray
    weights: np.ndarray
    k_hat: float


def _weighed(split: _Split, rng: np.random.Generator, place: _Place, count: int) -> _Pool | None:
    """Points that the few may have, weighed; None where a density is no number."""
    points, log_q = _of_t(rng, *place, _pool_of(count))
    logs = split.log_marginals(points) - log_q
    if np.isnan(logs).any() or not np.isfinite(logs.max()):
        return None
    logs = np.maximum(logs, logs.max() - _NOTHING)  # the tail that matters is the other one
    return _Pool(points, special.softmax(health.smoothed(logs)), health.pareto_k(logs))


def _drawn(
    split: _Split, rng: np.random.Generator, pool: _Pool, count: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draws of the whole vector, (draw, number), and what is to be said of them."""
    at = (rng.random() + np.arange(count)) / count
    taken = np.minimum(np.searchsorted(np.cumsum(pool.weights), at), len(pool.weights) - 1)
    noise = rng.normal(size=(count, len(split.many)))
    _, vectors, error = split.completed(pool.points[rng.permutation(taken)], noise)
    return vectors, {
        "k_hat": pool.k_hat,
        "ess_min": float(1.0 / (pool.weights @ pool.weights)),
        "error": float(np.max(np.abs(error))),
    }


# ------------------------------------------------------------------ inside a trace
def _apart(view: View, vector: jax.Array) -> tuple[Any, Any]:
    """Log densities of the latents, and of the data."""
    terms = view.terms(view.unpack(vector))
    prior = sum(jnp.sum(terms[name]) for name in terms if name not in view.tempered)
    return prior, sum(jnp.sum(terms[name]) for name in view.tempered)


def _shape_of(view: View, start: jax.Array, many: jax.Array) -> tuple[Any, Any]:
    """Slope and curvature of the data's density along the many; others have a multiple of both."""

    def data(values: jax.Array) -> Any:
        return _apart(view, start.at[many].set(values))[1]

    zero = jnp.zeros(len(many))
    return jax.grad(data)(zero), jax.hessian(data)(zero)


def _normal_given(
    view: View, few: jax.Array, places: tuple[Any, Any], shape: tuple[Any, Any]
) -> tuple[Any, Any, Any, Callable[[jax.Array], Any]]:
    """Log integral over the many, their mean, the root of their precision, and the vector."""
    at_few, at_many = places
    slope, curve = shape
    zero = jnp.zeros(len(at_many))

    def whole(values: jax.Array) -> Any:
        return jnp.zeros(view.dim).at[at_few].set(few).at[at_many].set(values)

    def prior(values: jax.Array) -> Any:
        return _apart(view, whole(values))[0]

    def data(values: jax.Array) -> Any:
        return _apart(view, whole(values))[1]

    # The data's share of the curvature goes by the noise alone, and so does the slope at zero.
    there, ratio = jax.jvp(data, (zero,), (slope / jnp.sum(slope**2),))
    height, incline = jax.value_and_grad(prior)(zero)
    root = jnp.linalg.cholesky(-jax.hessian(prior)(zero) - ratio * curve)
    half = solve_triangular(root, incline + ratio * slope, lower=True)
    mean = solve_triangular(root.T, half, lower=False)
    volume = 0.5 * len(at_many) * jnp.log(2 * jnp.pi) - jnp.sum(jnp.log(jnp.diag(root)))
    return height + there + 0.5 * half @ half + volume, mean, root, whole


def _completed(
    view: View,
    points: jax.Array,
    noise: jax.Array,
    few: jax.Array,
    many: jax.Array,
    shape: tuple[Any, Any],
) -> Any:
    def one(pair: tuple[jax.Array, jax.Array]) -> Any:
        point, standard = pair
        value, mean, root, whole = _normal_given(view, point, (few, many), shape)
        vector = whole(mean + solve_triangular(root.T, standard, lower=False))
        log_normal = jnp.sum(jnp.log(jnp.diag(root))) - 0.5 * standard @ standard
        log_normal -= 0.5 * len(many) * jnp.log(2 * jnp.pi)
        error = sum(_apart(view, vector)) - value - log_normal
        return jnp.where(jnp.isnan(value), -jnp.inf, value), vector, error

    return jax.lax.map(one, (points, noise), batch_size=_AT_ONCE)
