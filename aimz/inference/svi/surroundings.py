"""What is around a guide: log p - log q at its draws, and log p on lines through it.

Above a certain number of rows it is a glance: fewer draws and fewer lines. `health` judges it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer import SVI
from numpyro.infer.util import log_density

from aimz.arrays import Array
from aimz.inference import health
from aimz.inference.binding import RowScale
from aimz.inference.density import constrained, energy_of, has_many_sites
from aimz.inference.engine import Problem
from aimz.inference.normal import (
    CLOSE,
    GLANCE,
    Look,
    WhitenedNormal,
    around_normal,
    numbers_at,
)

__all__ = ["log_weights", "look_around", "weighed_draws"]


def log_weights(
    keys: Sequence[jax.Array],
    draw_keys: jax.Array,
    problem: Problem,
    svi: SVI,
    params: dict[str, Any],
    kwargs: dict[str, Any],
    weights: Array | None,
) -> dict[str, Any]:
    """Log p - log q at draws of a user's guide, and these; called inside a trace."""
    del draw_keys  # the draws of a user's guide are NumPyro's, who keeps their vectors
    count = _look(problem).draws
    logs, values = _of_users(keys[0], count, problem, svi, params, kwargs, weights)
    return {"log_weights": logs, "values": numbers_at(values)}


def weighed_draws(
    key: jax.Array,
    count: int,
    problem: Problem,
    svi: SVI,
    params: dict[str, Any],
    kwargs: dict[str, Any],
    weights: Array | None,
) -> tuple[Any, dict[str, Any]]:
    """Log p - log q at draws of any guide, and these by site; called inside a trace."""
    guide = svi.guide
    if not isinstance(guide, WhitenedNormal):
        return _of_users(key, count, problem, svi, params, kwargs, weights)
    normal = guide.normal(*_affine(guide, params))
    density_at, values_at = _views(problem, svi, params, kwargs, weights)
    draws = normal.sample(key, (count,))
    at_once = _look(problem).at_once
    logs = jax.lax.map(density_at, draws, batch_size=at_once) - normal.log_prob(draws)
    return logs, jax.vmap(values_at)(draws)


def _of_users(
    key: jax.Array,
    count: int,
    problem: Problem,
    svi: SVI,
    params: dict[str, Any],
    kwargs: dict[str, Any],
    weights: Array | None,
) -> tuple[Any, dict[str, Any]]:
    every = {**kwargs, **svi.static_kwargs}

    def one(key: jax.Array) -> Any:
        model_key, guide_key = jax.random.split(key)
        with RowScale(problem, {}, weights):
            log_q, sites = log_density(handlers.seed(svi.guide, guide_key), (), every, params)
            model = handlers.replay(handlers.seed(svi.model, model_key), sites)
            log_p, sites = log_density(model, (), every, params)
        return log_p - log_q, {name: sites[name]["value"] for name in problem.spec.latents}

    drawn: tuple[Any, dict[str, Any]] = jax.lax.map(
        one, jax.random.split(key, count), batch_size=20
    )
    return drawn


def look_around(
    keys: Sequence[jax.Array],
    draw_keys: jax.Array,
    problem: Problem,
    svi: SVI,
    params: dict[str, Any],
    kwargs: dict[str, Any],
    weights: Array | None,
) -> dict[str, Any]:
    """Log p - log q at draws of the default guide, and log p on lines through it with their sites.

    The draws come along, on the scales of their sites, and the weights of those that `draw_keys`
    give as `own_weights`. Called inside a trace.
    """
    guide = svi.guide
    loc, scale = _affine(guide, params)
    density_at, values_at = _views(problem, svi, params, kwargs, weights)
    normal = guide.normal(loc, scale)
    kept = guide.points_at(draw_keys, params)
    seen, lines = around_normal(keys, density_at, normal, loc, scale, _look(problem), kept)
    values = numbers_at(jax.vmap(values_at)(seen.pop("points")))
    numbers = [np.full(np.size(v), n) for n, v in enumerate(guide._init_locs.values())]
    return {**seen, "values": values, "sites": jnp.asarray(np.concatenate(numbers)[lines])}


def _affine(guide: WhitenedNormal, params: dict[str, Any]) -> tuple[Any, Any]:
    return guide.affine(*(params[f"{guide.prefix}_{name}"] for name in ("mu", "scale")))


def _views(
    problem: Problem,
    svi: SVI,
    params: dict[str, Any],
    kwargs: dict[str, Any],
    weights: Array | None,
) -> tuple[Callable[[jax.Array], Any], Callable[[jax.Array], dict[str, Any]]]:
    """The log density at a point of the default guide, and the sites' values there."""
    guide = svi.guide
    kernel = handlers.substitute(handlers.seed(svi.model, 0), params)
    energy = energy_of(problem, kernel, kwargs, guide)

    def density_at(point: jax.Array) -> Any:
        with RowScale(problem, {}, weights):
            return -energy(point)

    def values_at(point: jax.Array) -> dict[str, Any]:
        return constrained(guide, guide.unpack(point))[0]

    return density_at, values_at


def _look(problem: Problem) -> Look:
    wanted = CLOSE if problem.inputs.rows <= health.WEIGH_ROWS else GLANCE
    return wanted._replace(at_once=None) if has_many_sites(problem) else wanted
