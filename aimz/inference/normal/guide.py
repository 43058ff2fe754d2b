r"""The default guide: a normal in coordinates that the posterior itself has scaled.

Raw covariates (years, incomes, squares) give posteriors whose scales differ by factors of a
million and whose correlations are close to one; a guide that starts from identical unit scales
does not reach them. So the mode and the curvature of the log density are found first, in double
precision, and the guide is learned relative to them:

    z = loc + L (mu + S eps),   eps ~ N(0, I),   starting from mu = 0, S = I.

Where the density has no usable mode (a centred hierarchical kernel, whose density is unbounded at
scale zero), the start is a few steps of natural-gradient variational inference instead, whose
curvature is averaged over the guide (Lin, Schmidt and Khan 2020, "Handling the positive-definite
constraint in the Bayesian learning rule").

The entropy is evaluated with the guide's parameters held fixed (Roeder et al. 2017, "Sticking the
landing"): the gradient's noise vanishes where the guide equals the posterior.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.autoguide import AutoContinuous
from numpyro.infer.initialization import init_to_uniform

from aimz.inference.density import MANY_SITES
from aimz.inference.normal.refinement import refined

__all__ = [
    "HUGE",
    "INIT_RADIUS",
    "INIT_SCALE",
    "NO_RIVAL",
    "OTHER_MODE",
    "SAME_NATS",
    "WIDE",
    "WhitenedNormal",
    "slope_and_curve",
    "weight_sd",
]


WIDE = 64
# Values beyond which 32 bits cannot hold a covariance for long.
HUGE = 1e15
#: Distance from zero, at most, of the first values of unconstrained latents.
INIT_RADIUS = 0.5
# Modes: standard deviations that part two, nats by which one is seen to be better than another,
# and a share of the evidence that is not worth a word.
OTHER_MODE, SAME_NATS, NO_RIVAL = 4.0, 1e-3, 0.01
INIT_SCALE = 0.1
# Draws that show whether the density around a mode is that of its curvature.
_WEIGHTS = 64


class WhitenedNormal(AutoContinuous):  # type: ignore[misc]  # NumPyro's guides are untyped
    """Normal guide over all latent sites, full-rank or mean-field, relative to a start.

    `start` holds "loc" (d,) and "scale": (d, d) lower triangular, or (d,) for a mean-field guide.
    """

    def __init__(self, model: Callable[..., Any], start: dict[str, Any] | None = None) -> None:
        super().__init__(
            model, prefix="aimz", init_loc_fn=partial(init_to_uniform, radius=INIT_RADIUS)
        )
        self.start = start

    def _setup_prototype(self, *args: object, **kwargs: object) -> None:
        """See the kernel once; unlike NumPyro's, without a search for a better start."""
        key = numpyro.prng_key()
        with handlers.block():
            seeded = handlers.seed(self.model, key)
            first = handlers.substitute(seeded, substitute_fn=self.init_loc_fn)
            self.prototype_trace = handlers.trace(first).get_trace(*args, **kwargs)
        latents = {
            name: biject_to(site["fn"].support).inv(site["value"])
            for name, site in self.prototype_trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        }
        self._init_locs = dict(sorted(latents.items()))
        self._init_latent, unpack = jax.flatten_util.ravel_pytree(self._init_locs)
        self._unpack_latent = self.unpack = unpack
        if len(latents) > MANY_SITES:  # XLA would compute the vector anew for each of its parts
            self._unpack_latent = self.unpack = lambda v: unpack(lax.optimization_barrier(v))
        self.latent_dim = self._init_latent.size
        sizes = [value.size for value in self._init_locs.values()]
        places = np.split(np.arange(self.latent_dim), np.cumsum(sizes)[:-1])
        #: Where each site is in the latent vector.
        self.positions = dict(zip(self._init_locs, places, strict=True))

    def affine(self, mu: jax.Array, log_scale: jax.Array) -> tuple[Any, Any]:
        """Location and scale of the posterior, from the guide's parameters."""
        loc0, scale0 = self._own_start()
        if scale0.ndim == 1:
            return loc0 + scale0 * mu, scale0 * jnp.exp(log_scale)
        return loc0 + scale0 @ mu, scale0 @ _inner(log_scale)

    def posterior_at(self, params: dict[str, Any]) -> Any:
        """The normal over the unconstrained latent vector that these parameters stand for."""
        names = (f"{self.prefix}_{name}" for name in ("mu", "scale"))
        return self.normal(*self.affine(*(params[name] for name in names)))

    def refined(self, slope: Callable[[Any], Any], params: dict[str, Any], key: jax.Array) -> Any:
        """Parameters of a full-rank guide nearer to the density that has this slope."""
        names = [f"{self.prefix}_{name}" for name in ("mu", "scale")]
        mu, log_scale = (params[name] for name in names)

        loc0, scale0 = self._own_start()

        def affine(mu: jax.Array, inner: jax.Array) -> Any:
            return loc0 + scale0 @ mu, scale0 @ inner

        mu, inner = refined(slope, affine, mu, _inner(log_scale), key)
        log_scale = jnp.tril(inner, -1) + jnp.diag(jnp.log(jnp.diag(inner)))
        return {**params, **dict(zip(names, (mu, log_scale), strict=True))}

    def _own_start(self) -> tuple[Any, Any]:
        if self.start is None:
            raise RuntimeError("a WhitenedNormal guide needs its start")
        return self.start["loc"], self.start["scale"]

    def normal(self, loc: jax.Array, scale: jax.Array) -> Any:
        """The normal over the unconstrained latent vector with this location and scale."""
        if scale.ndim == 1:
            return dist.Normal(loc, scale, validate_args=False).to_event(1)
        return dist.MultivariateNormal(loc, scale_tril=scale, validate_args=False)

    def _get_posterior(self) -> Any:
        """The normal that its parameters stand for."""
        if self.start is None:  # only its shape is asked for
            return dist.Normal(self._init_latent, 1.0).to_event(1)
        mu = numpyro.param(f"{self.prefix}_mu", jnp.zeros_like(self.start["loc"]))
        log_scale = numpyro.param(f"{self.prefix}_scale", jnp.zeros_like(self.start["scale"]))
        return self.normal(*self.affine(mu, log_scale))

    def _sample_latent(self, *args: object, **kwargs: Any) -> Any:
        sample_shape = kwargs.pop("sample_shape", ())
        posterior = self._get_posterior()
        latent = posterior.rsample(numpyro.prng_key(), sample_shape)
        held = jax.tree.map(lax.stop_gradient, posterior)
        return numpyro.sample(
            f"_{self.prefix}_latent",
            dist.Delta(latent, log_density=held.log_prob(latent), event_dim=1),
            infer={"is_auxiliary": True},
        )

    def sample_posterior(
        self,
        rng_key: jax.Array,
        params: dict[str, Any],
        *args: object,
        sample_shape: tuple[int, ...] = (),
        **kwargs: object,
    ) -> dict[str, Any]:
        """Draw latent sites; sites that are not latent are left out."""
        del args, kwargs
        count = 1
        for size in sample_shape:
            count *= size
        draws = self.sample_at(jax.random.split(rng_key, count), params)
        return {k: jnp.reshape(v, sample_shape + v.shape[1:]) for k, v in draws.items()}

    def sample_at(self, keys: jax.Array, params: dict[str, Any]) -> dict[str, Any]:
        """Draw latent sites, one draw for each key."""

        def one(key: jax.Array) -> dict[str, Any]:
            guide = handlers.substitute(handlers.seed(self, key), params)
            with handlers.block():
                values: dict[str, Any] = guide()
            return values

        draws: dict[str, Any] = jax.vmap(one)(keys)
        return draws

    def points_at(self, keys: jax.Array, params: dict[str, Any]) -> Any:
        """The unconstrained vectors of the draws that `sample_at` gives for these keys."""

        def one(key: jax.Array) -> Any:
            with handlers.block():
                return handlers.substitute(handlers.seed(self._sample_latent, key), params)()

        return jax.vmap(one)(keys)


def _inner(log_scale: jax.Array) -> jax.Array:
    """The lower triangular matrix that a guide's scale is, relative to its start's."""
    return jnp.tril(log_scale, -1) + jnp.diag(jnp.exp(jnp.diag(log_scale)))


def weight_sd(
    energy: Callable[[Any], Any], normal: dict[str, Any], rng_key: jax.Array
) -> jax.Array:
    """Sd of log p - log q at draws of the normal that was found; what is not finite counts."""
    vector, scale = normal["vector"], normal["scale"]
    noise = jax.random.normal(rng_key, (_WEIGHTS, len(scale)), vector.dtype)
    moves = jnp.zeros((_WEIGHTS, vector.size), vector.dtype)
    points = vector + moves.at[:, : len(scale)].set(noise @ scale.T)
    return jnp.std(0.5 * jnp.sum(noise**2, axis=1) - lax.map(energy, points))


def slope_and_curve(energy: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any, Any]]:
    """Value, gradient and Hessian in one sweep: a kernel of many sites is compiled once."""

    def slope(vector: jax.Array) -> tuple[Any, tuple[Any, Any]]:
        value, gradient = jax.value_and_grad(energy)(vector)
        return gradient, (value, gradient)

    def look(vector: jax.Array) -> tuple[Any, Any, Any]:
        hessian, (value, gradient) = jax.jacfwd(slope, has_aux=True)(vector)
        return value, gradient, hessian

    return look
