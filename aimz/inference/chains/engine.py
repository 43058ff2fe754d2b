"""Markov chains: NUTS by name, or any NumPyro `MCMC` object.

HMC and NUTS run as programs of our own (`chains`), other samplers through a private copy of the
user's `MCMC` object. In both cases the user's object is read and never changed.
"""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import infer
from numpyro.infer import HMC, MCMC

from aimz.arrays import Seed
from aimz.errors import FitWarning, KernelValidationError, Note
from aimz.inference import health
from aimz.inference.binding import (
    check_draws,
    check_weights,
    fixed_params,
    marginal_of,
    moving_supports,
    param_notes,
    subsampled_plates,
)
from aimz.inference.chains.compiled import NUTS, STATS, ChainRecord, Plan, run_chains
from aimz.inference.chains.foreign import (
    is_made_for,
    is_plain,
    run_object,
)
from aimz.inference.engine import Draws, Fit, Problem, Settings
from aimz.inference.progress import Bar
from aimz.programs import as_key

__all__ = ["MCMCEngine", "cut_short"]


_SAMPLES = 1000


class MCMCEngine:
    """Draw with Markov chains.

    Parameters
    ----------
    kernel : callable
        The model's kernel.
    given : MCMC, optional
        A NumPyro `MCMC` object for that kernel, which is never changed. Without one, NUTS,
        started around the posterior's mode, in coordinates scaled by its curvature, where it has
        one, and in standard units of latents whose spread is a latent.
    settings : NUTS
        Of chains without an object.
    at_mode : bool
        Whether to look for the mode; where it is known to mislead, curvature is averaged.
    place : dict, optional
        Where the posterior is known to be: "loc", "scale" and "starts" of unconstrained latents.
    """

    name = "mcmc"

    def __init__(
        self,
        kernel: Callable[..., Any],
        given: MCMC | None = None,
        settings: NUTS | None = None,
        *,
        at_mode: bool = True,
        place: dict[str, Any] | None = None,
    ) -> None:
        if given is not None and not is_made_for(given.sampler, kernel):
            raise KernelValidationError(
                "The MCMC object was made for another kernel than this model's. It would fit "
                "something else than predictions use. Pass the same function to the sampler and "
                "to ImpactModel.",
                code="inference-kernel",
            )
        self.kernel = kernel
        self.given = given
        self.settings = settings or NUTS()
        self.at_mode = at_mode
        self.place = place

    @property
    def sampler_name(self) -> str:
        """Name of the sampler, for results."""
        return "NUTS" if self.given is None else type(self.given.sampler).__name__

    def fit(
        self,
        rng_key: Seed,
        problem: Problem,
        settings: Settings,
        *,
        state: ChainRecord | None = None,
    ) -> Fit:
        """Run the chains on the whole data; see `Engine`."""
        check_weights(problem)
        self._refuse_nested(problem)
        self._refuse_enumeration(problem)
        self._refuse_subsamples(problem)
        plan = _as_many_as(self._plan(settings), state)
        key = as_key(rng_key)
        params = fixed_params(problem, key) if state is None else state.params
        draws, stats, record = self._run(key, problem, plan, params, state, settings.progress)
        check_draws(problem.spec.latents, draws, self.name)
        stats = _with_depths(stats, self._depth())
        judged = health.judge_chains(draws, stats)
        chains, count = stats["lp"].shape if "lp" in stats else (plan.chains, plan.samples)
        interrupted = chains < plan.chains or count < -(-plan.samples // plan.thinning)
        attrs = {
            "engine": self.name,
            "sampler": self.sampler_name,
            "chains": chains,
            "warmup": plan.warmup,
            "interrupted": interrupted,
            "notes": [],
            **judged.attrs,
        }
        notes = (*param_notes(params), *judged.notes)
        if interrupted:
            notes = (cut_short(chains, count), *notes)
        return Fit(draws, stats, {}, attrs, record, params, notes)

    def draw(self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int) -> Draws:
        """Continue the chains; see `Engine`."""
        return self.proceed(rng_key, problem, fit, num_samples).draws

    def proceed(self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int) -> Fit:
        """Continue the chains: the new draws, and where the chains are afterwards."""
        record: ChainRecord = fit.state
        plan = _as_many_as(self._plan(Settings(num_samples=num_samples)), record)
        key = as_key(rng_key)
        draws, stats, after = self._run(key, problem, plan, record.params, record, progress=False)
        return fit.with_draws(draws, stats=_with_depths(stats, self._depth()), state=after)

    def fitted_object(self, fit: Fit, problem: Problem | None) -> MCMC:
        """A NumPyro `MCMC` object that holds the draws of a fit, as if it had run."""
        del problem
        users = self.given
        sampler = infer.NUTS(self.kernel) if users is None else users.sampler
        arrays = next(iter(fit.draws.values()))
        mcmc = MCMC(
            copy.copy(sampler),
            num_warmup=fit.attrs["warmup"],
            num_samples=arrays.shape[1],
            num_chains=arrays.shape[0],
            chain_method="sequential",  # any other is said to lack devices
            progress_bar=False,
        )
        names = {name: field for field, name in STATS.items()} | {"lp": "potential_energy"}
        extra = {names[name]: jnp.asarray(v) for name, v in fit.stats.items() if name in names}
        if "potential_energy" in extra:
            extra["potential_energy"] = -extra["potential_energy"]
        draws = {name: jnp.asarray(value) for name, value in fit.draws.items()}
        mcmc._states = {mcmc._sample_field: draws, **extra}
        last = {name: value[:, -1] for name, value in draws.items()}
        mcmc._last_state = SimpleNamespace(**{mcmc._sample_field: last})
        return mcmc

    def _plan(self, asked: Settings) -> Plan:
        """Lengths of the chains: as the call says, or else the object or the settings."""
        users, settings = self.given, self.settings
        plan = Plan(
            settings.chains,
            settings.warmup,
            _SAMPLES,
            1,
            "parallel",
            settings,
            self.at_mode,
            self.place,
        )
        if users is not None:
            plan = Plan(
                users.num_chains,
                users.num_warmup,
                users.num_samples,
                users.thinning,
                users.chain_method,
            )
        called: dict[str, Any] = {
            "chains": asked.num_chains,
            "warmup": asked.num_warmup,
            "samples": asked.num_samples,
        }
        return plan._replace(**{name: n for name, n in called.items() if n is not None})

    def _depth(self) -> int | None:
        """Most doublings of a tree, where the sampler grows trees."""
        if self.given is None:
            return self.settings.max_tree_depth
        if not isinstance(self.given.sampler, infer.NUTS):
            return None
        depth = self.given.sampler._max_tree_depth
        return int(depth[-1] if isinstance(depth, tuple) else depth)  # after the warm-up

    def _run(
        self,
        key: jax.Array,
        problem: Problem,
        plan: Plan,
        params: dict[str, Any],
        record: ChainRecord | None,
        progress: bool,  # noqa: FBT001
    ) -> tuple[Draws, Draws, Any]:
        """Run or continue the chains in the way that the sampler allows."""
        sampler = None if self.given is None else self.given.sampler
        has_programs = sampler is None or type(sampler) in (HMC, infer.NUTS)
        if not has_programs or not (sampler is None or is_plain(self.given)):
            return run_object(key, problem, self.given, plan, params, record, progress)
        steps = plan.samples + (plan.warmup if record is None else 0)
        with Bar("chains", plan.chains * steps, shown=progress) as bar:
            return run_chains(key, problem, self.given, plan, params, record, bar.advance)

    def _refuse_nested(self, problem: Problem) -> None:
        """Refuse latents in a scan inside another one, where NumPyro's own samplers err."""
        nested = [name for name in problem.spec.latents if problem.spec[name].is_nested]
        if not nested:
            return
        if self.given is not None:
            raise KernelValidationError(
                f"Latent site '{nested[0]}' is in a scan inside another one, where NumPyro's "
                "samplers cannot move it. Use inference='nuts', or write one scan with a plate in "
                "its step.",
                code="nested-scan",
            )
        moving = moving_supports(problem)
        if moving:
            raise KernelValidationError(
                f"The support of '{moving[0]}' depends on another latent, and '{nested[0]}' is in "
                "a scan inside another one: no engine does both. Write one as a scaled base "
                "variable, or one scan.",
                code="moving-support",
            )

    def _refuse_subsamples(self, problem: Problem) -> None:
        """Refuse plates that draw members: chains would see the same few in every step."""
        sampler = None if self.given is None else type(self.given.sampler)
        plates = subsampled_plates(problem) if sampler in (None, HMC, infer.NUTS) else []
        if plates:
            raise KernelValidationError(
                f"Plate '{plates[0]}' takes a subsample, and {self.sampler_name} would see the "
                "same part of the data in all steps. Leave subsample_size out, or use "
                "inference='svi'.",
                code="terms",
            )

    def _refuse_enumeration(self, problem: Problem) -> None:
        sampler = None if self.given is None else self.given.sampler
        if sampler is not None and not isinstance(sampler, HMC):
            return
        if sampler is not None and type(sampler).__name__ == "MixedHMC":
            return
        for name in problem.spec.latents:
            if problem.spec[name].discrete:
                raise KernelValidationError(
                    f"Latent site '{name}' is discrete: {self.sampler_name} sums it out and has no "
                    f"draws of it. {marginal_of(problem.spec[name])}",
                    code="enumerated",
                )


def _as_many_as(plan: Plan, record: ChainRecord | None) -> Plan:
    """The plan with as many chains as there are to go on with."""
    if record is None or not isinstance(record.states, list):
        return plan
    return plan._replace(chains=sum(len(state.potential_energy) for state in record.states))


def _with_depths(stats: Draws, depth: int | None) -> Draws:
    """Statistics with the depths of the trees, which ArviZ's `diagnose` and Stan's users read."""
    if depth is None or "n_steps" not in stats:
        return stats
    steps = np.asarray(stats["n_steps"])
    # A step gives one doubling of the tree, n doublings 2 ** n - 1 steps, the last one maybe cut.
    depths = np.frexp(steps)[1]
    return {**stats, "tree_depth": depths, "reached_max_treedepth": steps >= 2**depth - 1}


def cut_short(chains: int, count: int) -> Note:
    """What chains say that Ctrl-C has ended."""
    message = (
        f"The chains were interrupted: {chains} of them kept {count} draws each. Summaries are "
        "rougher than was asked for. Call fit again for all draws."
    )
    return Note(FitWarning, message, "interrupted")
