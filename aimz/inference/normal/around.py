"""What is around a normal: log p - log q at its draws, and log p on lines through it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aimz.inference import health

__all__ = ["CLOSE", "GLANCE", "Look", "around_normal"]


class Look(NamedTuple):
    """Draws of a guide at which the posterior's density is looked at, lines, and their origins."""

    draws: int
    lines: int
    origins: int


CLOSE, GLANCE = Look(1000, 64, 128), Look(250, 16, 32)


def around_normal(
    keys: Sequence[jax.Array],
    log_density: Callable[[jax.Array], Any],
    normal: Any,
    loc: jax.Array,
    scale: jax.Array,
    wanted: Look,
) -> tuple[dict[str, Any], np.ndarray]:
    """Log p - log q at draws of a normal, log p on lines through it; and the latents of the lines.

    The draws come along, in standard units of the latents that the lines are of. Called inside a
    trace. One density serves both: a kernel of many sites is compiled once.
    """
    count = min(loc.size, wanted.lines)
    lines = np.linspace(0, loc.size - 1, count).astype(np.int32)
    ways = scale.T[lines] if scale.ndim > 1 else jnp.zeros((count, loc.size))
    if scale.ndim == 1:
        ways = ways.at[np.arange(count), lines].set(scale[lines])
    places = jnp.asarray(health.SECTION, loc.dtype)
    draws = normal.sample(keys[0], (wanted.draws,))
    noise = _origins(keys[1], lines, wanted.origins // count, loc.size)
    origins = loc + (noise @ scale.T if scale.ndim > 1 else noise * scale)
    on_lines = origins[:, :, None] + places[:, None] * ways[:, None, None]
    points = jnp.concatenate([draws, on_lines.reshape(-1, loc.size)])
    logs = jax.lax.map(log_density, points, batch_size=20)
    sds = jnp.linalg.norm(scale, axis=-1) if scale.ndim > 1 else scale
    seen = {
        "log_weights": logs[: wanted.draws] - normal.log_prob(draws),
        "standard": ((draws - loc) / sds)[:, lines],
        "sections": logs[wanted.draws :].reshape(on_lines.shape[:-1]),
    }
    return seen, lines


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
