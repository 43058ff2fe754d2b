"""The log density of a kernel's latents, on their unconstrained scale.

NumPyro's own puts no values into a scan inside another one, but its `replay` does: of kernels with
latents there the density is that of the replayed kernel. Supports must then be the same for all
values, as guides want them too.

Of kernels with many latent sites, those of one kind (twenty coefficients, each a site of its own
with a normal prior) are evaluated as one array: compiled one by one they take twenty times as long.
"""

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import constrain_fn, log_density, potential_energy
from numpyro.primitives import Messenger

from aimz.arrays import Array
from aimz.inference.engine import Problem

__all__ = [
    "MANY_SITES",
    "VectorGuide",
    "constrained",
    "energy_of",
    "has_many_sites",
    "has_nested_latents",
    "values_of",
]


class VectorGuide(Protocol):
    """A guide that has seen a kernel, over the vector of its unconstrained latents."""

    prototype_trace: Any
    positions: Mapping[str, np.ndarray]

    def unpack(self, vector: jax.Array, /) -> dict[str, Any]:
        """The latents by name."""


#: Latent sites beyond which each is too dear to be compiled by itself.
MANY_SITES = 16


def has_many_sites(problem: Problem) -> bool:
    """Whether there are so many latent sites that like ones are evaluated at once."""
    return len(problem.spec.latents) > MANY_SITES


def has_nested_latents(problem: Problem) -> bool:
    """Whether a latent is drawn in a scan inside another one."""
    return any(problem.spec[name].is_nested for name in problem.spec.latents)


def energy_of(
    problem: Problem, model: Callable[..., Any], kwargs: dict[str, Any], guide: VectorGuide
) -> Callable[[jax.Array], jax.Array]:
    """Minus the log density of a seeded model as a function of its unconstrained latent vector.

    `guide` has seen the kernel and knows the vector's order; all is called inside one trace.
    """
    unpack = guide.unpack

    def plain(vector: jax.Array) -> Any:
        return potential_energy(model, (), kwargs, unpack(vector))

    def nested(vector: jax.Array) -> Any:
        values, log_det = constrained(guide, unpack(vector))
        density, _ = log_density(_replayed(model, values), (), kwargs, {})
        return -density - log_det

    if has_nested_latents(problem):
        return nested
    if has_many_sites(problem):
        return partial(_joined_energy, model, kwargs, plain, guide)
    return plain


def values_of(
    problem: Problem, model: Callable[..., Any], kwargs: dict[str, Any], guide: VectorGuide | None
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


class _Values(Messenger):  # type: ignore[misc]  # NumPyro's handlers are untyped
    """Gives latent sites their values, from unconstrained ones, and keeps how they came about."""

    def __init__(self, latents: Mapping[str, Any]) -> None:
        super().__init__(None)
        self.latents = latents
        self.has_steps = False

    def process_message(self, msg: dict[str, Any]) -> None:
        self.has_steps |= msg["type"] == "control_flow"
        name = msg.get("name", "")
        if msg["type"] == "sample" and not msg["is_observed"] and name in self.latents:
            msg["value"] = biject_to(msg["fn"].support)(self.latents[name])


def _joined_energy(
    model: Callable[..., Any],
    kwargs: dict[str, Any],
    plain: Callable[[jax.Array], jax.Array],
    guide: VectorGuide,
    vector: jax.Array,
) -> Any:
    """Minus the log density, of like latent sites at once."""
    latents = guide.unpack(vector)
    values = _Values(latents)
    with values:
        sites = handlers.trace(model).get_trace(**kwargs)
    if values.has_steps:  # whose sites are told apart by step
        return plain(vector)
    like: dict[Any, list[dict[str, Any]]] = {}
    total: Any = jnp.zeros(())
    for name, site in sites.items():
        if site["type"] != "sample":
            continue
        is_latent = name in latents and not site["is_observed"]
        kind = _kind(site, latents[name]) if is_latent else None
        if kind is not None:
            like.setdefault(kind, []).append(site)
            continue
        density = site["fn"].log_prob(site["value"])
        total += jnp.sum(density if site["scale"] is None else site["scale"] * density)
        if is_latent:
            total += _log_det(site["fn"], latents[name], site["value"])
    for group in like.values():
        names = [site["name"] for site in group]
        # Of the vector, and not of its parts: these would be put together one by one.
        stacked = vector[np.concatenate([guide.positions[name] for name in names])]
        first = latents[names[0]]
        stacked = stacked.reshape(len(names), *first.shape).astype(first.dtype)
        total += _density_of([site["fn"] for site in group], stacked)
    return -total


def _density_of(laws: list[dist.Distribution], latents: jax.Array) -> Any:
    """Log density of sites of one kind, with that of the way to their unconstrained values."""
    forms = [jax.tree.flatten(law) for law in laws]
    parts = [_stacked(leaves) for leaves in zip(*(leaves for leaves, _ in forms), strict=True)]
    form = forms[0][1]

    def one(leaves: list[Array], latent: Array) -> Any:
        fn = jax.tree.unflatten(form, leaves)
        value = biject_to(fn.support)(latent)
        return jnp.sum(fn.log_prob(value)) + _log_det(fn, latent, value)

    each = jax.vmap(one, in_axes=([axis for _, axis in parts], 0))
    return jnp.sum(each([leaf for leaf, _ in parts], latents))


def _stacked(leaves: tuple[Any, ...]) -> tuple[Any, int | None]:
    """One parameter of like distributions, and its axis of sites; None where all have the same."""
    first = leaves[0]
    is_known = not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    if all(leaf is first for leaf in leaves):
        return first, None
    if is_known and all(np.array_equal(leaf, first) for leaf in leaves):
        return first, None
    return jnp.stack(leaves), 0


def _log_det(fn: dist.Distribution, latent: Array, value: Array) -> Any:
    return jnp.sum(biject_to(fn.support).log_abs_det_jacobian(latent, value))


def _kind(site: dict[str, Any], latent: jax.Array) -> Hashable | None:
    """What like sites have in common; None where it cannot be told, or a scale is of one alone."""
    leaves, form = jax.tree.flatten(site["fn"])
    if site["scale"] is not None or not _is_plain(form):
        return None
    kinds = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    kind = (form, kinds, latent.shape, latent.dtype)
    try:
        hash(kind)
    except TypeError:
        return None
    return kind


def _is_plain(form: jax.tree_util.PyTreeDef) -> bool:
    """Whether a distribution is all of NumPyro's own classes, whose arrays are all of it."""
    data = form.node_data()
    if data is None:
        return True
    module = data[0].__module__
    is_known = module.startswith("numpyro.distributions.") or module == "builtins"
    return is_known and all(map(_is_plain, form.children()))


def constrained(
    guide: VectorGuide | None, latents: dict[str, Any]
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
