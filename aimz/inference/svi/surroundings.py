"""What is around a guide: log p - log q at its draws, and log p on lines through it.

Above a certain number of rows it is a glance: fewer draws and fewer lines. `health` judges it.
"""

from collections.abc import Sequence
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
from aimz.inference.density import constrained, energy_of
from aimz.inference.engine import Problem
from aimz.inference.normal import CLOSE, GLANCE, Look, around_normal, numbers_at

__all__ = ["log_weights", "look_around"]


def log_weights(
    keys: Sequence[jax.Array],
    problem: Problem,
    svi: SVI,
    params: dict[str, Any],
    kwargs: dict[str, Any],
    weights: Array | None,
) -> dict[str, Any]:
    """Log p - log q at draws of a user's guide, and these; called inside a trace."""
    every = {**kwargs, **svi.static_kwargs}

    def one(key: jax.Array) -> Any:
        model_key, guide_key = jax.random.split(key)
        with RowScale(problem, {}, weights):
            log_q, sites = log_density(handlers.seed(svi.guide, guide_key), (), every, params)
            model = handlers.replay(handlers.seed(svi.model, model_key), sites)
            log_p, sites = log_density(model, (), every, params)
        return log_p - log_q, {name: sites[name]["value"] for name in problem.spec.latents}

    each = jax.random.split(keys[0], _look(problem).draws)
    logs, values = jax.lax.map(one, each, batch_size=20)
    return {"log_weights": logs, "values": numbers_at(values)}


def look_around(
    keys: Sequence[jax.Array],
    problem: Problem,
    svi: SVI,
    params: dict[str, Any],
    kwargs: dict[str, Any],
    weights: Array | None,
) -> dict[str, Any]:
    """Log p - log q at draws of the default guide, and log p on lines through it with their sites.

    The draws come along, on the scales of their sites. Called inside a trace.
    """
    guide = svi.guide
    loc, scale = guide.affine(*(params[f"{guide.prefix}_{name}"] for name in ("mu", "scale")))
    kernel = handlers.substitute(handlers.seed(svi.model, 0), params)
    energy = energy_of(problem, kernel, kwargs, guide)

    def density_at(point: jax.Array) -> Any:
        with RowScale(problem, {}, weights):
            return -energy(guide._unpack_latent(point))

    def values_at(point: jax.Array) -> dict[str, Any]:
        return constrained(guide, guide._unpack_latent(point))[0]

    normal = guide.normal(loc, scale)
    seen, lines = around_normal(keys, density_at, normal, loc, scale, _look(problem))
    values = numbers_at(jax.vmap(values_at)(seen.pop("points")))
    numbers = [np.full(np.size(v), n) for n, v in enumerate(guide._init_locs.values())]
    return {**seen, "values": values, "sites": jnp.asarray(np.concatenate(numbers)[lines])}


def _look(problem: Problem) -> Look:
    return CLOSE if problem.inputs.rows <= health.WEIGH_ROWS else GLANCE
