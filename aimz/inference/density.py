"""The log density of a kernel's latents, on their unconstrained scale.

NumPyro's own puts no values into a scan inside another one, but its `replay` does: of kernels with
latents there the density is that of the replayed kernel. Supports must then be the same for all
values, as guides want them too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.util import constrain_fn, log_density, potential_energy

from aimz.inference.engine import Problem

__all__ = ["constrained", "energy_of", "has_nested_latents", "values_of"]


def has_nested_latents(problem: Problem) -> bool:
    """Whether a latent is drawn in a scan inside another one."""
    return any(problem.spec[name].is_nested for name in problem.spec.latents)


def energy_of(
    problem: Problem, model: Callable[..., Any], kwargs: dict[str, Any], guide: AutoGuide | None
) -> Callable[[dict[str, Any]], jax.Array]:
    """Minus the log density of a seeded model as a function of its latents, by name.

    `guide` has seen the kernel; all is called inside one trace.
    """
    if not has_nested_latents(problem):
        return partial(potential_energy, model, (), kwargs)

    def energy(latents: dict[str, Any]) -> Any:
        values, log_det = constrained(guide, latents)
        density, _ = log_density(_replayed(model, values), (), kwargs, {})
        return -density - log_det

    return energy


def values_of(
    problem: Problem, model: Callable[..., Any], kwargs: dict[str, Any], guide: AutoGuide | None
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Values of the sites of a seeded model as a function of its latents, by name."""
    if not has_nested_latents(problem):
        return partial(constrain_fn, model, (), kwargs, return_deterministic=True)

    def values(latents: dict[str, Any]) -> dict[str, Any]:
        settled, _ = constrained(guide, latents)
        sites = handlers.trace(_replayed(model, settled)).get_trace(**kwargs)
        kinds = ("sample", "deterministic")
        return {name: site["value"] for name, site in sites.items() if site["type"] in kinds}

    return values


def constrained(
    guide: AutoGuide | None, latents: dict[str, Any]
) -> tuple[dict[str, Any], jax.Array]:
    """Values on their own scales, and the log determinant of the way there."""
    if guide is None:
        raise RuntimeError("latents of a nested scan need a guide that has seen them")
    values, log_det = {}, jnp.zeros(())
    for name, latent in latents.items():
        transform = biject_to(guide.prototype_trace[name]["fn"].support)
        values[name] = transform(latent)
        log_det += jnp.sum(transform.log_abs_det_jacobian(latent, values[name]))
    return values, log_det


def _replayed(model: Callable[..., Any], values: dict[str, Any]) -> Any:
    sites = {
        name: {"type": "sample", "name": name, "value": value, "is_observed": False, "infer": {}}
        for name, value in values.items()
    }
    return handlers.replay(model, trace=sites)
