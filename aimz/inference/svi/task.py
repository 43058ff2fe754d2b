"""What a variational fit works on: guide, loss and optimiser, and the record that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoGuide
from numpyro.optim import optax_to_numpyro

from aimz.arrays import Array
from aimz.inference.binding import RawSite, kernel_for, raw_sites, take_rows, version_of
from aimz.inference.density import has_many_sites
from aimz.inference.engine import Problem
from aimz.inference.normal import WhitenedNormal
from aimz.inference.remembered import program_of
from aimz.inference.svi.elbo import JoinedELBO
from aimz.inference.svi.guides import private_svi
from aimz.libraries import optax
from aimz.programs import Bound

__all__ = ["STEP_RATE", "SVIRecord", "Task", "empty_guide"]


_PARTICLES = 8
STEP_RATE = 0.01


class SVIRecord(NamedTuple):
    """What a stepped fit is: NumPyro's state, and what sets its guide up again."""

    svi: Any
    setup_key: Any
    start: dict[str, Any] | None
    steps: int
    informed: bool = False
    rival: float = 0.0


@dataclass(frozen=True)
class Task:
    """A problem and how it is fitted; its methods are called inside traces."""

    problem: Problem
    given: SVI | None
    head: int | None = None  # so many rows stand for all where only their structure matters

    @property
    def rows(self) -> int:
        """Rows of the arrays."""
        return self.problem.inputs.rows if self.head is None else self.head

    @cached_property
    def sites(self) -> list[RawSite]:
        """The kernel's messages."""
        return raw_sites(self.problem)

    @cached_property
    def version(self) -> str:
        """Name of what the kernel and the user's guide function compute."""
        guide = None if self.given is None else self.given.guide
        guides = () if guide is None or isinstance(guide, AutoGuide) else (guide,)
        return version_of(self.problem, *guides)

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """The kernel's arguments where it computes: all programs of a fit read the same."""
        arrays: dict[str, Any] = dict(self.problem.inputs.arrays)
        if self.head is not None:
            arrays = take_rows(self.problem, arrays, np.arange(self.head))
        on_device: dict[str, Any] = jax.tree.map(_on_device, arrays)
        return on_device

    @cached_property
    def weights(self) -> jax.Array | None:
        """The weights of the rows, likewise."""
        weights = self.problem.weights
        return None if weights is None else _on_device(np.asarray(weights)[: self.rows])

    def program(self, fn: Callable[..., Any], *args: object, beside: tuple[Hashable, ...]) -> Bound:
        """The program of a function that closes over the task and `beside`; see `program_of`."""
        users = () if self.given is None else (self.given,)
        return program_of(self.problem, fn, *args, version=self.version, beside=beside, users=users)

    @property
    def is_mutable(self) -> bool:
        """Whether the kernel keeps mutable state."""
        return any(site.type == "mutable" for site in self.sites)

    @property
    def is_subsampled(self) -> bool:
        """Whether a plate of the kernel draws its own rows."""
        plates = (site.args for site in self.sites if site.type == "plate")
        return any(size is not None and drawn not in (None, size) for size, drawn in plates)

    def svi(self, rows: int, start: dict[str, Any] | None) -> SVI:
        """A private `SVI` for batches of `rows` rows."""
        model = kernel_for(self.problem, rows)
        if self.given is not None:
            return private_svi(self.given, model)
        guide = empty_guide if start is None else WhitenedNormal(model, start)
        optimiser = optax.inject_hyperparams(optax.adam)(learning_rate=STEP_RATE)
        particles = 1 if self.is_mutable or start is None else _PARTICLES
        loss = Trace_ELBO(particles)
        if start is not None and has_many_sites(self.problem) and not self.is_mutable:
            loss = JoinedELBO(self.problem, particles)
        return SVI(model, guide, optax_to_numpyro(optimiser), loss)

    def kwargs(self, arrays: dict[str, Any], index: Array | None = None) -> dict[str, Any]:
        """The kernel's arguments, at rows `index` if given."""
        batch = arrays if index is None else take_rows(self.problem, arrays, index)
        return {**batch, **self.problem.inputs.static}

    def set_up(
        self, rows: int, fixed: tuple[jax.Array, dict[str, Any] | None], kwargs: dict[str, Any]
    ) -> SVI:
        """A private `SVI` whose guide has seen the kernel; `fixed` is (setup key, start)."""
        setup_key, start = fixed
        svi = self.svi(rows, start)
        svi.init(setup_key, **kwargs)
        return svi


def empty_guide(**_: object) -> None:
    """Guide of a kernel without latent sites."""


def _on_device(leaf: Array) -> jax.Array:
    """An array for the programs of one fit, which reads it in place or copies it once."""
    return jax.device_put(leaf) if isinstance(leaf, np.ndarray) else jnp.asarray(leaf)
