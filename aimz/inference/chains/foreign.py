"""Chains by a user's own `MCMC` object, which stays untouched."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from numpyro import handlers
from numpyro.infer import HMC, MCMC
from numpyro.infer.mcmc import MCMCKernel

from aimz.choices import wants_progress
from aimz.inference.binding import RowScale
from aimz.inference.chains.compiled import STATS, ChainRecord, Plan
from aimz.inference.engine import Draws, Problem
from aimz.programs import TRACE_LOCK

__all__ = ["is_made_for", "is_plain", "run_object"]


def run_object(
    key: jax.Array,
    problem: Problem,
    given: MCMC,
    plan: Plan,
    params: dict[str, Any],
    record: ChainRecord | None,
    progress: bool,  # noqa: FBT001
) -> tuple[Draws, Draws, ChainRecord]:
    """Any other sampler, through a private `MCMC` object."""
    model = handlers.substitute(problem.kernel, data=params) if params else problem.kernel
    mcmc = MCMC(
        _private_sampler(given.sampler, problem.kernel, model),
        num_warmup=plan.warmup,
        num_samples=plan.samples,
        num_chains=plan.chains,
        thinning=plan.thinning,
        postprocess_fn=given.postprocess_fn,
        chain_method=plan.method,
        progress_bar=wants_progress(asked=progress) and not callable(plan.method),
    )
    run_key = key
    if record is not None:
        mcmc.post_warmup_state = record.states
        run_key = jax.random.fold_in(key, record.runs)
    is_hmc = isinstance(given.sampler, HMC) and type(given.sampler).__name__ != "MixedHMC"
    fields = tuple(STATS) if is_hmc else ()
    arguments = {**problem.inputs.arrays, **problem.inputs.static}
    with TRACE_LOCK, RowScale(problem, {}, problem.weights):
        mcmc.run(run_key, extra_fields=fields, **arguments)
    values = mcmc.get_samples(group_by_chain=True)
    draws = {name: np.asarray(values[name]) for name in problem.spec.latents if name in values}
    extra = mcmc.get_extra_fields(group_by_chain=True)
    stats = {STATS[name]: np.asarray(extra[name]) for name in extra if name in STATS}
    runs = 1 if record is None else record.runs + 1
    return draws, stats, ChainRecord(mcmc.last_state, key, params, runs)


def _private_sampler(sampler: MCMCKernel, kernel: Callable[..., Any], model: Any) -> Any:
    """A copy of a sampler, as before its first run, around a kernel whose parameters are fixed."""
    params = None if model is kernel else model.data
    try:
        return sampler.wrap_model(
            lambda inner: inner if params is None else handlers.substitute(inner, data=params)
        )
    except NotImplementedError:
        return copy.deepcopy(sampler, {id(kernel): model})


def is_plain(mcmc: MCMC) -> bool:
    """Whether an `MCMC` object runs its chains as it is told, without code of the user."""
    return mcmc.postprocess_fn is None and not callable(mcmc.chain_method)


def is_made_for(holder: object, kernel: object) -> bool:
    """Whether a sampler, or a part or a wrapping of it, holds the kernel."""
    if holder is kernel:
        return True
    if isinstance(holder, partial):
        return any(is_made_for(piece, kernel) for piece in (holder.func, *holder.args))
    parts = [getattr(holder, name, None) for name in ("_model", "fn", "inner_kernel")]
    parts += getattr(holder, "_kernels", ())
    return any(piece is not None and is_made_for(piece, kernel) for piece in parts)
