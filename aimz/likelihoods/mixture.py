"""Responses whose times are mixtures of log-logistic ones: what a net says of a parameter's set."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aimz.arrays import Array
from aimz.likelihoods.box import InBox, is_in_box
from aimz.likelihoods.responses import Response

__all__ = ["Head", "MixtureResponse"]


class Head(NamedTuple):
    """Log probabilities of choices, and parts of the mixture of the log time of each.

    Axes at the end are choices, and then, but for the first, parts.
    """

    log_shares: Any
    log_weights: Any
    locs: Any
    scales: Any


class MixtureResponse(Response):
    """A choice and its time: log times since `shift` are mixtures of logistic variables.

    Parameters that lie outside of the box that the net was trained in give no numbers: the log
    density is -inf and draws are NaN.
    """

    arg_constraints: Any = {}  # noqa: RUF012  # those of an instance are its own
    pytree_data_fields = ("head", "shift", "parameters")
    pytree_aux_fields = ("codes", "box")

    def __init__(
        self,
        head: Head,
        shift: Array,
        codes: tuple[float, ...],
        parameters: dict[str, Any],
        box: tuple[tuple[str, tuple[float, float]], ...],  # by name: trees sort parameters
    ) -> None:
        self.head, self.shift, self.codes = head, shift, codes
        self.parameters, self.box = parameters, box
        self._show_parameters()
        super().__init__(jnp.shape(shift), (2,), validate_args=False)

    @classmethod
    def tree_unflatten(cls, aux_data: tuple[Any, ...], params: tuple[Any, ...]) -> Any:
        self = super().tree_unflatten(aux_data, params)
        self._show_parameters()  # it is our own
        return self

    def _show_parameters(self) -> None:
        """Parameters as attributes with limits, as those of other families, to be checked so."""
        self.arg_constraints = {name: InBox(*pair) for name, pair in self.box}
        self.__dict__.update(self.parameters)

    def is_inside(self) -> Any:
        """Whether parameters lie in the box, up to rounding."""
        return jnp.broadcast_to(is_in_box(self.parameters, dict(self.box)), self.batch_shape)

    # -------------------------------------------------------------- as a law, for a replay
    @property
    def law_shares(self) -> Any:
        return self.head.log_shares[..., None, :]

    @property
    def law_parts(self) -> Any:
        return jnp.stack(self.head[1:], -1)[..., None, :, :, :]

    @property
    def law_shift(self) -> Any:
        return jnp.asarray(self.shift)[..., None]

    @property
    def law_codes(self) -> Any:
        return jnp.asarray(self.codes)

    @classmethod
    def of_law(cls, law: dict[str, Any]) -> "MixtureResponse":
        """The same from the parameters of a law, which a pair has in both of its elements."""
        parts = law["law_parts"][..., 0, :, :, :]
        head = Head(law["law_shares"][..., 0, :], *(parts[..., i] for i in range(3)))
        codes = law["law_codes"].reshape(-1, law["law_codes"].shape[-1])[0]
        return cls(head, law["law_shift"][..., 0], codes, {}, ())

    # -------------------------------------------------------------- the law itself
    def log_choices(self) -> Any:
        return jnp.where(self.is_inside()[..., None], self.head.log_shares, jnp.nan)

    def log_prob(self, value: Array) -> Any:
        """Log density of times, and probability of choices, by pair; -inf outside."""
        density = super().log_prob(value)
        return jnp.where(self.is_inside() & ~jnp.isnan(density), density, -jnp.inf)

    def log_density_of(self, elapsed: Array, index: Array) -> Any:
        weights, locs, scales = self._parts(index)
        place = jnp.log(elapsed)
        units = (place[..., None] - locs) / scales
        parts = weights - units - 2 * jax.nn.softplus(-units) - jnp.log(scales)
        return jax.nn.logsumexp(parts, axis=-1) - place

    def log_tails_of(self, elapsed: Array, index: Array) -> tuple[Any, Any]:
        weights, locs, scales = self._parts(index)
        place = jnp.log(jnp.where(elapsed > 0, elapsed, 1.0))
        units = (place[..., None] - locs) / scales
        less, more = (
            jax.nn.logsumexp(weights + jax.nn.log_sigmoid(sign * units), axis=-1)
            for sign in (1, -1)
        )
        return jnp.where(elapsed > 0, less, -jnp.inf), jnp.where(elapsed > 0, more, 0.0)

    def elapsed_at(self, log_less: Array, log_more: Array, index: Array, *, precise: bool) -> Any:
        """By bisection of the mixture's distribution function, between its parts' quantiles."""
        _, locs, scales = self._parts(index)
        odds = log_less - log_more
        low = (locs + scales * odds[..., None]).min(-1)
        high = (locs + scales * odds[..., None]).max(-1)

        def halve(_: int, ends: tuple[Any, Any]) -> tuple[Any, Any]:
            middle = 0.5 * (ends[0] + ends[1])
            less, more = self.log_tails_of(jnp.exp(middle), index)
            is_below = less - more < odds
            return jnp.where(is_below, middle, ends[0]), jnp.where(is_below, ends[1], middle)

        low, high = jax.lax.fori_loop(0, 55 if precise else 26, halve, (low, high))
        return jnp.exp(0.5 * (low + high))

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """Pairs of a time and a choice: a part of the mixture, and a logistic variable."""
        shape = (*sample_shape, *self.batch_shape)
        tiny = float(np.finfo(jnp.result_type(float)).tiny)
        uniform = jax.random.uniform(key, (*shape, 3), minval=tiny)
        index = self._index_at(uniform[..., 0])
        weights, locs, scales = self._parts(index)
        above = jnp.cumsum(jnp.exp(weights), axis=-1)[..., :-1]
        part = (uniform[..., 1, None] >= above).sum(-1)[..., None]
        loc, scale = (jnp.take_along_axis(v, part, -1)[..., 0] for v in (locs, scales))
        place = loc + scale * (jnp.log(uniform[..., 2]) - jnp.log1p(-uniform[..., 2]))
        pair = self._pair(jnp.exp(place), index)
        return jnp.where(self.is_inside()[..., None], pair, jnp.nan)

    def mean_elapsed(self) -> Any:
        """Scales are below one half, so that there is one."""
        _, weights, locs, scales = self.head
        angle = jnp.pi * scales
        return (jnp.exp(weights + locs) * angle / jnp.sin(angle)).sum(-1)

    def _parts(self, index: Array) -> tuple[Any, Any, Any]:
        """Parts of the mixture of a choice."""
        shape = jnp.broadcast_shapes(jnp.shape(index), self.head.locs.shape[:-2])
        index = jnp.broadcast_to(index, shape)[..., None, None]

        def chosen(part: Array) -> Any:
            wide = jnp.broadcast_to(part, (*shape, *part.shape[-2:]))
            return jnp.take_along_axis(wide, index, -2)[..., 0, :]

        return chosen(self.head.log_weights), chosen(self.head.locs), chosen(self.head.scales)
