"""What is around a normal: log p - log q at its draws, and log p on lines through it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aimz.inference import health

__all__ = ["CLOSE", "GLANCE", "Look", "around_normal", "numbers_at", "numbers_of"]

# Numbers, at most, whose means and spreads are compared, or one of each site.
_NUMBERS = 64


class Look(NamedTuple):
    """Draws of a guide at which the posterior's density is looked at, lines, and their origins.

    `at_once` is how many points are looked at side by side; None where many sites are dear.
    """

    draws: int
    lines: int
    origins: int
    at_once: int | None = 20


CLOSE, GLANCE = Look(1000, 64, 128), Look(250, 16, 32)


def around_normal(
    keys: Sequence[jax.Array],
    log_density: Callable[[jax.Array], Any],
    normal: Any,
    loc: jax.Array,
    scale: jax.Array,
    wanted: Look,
    kept: jax.Array,
) -> tuple[dict[str, Any], np.ndarray]:
    """Log p - log q at draws of a normal, log p on lines through it; and the latents of the lines.

    The draws come along as points. `kept` are the draws of the fit, (draw, latent): of the first
    of them the weights are `own_weights`. Called inside a trace. One density serves all: a kernel
    of many sites is compiled once.
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
    kept = kept[: wanted.draws]
    points = jnp.concatenate([draws, on_lines.reshape(-1, loc.size), kept])
    logs = jax.lax.map(log_density, points, batch_size=wanted.at_once)
    of_lines = len(logs) - len(kept)
    seen = {
        "log_weights": logs[: wanted.draws] - normal.log_prob(draws),
        "points": draws,
        "sections": logs[wanted.draws : of_lines].reshape(on_lines.shape[:-1]),
        "own_weights": logs[of_lines:] - normal.log_prob(kept),
    }
    return seen, lines


def numbers_of(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Names of the numbers that are compared, such as "b[3]"; `numbers_at` has their draws."""
    chosen = _chosen({name: math.prod(shape) for name, shape in shapes.items()})
    return [
        name + (str([int(n) for n in np.unravel_index(at, shapes[name])]) if shapes[name] else "")
        for name, places in chosen.items()
        for at in places
    ]


def numbers_at(values: Mapping[str, Any]) -> Any:
    """Draws of some numbers of each site, (draw, number)."""
    flat = {name: value.reshape(len(value), -1) for name, value in values.items()}
    chosen = _chosen({name: value.shape[1] for name, value in flat.items()})
    return jnp.concatenate([flat[name][:, places] for name, places in chosen.items()], axis=1)


def _chosen(sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Places of some numbers of each site: all of small ones, and some of large ones."""
    most = max(1, _NUMBERS // max(1, len(sizes)))
    return {
        name: np.linspace(0, sizes[name] - 1, min(sizes[name], most)).astype(np.int32)
        for name in sorted(sizes)
        if sizes[name]
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
