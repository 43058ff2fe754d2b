"""A kernel with another cause of its outcome: what is added to the predictor that its family has.

A cause shifts the location, the log odds, or the logarithm of the mean of the outcome, whichever
the family has; a family that has none of them is refused by name. A cause that nobody measured is
summed or integrated out, exactly: no row has a latent of its own.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.nn import log_sigmoid
from numpyro.primitives import Messenger

from aimz.errors import InputError

__all__ = ["HIDDEN", "mixed_over", "shifted_by", "with_cause", "with_hidden_cause"]


#: Arguments of a kernel with a hidden cause, one value per row: what the cause is given what the
#: row had (log odds of a binary one, mean of a normal one), and its weight in the predictor.
HIDDEN = ("hidden_lean", "hidden_weight")
_LOCATIONS = (
    *(dist.Normal, dist.StudentT, dist.Laplace, dist.Cauchy, dist.Logistic, dist.Gumbel),
    *(dist.SoftLaplace, dist.LogNormal),
)


def shifted_by(fn: Any, amount: jax.Array) -> Any:
    """A distribution whose predictor has moved by an amount for each row.

    Parameters
    ----------
    fn : Distribution
        Of the outcome, rows along its first axis.
    amount : array, shape (rows,)
        What is added to the location, to the log odds, or to the logarithm of the mean.

    Returns
    -------
    Distribution
        Of the same family.

    Raises
    ------
    InputError
        `family-unknown`

    Examples
    --------
    >>> shifted_by(dist.Normal(jnp.zeros(2), 1.0), jnp.array([0.5, -0.5])).loc.tolist()
    [0.5, -0.5]
    """
    return _changed(fn, _shifted, amount)


def mixed_over(fn: Any, lean: jax.Array, weight: jax.Array, kind: str) -> Any:
    """A distribution with a hidden cause in its predictor, which is summed or integrated out.

    Parameters
    ----------
    fn : Distribution
        Of the outcome, one number for each row, rows along its first axis.
    lean : array, shape (rows,)
        Log odds of a binary cause, or mean of a normal one, whose sd is 1.
    weight : array, shape (rows,)
        What one unit of the cause adds to the location, log odds, or logarithm of the mean.
    kind : {"binary", "normal"}
        Of the cause.

    Returns
    -------
    Distribution
        Of the same outcome.

    Raises
    ------
    InputError
        `family-unknown`

    Examples
    --------
    >>> fn = mixed_over(dist.Normal(jnp.zeros(2), 3.0), jnp.ones(2), jnp.full(2, 4.0), "normal")
    >>> fn.loc.tolist(), fn.scale.tolist()
    ([4.0, 4.0], [5.0, 5.0])
    """
    if math.prod((*fn.batch_shape, *fn.event_shape)) > len(lean):  # which would share one cause
        msg = "A hidden cause is added to an outcome of one number per row, and this one has more."
        raise InputError(msg, code="family-unknown")
    return _changed(fn, _summed if kind == "binary" else _integrated, lean, weight)


def _changed(fn: Any, change: Callable[..., Any], *amounts: jax.Array) -> Any:
    """Change what a distribution wraps, by amounts for each row of the whole."""
    if isinstance(fn, dist.Independent):
        inner = _changed(fn.base_dist, change, *amounts)
        return inner.to_event(fn.reinterpreted_batch_ndims)
    dims = len(fn.batch_shape)
    amounts = tuple(one.reshape(one.shape + (1,) * (dims - one.ndim)) for one in amounts)
    if isinstance(fn, dist.ExpandedDistribution):
        return _changed(fn.base_dist, change, *amounts).expand(fn.batch_shape)
    if isinstance(fn, dist.MaskedDistribution):
        return _changed(fn.base_dist, change, *amounts).mask(fn._mask)  # noqa: SLF001  # it has no other name
    return change(fn, *amounts)


def _shifted(fn: Any, amount: jax.Array) -> Any:
    moved = _moved(fn, amount)
    if moved is None or fn.event_shape:
        msg = (
            f"A cause cannot be added to an outcome of {type(fn).__name__}: nobody knows its "
            "predictor."
        )
        raise InputError(msg, code="family-unknown")
    return moved


def _summed(fn: Any, lean: jax.Array, weight: jax.Array) -> Any:
    """Sum a binary cause out."""
    other = _shifted(fn, weight)
    if isinstance(fn, dist.BernoulliLogits | dist.BernoulliProbs):  # stays of its family
        yes, no = (
            jnp.logaddexp(
                log_sigmoid(-lean) + log_sigmoid(sign * _logits(fn)),
                log_sigmoid(lean) + log_sigmoid(sign * other.logits),
            )
            for sign in (1, -1)
        )
        return dist.BernoulliLogits(yes - no)
    shape = jnp.broadcast_shapes(fn.batch_shape, other.batch_shape)
    odds = jnp.broadcast_to(lean, shape)
    shares = dist.Categorical(logits=jnp.stack([jnp.zeros_like(odds), odds], axis=-1))
    return dist.MixtureGeneral(shares, [fn.expand(shape), other.expand(shape)])


def _integrated(fn: Any, lean: jax.Array, weight: jax.Array) -> Any:
    """Integrate a normal cause out."""
    if type(fn) not in (dist.Normal, dist.LogNormal):
        msg = (
            f"A normal cause cannot be integrated out of an outcome of {type(fn).__name__}. "
            "Pass kind='binary'."
        )
        raise InputError(msg, code="family-unknown")
    return type(fn)(fn.loc + weight * lean, jnp.hypot(fn.scale, weight))


def _moved(fn: Any, amount: jax.Array) -> Any:
    kind = type(fn)
    if kind in _LOCATIONS:
        names = {name: getattr(fn, name) for name in fn.arg_constraints}
        return kind(**{**names, "loc": fn.loc + amount})
    if kind in (dist.BernoulliLogits, dist.BernoulliProbs):
        return dist.BernoulliLogits(_logits(fn) + amount)
    if kind in (dist.BinomialLogits, dist.BinomialProbs):
        return dist.BinomialLogits(_logits(fn) + amount, fn.total_count)
    if kind is dist.Poisson:
        return dist.Poisson(fn.rate * jnp.exp(amount))
    if kind is dist.Exponential:
        return dist.Exponential(fn.rate * jnp.exp(-amount))
    if kind is dist.Gamma:
        return dist.Gamma(fn.concentration, fn.rate * jnp.exp(-amount))
    if isinstance(fn, dist.GammaPoisson):
        return dist.GammaPoisson(fn.concentration, fn.rate * jnp.exp(-amount))
    return None


def _logits(fn: Any) -> jax.Array:
    if hasattr(fn, "logits") and "logits" in fn.arg_constraints:
        return jnp.asarray(fn.logits)
    return jnp.log(fn.probs) - jnp.log1p(-fn.probs)


class _Changed(Messenger):  # type: ignore[misc]  # NumPyro has no types
    """Changes the distribution of one site, and says whether it has met it."""

    def __init__(self, site: str, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.site, self.change, self.has_met = site, change, False

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] == self.site:
            msg["fn"] = self.change(msg["fn"])
            self.has_met = True


def with_cause(
    kernel: Callable[..., Any], site: str, scale: float, name: str = "random_cause"
) -> Callable[..., Any]:
    """A kernel that takes another argument, one value per row, which may cause its outcome.

    Parameters
    ----------
    kernel : callable
        NumPyro model function.
    site : str
        Its outcome.
    scale : float
        Prior sd of the new cause's weight, whose prior is normal around 0.
    name : str
        Of the argument; the weight is the latent `name` + "_weight".

    Returns
    -------
    callable
        The kernel with the keyword `name`.
    """

    def change(arrays: Mapping[str, jax.Array]) -> Callable[[Any], Any]:
        weight = numpyro.sample(f"{name}_weight", dist.Normal(0.0, scale))
        return lambda fn: shifted_by(fn, weight * arrays[name])

    return _wider(kernel, site, (name,), change)


def with_hidden_cause(kernel: Callable[..., Any], site: str, kind: str) -> Callable[..., Any]:
    """A kernel whose outcome has another cause, of which only the distribution is known.

    Parameters
    ----------
    kernel : callable
        NumPyro model function.
    site : str
        Its outcome.
    kind : {"binary", "normal"}
        Of the cause; see `mixed_over`.

    Returns
    -------
    callable
        The kernel with the keywords `HIDDEN`.
    """

    def change(arrays: Mapping[str, jax.Array]) -> Callable[[Any], Any]:
        lean, weight = (arrays[name] for name in HIDDEN)
        return lambda fn: mixed_over(fn, lean, weight, kind)

    return _wider(kernel, site, HIDDEN, change)


def _wider(
    kernel: Callable[..., Any],
    site: str,
    names: Sequence[str],
    change: Callable[[Mapping[str, jax.Array]], Callable[[Any], Any]],
) -> Callable[..., Any]:
    """A kernel with keywords of rows that change the distribution of one site."""
    signature = inspect.signature(kernel)
    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]

    def wider(*args: Any, **kwargs: Any) -> Any:
        changed = _Changed(site, change({name: kwargs.pop(name) for name in names}))
        with changed:
            result = kernel(*args, **kwargs)
        if not changed.has_met:
            msg = f"Site '{site}' is out of reach, as in a scan: no cause can be added to it."
            raise InputError(msg, code="family-unknown")
        return result

    listed = [*signature.parameters.values(), *more]
    wider.__signature__ = signature.replace(parameters=listed)  # type: ignore[attr-defined]  # as inspect reads it
    return wider
