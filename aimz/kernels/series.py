"""Series of a linear Gaussian state, as one statement of a kernel."""

from typing import Any

import jax.numpy as jnp
import numpyro
from jax.typing import ArrayLike

from aimz.errors import InputError
from aimz.families import StateSpace

__all__ = ["kalman"]


def kalman(
    name: str,
    loc: ArrayLike,
    *,
    transition: ArrayLike,
    noise: ArrayLike,
    observe: ArrayLike,
    scale: ArrayLike,
    start: ArrayLike = 0.0,
    spread: ArrayLike = 1.0,
    obs: ArrayLike | None = None,
    parallel: bool = False,
) -> Any:
    """Sample a series whose mean follows a hidden state, without drawing the state.

    The state moves linearly with normal noise, and the series is a weighted sum of it with normal
    noise: a local level, a trend, a season. The state is integrated out by a Kalman filter, so that
    only the parameters are left to be fitted. NaN in the series is a value that is missing; pass
    `missing="mask"` to `fit`.

    Parameters
    ----------
    name : str
        Name of the site.
    loc : array, shape (steps,)
        Added to the series: zeros, or a regression. Its length is that of the series.
    transition : array, shape (states, states)
        The state in each step is this times the state before, plus noise.
    noise : array, shape (states,) or (states, states)
        Standard deviations of the noise of each state, or a root of its covariance.
    observe : array, shape (states,) or (steps, states)
        Weights of the states in the series.
    scale : array, shape () or (steps,)
        Standard deviation of the noise of the series.
    start, spread : array, shape () or (states,)
        Mean and standard deviation of the state in the first step; `spread` may be a root of its
        covariance, (states, states).
    obs : array, shape (steps,), optional
        The observed series.
    parallel : bool
        Compute the density in a logarithmic number of rounds, by `cuthbert`, which must be
        installed: for long series on an accelerator. On a CPU it is slower.

    Returns
    -------
    array, shape (steps,)
        The series.

    Raises
    ------
    InputError
        `series-shape`: arrays that do not fit together; `timeseries-missing`: `parallel=True`
        without `cuthbert`.

    References
    ----------
    Durbin and Koopman (2012), "Time Series Analysis by State Space Methods", chapter 4.

    Examples
    --------
    A random walk behind noise, and its forecast after the rows that are known:

    >>> import warnings
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from aimz import ImpactModel
    >>> from aimz.kernels import kalman
    >>> def level(X, y=None):
    ...     step = numpyro.sample("step", dist.HalfNormal(1.0))
    ...     kalman("y", 0.0 * X[:, 0], transition=[[1.0]], noise=[step], observe=[1.0],
    ...            scale=0.5, spread=10.0, obs=y)
    >>> weeks, y = np.arange(12.0)[:, None], np.linspace(4.0, 5.0, 9)
    >>> im = ImpactModel(level).set_posterior_sample({"step": np.full(500, 0.3)})
    >>> with warnings.catch_warnings(action="ignore"):  # rows are predicted together
    ...     tree = im.predict_on_batch(weeks, condition={"y": y}, in_sample=False)
    >>> bool(4.4 < tree.predictions["y"].values[0, :, -1].mean() < 5.4)
    True
    """
    moves = jnp.asarray(transition)
    if moves.ndim != 2 or moves.shape[0] != moves.shape[1]:
        msg = (
            f"transition= of '{name:.40}' has shape {moves.shape}, and should have as many rows as "
            "columns: one for each state."
        )
        raise InputError(msg, code="series-shape")
    states = moves.shape[0]
    given: dict[str, Any] = {"noise": noise, "observe": observe, "start": start, "spread": spread}
    parts = {option: jnp.asarray(value) for option, value in given.items()}
    allowed = {
        "noise": ((states,), (states, states)),
        "observe": ((states,), (*jnp.shape(loc), states)),
        "start": ((), (states,)),
        "spread": ((), (states,), (states, states)),
    }
    for option, shapes in allowed.items():
        if parts[option].shape not in shapes:
            listed = " or ".join(map(str, shapes))
            msg = (
                f"{option}= of '{name:.40}' has shape {parts[option].shape}, and should have "
                f"{listed} for {states} states."
            )
            raise InputError(msg, code="series-shape")
    law = StateSpace(
        loc,
        moves,
        _root(parts["noise"], states),
        parts["observe"],
        scale,
        jnp.broadcast_to(parts["start"], (states,)),
        _root(parts["spread"], states),
        parallel=parallel,
    )
    return numpyro.sample(name, law, obs=obs)


def _root(value: Any, states: int) -> Any:
    """A root of a covariance, of standard deviations."""
    return value if value.ndim == 2 else jnp.diag(jnp.broadcast_to(value, (states,)))
