"""What is around a guide: log p - log q at its draws, and log p on lines through it.

Above a certain number of rows it is a glance: fewer draws and fewer lines. `health` judges it.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

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

__all__ = ["log_weights", "look_around"]


class _Look(NamedTuple):
    """Draws of a guide at which the posterior's density is looked at, lines, and their origins."""

    draws: int
    lines: int
    origins: int


_CLOSE, _GLANCE = _Look(1000, 64, 128), _Look(250, 16, 32)


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

    The draws come along, in standard units of the latents that the lines are of.

    Called inside a trace. One density serves both: a kernel of many sites is compiled once.
    """
    guide = svi.guide
    loc, scale = guide.affine(*(params[f"{guide.prefix}_{name}"] for name in ("mu", "scale")))
    wanted = _look(problem)
    count = min(loc.size, wanted.lines)
    lines = np.linspace(0, loc.size - 1, count).astype(np.int32)
    ways = scale.T[lines] if scale.ndim > 1 else jnp.zeros((count, loc.size))
    if scale.ndim == 1:
        ways = ways.at[np.arange(count), lines].set(scale[lines])
    kernel = handlers.substitute(handlers.seed(svi.model, 0), params)
    energy = energy_of(problem, kernel, kwargs, guide)

    def log_density(point: jax.Array) -> Any:
        with RowScale(problem, {}, weights):
            return -energy(guide._unpack_latent(point))

    places = jnp.asarray(health.SECTION, loc.dtype)
    normal = guide.normal(loc, scale)
    draws = normal.sample(keys[0], (wanted.draws,))
    noise = _origins(keys[1], lines, wanted.origins // count, loc.size)
    origins = loc + (noise @ scale.T if scale.ndim > 1 else noise * scale)
    on_lines = origins[:, :, None] + places[:, None] * ways[:, None, None]
    points = jnp.concatenate([draws, on_lines.reshape(-1, loc.size)])
    logs = jax.lax.map(log_density, points, batch_size=20)
    sds = jnp.linalg.norm(scale, axis=-1) if scale.ndim > 1 else scale
    numbers = [np.full(np.size(v), n) for n, v in enumerate(guide._init_locs.values())]
    return {
        "log_weights": logs[: wanted.draws] - normal.log_prob(draws),
        "standard": ((draws - loc) / sds)[:, lines],
        "sections": logs[wanted.draws :].reshape(on_lines.shape[:-1]),
        "sites": jnp.asarray(np.concatenate(numbers)[lines]),
    }


def _origins(key: jax.Array, lines: np.ndarray, each: int, dim: int) -> Any:
    """Standard noise, (line, origin, latent): 0 along the line, else as long as draws are.

    It comes in pairs of opposite signs: a normal posterior of other covariance shifts nothing.
    """
    count = len(lines)
    half = jax.random.normal(key, (count, max(each // 2, 1), dim))
    half = half.at[np.arange(count), :, lines].set(0.0)
    length = jnp.linalg.norm(half, axis=-1, keepdims=True)
    half *= math.sqrt(dim - 1) / jnp.where(length > 0.0, length, 1.0)
    return jnp.concatenate([half, -half], axis=1)


def _look(problem: Problem) -> _Look:
    return _CLOSE if problem.inputs.rows <= health.WEIGH_ROWS else _GLANCE
