"""A scan over the trials of many members at once, and parameters that members have of a group."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro import handlers
from numpyro.contrib.control_flow import scan

from aimz.arrays import Array
from aimz.errors import InputError

__all__ = ["hierarchical", "scan_trials"]


def hierarchical(
    name: str,
    plate: numpyro.plate,
    transform: Callable[[Any], Any] = lambda value: value,
    loc: ArrayLike = 0.0,
    scale: ArrayLike = 1.0,
) -> Any:
    """A parameter of each member, drawn from a group that is learned, in standard units.

    Sites are `name_loc`, normal, and `name_sd`, half normal, of the group, `name_offset`, standard
    normal, of each member, and `name`, the transform of `loc + sd * offset`, which interventions
    set.

    Parameters
    ----------
    name : str
        Name of the parameter.
    plate : numpyro.plate
        The members.
    transform : callable
        From all numbers to those that the parameter can be, such as `jax.nn.sigmoid`.
    loc, scale : array_like
        Mean and spread of the prior of the group's mean; the spread is also that of its sd.

    Returns
    -------
    array, one number for each member

    Examples
    --------
    >>> from numpyro import handlers
    >>> def kernel():
    ...     return hierarchical("alpha", numpyro.plate("subject", 3), jax.nn.sigmoid)
    >>> handlers.seed(kernel, 0)().shape
    (3,)
    """
    mean = numpyro.sample(f"{name}_loc", dist.Normal(loc, scale))
    spread = numpyro.sample(f"{name}_sd", dist.HalfNormal(scale))
    with plate:
        offset = numpyro.sample(f"{name}_offset", dist.Normal(0.0, 1.0))
    return numpyro.deterministic(name, transform(mean + spread * offset))


def scan_trials(
    step: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    inputs: Any,
    *,
    members: numpyro.plate,
    there: Array | None = None,
) -> tuple[Any, Any]:
    """Go through the trials of all members side by side; what is not there changes nothing.

    `step` makes one trial of all members: it gets the state before the trial and what `inputs` say
    of the trial, draws or observes by `numpyro.sample`, and returns the state after it and what is
    worth keeping, such as the values before the update. Arrays have an axis of members first. The
    plate of the members is around it: do not open it again.

    Parameters
    ----------
    step : callable
        `step(state, trial) -> (state, kept)`.
    init : array or tree of arrays
        State before the first trial. A leading axis is that of the members.
    inputs : tree of arrays, shape (members, trials, ...)
        What is known of the trials. None stays None, as an outcome that is to be drawn.
    members : numpyro.plate
        The members, as of `hierarchical`.
    there : array of bool, shape (members, trials), optional
        Which trials a member has; of others the state is handed on as it was, and what is drawn or
        observed there does not count. All are there where none is given.

    Returns
    -------
    state, kept
        The last state, and what the steps kept, with axes of members and trials first.

    Raises
    ------
    InputError
        `trials-shape`: inputs that do not have the same members and trials, or a state that does
        not have the members.

    Examples
    --------
    Values of one arm that are learned from rewards, from one half on:

    >>> def kernel(X, reward, there):
    ...     subjects = numpyro.plate("subject", X.shape[0])
    ...     rate = hierarchical("rate", subjects, jax.nn.sigmoid)
    ...     def step(value, gain):
    ...         return value + rate * (gain - value), value
    ...     return scan_trials(
    ...         step, jnp.full(X.shape[0], 0.5), reward, members=subjects, there=there
    ...     )
    >>> there = jnp.array([[True, True], [True, False]])
    >>> with numpyro.handlers.seed(rng_seed=0):
    ...     last, before = kernel(jnp.zeros((2, 1)), jnp.ones((2, 2)), there)
    >>> before.shape, bool(last[1] == before[1, 1])
    ((2, 2), True)
    """
    count, length = _sizes(inputs, there)
    for leaf in jax.tree.leaves(init):
        if jnp.shape(leaf)[:1] != (count,):
            msg = (
                f"The state before the first trial has the shape {jnp.shape(leaf)}, but there are "
                f"{count} members. Give it an axis of members first, as by jnp.zeros(({count}, 5))."
            )
            raise InputError(msg, code="trials-shape")
    if members.size != count:
        msg = f"The plate '{members.name}' has {members.size} members, but inputs have {count}."
        raise InputError(msg, code="trials-shape")

    def one(state: Any, trial: Any) -> tuple[Any, Any]:
        seen, is_there = trial
        if is_there is None:
            with members:
                return step(state, seen)
        with members, handlers.mask(mask=is_there):
            after, kept = step(state, seen)
        return jax.tree.map(lambda new, old: _kept_where(is_there, new, old), after, state), kept

    turned = jax.tree.map(lambda leaf: jnp.swapaxes(jnp.asarray(leaf), 0, 1), (inputs, there))
    last, kept = scan(one, init, turned, length=length)
    return last, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), kept)


def _kept_where(is_there: Array, new: Array, old: Array) -> Any:
    wide = is_there.reshape(is_there.shape + (1,) * (jnp.ndim(new) - 1))
    return jnp.where(wide, new, old)


def _sizes(inputs: Any, there: Array | None) -> tuple[int, int]:
    """Members and trials that all inputs have."""
    shapes = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves((inputs, there))}
    if len(shapes) == 1 and len(sizes := next(iter(shapes))) == 2:
        return sizes[0], sizes[1]
    msg = (
        f"Inputs of trials begin with the axes {sorted(shapes)}; each must begin with members and "
        "trials, as many as all others. Pad the sessions, as `aimz.sequential.sessions` does."
    )
    raise InputError(msg, code="trials-shape")
