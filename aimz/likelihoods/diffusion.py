"""The drift-diffusion model, by its series."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from numpyro.distributions import constraints
from numpyro.distributions.util import promote_shapes

from aimz.arrays import Array
from aimz.likelihoods import first_passage
from aimz.likelihoods.responses import Response

__all__ = ["DriftDiffusion"]


class DriftDiffusion(Response):
    """Choice and time of a drift-diffusion process (Ratcliff, 1978).

    Evidence starts at `z * a` between 0 and `a`, drifts by `v` per unit of time with noise of unit
    variance, and the boundary that it reaches first is the choice: 1 for the upper one at `a`,
    -1 for the lower one at 0. `t` is added to the time that it takes. Outcomes are pairs
    `(time, choice)`, as rows of two columns.

    Density and distribution function are the series of Navarro and Fuss (2009) and of Blurton,
    Kesselmeier and Gondan (2012), exact to the precision in use; draws invert the latter.

    Parameters
    ----------
    v : array_like
        Drift, of either sign.
    a : array_like
        Separation of the boundaries, above 0. It is twice the `a` of ssm-simulators and HSSM,
        whose boundaries are at -a and a.
    z : array_like
        Start, as a share of the separation, in (0, 1).
    t : array_like
        Time before which nothing responds, of at least 0.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> responses = DriftDiffusion(v=1.0, a=2.0, z=0.5, t=0.3)
    >>> round(float(responses.choice(1)), 4)  # 1 / (1 + exp(-v * a)) from the middle
    0.8808
    >>> responses.log_prob(jnp.array([[0.8, 1.0], [0.8, -1.0], [0.2, 1.0]])).round(3).tolist()
    [-0.130..., -2.130..., -inf]
    >>> responses.mean.round(3).tolist()
    [1.062..., 0.762...]

    See Also
    --------
    Response.censored : Responses that a deadline hides, or that are of a choice that is not seen.
    """

    arg_constraints: ClassVar = {
        "v": constraints.real,
        "a": constraints.positive,
        "z": constraints.unit_interval,
        "t": constraints.nonnegative,
    }
    reparametrized_params: ClassVar[list[str]] = []
    codes = (-1.0, 1.0)

    def __init__(
        self,
        v: ArrayLike,
        a: ArrayLike,
        z: ArrayLike = 0.5,
        t: ArrayLike = 0.0,
        *,
        validate_args: bool | None = None,
    ) -> None:
        values = (v, a, z, t)
        shape = jnp.broadcast_shapes(*map(jnp.shape, values))
        self.v, self.a, self.z, self.t = promote_shapes(*values, shape=shape)
        super().__init__(shape, (2,), validate_args=validate_args)

    @property
    def shift(self) -> Any:
        return self.t

    @property
    def parameters(self) -> Array:
        """All four in a last axis, below an axis of one for the pair."""
        return jnp.stack(jnp.broadcast_arrays(self.v, self.a, self.z, self.t), -1)[..., None, :]

    def _path(self, index: ArrayLike) -> first_passage.Path:
        """The path as it is seen from the boundary of a choice."""
        is_upper = jnp.asarray(index) == 1
        drift = self.v * self.a
        return first_passage.Path(
            jnp.where(is_upper, drift, -drift),
            jnp.where(is_upper, 1 - self.z, self.z),
            jnp.where(is_upper, self.z, 1 - self.z),
        )

    def log_choices(self) -> jax.Array:
        reached = [first_passage.log_reach(self._path(index)) for index in (0, 1)]
        return jnp.stack(jnp.broadcast_arrays(*reached, jnp.zeros(self.batch_shape))[:2], -1)

    def log_density_of(self, elapsed: Array, index: Array) -> Any:
        path, unit = self._path(index), self.a * self.a
        density = first_passage.log_density(path, elapsed / unit)
        return density - jnp.log(unit) - first_passage.log_reach(path)

    def log_tails_of(self, elapsed: Array, index: Array) -> tuple[Any, Any]:
        return first_passage.log_tails(self._path(index), elapsed / (self.a * self.a))

    def elapsed_at(self, log_less: Array, log_more: Array, index: Array, *, precise: bool) -> Any:
        steps = 60 if precise else 22
        time = first_passage.quantile(self._path(index), log_less, log_more, steps=steps)
        return time * self.a * self.a

    def mean_elapsed(self) -> jax.Array:
        times = [first_passage.mean_time(self._path(index)) for index in (0, 1)]
        unit = self.a * self.a
        times = [unit * time for time in times]
        return jnp.stack(jnp.broadcast_arrays(*times, jnp.zeros(self.batch_shape))[:2], -1)

    def log_prob(self, value: Array) -> jax.Array:
        """Log density of times, and probability of choices, by pair; -inf outside the support."""
        value = jnp.asarray(value, jnp.result_type(float))
        elapsed, index = value[..., 0] - self.t, self._index(value[..., 1])
        is_there = (elapsed > 0) & (elapsed < jnp.inf) & (jnp.abs(value[..., 1]) == 1)
        unit = self.a * self.a
        time = jnp.where(is_there, elapsed, 1.0) / unit
        density = first_passage.log_density(self._path(index), time) - jnp.log(unit)
        return jnp.where(is_there, density, -jnp.inf)
