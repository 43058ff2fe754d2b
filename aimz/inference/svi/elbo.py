"""The loss of the default guide for kernels with many latent sites.

It is NumPyro's `Trace_ELBO` of the same guide without a density for each site: what is compiled is
one draw of all latents, and one log density of like sites at once (`density`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.infer.elbo import ELBO

from aimz.arrays import Array
from aimz.inference.density import energy_of
from aimz.inference.engine import Problem
from aimz.inference.normal import WhitenedNormal

__all__ = ["JoinedELBO"]


class JoinedELBO(ELBO):  # type: ignore[misc]  # NumPyro's classes are untyped
    """Mean of log q - log p over draws of a normal guide, for kernels without mutable state."""

    def __init__(self, problem: Problem, num_particles: int) -> None:
        super().__init__(num_particles)
        self.problem = problem

    def loss(
        self,
        rng_key: jax.Array,
        param_map: dict[str, Any],
        model: Callable[..., Any],
        guide: WhitenedNormal,
        **kwargs: Array,
    ) -> Any:
        """Minus the evidence lower bound; called inside a trace, for a guide that is set up."""
        posterior = guide.posterior_at(param_map)
        held = jax.tree.map(jax.lax.stop_gradient, posterior)
        kernel = handlers.substitute(handlers.seed(model, 0), param_map)
        energy = energy_of(self.problem, kernel, kwargs, guide)

        def one(key: jax.Array) -> Any:
            latent = posterior.rsample(key)
            return energy(latent) + held.log_prob(latent)

        # One after another: side by side, each site would be an array that is cut and turned.
        return jnp.mean(jax.lax.map(one, jax.random.split(rng_key, self.num_particles)))
