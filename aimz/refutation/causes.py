"""A kernel with another cause of its outcome: what is added to the predictor that its family has.

A cause shifts the location, the log odds, or the logarithm of the mean of the outcome, whichever
the family has; a family that has none of them is refused by name.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.primitives import Messenger

from aimz.errors import InputError

__all__ = ["shifted_by", "with_cause"]


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
    if isinstance(fn, dist.Independent):
        return shifted_by(fn.base_dist, amount).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.ExpandedDistribution):
        return shifted_by(fn.base_dist, amount).expand(fn.batch_shape)
    if isinstance(fn, dist.MaskedDistribution):
        return shifted_by(fn.base_dist, amount).mask(fn._mask)  # noqa: SLF001  # it has no other name
    amount = amount.reshape(amount.shape + (1,) * (len(fn.batch_shape) - 1))
    moved = _moved(fn, amount)
    if moved is None or fn.event_shape:
        msg = (
            f"A cause cannot be added to an outcome of {type(fn).__name__}: nobody knows its "
            "predictor. Leave this test out."
        )
        raise InputError(msg, code="family-unknown")
    return moved


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


class _Shifted(Messenger):  # type: ignore[misc]  # NumPyro has no types
    """Moves the predictor of one site, and says whether it has met it."""

    def __init__(self, site: str, amount: jax.Array) -> None:
        super().__init__()
        self.site, self.amount, self.has_met = site, amount, False

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] == self.site:
            msg["fn"] = shifted_by(msg["fn"], self.amount)
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
    signature = inspect.signature(kernel)
    parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)

    def wider(*args: Any, **kwargs: Any) -> Any:
        cause = kwargs.pop(name)
        weight = numpyro.sample(f"{name}_weight", dist.Normal(0.0, scale))
        shifted = _Shifted(site, weight * cause)
        with shifted:
            result = kernel(*args, **kwargs)
        if not shifted.has_met:
            msg = f"Site '{site}' is out of reach, as in a scan. Leave this test out."
            raise InputError(msg, code="family-unknown")
        return result

    listed = [*signature.parameters.values(), parameter]
    wider.__signature__ = signature.replace(parameters=listed)  # type: ignore[attr-defined]  # as inspect reads it
    return wider
