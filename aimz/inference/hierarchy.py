"""Latents whose spread is another latent's business: groups, random walks, shrinkage.

No normal guide follows the funnel that such latents make with their spread, and chains walk it
badly in the latents' own coordinates (Betancourt and Girolami 2015, "Hamiltonian Monte Carlo for
hierarchical models"). Chains therefore move in standard units of these latents, and read the
latents off; what is reported is the same posterior.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam, Reparam

from aimz.arrays import Array
from aimz.families import FAMILIES
from aimz.inference.engine import Problem
from aimz.inference.remembered import program_of

__all__ = ["in_standard_units", "spread_by_latents"]


_SEEDS = 3


def spread_by_latents(problem: Problem, version: str) -> frozenset[str]:
    """Latent sites whose distribution, its location apart, follows other latents."""
    spec = problem.spec
    latents = frozenset(spec.latents)
    below = latents & frozenset[str]().union(*(spec.descendants({name}) for name in latents))
    if not below:
        return frozenset()

    def shapes(key: jax.Array, arrays: dict[str, Any]) -> dict[str, Any]:
        with handlers.block():
            seeded = handlers.seed(problem.kernel, key)
            sites = handlers.trace(seeded).get_trace(**arrays, **problem.inputs.static)
        return {name: _shape_parameters(sites[name]["fn"]) for name in below if name in sites}

    arguments = (jax.random.key(0), problem.inputs.arrays)
    read = program_of(problem, shapes, *arguments, version=version)
    first, *others = (
        jax.tree.map(np.asarray, read(jax.random.key(seed), problem.inputs.arrays))
        for seed in range(_SEEDS)
    )
    return frozenset(
        name
        for name, shape_values in first.items()
        if any(
            not np.array_equal(mine, theirs, equal_nan=True)
            for other in others
            for mine, theirs in zip(shape_values, other[name], strict=True)
        )
    )


def in_standard_units(problem: Problem, names: frozenset[str]) -> Problem:
    """The same problem; of these sites those that can be are functions of standard noise."""
    if not names:
        return problem

    def reparam_of(site: dict[str, Any]) -> Reparam | None:
        is_latent = site["type"] == "sample" and not site["is_observed"]
        return _reparam(site["fn"]) if is_latent and site["name"] in names else None

    kernel = _ReparamInSteps(problem.kernel, config=reparam_of)
    kernel.reads = problem.kernel, ("standard units", names)
    return replace(problem, kernel=kernel)


class _ReparamInSteps(handlers.reparam):  # type: ignore[misc]  # NumPyro's classes are untyped
    """NumPyro's handler, which also stands around the steps of a scan and the branches of a cond.

    When these are done it is too late: what they drew has been used. The outermost one says what it
    follows from (`version_of`).
    """

    reads: tuple[Callable[..., Any], tuple[str, frozenset[str]]]

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow":
            msg["args"] = tuple(map(self._around, msg["args"]))
        elif not msg.get("_control_flow_done", False):
            super().process_message(msg)

    def _around(self, argument: object) -> object:
        if not callable(argument):
            return argument
        return _ReparamInSteps(argument, config=self.config)


class _Standardised(Reparam):  # type: ignore[misc]  # NumPyro's classes are untyped
    """A vector as a function of standard normal noise."""

    def __init__(self, value_of: Callable[[Any, Any], Any]) -> None:
        self.value_of = value_of

    def __call__(self, name: str, fn: dist.Distribution, obs: Array | None) -> tuple[None, Any]:
        del obs
        base, expand_shape, event_dim = self._unwrap(fn)
        noise = self._wrap(
            dist.Normal(jnp.zeros(base.event_shape), 1.0).to_event(1), expand_shape, event_dim
        )
        return None, self.value_of(base, numpyro.sample(f"{name}_standard", noise))


def _reparam(fn: dist.Distribution) -> Reparam | None:
    base = _base(fn)
    family = FAMILIES.of[type(base)]
    if family.shapes is not None:
        return LocScaleReparam(0.0, shape_params=family.shapes)
    of_noise = family.vector.of_noise
    return None if of_noise is None else _Standardised(of_noise)


def _shape_parameters(fn: dist.Distribution) -> list[Any]:
    """Arrays that a distribution is made of, without its location."""
    base = _base(fn)
    loc = getattr(base, "loc", None)
    leaves = [leaf for leaf in jax.tree.leaves(base) if leaf is not loc]
    return [jnp.asarray(leaf) for leaf in leaves if hasattr(leaf, "dtype")]


def _base(fn: dist.Distribution) -> Any:
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution):
        fn = fn.base_dist
    return fn
