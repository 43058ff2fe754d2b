"""Quasi-Newton paths and the normals along them, in units of the curvature near zero.

Blackjax's Pathfinder (Zhang, Carpenter, Gelman & Vehtari, 2022); what is ours is its coordinates,
which raw covariates need, and the density of its draws on the scale of the kernel's latents.
"""

from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.optimizers.lbfgs import lbfgs_inverse_hessian_formula_1
from blackjax.vi.pathfinder import PathfinderState, approximate, sample

from aimz.errors import AimzError
from aimz.inference.vector.posterior import VectorPosterior, View
from aimz.inference.vector.search import curve_at, starts_of

__all__ = ["Paths", "Pool", "pool_of", "root_of_path", "walked_paths"]

_STEPS, _ELBO_DRAWS = 200, 20


class Paths(NamedTuple):
    """The best normal of each path: blackjax's factors by name, each (path, ...), and the units."""

    normals: dict[str, Any]
    unit: Any

    def best(self) -> int:
        """The path whose normal is nearest to the posterior."""
        return int(np.argmax(self.normals["elbo"]))


class Pool(NamedTuple):
    """Draws of all paths together, (draw, number), log p - log q, and their smoothed weights."""

    points: Any
    log_weights: Any
    smoothed: Any


def walked_paths(posterior: VectorPosterior, key: jax.Array, count: int) -> Paths:
    """Several paths, each from a start of its own.

    Raises
    ------
    AimzError
        "fit-diverged": no path has found a finite density.
    """
    with jax.enable_x64(True):
        keys = jax.random.split(key, (2, count))
    starts = posterior.call(starts_of, keys[0], has_prior=posterior.has_prior)
    _, _, hessian = posterior.call(curve_at, starts[0])
    size = np.abs(np.diag(hessian))
    if not np.all(np.isfinite(size)):
        size = np.ones_like(size)
    unit = 1.0 / np.sqrt(np.maximum(size, 1e-20 * size.max() + 1e-30))
    normals = posterior.call(_walked, keys[1], starts / unit, unit)
    if not np.any(np.isfinite(normals["elbo"])):
        msg = (
            "No path has found a finite log density. Check the outcome against its "
            "distribution's support and the priors' scales."
        )
        raise AimzError(msg, code="fit-diverged")
    return Paths(normals, unit)


def _walked(view: View, keys: jax.Array, starts: jax.Array, unit: jax.Array) -> dict[str, Any]:
    def density(scaled: jax.Array) -> Any:
        return view.density(scaled * unit)

    def one(key: jax.Array, start: jax.Array) -> Any:
        state, _ = approximate(key, density, start, _ELBO_DRAWS, maxiter=_STEPS)
        return state._asdict()

    found: dict[str, Any] = jax.vmap(one)(keys, starts)
    return found


def pool_of(posterior: VectorPosterior, key: jax.Array, paths: Paths, each: int) -> Pool:
    """So many draws of each path, and how the posterior weighs them."""
    count = len(paths.normals["elbo"])
    with jax.enable_x64(True):
        keys = jax.random.split(key, count)
    return Pool(*posterior.call(_pooled, keys, paths.normals, paths.unit, each=each))


def _pooled(
    view: View, keys: jax.Array, normals: dict[str, Any], unit: jax.Array, *, each: int
) -> tuple[Any, ...]:
    def one(key: jax.Array, normal: dict[str, Any]) -> tuple[Any, Any]:
        points, log_q = sample(key, PathfinderState(**normal), each)
        points = points * unit
        log_p = jax.lax.map(view.density, points, batch_size=20)
        return points, log_p - log_q + jnp.sum(jnp.log(unit))

    points, weights = jax.vmap(one)(keys, normals)
    is_path = jnp.isfinite(normals["elbo"])[:, None]
    weights = jnp.where(is_path & ~jnp.isnan(weights), weights, -jnp.inf).ravel()
    points = jnp.where(is_path[..., None], points, 0.0).reshape(-1, view.dim)
    smoothed, _ = blackjax.diagnostics.psis_weights(weights)
    return points, weights, jnp.where(jnp.isfinite(weights), smoothed, -jnp.inf)


def root_of_path(paths: Paths) -> tuple[np.ndarray, np.ndarray]:
    """Mean and lower root of the best path's covariance."""
    normal = {name: value[paths.best()] for name, value in paths.normals.items()}
    unit = paths.unit
    with jax.enable_x64(True):
        factors = (normal["alpha"], normal["beta"], normal["gamma"])
        covariance = np.asarray(lbfgs_inverse_hessian_formula_1(*map(jnp.asarray, factors)))
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        root = np.diag(np.sqrt(normal["alpha"]))
    return normal["position"] * unit, unit[:, None] * root
