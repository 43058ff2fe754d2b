"""The programs of adjusted MCLMC: one tunes the chains, one moves them on; all by Blackjax.

In one dimension there is no direction to move in at a fixed speed: a standard normal number goes
along, and is left out of the draws.
"""

from collections.abc import Callable
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
from blackjax.mcmc import adjusted_mclmc_dynamic as dynamic

from aimz.inference.vector.posterior import View

__all__ = ["moved_chains", "tuned_chains"]

# Shares of the warm-up: Blackjax takes the first one twice.
_STEP_SHARE, _SPREAD_SHARE = 0.3, 0.4
_LEAST_DIM = 2
# Of one move; two are usual. Where all steps are rejected, as beside a hard limit of the data, they
# are made shorter and shorter while the way stays as long: a warm-up that never ends.
_MOST_STEPS = 256


def tuned_chains(
    view: View, keys: jax.Array, chains: dict[str, Any], *, warmup: int, target: float
) -> tuple[Any, Any]:
    """Positions of the chains after tuning, (chain, number), and what was tuned."""
    density, extra = _whitened(view, chains), max(_LEAST_DIM - view.dim, 0)
    kernel = _kernel()

    def one(key: jax.Array, start: jax.Array) -> tuple[Any, Any]:
        init_key, tune_key = jax.random.split(key)
        white = jax.scipy.linalg.solve_triangular(chains["root"], start - chains["loc"], lower=True)
        white = jnp.concatenate([white, jnp.zeros(extra)])
        state = dynamic.init(white, density, init_key)
        state, tuned, _ = blackjax.adjusted_mclmc_find_L_and_step_size(
            kernel,
            density,
            warmup,
            state,
            tune_key,
            target,
            frac_tune1=_STEP_SHARE,
            frac_tune2=_SPREAD_SHARE,
        )
        found = {"L": tuned.L, "step_size": tuned.step_size, "metric": tuned.inverse_mass_matrix}
        return state.position, found

    positions, tuned = jax.vmap(one)(keys, chains["positions"])
    return positions, tuned


def moved_chains(
    view: View, keys: jax.Array, chains: dict[str, Any], *, count: int, thinning: int
) -> tuple[Any, dict[str, Any], Any]:
    """Points (chain, draw, number), statistics, and where the chains are afterwards."""
    density = _whitened(view, chains)
    kernel = _kernel()

    def one(key: jax.Array, position: jax.Array, tuned: dict[str, Any]) -> tuple[Any, ...]:
        init_key, move_key = jax.random.split(key)

        def move(state: Any, key: jax.Array) -> tuple[Any, Any]:
            state, info = kernel(
                rng_key=key,
                state=state,
                logdensity_fn=density,
                step_size=tuned["step_size"],
                inverse_mass_matrix=tuned["metric"],
                integration_steps_params=(tuned["L"] / tuned["step_size"],),
            )
            return state, (info.acceptance_rate, info.is_divergent, info.num_integration_steps)

        def draw(state: Any, keys: jax.Array) -> tuple[Any, Any]:
            state, (rate, diverging, steps) = jax.lax.scan(move, state, keys)
            seen = {
                "acceptance_rate": jnp.mean(rate),
                "diverging": jnp.any(diverging),
                "n_steps": jnp.sum(steps),
                "lp": state.logdensity,
            }
            return state, (state.position, seen)

        move_keys = jax.random.split(move_key, (count, thinning))
        state, (points, seen) = jax.lax.scan(
            draw, dynamic.init(position, density, init_key), move_keys
        )
        points = chains["loc"] + points[:, : view.dim] @ chains["root"].T
        return points, seen, state.position

    found: tuple[Any, ...] = jax.vmap(one)(keys, chains["positions"], chains["tuned"])
    return found


def _whitened(view: View, chains: dict[str, Any]) -> Callable[[jax.Array], Any]:
    """The log density in the coordinates of a path's normal."""

    def density(white: jax.Array) -> Any:
        point = chains["loc"] + chains["root"] @ white[: view.dim]
        return view.density(point) - 0.5 * jnp.sum(white[view.dim :] ** 2)

    return density


def _kernel() -> Any:
    steps = dynamic.make_random_trajectory_length_fn(random_trajectory_length=True)
    return dynamic.build_kernel(
        integration_steps_fn=lambda key, mean: jnp.minimum(steps(key, mean), _MOST_STEPS)
    )
