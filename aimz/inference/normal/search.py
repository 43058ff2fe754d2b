"""The search for a normal that fits a posterior: mode, curvature, natural gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
from jax import lax

from aimz.inference.normal.guide import (
    HUGE,
    INIT_SCALE,
    NO_RIVAL,
    OTHER_MODE,
    SAME_NATS,
    WIDE,
    slope_and_curve,
)

__all__ = ["find_mode", "find_normal", "find_possible", "plain_start"]


# Newton's steps, and dimensions times steps: each step decomposes a matrix.
_NEWTON_STEPS, _NEWTON_WORK = 100, 20_000
# Of natural gradients: values of a wide matrix are many, and average over themselves.
_NATURAL_STEPS, _WIDE_STEPS = 80, 40
_NATURAL_PARTICLES, _WIDE_PARTICLES = 8, 2
# Newton has arrived when the mode is this close, in posterior standard deviations.
_AT_MODE = 0.05
_FAR = 1e10
# Smallest eigenvalue, of a curvature with a unit diagonal, that still says something.
_FLAT = 1e-10
# Where each latent is tried in turn, on its unconstrained scale, and how often all of them are.
_TRIED, _ROUNDS = 16, 3
_TRIED_REACH = 8.0


def plain_start(loc: jax.Array, *, full: bool) -> dict[str, Any]:
    """A start that knows nothing of the posterior."""
    ones = jnp.full_like(loc, INIT_SCALE)
    return {"loc": loc, "scale": jnp.diag(ones) if full else ones}


def find_mode(energy: Callable[[Any], Any], begins: jax.Array, dim: int) -> dict[str, Any]:
    """Laplace approximation of exp(-energy) at its best mode, and the scale of `dim` entries there.

    Pure, and to be traced in double precision. "usable" says whether there is such a mode, "starts"
    where each of `begins` led, and "rival" the evidence of another mode against that of both.
    """

    def climb(begin: jax.Array) -> tuple[Any, ...]:
        mode, value, hessian, distance, least = _newton(energy, begin)
        scale = _inverse_root(hessian[:dim, :dim])
        usable = (distance < _AT_MODE) & (least > _FLAT) & _is_sound(mode, scale)
        evidence = -value + jnp.sum(jnp.log(jnp.abs(jnp.diag(scale))))
        return mode, scale, usable, jnp.where(usable, evidence, -jnp.inf)

    modes, scales, usable, evidence = lax.map(climb, begins)
    # Of ways to one mode the first counts: the others differ by rounding.
    best = jnp.argmax(evidence - SAME_NATS * jnp.arange(len(begins)))
    mode, scale = modes[best], scales[best]
    apart = jax.scipy.linalg.solve_triangular(scale, (modes - mode)[:, :dim].T, lower=True).T
    is_other = jnp.isfinite(evidence) & (jnp.sum(apart**2, axis=1) > OTHER_MODE**2)
    chances = jnp.where(is_other, jax.nn.sigmoid(evidence - evidence[best]), 0.0)
    starts = jnp.where((chances > NO_RIVAL)[:, None], modes, mode)[:, :dim]
    normal = {"vector": mode, "scale": scale, "usable": usable[best]}
    return {**normal, "starts": starts, "rival": jnp.max(chances)}


def find_normal(
    energy: Callable[[Any], Any], begin: jax.Array, dim: int, rng_key: jax.Array
) -> dict[str, Any]:
    """The same from natural-gradient steps, for densities without a usable mode."""
    vector, precision = _natural_gradient(energy, begin, dim, rng_key)
    scale = _inverse_root(precision)
    # Where nothing is possible there may be slopes, those of the priors.
    usable = jnp.isfinite(energy(vector)) & _is_sound(vector, scale)
    normal = {"vector": vector, "scale": scale, "usable": usable}
    return {**normal, "starts": vector[None, :dim], "rival": jnp.zeros((), vector.dtype)}


def find_possible(
    energy: Callable[[Any], Any], begin: jax.Array, dim: int, most: float
) -> dict[str, Any]:
    """A place whose energy is below `most`, by one latent after the other.

    "usable" says that it was found, and is not where the search began. The energy of what is
    impossible must be finite, and the greater, the more of it there is.
    """
    tried = jnp.linspace(-_TRIED_REACH, _TRIED_REACH, _TRIED, dtype=begin.dtype)

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        count, vector, least = carry
        entry = count % dim
        energies = lax.map(lambda value: energy(vector.at[entry].set(value)), tried)
        best = jnp.nanargmin(energies)
        is_better = energies[best] < least
        moved = vector.at[entry].set(tried[best])
        return (
            count + 1,
            jnp.where(is_better, moved, vector),
            jnp.where(is_better, energies[best], least),
        )

    def going(carry: tuple[Any, ...]) -> Any:
        count, _, least = carry
        return (count < _ROUNDS * dim) & ~(least < most)

    start = energy(begin)
    first = (0, begin, jnp.where(jnp.isnan(start), jnp.inf, start))
    count, vector, least = lax.while_loop(going, step, first)
    return {"vector": vector, "usable": (count > 0) & (least < most)}


def _newton(energy: Callable[[Any], Any], begin: jax.Array) -> tuple[Any, ...]:
    """Damped, saddle-free Newton steps: mode, value, Hessian, distance to it, least eigenvalue."""
    look = slope_and_curve(energy)
    size, dtype = begin.shape[0], begin.dtype
    most = min(_NEWTON_STEPS, _NEWTON_WORK // size)

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        count, z, candidate, *old, damping, _, _ = carry
        value, gradient, hessian = look(candidate)
        better = jnp.isfinite(value) & (value <= old[0]) & jnp.all(jnp.isfinite(hessian))
        z = jnp.where(better, candidate, z)
        value, gradient, hessian = (
            jnp.where(better, new, before)
            for new, before in zip((value, gradient, hessian), old, strict=True)
        )
        damping = jnp.where(better, damping * 0.1, jnp.maximum(damping * 10.0, 1e-3))
        unit, values, vectors = _eigen(hessian)
        along = vectors.T @ (unit * gradient)
        lengths = jnp.abs(values)
        move = -unit * (vectors @ (along / (lengths + damping)))
        distance = jnp.sqrt(jnp.sum(along**2 / jnp.maximum(lengths, _FLAT)))
        # Until a finite value is found, come closer to zero, where most densities are finite.
        is_finite = jnp.isfinite(value)
        candidate = jnp.where(is_finite, z + move, 0.5 * candidate)
        distance = jnp.where(is_finite, distance, jnp.inf)
        return count + 1, z, candidate, value, gradient, hessian, damping, distance, values[0]

    def going(carry: tuple[Any, ...]) -> Any:
        count, *_, damping, distance, _ = carry
        return (count < most) & (distance > 1e-2 * _AT_MODE) & (damping < _FAR)

    far = jnp.asarray(jnp.inf, dtype)
    nothing = (far, jnp.zeros(size, dtype), jnp.eye(size, dtype=dtype))
    first = (0, begin, begin, *nothing, jnp.asarray(1e-2, dtype), far, far)
    _, z, _, value, _, hessian, _, distance, least = lax.while_loop(going, step, first)
    return z, value, hessian, distance, least


def _natural_gradient(
    energy: Callable[[Any], Any], begin: jax.Array, dim: int, rng_key: jax.Array
) -> tuple[Any, Any]:
    """Location and precision of a normal fitted by natural-gradient steps; the tail is a point."""
    look = slope_and_curve(energy)
    size = begin.shape[0]
    steps = _NATURAL_STEPS if size <= WIDE else _WIDE_STEPS
    particles = _NATURAL_PARTICLES if size <= WIDE else _WIDE_PARTICLES

    def absolute(matrix: jax.Array) -> Any:
        unit, values, vectors = _eigen(matrix)
        inner = (vectors * jnp.maximum(jnp.abs(values), 1e-2)) @ vectors.T
        return inner / jnp.outer(unit, unit)

    def step(carry: tuple[Any, Any], inputs: tuple[Any, Any]) -> tuple[tuple[Any, Any], None]:
        loc, precision = carry
        key, rate = inputs
        half = jax.random.normal(key, (particles // 2, size), loc.dtype)
        half = half.at[:, dim:].set(0.0)
        points = loc + jnp.concatenate([half, -half]) @ _inverse_root(precision).T
        _, gradients, hessians = jax.vmap(look)(points)
        sound = jnp.isfinite(gradients).all(1) & jnp.isfinite(hessians).all((1, 2))
        share = sound / jnp.maximum(sound.sum(), 1)
        gradient = share @ jnp.where(sound[:, None], gradients, 0.0)
        hessian = jnp.einsum("k,kij->ij", share, jnp.where(sound[:, None, None], hessians, 0.0))
        turned = precision + rate * (hessian - precision)
        # The average of this and the old precision stays positive whatever the Hessian is.
        root = _inverse_root(precision)
        precision = 0.5 * (precision + (turned @ root) @ (turned @ root).T)
        inverse_root = _inverse_root(precision)
        whitened = inverse_root.T @ gradient
        length = jnp.linalg.norm(whitened)
        limit = jnp.minimum(rate, jnp.sqrt(1.0 * size) / jnp.maximum(length, 1e-30))
        return (loc - limit * (inverse_root @ whitened), precision), None

    rates = jnp.linspace(0.5, 0.05, steps).astype(begin.dtype)
    keys = jax.random.split(rng_key, steps)
    (loc, precision), _ = lax.scan(step, (begin, absolute(look(begin)[2])), (keys, rates))
    return loc, precision[:dim, :dim]


def _eigen(matrix: jax.Array) -> tuple[Any, Any, Any]:
    """Eigenvalues and vectors of a matrix scaled to a unit diagonal, and that scale."""
    size = jnp.abs(jnp.diag(matrix))
    unit = 1.0 / jnp.sqrt(jnp.maximum(size, 1e-28 * jnp.max(size) + 1e-30))
    values, vectors = jnp.linalg.eigh(matrix * jnp.outer(unit, unit))
    return unit, values, vectors


def _is_sound(vector: jax.Array, scale: jax.Array) -> jax.Array:
    near = jnp.all(jnp.abs(vector) < HUGE) & jnp.all(jnp.abs(scale) < HUGE)
    return near & jnp.all(jnp.isfinite(vector)) & jnp.all(jnp.isfinite(scale))


def _inverse_root(precision: jax.Array) -> jax.Array:
    """Lower triangular L with L L' the inverse of a precision matrix."""
    unit = 1.0 / jnp.sqrt(jnp.diag(precision))
    flipped = (precision * jnp.outer(unit, unit))[::-1, ::-1]
    upper = jnp.linalg.cholesky(flipped)[::-1, ::-1]
    identity = jnp.eye(precision.shape[0], dtype=precision.dtype)
    lower = jax.scipy.linalg.solve_triangular(upper.T, identity, lower=True)
    return unit[:, None] * lower
