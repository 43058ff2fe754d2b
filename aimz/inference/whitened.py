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
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.autoguide import AutoContinuous
from numpyro.infer.initialization import init_to_uniform

from aimz.inference.refinement import refined

__all__ = [
    "INIT_RADIUS",
    "WhitenedNormal",
    "find_mode",
    "find_normal",
    "plain_start",
    "weight_sd",
]

# Newton's steps, and dimensions times steps: each step decomposes a matrix.
_NEWTON_STEPS, _NEWTON_WORK = 100, 20_000
# Of natural gradients: values of a wide matrix are many, and average over themselves.
_NATURAL_STEPS, _WIDE_STEPS = 80, 40
_NATURAL_PARTICLES, _WIDE_PARTICLES = 8, 2
_WIDE = 64
# Newton has arrived when the mode is this close, in posterior standard deviations.
_AT_MODE = 0.05
_FAR = 1e10
# Values beyond which 32 bits cannot hold a covariance for long.
_HUGE = 1e15
# Smallest eigenvalue, of a curvature with a unit diagonal, that still says something.
_FLAT = 1e-10
#: Distance from zero, at most, of the first values of unconstrained latents.
INIT_RADIUS = 0.5
# Modes: standard deviations that part two, nats by which one is seen to be better than another,
# and a share of the evidence that is not worth a word.
_OTHER_MODE, _SAME_NATS, _NO_RIVAL = 4.0, 1e-3, 0.01
_INIT_SCALE = 0.1
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

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
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
        self._unpack_latent = unpack
        self.latent_dim = self._init_latent.size

    def affine(self, mu: Any, log_scale: Any) -> tuple[Any, Any]:
        """Location and scale of the posterior, from the guide's parameters."""
        loc0, scale0 = self._own_start()
        if scale0.ndim == 1:
            return loc0 + scale0 * mu, scale0 * jnp.exp(log_scale)
        return loc0 + scale0 @ mu, scale0 @ _inner(log_scale)

    def refined(self, slope: Callable[[Any], Any], params: dict[str, Any], key: Any) -> Any:
        """Parameters of a full-rank guide nearer to the density that has this slope."""
        names = [f"{self.prefix}_{name}" for name in ("mu", "scale")]
        mu, log_scale = (params[name] for name in names)

        loc0, scale0 = self._own_start()

        def affine(mu: Any, inner: Any) -> Any:
            return loc0 + scale0 @ mu, scale0 @ inner

        mu, inner = refined(slope, affine, mu, _inner(log_scale), key)
        log_scale = jnp.tril(inner, -1) + jnp.diag(jnp.log(jnp.diag(inner)))
        return {**params, **dict(zip(names, (mu, log_scale), strict=True))}

    def _own_start(self) -> tuple[Any, Any]:
        if self.start is None:
            raise RuntimeError("a WhitenedNormal guide needs its start")
        return self.start["loc"], self.start["scale"]

    def normal(self, loc: Any, scale: Any) -> Any:
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

    def _sample_latent(self, *args: Any, **kwargs: Any) -> Any:
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
        rng_key: Any,
        params: dict[str, Any],
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Draw latent sites; sites that are not latent are left out."""
        del args, kwargs

        def one(key: Any) -> dict[str, Any]:
            guide = handlers.substitute(handlers.seed(self, key), params)
            with handlers.block():
                values: dict[str, Any] = guide()
            return values

        count = 1
        for size in sample_shape:
            count *= size
        draws = jax.vmap(one)(jax.random.split(rng_key, count))
        return {k: jnp.reshape(v, sample_shape + v.shape[1:]) for k, v in draws.items()}


def _inner(log_scale: Any) -> Any:
    """The lower triangular matrix that a guide's scale is, relative to its start's."""
    return jnp.tril(log_scale, -1) + jnp.diag(jnp.exp(jnp.diag(log_scale)))


def plain_start(loc: Any, *, full: bool) -> dict[str, Any]:
    """A start that knows nothing of the posterior."""
    ones = jnp.full_like(loc, _INIT_SCALE)
    return {"loc": loc, "scale": jnp.diag(ones) if full else ones}


def find_mode(energy: Callable[[Any], Any], begins: Any, dim: int) -> dict[str, Any]:
    """Laplace approximation of exp(-energy) at its best mode, and the scale of `dim` entries there.

    Pure, and to be traced in double precision. "usable" says whether there is such a mode, "starts"
    where each of `begins` led, and "rival" the evidence of another mode against that of both.
    """

    def climb(begin: Any) -> tuple[Any, ...]:
        mode, value, hessian, distance, least = _newton(energy, begin)
        scale = _inverse_root(hessian[:dim, :dim])
        usable = (distance < _AT_MODE) & (least > _FLAT) & _is_sound(mode, scale)
        evidence = -value + jnp.sum(jnp.log(jnp.abs(jnp.diag(scale))))
        return mode, scale, usable, jnp.where(usable, evidence, -jnp.inf)

    modes, scales, usable, evidence = lax.map(climb, begins)
    # Of ways to one mode the first counts: the others differ by rounding.
    best = jnp.argmax(evidence - _SAME_NATS * jnp.arange(len(begins)))
    mode, scale = modes[best], scales[best]
    apart = jax.scipy.linalg.solve_triangular(scale, (modes - mode)[:, :dim].T, lower=True).T
    is_other = jnp.isfinite(evidence) & (jnp.sum(apart**2, axis=1) > _OTHER_MODE**2)
    chances = jnp.where(is_other, jax.nn.sigmoid(evidence - evidence[best]), 0.0)
    starts = jnp.where((chances > _NO_RIVAL)[:, None], modes, mode)[:, :dim]
    found = {"vector": mode, "scale": scale, "usable": usable[best]}
    return {**found, "starts": starts, "rival": jnp.max(chances)}


def find_normal(energy: Callable[[Any], Any], begin: Any, dim: int, rng_key: Any) -> dict[str, Any]:
    """The same from natural-gradient steps, for densities without a usable mode."""
    vector, precision = _natural_gradient(energy, begin, dim, rng_key)
    scale = _inverse_root(precision)
    found = {"vector": vector, "scale": scale, "usable": _is_sound(vector, scale)}
    return {**found, "starts": vector[None, :dim], "rival": jnp.zeros((), vector.dtype)}


def weight_sd(energy: Callable[[Any], Any], found: dict[str, Any], rng_key: Any) -> Any:
    """Sd of log p - log q at draws of the normal that was found; what is not finite counts."""
    vector, scale = found["vector"], found["scale"]
    noise = jax.random.normal(rng_key, (_WEIGHTS, len(scale)), vector.dtype)
    moves = jnp.zeros((_WEIGHTS, vector.size), vector.dtype)
    points = vector + moves.at[:, : len(scale)].set(noise @ scale.T)
    return jnp.std(0.5 * jnp.sum(noise**2, axis=1) - lax.map(energy, points))


def _newton(energy: Callable[[Any], Any], begin: Any) -> tuple[Any, ...]:
    """Damped, saddle-free Newton steps: mode, value, Hessian, distance to it, least eigenvalue."""
    look = _slope_and_curve(energy)
    size, dtype = begin.shape[0], begin.dtype
    most = min(_NEWTON_STEPS, _NEWTON_WORK // size)

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        count, z, candidate, *old, damping, _, _ = carry
        value, gradient, hessian = look(candidate)
        better = jnp.isfinite(value) & (value <= old[0]) & jnp.all(jnp.isfinite(hessian))
        z = jnp.where(better, candidate, z)
        value, gradient, hessian = (
            jnp.where(better, new, kept)
            for new, kept in zip((value, gradient, hessian), old, strict=True)
        )
        damping = jnp.where(better, damping * 0.1, jnp.maximum(damping * 10.0, 1e-3))
        unit, values, vectors = _eigen(hessian)
        along = vectors.T @ (unit * gradient)
        lengths = jnp.abs(values)
        move = -unit * (vectors @ (along / (lengths + damping)))
        distance = jnp.sqrt(jnp.sum(along**2 / jnp.maximum(lengths, _FLAT)))
        # Until a finite value is found, come closer to zero, where most densities are finite.
        known = jnp.isfinite(value)
        candidate = jnp.where(known, z + move, 0.5 * candidate)
        distance = jnp.where(known, distance, jnp.inf)
        return count + 1, z, candidate, value, gradient, hessian, damping, distance, values[0]

    def going(carry: tuple[Any, ...]) -> Any:
        count, *_, damping, distance, _ = carry
        return (count < most) & (distance > 1e-2 * _AT_MODE) & (damping < _FAR)

    far = jnp.asarray(jnp.inf, dtype)
    nothing = (far, jnp.zeros(size, dtype), jnp.eye(size, dtype=dtype))
    first = (0, begin, begin, *nothing, jnp.asarray(1e-2, dtype), far, far)
    _, z, _, value, _, hessian, _, distance, least = lax.while_loop(going, step, first)
    return z, value, hessian, distance, least


def _slope_and_curve(energy: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any, Any]]:
    """Value, gradient and Hessian in one sweep: a kernel of many sites is compiled once."""

    def slope(vector: Any) -> tuple[Any, tuple[Any, Any]]:
        value, gradient = jax.value_and_grad(energy)(vector)
        return gradient, (value, gradient)

    def look(vector: Any) -> tuple[Any, Any, Any]:
        hessian, (value, gradient) = jax.jacfwd(slope, has_aux=True)(vector)
        return value, gradient, hessian

    return look


def _natural_gradient(
    energy: Callable[[Any], Any], begin: Any, dim: int, rng_key: Any
) -> tuple[Any, Any]:
    """Location and precision of a normal fitted by natural-gradient steps; the tail is a point."""
    look = _slope_and_curve(energy)
    size = begin.shape[0]
    steps = _NATURAL_STEPS if size <= _WIDE else _WIDE_STEPS
    particles = _NATURAL_PARTICLES if size <= _WIDE else _WIDE_PARTICLES

    def absolute(matrix: Any) -> Any:
        unit, values, vectors = _eigen(matrix)
        inner = (vectors * jnp.maximum(jnp.abs(values), 1e-2)) @ vectors.T
        return inner / jnp.outer(unit, unit)

    def step(carry: tuple[Any, Any], inputs: tuple[Any, Any]) -> tuple[tuple[Any, Any], None]:
        loc, precision = carry
        key, rate = inputs
        half = jax.random.normal(key, (particles // 2, size), loc.dtype)
        half = half.at[:, dim:].set(0.0)
        points = loc + jnp.concatenate([half, -half]) @ _inverse_root(precision).T
        _, gradients, hessians = jax.vmap(look)(points)
        sound = jnp.isfinite(gradients).all(1) & jnp.isfinite(hessians).all((1, 2))
        share = sound / jnp.maximum(sound.sum(), 1)
        gradient = share @ jnp.where(sound[:, None], gradients, 0.0)
        hessian = jnp.einsum("k,kij->ij", share, jnp.where(sound[:, None, None], hessians, 0.0))
        turned = precision + rate * (hessian - precision)
        # The average of this and the old precision stays positive whatever the Hessian is.
        root = _inverse_root(precision)
        precision = 0.5 * (precision + (turned @ root) @ (turned @ root).T)
        inverse_root = _inverse_root(precision)
        whitened = inverse_root.T @ gradient
        length = jnp.linalg.norm(whitened)
        limit = jnp.minimum(rate, jnp.sqrt(1.0 * size) / jnp.maximum(length, 1e-30))
        return (loc - limit * (inverse_root @ whitened), precision), None

    rates = jnp.linspace(0.5, 0.05, steps).astype(begin.dtype)
    keys = jax.random.split(rng_key, steps)
    (loc, precision), _ = lax.scan(step, (begin, absolute(look(begin)[2])), (keys, rates))
    return loc, precision[:dim, :dim]


def _eigen(matrix: Any) -> tuple[Any, Any, Any]:
    """Eigenvalues and vectors of a matrix scaled to a unit diagonal, and that scale."""
    size = jnp.abs(jnp.diag(matrix))
    unit = 1.0 / jnp.sqrt(jnp.maximum(size, 1e-28 * jnp.max(size) + 1e-30))
    values, vectors = jnp.linalg.eigh(matrix * jnp.outer(unit, unit))
    return unit, values, vectors


def _is_sound(vector: Any, scale: Any) -> Any:
    near = jnp.all(jnp.abs(vector) < _HUGE) & jnp.all(jnp.abs(scale) < _HUGE)
    return near & jnp.all(jnp.isfinite(vector)) & jnp.all(jnp.isfinite(scale))


def _inverse_root(precision: Any) -> Any:
    """Lower triangular L with L L' the inverse of a precision matrix."""
    unit = 1.0 / jnp.sqrt(jnp.diag(precision))
    flipped = (precision * jnp.outer(unit, unit))[::-1, ::-1]
    upper = jnp.linalg.cholesky(flipped)[::-1, ::-1]
    identity = jnp.eye(precision.shape[0], dtype=precision.dtype)
    lower = jax.scipy.linalg.solve_triangular(upper.T, identity, lower=True)
    return unit[:, None] * lower
