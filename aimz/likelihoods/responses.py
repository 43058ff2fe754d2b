"""Responses: which of some choices was made, and after how long. The outcome is (time, choice).

A family of responses says how likely each choice is, and the density, tails and quantiles of the
time of each; all else (draws, support, means, what a deadline hides) follows from these here.
"""

from abc import abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from aimz.arrays import Array
from aimz.errors import InputError

__all__ = ["NO_RESPONSE", "CensoredResponse", "Response", "TimeAndChoice"]


#: What stands in the place of both numbers where no response was seen.
NO_RESPONSE = 0.0


class TimeAndChoice(constraints.Constraint):  # type: ignore[misc]  # NumPyro has no stubs
    """Pairs of a time above `shift` and one of some codes; no response is a pair of zeros."""

    event_dim = 1

    def __init__(
        self, shift: Array, codes: tuple[float, ...], deadline: Array | None = None
    ) -> None:
        self.shift, self.codes, self.deadline = shift, codes, deadline

    def __call__(self, value: Array) -> Any:
        time, choice = value[..., 0], value[..., 1]
        is_coded = (choice[..., None] == np.asarray(self.codes)).any(axis=-1)
        inside = is_coded & (time > self.shift)
        if self.deadline is None:
            return inside
        is_none = (choice == NO_RESPONSE) & (time == NO_RESPONSE)
        return (inside & (time <= self.deadline)) | is_none

    def takes(self, value: Array) -> Any:
        """Whether pairs are inside or on the border: a time that is the shift."""
        time, choice = value[..., 0], value[..., 1]
        inside = (choice[..., None] == np.asarray(self.codes)).any(axis=-1) & (time >= self.shift)
        return inside | self(value)

    def feasible_like(self, prototype: Array) -> jax.Array:
        shape = jnp.shape(prototype)[:-1]
        if self.deadline is not None:
            return jnp.zeros((*shape, 2))
        time = jnp.broadcast_to(jnp.asarray(self.shift) + 1.0, shape)
        return jnp.stack([time, jnp.full(shape, self.codes[0])], -1)

    def tree_flatten(self) -> Any:
        return (self.shift, self.deadline), (("shift", "deadline"), {"codes": self.codes})

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TimeAndChoice)
            and self.codes == other.codes
            and self.shift is other.shift
            and self.deadline is other.deadline
        )

    __hash__ = None  # type: ignore[assignment]  # it holds arrays


class Response(dist.Distribution):  # type: ignore[misc]  # NumPyro has no stubs
    """A choice and its time: what families of responses have in common.

    Values are pairs `(time, choice)`: `event_shape` is `(2,)`. Times are in the units of the
    parameters, choices are the `codes` of the family.
    """

    #: Of the choices, in the order of the axis that choices have below.
    codes: tuple[float, ...]
    #: Time before which nothing responds.
    shift: Any

    @abstractmethod
    def log_choices(self) -> jax.Array:
        """Log probability of each choice, in a last axis."""

    @abstractmethod
    def log_density_of(self, elapsed: Array, index: Array) -> Any:
        """Log density of a time since `shift`, given the number of the choice."""

    @abstractmethod
    def log_tails_of(self, elapsed: Array, index: Array) -> tuple[Any, Any]:
        """Log probabilities of at most, and of more than, a time since `shift`, given a choice."""

    @abstractmethod
    def elapsed_at(self, log_less: Array, log_more: Array, index: Array, *, precise: bool) -> Any:
        """The time since `shift` that has these log probabilities, given a choice."""

    @abstractmethod
    def mean_elapsed(self) -> jax.Array:
        """Mean time since `shift` of each choice, in a last axis."""

    @property
    def support(self) -> TimeAndChoice:
        return TimeAndChoice(self.shift, self.codes)

    def log_prob(self, value: Array) -> Any:
        """Log density of times, and probability of choices, by pair; -inf outside the support."""
        value = jnp.asarray(value, jnp.result_type(float))
        time, choice = value[..., 0], value[..., 1]
        index = self._index(choice)
        elapsed = time - self.shift
        is_coded = (choice[..., None] == np.asarray(self.codes)).any(axis=-1)
        is_there = (elapsed > 0) & (elapsed < jnp.inf) & is_coded
        safe = jnp.where(is_there, elapsed, 1.0)
        density = self._log_choice(index) + self.log_density_of(safe, index)
        return jnp.where(is_there, density, -jnp.inf)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Pairs of a time and a choice."""
        shape = (*sample_shape, *self.batch_shape)
        uniform = jax.random.uniform(key, (*shape, 2), minval=np.finfo(jnp.result_type(float)).tiny)
        index = self._index_at(uniform[..., 0])
        less = jnp.log(uniform[..., 1])
        more = jnp.log1p(-jnp.minimum(uniform[..., 1], 1 - np.finfo(uniform.dtype).epsneg))
        elapsed = self.elapsed_at(less, more, index, precise=False)
        return self._pair(elapsed, index)

    def choice(self, code: float | None = None) -> Any:
        """Probability of a choice; of each of them, in a last axis, where no code is given."""
        shares = jnp.exp(self.log_choices())
        if code is None:
            return shares
        return shares[..., self._number(code)]

    def censored(self, deadline: ArrayLike = np.inf, shown: tuple[float, ...] | None = None) -> Any:
        """The same where some responses are not seen: those after a deadline, or of some choices.

        Parameters
        ----------
        deadline : array_like
            Last time that is seen.
        shown : tuple of float, optional
            Codes of the choices that are seen; all where none is given. In a go / no-go task only
            "go" is.

        Returns
        -------
        CensoredResponse
            Its values are pairs as before; no response is `(0, 0)`.
        """
        shown = self.codes if shown is None else tuple(float(code) for code in shown)
        for code in shown:
            self._number(code)
        return CensoredResponse(self, deadline, shown)

    @property
    def mean(self) -> jax.Array:
        """Mean time, and mean of the code of the choice."""
        shares = jnp.exp(self.log_choices())
        time = self.shift + (shares * self.mean_elapsed()).sum(-1)
        code = (shares * jnp.asarray(self.codes)).sum(-1)
        return jnp.stack(jnp.broadcast_arrays(time, code), -1)

    # -------------------------------------------------------------- noise, for a replay
    def noise_of(self, value: Array, uniform: Array) -> tuple[Any, Any, Any]:
        """A uniform behind the choice, and log probabilities of less and of more time."""
        index = self._index(value[..., 1])
        shares = jnp.exp(self.log_choices())
        above = jnp.cumsum(shares, axis=-1)
        top = jnp.take_along_axis(above, index[..., None], -1)[..., 0]
        share = jnp.take_along_axis(shares, index[..., None], -1)[..., 0]
        less, more = self.log_tails_of(value[..., 0] - self.shift, index)
        return top - share * uniform, less, more

    def value_of(self, noise: tuple[Any, Any, Any]) -> jax.Array:
        """The pair that has this noise."""
        place, less, more = noise
        index = self._index_at(place)
        return self._pair(self.elapsed_at(less, more, index, precise=True), index)

    # -------------------------------------------------------------- indices
    def _number(self, code: float) -> int:
        if code not in self.codes:
            msg = f"{code!r} is no choice of {type(self).__name__}: these are {self.codes}."
            raise InputError(msg, code="response-choice")
        return self.codes.index(code)

    def _index(self, choice: Array) -> Any:
        """Numbers of the choices, 0 for a code that is none."""
        return jnp.argmax(choice[..., None] == jnp.asarray(self.codes), axis=-1)

    def _index_at(self, place: Array) -> Any:
        """The choice whose share of (0, 1) a place lies in."""
        above = jnp.cumsum(jnp.exp(self.log_choices()), axis=-1)
        return (place[..., None] >= above[..., :-1]).sum(axis=-1)

    def _log_choice(self, index: Array) -> Any:
        shares = self.log_choices()
        shape = jnp.broadcast_shapes(jnp.shape(index), shares.shape[:-1])
        shares = jnp.broadcast_to(shares, (*shape, shares.shape[-1]))
        index = jnp.broadcast_to(index, shape)
        return jnp.take_along_axis(shares, index[..., None], -1)[..., 0]

    def _pair(self, elapsed: Array, index: Array) -> jax.Array:
        choice = jnp.asarray(self.codes)[index]
        return jnp.stack(jnp.broadcast_arrays(self.shift + elapsed, choice), -1)


class CensoredResponse(dist.Distribution):  # type: ignore[misc]  # NumPyro has no stubs
    """Responses of which some are not seen: those after a deadline, or of some choices.

    Made by `Response.censored`. A response that is not seen has the value `(0, 0)`, whose log
    density is the log probability of all that is hidden.
    """

    pytree_data_fields = ("base", "deadline")
    pytree_aux_fields = ("shown",)

    def __init__(
        self,
        base: Response,
        deadline: ArrayLike,
        shown: tuple[float, ...],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.base, self.deadline, self.shown = base, jnp.asarray(deadline), shown
        shape = jnp.broadcast_shapes(base.batch_shape, jnp.shape(deadline))
        super().__init__(shape, (2,), validate_args=validate_args)

    @property
    def support(self) -> TimeAndChoice:
        return TimeAndChoice(self.base.shift, self.shown, self.deadline)

    def log_hidden(self) -> jax.Array:
        """Log probability that no response is seen."""
        base = self.base
        shares = base.log_choices()
        elapsed = self.deadline - base.shift
        is_finite = jnp.isfinite(elapsed)
        some = jnp.where(is_finite, elapsed, 1.0)
        parts = []
        for number, code in enumerate(base.codes):
            share = shares[..., number]
            if code in self.shown:
                late = share + base.log_tails_of(some, jnp.full(jnp.shape(some), number))[1]
                share = jnp.where(is_finite, late, -jnp.inf)
            parts.append(share)
        return jax.nn.logsumexp(jnp.stack(jnp.broadcast_arrays(*parts), -1), axis=-1)

    def log_prob(self, value: Array) -> Any:
        """Log density of what is seen, and log probability of what is not."""
        value = jnp.asarray(value, jnp.result_type(float))
        time, choice = value[..., 0], value[..., 1]
        is_none = (time == NO_RESPONSE) & (choice == NO_RESPONSE)
        is_shown = (choice[..., None] == np.asarray(self.shown)).any(axis=-1)
        is_seen = is_shown & (time <= self.deadline)
        seen = jnp.where(is_seen, self.base.log_prob(value), -jnp.inf)
        density = jnp.where(is_none, self.log_hidden(), seen)
        return jnp.where(jnp.isnan(density), -jnp.inf, density)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Pairs as of the family, zeros where no response is seen."""
        whole = self.base.expand(self.batch_shape).sample(key, sample_shape)
        is_shown = (whole[..., 1, None] == np.asarray(self.shown)).any(axis=-1)
        is_seen = is_shown & (whole[..., 0] <= self.deadline)
        return jnp.where(is_seen[..., None], whole, NO_RESPONSE)

    def choice(self, code: float | None = None) -> Any:
        """Probability that a choice is seen; of each that is shown, and of none last."""
        base, shares = self.base, self.base.log_choices()
        elapsed = self.deadline - base.shift
        some = jnp.where(jnp.isfinite(elapsed), elapsed, 1.0)

        def seen(number: int) -> Any:
            early = base.log_tails_of(some, jnp.full(jnp.shape(some), number))[0]
            early = jnp.where(jnp.isfinite(elapsed), early, 0.0)
            return jnp.exp(shares[..., number] + early)

        if code is not None and code in self.shown:
            return seen(base.codes.index(code))
        hidden = jnp.exp(self.log_hidden())
        if code is None:
            parts = [seen(base.codes.index(c)) for c in self.shown]
            return jnp.stack(jnp.broadcast_arrays(*parts, hidden), -1)
        if code == NO_RESPONSE:
            return hidden
        msg = f"{code!r} is not seen here: choices that are seen are {self.shown}, and 0 is none."
        raise InputError(msg, code="response-choice")
