"""Means of distributions, as what an average of many draws tends to."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import transforms

from aimz.arrays import Array
from aimz.errors import InputError
from aimz.families.angles import is_angular
from aimz.families.law import base_distribution
from aimz.families.table import FAMILIES
from aimz.families.truncated import cut_normal

__all__ = ["mean_of", "mean_of_known"]


_CENSORED = (dist.LeftCensoredDistribution, dist.RightCensoredDistribution)


def mean_of(fn: dist.Distribution, name: str, shape: tuple[int, ...]) -> jax.Array:
    """Mean of a distribution, in the shape of its values.

    Of a categorical one it is the probability of each category, in a last axis; of an angle the
    mean of its cosine and sine; of a censored one that of what is censored, as it is drawn.

    Parameters
    ----------
    fn : Distribution
        With its masks, expansions and event dimensions.
    name : str
        Name of the site, for the error.
    shape : tuple of int
        Shape of its values.

    Raises
    ------
    InputError
        `no-mean`: there is none, or it is not known.

    Examples
    --------
    >>> mean_of(dist.Categorical(probs=jnp.array([0.25, 0.75])), "y", ()).tolist()
    [0.25, 0.75]
    """
    base = base_distribution(fn)
    mean = _mean(base)
    if mean is None:
        msg = (
            f"Site '{name}' has no mean that is known ({type(base).__name__}). Ask for "
            "target='prediction', which compares draws."
        )
        raise InputError(msg, code="no-mean")
    more = _own_axes(base)
    return jnp.broadcast_to(mean, (*shape, *mean.shape[mean.ndim - more :]))


def mean_of_known(fn: dist.Distribution, value: Array) -> jax.Array:
    """A value that is known, in the form of the mean of its distribution.

    Examples
    --------
    >>> mean_of_known(dist.Categorical(probs=jnp.array([0.25, 0.75])), jnp.array(1)).tolist()
    [0.0, 1.0]
    """
    base, number = base_distribution(fn), jnp.asarray(value)
    if _is_of_angles(base):
        return jnp.stack([jnp.cos(number), jnp.sin(number)], -1)
    if not _own_axes(base):
        return number
    return jax.nn.one_hot(number, jnp.shape(base.probs)[-1], dtype=jnp.result_type(float))


def _own_axes(base: dist.Distribution) -> int:
    """Axes that a mean has and a value has not."""
    return int(FAMILIES.above[type(base)].is_of_categories or _is_of_angles(base))


def _mean(fn: dist.Distribution) -> jax.Array | None:
    """Mean of a distribution without wrappers; None where it is not known."""
    fn = base_distribution(fn)
    row = FAMILIES.above[type(fn)]
    if row.mean is not None:
        return row.mean(fn)
    if _is_of_angles(fn):
        return _mixed_direction(fn)
    if isinstance(fn, _CENSORED):
        return _mean(fn.base_dist)
    if isinstance(fn, dist.IntervalCensoredDistribution):
        return None
    cut = cut_normal(fn)
    if cut is not None:
        return jnp.asarray(cut.mean)
    if isinstance(fn, dist.TransformedDistribution):
        return _transformed_mean(fn)
    with contextlib.suppress(NotImplementedError):
        return jnp.asarray(fn.mean)
    return None


def _is_of_angles(fn: dist.Distribution) -> bool:
    try:
        return is_angular(fn.support)
    except NotImplementedError:
        return False


def _mixed_direction(fn: dist.Distribution) -> jax.Array | None:
    """Mean cosine and sine of an angle whose distribution is a mixture."""
    if not hasattr(fn, "mixing_distribution"):
        return None
    parts: list[Any] = [
        _mean(component) for component in getattr(fn, "component_distributions", ())
    ]
    means = jnp.stack(parts, -2) if parts else _mean(fn.component_distribution)
    shares = _mean(fn.mixing_distribution)
    return None if means is None or shares is None else (shares[..., None] * means).sum(axis=-2)


def _transformed_mean(fn: dist.Distribution) -> jax.Array | None:
    """Mean of a transformed distribution that NumPyro knows, or of an affine one."""
    with contextlib.suppress(NotImplementedError):
        return jnp.asarray(fn.mean)
    mean = None if _own_axes(base_distribution(fn.base_dist)) else _mean(fn.base_dist)
    for step in fn.transforms:
        if mean is None or type(step) is not transforms.AffineTransform:
            return None
        mean = step(mean)
    return mean
