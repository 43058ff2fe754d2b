"""The programs of nested sampling: points climb from contour to contour, by Blackjax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc import slice as slices
from blackjax.ns.base import NSInfo, StateWithLogLikelihood
from blackjax.ns.utils import log_weights
from jax.scipy.special import logsumexp

from aimz.errors import AimzError
from aimz.inference.vector.posterior import VectorPosterior, View

__all__ = ["Climb", "climbed", "moved_points", "sliced", "started", "stepped"]

_CHUNK = 10  # contours of one call of a program
_MOST_CONTOURS = 20_000
_PARTS = 10  # a tenth of the points is replaced at once
_LEFT = 1e-3  # share of the evidence that may still be in the live points
_FLAT = 0.05  # nats that parts them, at most: on a slope there may be a spike ahead
_VOLUMES = 200  # ways in which the volumes may have shrunk
_SIDE_BY_SIDE = 500  # points that are moved at once
_WIDTH = 3.0  # of a slice, in standard deviations


class Climb(NamedTuple):
    """What runs have found: log evidence and its error by volumes, each by run."""

    log_evidence: list[float]
    volume_sd: list[float]
    contours: int
    state: dict[str, Any]


def climbed(
    posterior: VectorPosterior,
    key: jax.Array,
    runs: int,
    live: int,
    moves: int,
    advance: Callable[..., Any],
) -> Climb:
    """Runs from the prior until hardly any evidence is left."""
    with jax.enable_x64(True):
        start_key, move_key, weigh_key = jax.random.split(key, 3)
        start_keys = jax.random.split(start_key, (runs, live))
    state = posterior.call(started, start_keys, moves=moves)
    if np.any(np.isneginf(np.max(state.particles.loglikelihood, axis=1))):
        msg = (
            "No point of the prior gives the data a positive density. Nothing can be weighed. "
            "Check the outcome against its distribution's support, and the priors."
        )
        raise AimzError(msg, code="fit-diverged")
    dead: list[Any] = []
    options = {"moves": moves, "delete": max(1, live // _PARTS), "count": _CHUNK}
    while len(dead) * _CHUNK < _MOST_CONTOURS:
        with jax.enable_x64(True):
            keys = jax.random.split(jax.random.fold_in(move_key, len(dead)), runs)
        state, particles = posterior.call(stepped, keys, state, **options)
        dead.append(particles)
        ahead = state.integrator.logZ_live - state.integrator.logZ
        advance(_CHUNK, f"left {float(np.exp(np.minimum(np.max(ahead), 0.0))):.2g}")
        if np.all(ahead < np.log(_LEFT)) and _is_flat(state.particles.loglikelihood):
            break
    else:
        msg = (
            f"After {_MOST_CONTOURS:,} contours there is evidence left: the prior hardly meets the "
            "data. Narrow the priors."
        )
        raise AimzError(msg, code="fit-diverged")
    parts = [*dead, state.particles]
    # (run, point, ...) of all that were ever there
    points = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)
    return _weighed(points, weigh_key, len(dead) * _CHUNK)


def _is_flat(log_likelihood: np.ndarray) -> bool:
    """Whether the live points of each run are on top: a slope may lead to a spike."""
    return bool(np.all(np.ptp(log_likelihood, axis=1) < _FLAT))


def _weighed(points: StateWithLogLikelihood, key: jax.Array, contours: int) -> Climb:
    """Evidence and weights of the points of each run, by volumes that may have been."""
    logs, errors, weights = [], [], []
    with jax.enable_x64(True):
        for run, run_key in enumerate(jax.random.split(key, len(points.loglikelihood))):
            one = jax.tree.map(lambda leaf, run=run: jnp.asarray(leaf[run]), points)
            by_way = log_weights(run_key, NSInfo(one, None), shape=_VOLUMES)
            totals = logsumexp(by_way, axis=0)
            logs.append(float(jnp.mean(totals)))
            errors.append(float(jnp.std(totals)))
            weights.append(np.asarray(logsumexp(by_way - totals, axis=1)))
    log_weight = np.array(weights)
    kept = log_weight > log_weight.max(axis=1, keepdims=True) - 30.0
    first = int(np.argmax(kept.any(axis=0)))  # the least likely come first, and weigh nothing
    state = {"points": points.position[:, first:], "log_weights": log_weight[:, first:]}
    return Climb(logs, errors, contours, state)


def moved_points(
    posterior: VectorPosterior, key: jax.Array, state: dict[str, Any], count: int, moves: int
) -> np.ndarray:
    """Points by their weights, moved by slices of the posterior; (run, draw, number)."""
    points, logs = state["points"], state["log_weights"]
    with jax.enable_x64(True):
        choose_key, move_key = jax.random.split(key)
        offsets = np.asarray(jax.random.uniform(choose_key, (len(points), 1)))
        keys = jax.random.split(move_key, (len(points), count))
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    sums = np.cumsum(weights, axis=1)
    places = (np.arange(count) + offsets) / count * sums[:, -1:]
    index = np.array([np.searchsorted(s, p) for s, p in zip(sums, places, strict=True)])
    index = np.minimum(index, points.shape[1] - 1)
    chosen = np.take_along_axis(points, index[..., None], axis=1)
    mean = np.einsum("rp,rpi->ri", weights, points)
    centred = points - mean[:, None]
    covariance = np.einsum("rp,rpi,rpj->ij", weights, centred, centred) / len(points)
    sd = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    correlation = covariance / np.outer(sd, sd) + 1e-9 * np.eye(len(sd))
    root = sd[:, None] * np.linalg.cholesky(correlation)
    with jax.enable_x64(True):
        order = jax.random.permutation(jax.random.fold_in(key, 1), count)
    moved: np.ndarray = posterior.call(sliced, keys, chosen[:, order], root, moves=moves)
    return moved


def started(view: View, keys: jax.Array, *, moves: int) -> Any:
    """Runs of points of the prior."""
    algorithm = _algorithm(view, moves, 1)
    draws = jax.vmap(jax.vmap(lambda key: view.pack(view.prior(key))))(keys)
    return jax.vmap(algorithm.init)(draws)


def stepped(
    view: View, keys: jax.Array, state: Any, *, moves: int, delete: int, count: int
) -> tuple[Any, Any]:
    """So many contours of each run: the new state, and the points that have died, by run."""
    algorithm = _algorithm(view, moves, delete)

    def run(key: jax.Array, state: Any) -> tuple[Any, Any]:
        def step(state: Any, key: jax.Array) -> tuple[Any, Any]:
            state, info = algorithm.step(key, state)
            return state, info.particles

        state, dead = jax.lax.scan(step, state, jax.random.split(key, count))
        return state, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), dead)

    found: tuple[Any, Any] = jax.vmap(run)(keys, state)
    return found


def sliced(view: View, keys: jax.Array, points: jax.Array, root: jax.Array, *, moves: int) -> Any:
    """Points moved so many times by slices along directions of the root's spread."""
    kernel = slices.build_kernel(interval=slices.stepping_out)

    def one(key: jax.Array, point: jax.Array) -> Any:
        def density(white: jax.Array) -> Any:
            return view.density(point + root @ white)

        def move(state: Any, key: jax.Array) -> tuple[Any, None]:
            return kernel(key, state, density, slices.direction_proposal(), _WIDTH)[0], None

        start = slices.init(jnp.zeros_like(point), density)
        state, _ = jax.lax.scan(move, start, jax.random.split(key, moves))
        return point + root @ state.position

    flat = (keys.reshape(-1), points.reshape(-1, view.dim))
    moved = jax.lax.map(lambda pair: one(*pair), flat, batch_size=_SIDE_BY_SIDE)
    return moved.reshape(points.shape)


def _algorithm(view: View, moves: int, delete: int) -> Any:
    """Nested slice sampling on the terms of a kernel."""

    def parts(vector: jax.Array) -> tuple[Any, Any]:
        terms = view.terms(view.unpack(vector))
        sums = {name: jnp.sum(term) for name, term in terms.items()}
        prior = sum((t for n, t in sums.items() if n not in view.tempered), jnp.zeros(()))
        likelihood = sum((t for n, t in sums.items() if n in view.tempered), jnp.zeros(()))
        return _or_impossible(prior), _or_impossible(likelihood)

    return blackjax.nss(
        lambda vector: parts(vector)[0],
        lambda vector: parts(vector)[1],
        num_inner_steps=moves,
        num_delete=delete,
    )


def _or_impossible(density: jax.Array) -> Any:
    return jnp.where(jnp.isnan(density), -jnp.inf, density)
