"""What is around a guide: log p - log q at its draws, and log p on lines through it.

Above a certain number of rows it is a glance: fewer draws and fewer lines. `health` judges it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer import SVI, Trace_ELBO

from aimz.arrays import Array
from aimz.inference import health
from aimz.inference.binding import RowScale
from aimz.inference.density import energy_of
from aimz.inference.engine import Problem
from aimz.inference.normal import CLOSE, GLANCE, Look, around_normal

__all__ = ["log_weights", "look_around"]


def log_weights(
    keys: Sequence[jax.Array],
    problem: Problem,
    svi: SVI,
    params: dict[str, Any],
    kwargs: dict[str, Any],
    weights: Array | None,
) -> dict[str, Any]:
    """Log p - log q at draws of a user's guide; called inside a trace."""
    elbo = Trace_ELBO()

    def one(key: jax.Array) -> Any:
        with RowScale(problem, {}, weights):
            return -elbo.loss(key, params, svi.model, svi.guide, **kwargs, **svi.static_kwargs)

    each = jax.random.split(keys[0], _look(problem).draws)
    return {"log_weights": jax.lax.map(one, each, batch_size=20)}


def look_around(
    keys: Sequence[jax.Array],
    problem: Problem,
    svi: SVI,
    params: dict[str, Any],
    kwargs: dict[str, Any],
    weights: Array | None,
) -> dict[str, Any]:
    """Log p - log q at draws of the default guide, and log p on lines through it with their sites.

    The draws come along, in standard units of the latents that the lines are of. Called inside a
    trace.
    """
    guide = svi.guide
    loc, scale = guide.affine(*(params[f"{guide.prefix}_{name}"] for name in ("mu", "scale")))
    kernel = handlers.substitute(handlers.seed(svi.model, 0), params)
    energy = energy_of(problem, kernel, kwargs, guide)

    def log_density(point: jax.Array) -> Any:
        with RowScale(problem, {}, weights):
            return -energy(guide._unpack_latent(point))

    normal = guide.normal(loc, scale)
    seen, lines = around_normal(keys, log_density, normal, loc, scale, _look(problem))
    numbers = [np.full(np.size(v), n) for n, v in enumerate(guide._init_locs.values())]
    return {**seen, "sites": jnp.asarray(np.concatenate(numbers)[lines])}


def _look(problem: Problem) -> Look:
    return CLOSE if problem.inputs.rows <= health.WEIGH_ROWS else GLANCE
