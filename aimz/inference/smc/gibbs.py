"""Gibbs sampling: every site from its full conditional in turn, as an engine.

Where nothing else is said NumPyro's own class moves the continuous latents together by NUTS and
draws the discrete ones (`numpyro.infer.Gibbs`); with steps, the blocks of `SMC` move without
tempering. Both start from draws of the prior, each chain from its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from numpyro import infer
from numpyro.infer import MCMC
from numpyro.infer.gibbs import discrete_latent_sites
from numpyro.infer.initialization import init_to_sample

from aimz.arrays import Seed
from aimz.errors import InputError, KernelValidationError
from aimz.inference import health
from aimz.inference.binding import (
    check_draws,
    check_weights,
    fixed_params,
    moving_supports,
    param_notes,
)
from aimz.inference.chains import ChainRecord, MCMCEngine
from aimz.inference.engine import Fit, Problem, Settings
from aimz.inference.progress import Bar
from aimz.inference.smc.steps import check_steps
from aimz.inference.terms import Terms
from aimz.programs import as_key

__all__ = ["Gibbs"]

_SAMPLES = 1000


@dataclass(frozen=True)
class Gibbs:
    """Gibbs sampling: pass it as `inference=`, or its name "gibbs".

    Discrete latents are drawn from their full conditionals over all their values. Without `steps`
    the continuous ones move together by NUTS given the discrete ones. With `steps`, which may be
    empty, each site moves on its own, by the terms of its Markov blanket, as in `SMC`.

    Parameters
    ----------
    steps : dict, optional
        How sites move, as in `SMC`; ``{}`` for a random walk of each continuous site.
    chains : int
        Chains, each from its own draw of the prior.
    warmup : int
        Sweeps of each chain that tune it and are not kept.
    walkers : int
        With `steps`: points of each chain, whose spread says how far sites move.
    mutations : int
        With `steps`: sweeps over all sites between draws of one walker.

    Raises
    ------
    InputError
        "settings": a number that cannot be; "blackjax-missing", with `steps`.

    Examples
    --------
    >>> from aimz.inference import Gibbs
    >>> Gibbs(chains=2).steps is None
    True
    """

    steps: Mapping[Any, Any] | None = None
    chains: int = 4
    warmup: int = 1000
    walkers: int = 25
    mutations: int = 20

    name = "gibbs"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for setting, least in (("chains", 1), ("warmup", 0), ("walkers", 10), ("mutations", 1)):
            value = getattr(self, setting)
            if not isinstance(value, int | np.integer) or value < least:
                msg = (
                    f"Gibbs({setting}={value!r:.60}) is no whole number of at least {least}. Pass "
                    "one; the kernel is the model's."
                )
                raise InputError(msg, code="settings")
        check_steps(self.steps)

    @property
    def runs(self) -> int:
        """Chains, as the programs of blocks call them."""
        return self.chains

    @property
    def particles(self) -> int:
        """Walkers, as the programs of blocks call them."""
        return self.walkers

    def fit(
        self,
        rng_key: Seed,
        problem: Problem,
        settings: Settings,
        *,
        state: ChainRecord | dict[str, Any] | None = None,
    ) -> Fit:
        """Run the chains from draws of the prior, or go on where they are; see `Engine`."""
        check_weights(problem)
        _check(problem)
        asked = replace(
            self,
            chains=settings.num_chains or self.chains,
            warmup=self.warmup if settings.num_warmup is None else settings.num_warmup,
        )
        if self.steps is None:
            record = state if isinstance(state, ChainRecord) else None
            fit = asked._nuts(problem).fit(rng_key, problem, settings, state=record)
            attrs = {**fit.attrs, "engine": self.name, "sampler": "Gibbs"}
            return replace(fit, attrs=attrs)
        return asked._by_blocks(as_key(rng_key), problem, settings, state)

    def draw(
        self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int
    ) -> Mapping[str, Any]:
        """Continue the chains; see `Engine`."""
        return self.proceed(rng_key, problem, fit, num_samples).draws

    def proceed(self, rng_key: Seed, problem: Problem, fit: Fit, num_samples: int) -> Fit:
        """Continue the chains: the new draws, and where the chains are afterwards."""
        if isinstance(fit.state, ChainRecord):
            asked = replace(self, chains=fit.attrs["chains"])
            return asked._nuts(problem).proceed(rng_key, problem, fit, num_samples)
        key = jax.random.fold_in(as_key(rng_key), fit.state["rounds"])
        walk = _walk_of(replace(self, chains=fit.attrs["chains"]), problem, fit.state["params"])
        draws, _, state = walk.walked(key, fit.state, num_samples)
        return fit.with_draws(draws, state=state)

    def _nuts(self, problem: Problem) -> MCMCEngine:
        """NumPyro's own Gibbs: NUTS for the continuous sites, exact draws of the discrete ones."""
        moving = moving_supports(problem)
        if moving:
            msg = (
                f"The support of '{moving[0]}' depends on another latent, which NumPyro's Gibbs "
                "cannot follow. Pass Gibbs(steps={}), or use inference='nuts'."
            )
            raise KernelValidationError(msg, code="moving-support")
        kernel, spec = problem.kernel, problem.spec
        is_discrete = [spec[name].discrete for name in spec.latents]
        blocks: list[tuple[Any, Callable[..., Any] | None]] = []
        if any(is_discrete):
            blocks.append((infer.DiscreteGibbs(kernel), discrete_latent_sites))
        if not all(is_discrete):
            # Its first step size would be of the first discrete values only.
            nuts = infer.NUTS(kernel, init_strategy=init_to_sample, find_heuristic_step_size=False)
            blocks.append((nuts, None))
        mcmc = MCMC(
            infer.Gibbs(blocks),
            num_warmup=self.warmup,
            num_samples=_SAMPLES,
            num_chains=self.chains,
            chain_method="sequential",
            progress_bar=False,
        )
        return MCMCEngine(kernel, mcmc)

    def _by_blocks(
        self,
        key: jax.Array,
        problem: Problem,
        settings: Settings,
        state: ChainRecord | dict[str, Any] | None,
    ) -> Fit:
        """Chains of walkers that move by blocks, judged walker by walker."""
        count = settings.num_samples or _SAMPLES
        if isinstance(state, dict):
            walk, at = _walk_of(self, problem, state["params"]), state
        else:
            walk = _walk_of(self, problem, fixed_params(problem, key))
            with Bar("rounds", -(-self.warmup // self.mutations), shown=settings.progress) as bar:
                at = walk.warmed(key, bar.advance)
        draw_key = jax.random.fold_in(key, 1 + int(at["rounds"]))
        draws, by_walker, at = walk.walked(draw_key, at, count)
        check_draws(problem.spec.latents, draws, self.name)
        judged = health.judge_chains(by_walker, {})
        attrs = {
            "engine": self.name,
            "sampler": "Gibbs by blocks",
            "chains": self.chains,
            "walkers": self.walkers,
            "warmup": self.warmup,
            "notes": [],
            **judged.attrs,
        }
        notes = (*param_notes(walk.params), *judged.notes)
        return Fit(draws, {}, {}, attrs, at, walk.params, notes)


def _check(problem: Problem) -> None:
    """Refuse what has no full conditional of its own, or no prior draw to start from."""
    Terms(problem, {}).check("gibbs")
    for name in problem.spec.latents:
        if problem.spec[name].discrete and problem.spec[name].bounds is None:
            raise KernelValidationError(
                f"Discrete latent site '{name}' has no last value, or one that its support does "
                "not tell: it cannot be enumerated. Write a family with a bounded support.",
                code="terms",
            )


def _walk_of(settings: Gibbs, problem: Problem, params: dict[str, Any]) -> Any:
    try:
        from aimz.inference.smc.walk import Walk  # needs the extra
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "blackjax":
            raise
        msg = "Gibbs(steps=) needs Blackjax, which is absent. Run: pip install 'blackjax>=1.7'"
        raise InputError(msg, code="blackjax-missing") from error
    return Walk(settings, problem, params)
