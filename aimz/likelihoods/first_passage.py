"""When a Brownian path between two boundaries first reaches one of them.

In units of the separation: the boundaries are 0 and 1 apart, time is `u = t / a**2`, the boundary
at hand is `near` away from the start (the other one `far = 1 - near`), and `pull` is the drift
towards it, `v * a`. Each series converges at once on its side of a bound on time; both sides take
the largest exponent out, so that nothing underflows in single precision.

Densities are those of Navarro and Fuss (2009, "Fast and accurate calculations for first-passage
times in Wiener diffusion models", equations 5 and 6); distribution functions those of Blurton,
Kesselmeier and Gondan (2012, equations 6 and 7); times of one boundary those of Palmer, Horowitz,
Torralba and Wolfe (2011).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from aimz.arrays import Array

__all__ = ["Path", "log_density", "log_reach", "log_tails", "mean_time", "quantile"]


# In units of time: below, the series of images; above, that of eigenfunctions.
_DENSITY_BOUND, _DENSITY_WAVES = 0.4, 4
_LESS_BOUND, _IMAGES = 0.15, 4
_MORE_BOUND, _WAVES = 0.04, 14
_LEAST = 1e-15  # of time: the density is exp(-1e10) there
# Of pulls: below, series about no pull at all; above, images of inverse normal variables.
_FLAT, _FLAT_MEAN, _STEEP = 0.1, 0.3, 8.0


class Path(NamedTuple):
    """A start between two boundaries, as it is seen from one of them."""

    pull: Any  # drift towards the boundary
    near: Array  # distance to it
    far: Array  # distance to the other one


def log_reach(path: Path) -> Any:
    """Log probability that the boundary is reached first.

    >>> round(float(jnp.exp(log_reach(Path(0.0, 0.25, 0.75)))), 6)
    0.75
    """
    return path.pull * path.near + _log_ratio(path)


def _log_ratio(path: Path) -> Any:
    """log(sinh(|pull| far) / sinh(|pull|)), which is even in the pull."""
    pull, near, far = path
    square = pull * pull
    is_flat = square < _FLAT**2
    flat = jnp.where(is_flat, square, 0.0)
    f2 = far * far
    series = jnp.log(far) + flat * (
        (f2 - 1) / 6 - flat * ((f2**2 - 1) / 180 - flat * ((f2**3 - 1) / 2835))
    )
    steep = jnp.where(is_flat, 1.0, jnp.abs(pull))
    direct = -steep * near + jnp.log(-jnp.expm1(-2 * steep * far)) - jnp.log(-jnp.expm1(-2 * steep))
    return jnp.where(is_flat, series, direct)


def log_density(path: Path, time: Array) -> Any:
    """Log density of the time at which the boundary is reached first; -inf up to 0."""
    pull, near, far = path
    u = jnp.maximum(time, _LEAST)
    early, late = jnp.minimum(u, _DENSITY_BOUND), jnp.maximum(u, _DENSITY_BOUND)
    back = jnp.exp(-2 * far / early)  # the image behind the other boundary cancels most where near
    images = -jnp.expm1(-2 * far / early) - far * (1 + back)
    for k in (1, -2, 2):
        images += (near + 2 * k) * jnp.exp(-2 * k * (k + near) / early)
    by_images = (
        _log(images)
        - near * near / (2 * early)
        - 1.5 * jnp.log(early)
        - 0.5 * math.log(2 * math.pi)
    )
    k = _counted(_DENSITY_WAVES, late)
    waves = (k * _wave(path, k) * jnp.exp(-0.5 * (k * k - 1) * math.pi**2 * late)).sum(0)
    by_waves = math.log(math.pi) + _log(waves) - 0.5 * math.pi**2 * late
    density = pull * near - 0.5 * pull * pull * u
    density += jnp.where(u < _DENSITY_BOUND, by_images, by_waves)
    return jnp.where(time > 0, density, -jnp.inf)


def log_tails(path: Path, time: Array) -> tuple[Any, Any]:
    """Log probabilities of at most, and of more than, a time, given that the boundary is reached.

    >>> less, more = log_tails(Path(1.0, 0.5, 0.5), 0.2)
    >>> round(float(jnp.exp(less) + jnp.exp(more)), 6)
    1.0
    """
    u = jnp.maximum(time, _LEAST)
    path = path._replace(pull=jnp.abs(path.pull))  # given the boundary, its sign means nothing
    reach = log_reach(path)
    images = _log_images(path, jnp.minimum(u, _LESS_BOUND)) - reach
    waves = _log_waves(path, jnp.maximum(u, _MORE_BOUND)) - reach
    less = jnp.where(u < _LESS_BOUND, images, _log_rest(waves))
    rest = jnp.where(path.pull < _STEEP, _log_rest(images), _log_left(path, u))
    more = jnp.where(u < _MORE_BOUND, rest, waves)
    return jnp.where(time > 0, less, -jnp.inf), jnp.where(time > 0, jnp.minimum(more, 0.0), 0.0)


def _log_rest(log_share: jax.Array) -> Any:
    """log(1 - share), as far as the precision goes."""
    highest = -np.finfo(jnp.result_type(log_share)).eps
    return jnp.log(-jnp.expm1(jnp.minimum(log_share, highest)))


def _log_images(path: Path, u: Array) -> Any:
    """Log probability of at most an early time, by images of the start."""
    pull, near, far = path
    root = jnp.sqrt(u)
    lead = log_ndtr((pull * u - near) / root)
    j, places = _places(near, far, u)
    signed = jnp.concatenate([places, -places])
    terms = pull * (near + signed) + log_ndtr(
        -(jnp.abs(signed) + pull * jnp.sign(signed) * u) / root
    )
    total = (jnp.concatenate([(-1.0) ** j] * 2) * jnp.exp(terms - lead)).sum(0)
    return lead + _log(total)


def _counted(count: int, like: Array) -> Any:
    """Whole numbers from 1, in an axis before those of an array."""
    return (1.0 + jnp.arange(count)).reshape(count, *[1] * jnp.ndim(like))


def _places(near: Array, far: Array, like: Array) -> tuple[Any, Any]:
    """Numbers of images, and how far away they are: in turn behind this boundary and the other."""
    j = _counted(_IMAGES, like) - 1
    return j, jnp.where(j % 2 == 0, near, far) + j + jnp.zeros_like(like)


def _log(share: Array) -> Any:
    """Logarithm of what is above 0, but for rounding."""
    return jnp.log(jnp.maximum(share, np.finfo(jnp.result_type(share)).tiny))


def _log_left(path: Path, u: Array) -> Any:
    """Log probability of more than an early time where the pull is steep, given the boundary.

    Each image leaves an inverse normal variable above the time.
    """
    _, near, far = path
    steep = jnp.maximum(path.pull, _STEEP)
    u = jnp.minimum(u, _MORE_BOUND)
    j, places = _places(near, far, u)
    ahead = log_ndtr((places - steep * u) / jnp.sqrt(u))
    behind = 2 * steep * places + log_ndtr(-(places + steep * u) / jnp.sqrt(u))
    terms = steep * (near - places) + ahead + _log_rest(behind - ahead)
    total = ((-1.0) ** j * jnp.exp(terms - terms[0])).sum(0)
    return terms[0] + _log(total) - log_reach(Path(steep, near, far))


def _log_waves(path: Path, u: Array) -> Any:
    """Log probability of more than a late time, by eigenfunctions."""
    pull, near, _ = path
    square = pull * pull
    k = _counted(_WAVES, u)
    level = (k * math.pi) ** 2
    decay = jnp.exp(-0.5 * (level - math.pi**2) * u)
    total = (k * _wave(path, k) / (square + level) * decay).sum(0)
    slow = pull * near - 0.5 * (square + math.pi**2) * u
    return math.log(2 * math.pi) + slow + _log(total)


def _wave(path: Path, k: Array) -> Any:
    """sin(k pi near), from the boundary that is closer, where it has the digits."""
    mirrored = jnp.where(k % 2 == 1, 1.0, -1.0) * jnp.sin(k * math.pi * path.far)
    return jnp.where(path.near < 0.5, jnp.sin(k * math.pi * path.near), mirrored)


def mean_time(path: Path) -> Any:
    """Mean time at which the boundary is reached, given that it is."""
    pull, near, far = path
    square = pull * pull
    is_flat = square < _FLAT_MEAN**2
    flat, f2 = jnp.where(is_flat, square, 0.0), far * far
    first = near * (1 + far) / 3  # (1 - far**2) / 3
    second, third, fourth = (1 - f2**2) / 45, 2 * (1 - f2**3) / 945, (1 - f2**4) / 4725
    series = first - flat * (second - flat * (third - flat * fourth))
    steep = jnp.where(is_flat, 1.0, jnp.abs(pull))
    direct = (1 / jnp.tanh(steep) - far / jnp.tanh(steep * far)) / steep
    return jnp.where(is_flat, series, direct)


def quantile(path: Path, log_less: Array, log_more: Array, *, steps: int = 16) -> Any:
    """The time with these log probabilities of less and of more, given that it is reached.

    By Newton's method on the log odds of log time, which is nearly linear, kept in a bracket.
    """
    pull, near, _ = path
    steep = jnp.abs(pull)
    odds = log_less - log_more
    shortest = jnp.log(jnp.minimum(near * near / 60, near / (4 * steep + 1)))
    longest = jnp.log(120 / (pull * pull + math.pi**2) + 2 / (steep + 1))
    low, high, odds = jnp.broadcast_arrays(shortest, longest, odds)
    start = jnp.clip(jnp.log(mean_time(path)), low, high)
    reach = log_reach(path)

    def improve(_: int, state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        low, high, place = state
        time = jnp.exp(place)
        less, more = log_tails(path, time)
        gap = less - more - odds
        low, high = jnp.where(gap < 0, place, low), jnp.where(gap < 0, high, place)
        # d(log odds) / d(log time): density times time, over both probabilities.
        slope = jnp.exp(log_density(path, time) - reach + place - less - more)
        step = place - gap / slope
        is_inside = (step > low) & (step < high)
        return low, high, jnp.where(is_inside, step, 0.5 * (low + high))

    state = (low, high, jnp.broadcast_to(start, low.shape))
    return jnp.exp(jax.lax.fori_loop(0, steps, improve, state)[2])
