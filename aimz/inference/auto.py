"""The default engine: a guide where a guide can be right, and chains where it cannot.

A normal guide is learned first; it is kept where its shape holds (`health`). Where it does not, or
the search for it fails, chains take over, and where no normal guide can be right they are run at
once: the spread of a latent is a latent, or there are more latents than a full matrix is for. The
account says which it was and why. A call that asks for steps, epochs or batches gets them.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from aimz.arrays import Seed
from aimz.errors import AimzError, InputError
from aimz.inference.binding import raw_sites, subsampled_plates, version_of, why_whole
from aimz.inference.chains import NUTS, ChainRecord, MCMCEngine
from aimz.inference.collapsed import collapsed_draws, collapsed_fit, is_collapsible
from aimz.inference.engine import Draws, Fit, Problem, Settings
from aimz.inference.health import WEIGH_ROWS
from aimz.inference.hierarchy import spread_by_latents
from aimz.inference.normal import latent_dim
from aimz.inference.svi import SVIEngine, SVIRecord, learned_place

__all__ = ["AutoEngine"]


_CHAINS, _WARMUP, _LEAST, _TARGET = 4, 600, 1000, 0.9
# Latents that a full-rank guide is learned for: beyond, chains are as fast and right more often.
_GUIDE_DIM = 64
_DOUBTS = ("guide-shape", "k-hat", "not-converged")
# Errors of a guide that chains do not have.
_REASONS = {
    "fit-diverged": "The search for a guide failed.",
    "moving-support": "The support of a latent follows another, which no guide does.",
}


class AutoEngine(SVIEngine):
    """Fit by variational inference, or by chains where that cannot be right."""

    name = "auto"

    def fit(
        self,
        rng_key: Seed,
        problem: Problem,
        settings: Settings,
        *,
        state: SVIRecord | ChainRecord | dict[str, Any] | None = None,
    ) -> Fit:
        """Fit by the engine that suits the kernel; see `Engine`."""
        if isinstance(state, ChainRecord):
            return self._by_chains(rng_key, problem, settings, "The fit goes on.", state)
        known = None if isinstance(state, dict) else state  # of what was integrated out, nothing
        may_hand_over = known is None and _can_hand_over(problem, settings)
        collapsed = _collapsed(rng_key, problem, settings, known)
        if collapsed is not None:
            return collapsed
        reason = _why_chains(problem, settings) if may_hand_over else ""
        if reason:
            return self._by_chains(rng_key, problem, settings, reason)
        try:
            fit = super().fit(rng_key, problem, settings, state=known)
        except AimzError as error:
            why = _REASONS.get(error.code)
            if why is None or not may_hand_over:
                raise
            return self._by_chains(rng_key, problem, settings, why)
        doubts = {note.code: note.message for note in fit.notes if note.code in _DOUBTS}
        has_modes = any(note.code == "modes" for note in fit.notes)  # chains would not mix
        if not doubts or has_modes or not may_hand_over:
            return fit
        why = next(iter(doubts.values())).split(". ")[0] + "."
        place = None if "not-converged" in doubts else learned_place(fit.state)
        chains = self._by_chains(rng_key, problem, settings, why, place=place)
        return replace(chains, attrs={**chains.attrs, "guide_k_hat": fit.attrs["k_hat"]})

    def draw(self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int) -> Draws:
        """More draws, of the guide or of the chains; see `Engine`."""
        return self.proceed(rng_key, problem, fit, num_samples).draws

    def weighed(
        self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int
    ) -> tuple[Draws, np.ndarray]:
        """Fresh draws, and log p - log q of each, which is 0 of what was integrated out."""
        if isinstance(fit.state, dict):
            return collapsed_draws(rng_key, problem, fit, num_samples), np.zeros(num_samples)
        return super().weighed(rng_key, problem, fit, num_samples)

    def proceed(self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int) -> Fit:
        """More draws, and the state afterwards."""
        if isinstance(fit.state, ChainRecord):
            return self._chains().proceed(rng_key, problem, fit, num_samples)
        if isinstance(fit.state, dict):
            return fit.with_draws(collapsed_draws(rng_key, problem, fit, num_samples))
        return fit.with_draws(super().draw(rng_key, problem, fit, num_samples))

    def step(
        self,
        rng_key: Seed,
        problem: Problem,
        state: SVIRecord | ChainRecord | dict[str, Any] | None = None,
    ) -> tuple[SVIRecord, float]:
        """One step on the rows of `problem`; chains have none."""
        if isinstance(state, ChainRecord | dict):
            how = "ran chains" if isinstance(state, ChainRecord) else "integrated latents out"
            msg = (
                f"The fit {how}: there are no steps to go on with. Use inference='svi', or "
                "train a new model by steps."
            )
            raise InputError(msg, code="no-steps")
        return super().step(rng_key, problem, state)

    def vi_result(self, fit: Fit) -> Any:
        """NumPyro's record of the guide's fit."""
        if isinstance(fit.state, ChainRecord | dict):
            msg = "The fit has no guide and no vi_result. Use inference='svi' or an SVI object."
            raise InputError(msg, code="vi-result")
        return super().vi_result(fit)

    def fitted_object(self, fit: Fit, problem: Problem | None) -> Any:
        """NumPyro's object of the fit: an `SVI`, or an `MCMC` where chains were run."""
        if "chains" in fit.attrs:
            return self._chains().fitted_object(fit, problem)
        if isinstance(fit.state, dict):
            msg = "Latents were integrated out: NumPyro has no object for it. Use posterior_tree."
            raise InputError(msg, code="no-object")
        return super().fitted_object(fit, problem)

    def _chains(self, place: dict[str, Any] | None = None) -> MCMCEngine:
        settings = NUTS(_CHAINS, _WARMUP, _TARGET)
        return MCMCEngine(self.kernel, settings=settings, at_mode=False, place=place)

    def _by_chains(
        self,
        rng_key: Seed,
        problem: Problem,
        settings: Settings,
        reason: str,
        state: ChainRecord | None = None,
        place: dict[str, Any] | None = None,
    ) -> Fit:
        """A fit by chains, with as many draws in all as were asked for."""
        chains = settings.num_chains or _CHAINS
        each = -(-(settings.num_samples or 1000) // chains)
        thinning = -(-_LEAST // each)
        longer = replace(settings, num_samples=each * thinning)
        fit = self._chains(place).fit(rng_key, problem, longer, state=state)
        draws = {name: value[:, ::thinning] for name, value in fit.draws.items()}
        stats = {name: value[:, ::thinning] for name, value in fit.stats.items()}
        attrs = {**fit.attrs, "notes": [f"{reason} Chains were run.", *fit.attrs["notes"]]}
        return fit.with_draws(draws, stats=stats, attrs=attrs)


def _can_hand_over(problem: Problem, settings: Settings) -> bool:
    """Whether chains can do what the call asks for, on data that they can carry."""
    rows, batch = problem.inputs.rows, settings.batch_size
    asks_for_steps = settings.num_steps is not None or settings.epochs is not None
    in_batches = batch is not None and batch < rows and not why_whole(problem)
    in_batches |= settings.num_shards is not None
    latents = problem.spec.latents
    learns = any(site.type in ("param", "mutable") for site in raw_sites(problem))
    return (
        not (asks_for_steps or in_batches)
        and not learns
        and not subsampled_plates(problem)
        and bool(latents)
        and not any(problem.spec[name].discrete for name in latents)
        and rows <= WEIGH_ROWS
    )


def _collapsed(
    rng_key: Seed, problem: Problem, settings: Settings, known: SVIRecord | ChainRecord | None
) -> Fit | None:
    """A fit by integrals, where the kernel has them and nobody has asked for chains."""
    asks_for_chains = settings.num_chains is not None or settings.num_warmup is not None
    is_first = known is None and not asks_for_chains
    if not (is_first and is_collapsible(problem) and _can_hand_over(problem, settings)):
        return None
    return collapsed_fit(rng_key, problem, settings)


def _why_chains(problem: Problem, settings: Settings) -> str:
    """Why chains are run at once; empty where a guide may do."""
    if settings.num_chains is not None or settings.num_warmup is not None:
        return "The call asks for chains."
    spread = spread_by_latents(problem, version_of(problem))
    if spread:
        return f"The spread of '{min(spread)}' follows other latents, which no normal guide does."
    dim = latent_dim(problem)
    if dim > _GUIDE_DIM:
        return f"There are {dim} latents, more than a full-rank guide is for."
    return ""
