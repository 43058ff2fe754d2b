"""Series of a linear Gaussian state: the state is integrated out, not drawn.

Beside the density of the whole series it knows that of each value, given those before it or given
all others, and how a draw moves when some of its values become known. A Kalman filter and the
recursion backwards from it (Durbin and Koopman, 2012, "Time Series Analysis by State Space
Methods", 4.3 to 4.5) say all of it.

Matrices are multiplied element by element: on a CPU a loop over small products of JAX spends its
time on calling them.
"""

from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from aimz.arrays import Array
from aimz.errors import InputError
from aimz.families.family import Vector

__all__ = ["STATE_SPACE", "StateSpace"]


class _Law(NamedTuple):
    """The arrays of one series."""

    loc: jax.Array
    transition: jax.Array
    noise: jax.Array
    observe: jax.Array
    scale: jax.Array
    start: jax.Array
    spread: jax.Array


class _Filtered(NamedTuple):
    """By step, before its value is known: state, error, its variance, covariance, and gain."""

    state: jax.Array
    error: jax.Array
    variance: jax.Array
    covariance: jax.Array
    gain: jax.Array


_EVENTS = (1, 2, 2, 2, 1, 1, 2)  # dimensions of one series, in the order of `_Law`
_CORE = "(t),(d,d),(d,d),(t,d),(t),(d),(d,d)"


class StateSpace(dist.Distribution):  # type: ignore[misc]  # NumPyro has no stubs
    """A series whose mean follows a hidden state that moves linearly, with normal noise.

    The state begins at `start`, and in each step becomes `transition` times itself plus noise. A
    value is `loc`, plus `observe` times the state, plus noise. NaN is a value that is missing.

    Parameters
    ----------
    loc : array, shape (..., steps)
        Added to the series: what is known from elsewhere, such as a regression.
    transition : array, shape (..., states, states)
        From one step to the next.
    noise : array, shape (..., states, states)
        Root of the covariance of a step's noise: the covariance is the root times its transpose.
    observe : array, shape (..., steps, states) or (states,)
        Weights of the states in each value.
    scale : array, shape (..., steps) or ()
        Standard deviation of the noise of a value.
    start : array, shape (..., states)
        Mean of the state in the first step.
    spread : array, shape (..., states, states)
        Root of its covariance.
    parallel : bool
        Compute the density in a logarithmic number of rounds, by `cuthbert`: for long series on an
        accelerator. On a CPU it is slower.
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real_vector,
        "transition": constraints.real_matrix,
        "noise": constraints.real_matrix,
        "observe": constraints.real_matrix,
        "scale": constraints.independent(constraints.positive, 1),
        "start": constraints.real_vector,
        "spread": constraints.real_matrix,
    }
    support = constraints.real_vector
    pytree_aux_fields = ("parallel",)

    def __init__(
        self,
        loc: ArrayLike,
        transition: ArrayLike,
        noise: ArrayLike,
        observe: ArrayLike,
        scale: ArrayLike,
        start: ArrayLike,
        spread: ArrayLike,
        *,
        parallel: bool = False,
    ) -> None:
        self.loc = jnp.asarray(loc, jnp.result_type(float))
        steps = self.loc.shape[-1:]
        self.transition, self.noise = jnp.asarray(transition), jnp.asarray(noise)
        self.start, self.spread = jnp.asarray(start), jnp.asarray(spread)
        weights, deviation = jnp.asarray(observe), jnp.asarray(scale)
        states = self.transition.shape[-1:]
        self.observe = jnp.broadcast_to(weights, steps + states) if weights.ndim < 2 else weights
        self.scale = jnp.broadcast_to(deviation, steps) if deviation.ndim < 1 else deviation
        self.parallel = parallel
        shapes = [
            jnp.shape(value)[: jnp.ndim(value) - events]
            for value, events in zip(self._law, _EVENTS, strict=True)
        ]
        batch = jnp.broadcast_shapes(*shapes)
        super().__init__(batch, steps)

    @property
    def _law(self) -> _Law:
        return _Law(*(getattr(self, name) for name in _Law._fields))

    def log_prob(self, value: ArrayLike) -> Any:
        """Log density of a series; of one with NaN, of the values that are there."""
        value = jnp.asarray(value, self.loc.dtype)
        return _density(self, value, ~jnp.isnan(value))

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """Series, and the states behind them forgotten."""
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        of_states, of_values = jax.random.split(key)
        pushes = jax.random.normal(of_states, (*shape, *self.start.shape[-1:]), self.loc.dtype)
        noise = jax.random.normal(of_values, shape, self.loc.dtype)
        draw = jnp.vectorize(_path, signature=f"(t,d),(t),{_CORE}->(t)")
        return draw(pushes, noise, *self._law)

    @property
    def mean(self) -> Any:
        """Of each value, before any is known."""
        draw = jnp.vectorize(_path, signature=f"(t,d),(t),{_CORE}->(t)")
        still = jnp.zeros((*self.event_shape, *self.start.shape[-1:]), self.loc.dtype)
        return jnp.broadcast_to(draw(still, still[..., 0], *self._law), self.shape())

    @property
    def variance(self) -> Any:
        """Of each value, before any is known."""
        law = self._law
        none = jnp.zeros(self.event_shape, bool)
        spread = jnp.vectorize(
            lambda there, *parts: _filter(_Law(*parts), jnp.zeros(there.shape), there).variance,
            signature=f"(t),{_CORE}->(t)",
        )
        return jnp.broadcast_to(spread(none, *law), self.shape())


# ------------------------------------------------------------------ small matrices
def _times(a: jax.Array, b: jax.Array) -> Any:
    """A matrix times a matrix or a vector."""
    if b.ndim == 1:
        return (a * b).sum(-1)
    return (a[:, :, None] * b).sum(1)


def _square(root: jax.Array) -> Any:
    return _times(root, root.T)


# ------------------------------------------------------------------ one series
def _path(pushes: jax.Array, noise: jax.Array, *parts: jax.Array) -> Any:
    law = _Law(*parts)

    def step(state: jax.Array, push: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _times(law.transition, state) + _times(law.noise, push), state

    first = law.start + _times(law.spread, pushes[0])
    _, states = jax.lax.scan(step, first, jnp.roll(pushes, -1, 0))
    return law.loc + (law.observe * states).sum(-1) + law.scale * noise


def _filter(law: _Law, residual: jax.Array, there: jax.Array) -> _Filtered:
    """Run the filter on a series less `loc`; what is not there tells it nothing."""
    root = _square(law.noise)

    def step(
        before: tuple[jax.Array, jax.Array], seen: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], _Filtered]:
        (state, covariance), (value, is_there, weights, scale) = before, seen
        seen_with = (covariance * weights).sum(-1)
        variance = (weights * seen_with).sum() + scale**2
        error = jnp.where(is_there, value - (weights * state).sum(), 0.0)
        gain = jnp.where(is_there, seen_with / variance, 0.0)
        left = jnp.eye(len(state)) - gain[:, None] * weights
        # Joseph's form keeps the covariance positive in single precision.
        known = _times(_times(left, covariance), left.T) + scale**2 * gain[:, None] * gain
        moved = _times(_times(law.transition, known), law.transition.T) + root
        after = _times(law.transition, state + gain * error)
        return (after, (moved + moved.T) / 2), _Filtered(state, error, variance, covariance, gain)

    begin = (law.start, _square(law.spread))
    begin = jax.tree.map(lambda leaf: leaf.astype(residual.dtype), begin)
    inputs = (residual, there, law.observe, law.scale)
    filtered: _Filtered = jax.lax.scan(step, begin, inputs)[1]
    return filtered


def _backwards(law: _Law, filtered: _Filtered, there: jax.Array) -> tuple[jax.Array, ...]:
    """What the values from each step on say of its state, what those after it say: mean, weight.

    The state is its mean before the step plus its covariance times the first. The last is the
    weight of all values for the first state.
    """

    def step(after: tuple[jax.Array, jax.Array], seen: Any) -> Any:
        (pull, weight), (one, is_there, weights) = after, seen
        left = law.transition - _times(law.transition, one.gain)[:, None] * weights
        inverse = jnp.where(is_there, 1.0 / one.variance, 0.0)
        pull_here = weights * (one.error * inverse) + _times(left.T, pull)
        weight_here = inverse * weights[:, None] * weights + _times(_times(left.T, weight), left)
        return (pull_here, weight_here), (pull_here, pull, weight)

    states = law.start.shape[-1]
    end = (jnp.zeros(states, law.loc.dtype), jnp.zeros((states, states), law.loc.dtype))
    (_, whole), (here, pull, weight) = jax.lax.scan(
        step, end, (filtered, there, law.observe), reverse=True
    )
    return here, pull, weight, whole


def _log_normal(error: jax.Array, variance: jax.Array) -> Any:
    return -0.5 * (error**2 / variance + jnp.log(2 * jnp.pi * variance))


def _steps(value: jax.Array, there: jax.Array, *parts: jax.Array) -> Any:
    """Log density of each value given those before it."""
    law = _Law(*parts)
    filtered = _filter(law, jnp.where(there, value - law.loc, 0.0), there)
    return jnp.where(there, _log_normal(filtered.error, filtered.variance), 0.0)


@jax.custom_jvp
def _whole(value: jax.Array, there: jax.Array, *parts: jax.Array) -> Any:
    """Log density of the series. Its gradient is known, and cheaper than that of the loop."""
    return _steps(value, there, *parts).sum()


@_whole.defjvp
def _along(primals: tuple[jax.Array, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    (value, there, *parts), (of_value, _, *of_parts) = primals, tangents
    law = _Law(*parts)
    filtered = _filter(law, jnp.where(there, value - law.loc, 0.0), there)
    score = _score(law, filtered, there)
    density = jnp.where(there, _log_normal(filtered.error, filtered.variance), 0.0).sum()
    moved = zip(score, of_parts, strict=True)
    return density, sum(
        ((one * of_one).sum() for one, of_one in moved), -(score.loc * of_value).sum()
    )


def _score(law: _Law, filtered: _Filtered, there: jax.Array) -> _Law:
    """Gradient of the log density by each array (Koopman and Shephard, 1992, Biometrika 79:823).

    The mean, given the series, of the gradient of the joint density of series and states.
    """
    here, pull, weight, whole = _backwards(law, filtered, there)
    each = jax.vmap(_times)
    inverse = jnp.where(there, 1.0 / filtered.variance, 0.0)
    gain = jax.vmap(partial(_times, law.transition))(filtered.gain)
    left = law.transition - gain[:, :, None] * law.observe[:, None]
    scaled = filtered.error * inverse - (gain * pull).sum(-1)  # noise given the series, by variance
    precision = inverse + (gain * each(weight, gain)).sum(-1)
    state = filtered.state + each(filtered.covariance, here)
    lagged = each(each(weight, left), filtered.covariance)
    together = inverse[:, None] * each(filtered.covariance, law.observe)
    together -= (gain[:, :, None] * lagged).sum(1)
    pushed = pull[:, :, None] * pull[:, None] - weight
    return _Law(
        loc=scaled,
        transition=(pull[:, :, None] * state[:, None] - lagged).sum(0),
        noise=_times(pushed.sum(0), law.noise),
        observe=scaled[:, None] * state - together,
        scale=law.scale * (scaled**2 - precision),
        start=here[0],
        spread=_times(here[0][:, None] * here[0] - whole, law.spread),
    )


def _others(value: jax.Array, there: jax.Array, *parts: jax.Array) -> Any:
    """Log density of each value given all others (de Jong, 1988, doi:10.1093/biomet/75.3.594)."""
    law = _Law(*parts)
    filtered = _filter(law, jnp.where(there, value - law.loc, 0.0), there)
    _, pull, weight, _ = _backwards(law, filtered, there)
    gain = jax.vmap(partial(_times, law.transition))(filtered.gain)
    precision = 1.0 / filtered.variance + jnp.einsum("ti,tij,tj->t", gain, weight, gain)
    scaled = filtered.error / filtered.variance - (gain * pull).sum(-1)
    return jnp.where(there, _log_normal(scaled / precision, 1.0 / precision), 0.0)


def _moved(change: jax.Array, there: jax.Array, *parts: jax.Array) -> Any:
    """How all values move when those that are there change, by regression."""
    law = _Law(*parts)._replace(start=jnp.zeros_like(parts[5]))
    filtered = _filter(law, jnp.where(there, change, 0.0), there)
    pull, *_ = _backwards(law, filtered, there)
    states = filtered.state + jax.vmap(_times)(filtered.covariance, pull)
    return (law.observe * states).sum(-1)


# ------------------------------------------------------------------ in parallel
def _in_parallel(value: jax.Array, there: jax.Array, *parts: jax.Array) -> Any:
    """Log density by an associative scan (Yaghoobi et al., 2025, doi:10.1137/23M156121X)."""
    try:
        import cuthbert  # type: ignore[import-untyped]  # no stubs
    except ImportError as error:
        msg = "parallel=True takes cuthbert, which is not installed. Run: pip install cuthbert"
        raise InputError(msg, code="timeseries-missing") from error
    law = _Law(*parts)
    states = law.start.shape[-1]
    still, zero = jnp.eye(states), jnp.zeros((states, states))
    steps = len(value)
    # The state of the first value has not moved yet.
    first = (jnp.arange(steps) == 0)[:, None, None]
    moves = jnp.where(first, still, law.transition)
    pushes = jnp.where(first, zero, law.noise)
    seen = (moves, pushes, law.observe, law.scale, jnp.where(there, value - law.loc, jnp.nan))
    built = cuthbert.gaussian.kalman.build_filter(
        law.start,
        law.spread,
        lambda one: (one[0], jnp.zeros(states), one[1]),
        lambda one: (one[2][None], jnp.zeros(1), one[3][None, None], one[4][None]),
    )
    run = cuthbert.filter(built, seen, built.init_prepare(), parallel=True)
    return run.log_normalizing_constant[-1]


# ------------------------------------------------------------------ what the table is told
def _vectorised(function: Any, out: str) -> Any:
    return jnp.vectorize(function, signature=f"(t),(t),{_CORE}->{out}")


def _density(fn: StateSpace, value: Array, there: Array) -> Any:
    """Of the values that are there."""
    if fn.parallel:
        return _vectorised(_in_parallel, "()")(value, there, *fn._law)  # noqa: SLF001
    return _vectorised(_whole, "()")(value, there, *fn._law)  # noqa: SLF001


def _completed(fn: StateSpace, there: Array, value: Array, drawn: Array) -> Any:
    """Matheron's rule: a draw moves by the regression on what its known values are off."""
    change = jnp.where(there, value - drawn, 0.0)
    moved = drawn + _vectorised(_moved, "(t)")(change, there, *fn._law)  # noqa: SLF001
    return jnp.where(there, value, moved)


def _after(fn: StateSpace, value: Array, natural: Array) -> Any:
    """The same rule, where the first values are known."""
    count, steps = value.shape[-1], natural.shape[-1]
    there = jnp.broadcast_to(jnp.arange(steps) < count, natural.shape)
    whole = jnp.concatenate([value, natural[..., count:]], -1)
    there = there & ~jnp.isnan(whole)
    return _completed(fn, there, jnp.where(there, whole, 0.0), natural)


def _given_earlier(fn: StateSpace, value: Array, there: Array) -> Any:
    return _vectorised(_steps, "(t)")(value, there, *fn._law)  # noqa: SLF001


def _given_others(fn: StateSpace, value: Array, there: Array) -> Any:
    return _vectorised(_others, "(t)")(value, there, *fn._law)  # noqa: SLF001


STATE_SPACE = Vector(
    marginal=_density,
    completed=_completed,
    after=_after,
    earlier=_given_earlier,
    others=_given_others,
)
