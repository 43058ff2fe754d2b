"""Blocks without tempering: walkers from the prior that move at the posterior itself."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.inference.engine import Draws
from aimz.inference.smc.blocks import Particle
from aimz.inference.smc.run import Run

__all__ = ["Walk"]

_LEAST_ROUNDS = 20  # of each walker, which tell whether it moves about as all do


class Walk(Run):
    """Gibbs by blocks: each run is a chain, and each of its particles a walker."""

    def warmed(self, key: jax.Array, advance: Callable[..., Any]) -> dict[str, Any]:
        """Walkers after their warm-up, in which the sizes of moves are tuned."""
        settings = self.settings
        with jax.enable_x64(True):
            start_key, key = jax.random.split(key)
            starts = jax.random.split(start_key, (settings.runs, settings.particles))
            particles = self._program(self._all_started)(starts, self.fixed)
            factors = {
                b.name: jnp.ones((settings.runs, b.members)) for b in self.blocks if not b.values
            }
            for number in range(-(-settings.warmup // settings.mutations)):
                particles, factors = self._moved_once(key, number, particles, factors)
                advance(1)
            return self._state(particles, factors, 0)

    def walked(
        self, key: jax.Array, state: dict[str, Any], count: int
    ) -> tuple[Draws, Draws, dict[str, Any]]:
        """Draws (chain, draw, ...), the same by walker (walker, round, ...), and the new state."""
        size = self.settings.particles
        read = self._program(self._all_values)
        with jax.enable_x64(True):
            latents = jax.tree.map(jnp.asarray, state["latents"])
            particles = self._recomputed(latents)
            parts = []
            for number in range(max(-(-count // size), _LEAST_ROUNDS)):
                particles, _ = self._moved_once(key, number, particles, state["factors"])
                parts.append(jax.tree.map(np.asarray, read(particles.latents, self.fixed)))
            after = self._state(particles, state["factors"], state["rounds"] + 1)
        draws, by_walker = {}, {}
        for name in parts[0]:
            values = np.stack([part[name] for part in parts], axis=2)  # (chain, walker, round)
            dtype = np.float32 if values.dtype == np.float64 else values.dtype
            tail = values.shape[3:]
            by_walker[name] = values.reshape(-1, len(parts), *tail)
            flat = np.moveaxis(values, 2, 1).reshape(len(values), -1, *tail)
            index = np.linspace(0, flat.shape[1] - 1, count).round().astype(int)
            draws[name] = flat[:, index].astype(dtype)
        return draws, by_walker, after

    def _moved_once(
        self, key: jax.Array, number: int, particles: Particle, factors: dict[str, Any]
    ) -> tuple[Particle, dict[str, Any]]:
        keys = jax.random.split(jax.random.fold_in(key, number), self.settings.runs)
        taken = self._program(self._all_moved)(keys, particles, factors, self.fixed)
        self._check(taken)
        return taken.particles, taken.factors

    def _state(self, particles: Particle, factors: dict[str, Any], rounds: int) -> dict[str, Any]:
        latents, factors = jax.tree.map(np.asarray, (particles.latents, factors))
        return {"latents": latents, "factors": factors, "params": self.params, "rounds": rounds}
