"""Markov chains: NUTS by name, or any NumPyro `MCMC` object.

HMC and NUTS run as two compiled programs, one that starts a chain and one that takes a chunk of
transitions (warm-up or sampling), so that a second fit compiles nothing, the bar moves and chains
can continue. Other samplers run through a private copy of the user's `MCMC` object. In both cases
the user's object is read and never changed.
"""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer import HMC, MCMC, NUTS
from numpyro.infer.util import constrain_fn, potential_energy

from aimz.errors import AimzError, FitWarning, KernelValidationError
from aimz.inference import health
from aimz.inference.binding import (
    RowScale,
    check_draws,
    check_weights,
    initial_variables,
    version_of,
)
from aimz.inference.records import Draws, Fit, Note, Problem, Settings
from aimz.inference.start import find_start, set_up_guide
from aimz.programs import TRACE_LOCK, compile_program
from aimz.randomness import as_key

__all__ = ["ChainRecord", "MCMCEngine"]

#: Chains and warm-up transitions of `inference="nuts"`.
CHAINS, WARMUP, SAMPLES = 4, 1000, 1000
_CHUNK = 100
# Field of the sampler's state -> ArviZ's name.
_STATS = {
    "diverging": "diverging",
    "energy": "energy",
    "accept_prob": "acceptance_rate",
    "num_steps": "n_steps",
}


class ChainRecord(NamedTuple):
    """Where the chains are: the samplers' states, and what fixes the kernel's parameters."""

    states: Any
    setup_key: Any
    params: dict[str, Any]
    runs: int


class _Plan(NamedTuple):
    """Lengths of the chains."""

    chains: int
    warmup: int
    samples: int
    thinning: int
    method: Any


class MCMCEngine:
    """Draw with Markov chains.

    Parameters
    ----------
    kernel : callable
        The model's kernel.
    given : MCMC, optional
        A NumPyro `MCMC` object for that kernel, which is never changed. Without one, NUTS with
        4 chains, 1,000 warm-up transitions and 1,000 draws a chain, started around the
        posterior's mode, in coordinates scaled by its curvature, where it has one.
    """

    name = "mcmc"

    def __init__(self, kernel: Callable[..., Any], given: MCMC | None = None) -> None:
        if given is not None and not _is_made_for(given.sampler, kernel):
            raise KernelValidationError(
                "The MCMC object was made for another kernel than this model's. It would fit "
                "something else than predictions use. Pass the same function to the sampler and "
                "to ImpactModel.",
                code="inference-kernel",
            )
        self.kernel = kernel
        self.given = given

    @property
    def sampler_name(self) -> str:
        """Name of the sampler, for results."""
        return "NUTS" if self.given is None else type(self.given.sampler).__name__

    def fit(
        self,
        rng_key: Any,
        problem: Problem,
        settings: Settings,
        *,
        state: ChainRecord | None = None,
    ) -> Fit:
        """Run the chains on the whole data; see `Engine`."""
        check_weights(problem)
        self._refuse_enumeration(problem)
        plan = self._plan(settings.num_samples)
        key = as_key(rng_key)
        params = _fixed_params(problem, key) if state is None else state.params
        draws, stats, record = self._run(key, problem, plan, params, state, settings.progress)
        given = self.given
        check_draws(problem.spec.latents, draws, self.name)
        stats = _with_depths(stats, NUTS(problem.kernel) if given is None else given.sampler)
        judged = health.judge_chains(draws, stats)
        attrs = {
            "engine": self.name,
            "sampler": self.sampler_name,
            "chains": plan.chains,
            "warmup": plan.warmup,
            "interrupted": False,
            "notes": [],
            **judged.attrs,
        }
        notes = (*_param_notes(params), *judged.notes)
        return Fit(draws, stats, {}, attrs, record, params, notes)

    def draw(self, rng_key: Any, problem: Problem, fit: Fit, num_samples: int) -> Draws:
        """Continue the chains; see `Engine`."""
        return self.proceed(rng_key, problem, fit, num_samples)[0]

    def proceed(
        self, rng_key: Any, problem: Problem, fit: Fit, num_samples: int
    ) -> tuple[Draws, ChainRecord]:
        """Continue the chains: the new draws, and where the chains are afterwards."""
        plan = self._plan(num_samples)
        record: ChainRecord = fit.state
        key = as_key(rng_key)
        draws, _, after = self._run(key, problem, plan, record.params, record, progress=False)
        return draws, after

    def _plan(self, num_samples: int | None) -> _Plan:
        given = self.given
        if given is None:
            return _Plan(CHAINS, WARMUP, num_samples or SAMPLES, 1, "parallel")
        samples = num_samples or given.num_samples
        return _Plan(
            given.num_chains, given.num_warmup, samples, given.thinning, given.chain_method
        )

    def _run(
        self,
        key: Any,
        problem: Problem,
        plan: _Plan,
        params: dict[str, Any],
        record: ChainRecord | None,
        progress: bool,  # noqa: FBT001
    ) -> tuple[Draws, Draws, ChainRecord]:
        """Run or continue the chains in the way that the sampler allows."""
        sampler = None if self.given is None else self.given.sampler
        if sampler is None or (type(sampler) in (HMC, NUTS) and _is_plain(self.given)):
            return _run_compiled(key, problem, self.given, plan, params, record, progress)
        return _run_object(key, problem, self.given, plan, params, record, progress)

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
                    "draws of it. Write the marginal (e.g. MixtureSameFamily), or sample it with "
                    "DiscreteHMCGibbs.",
                    code="enumerated",
                )


def _run_compiled(
    key: Any,
    problem: Problem,
    given: MCMC | None,
    plan: _Plan,
    params: dict[str, Any],
    record: ChainRecord | None,
    progress: bool,  # noqa: FBT001
) -> tuple[Draws, Draws, ChainRecord]:
    """HMC and NUTS: programs of our own, one chain each or all chains vectorised."""
    if record is not None:
        key = jax.random.fold_in(key, record.runs)
    setup_key, *keys = jax.random.split(key, plan.chains + 1)
    if plan.method == "vectorized":
        parts = [jnp.stack(keys)]
    else:
        parts = [chain_key[None] for chain_key in keys]
    before: list[Any] = [None] * len(parts)
    warmup, runs = plan.warmup, 1
    if record is not None:
        before, setup_key, warmup, runs = record.states, record.setup_key, 0, record.runs + 1
    chains = _Chains(problem, given, plan.warmup, params, setup_key)

    x64 = jax.config.jax_enable_x64  # of the calling thread

    def one(group: int) -> tuple[Any, Any, Any]:
        with jax.enable_x64(x64):
            state = chains.start(parts[group], before[group])
            state, _ = chains.advance(state, warmup, bar)
            state, found = chains.advance(state, plan.samples, bar)
        return state, *found

    groups = range(len(parts))
    with _bar(len(parts) * (warmup + plan.samples), shown=progress) as bar:
        if plan.method == "parallel" and len(parts) > 1:
            with ThreadPoolExecutor(len(parts)) as pool:
                results = list(pool.map(one, groups))
        else:
            results = [one(group) for group in groups]
    draws = _joined([result[1] for result in results], plan.thinning)
    stats = _joined([result[2] for result in results], plan.thinning)
    return draws, stats, ChainRecord([result[0] for result in results], setup_key, params, runs)


def _with_depths(stats: Draws, sampler: Any) -> Draws:
    """Statistics with the depths of the trees, which ArviZ's `diagnose` and Stan's users read."""
    if not isinstance(sampler, NUTS) or "n_steps" not in stats:
        return stats
    depth = sampler._max_tree_depth
    limit = 2 ** (depth[-1] if isinstance(depth, tuple) else depth) - 1  # after the warm-up
    steps = np.asarray(stats["n_steps"])
    # A step gives one doubling of the tree, n doublings 2 ** n - 1 steps, the last one maybe cut.
    depths = np.frexp(steps)[1]
    return {**stats, "tree_depth": depths, "reached_max_treedepth": steps >= limit}


def _joined(parts: list[Draws], thinning: int) -> Draws:
    """Arrays of several groups of chains, thinned."""
    return {
        name: np.concatenate([part[name] for part in parts])[:, ::thinning] for name in parts[0]
    }


class _Chains:
    """The two programs of a group of chains."""

    def __init__(
        self,
        problem: Problem,
        given: MCMC | None,
        warmup: int,
        params: dict[str, Any],
        setup_key: Any,
    ) -> None:
        self.problem, self.given, self.warmup = problem, given, warmup
        weights = None if problem.weights is None else jnp.asarray(problem.weights)
        arrays = jax.tree.map(jnp.asarray, problem.inputs.arrays)
        self.version = version_of(problem)
        self.fixed = (setup_key, params, arrays, weights, self._place(given, setup_key))
        self.program: Callable[..., Any] | None = None
        self.lock = threading.Lock()

    def _place(self, given: MCMC | None, setup_key: Any) -> dict[str, Any] | None:
        """Mode and scale of the posterior, for chains by name; an object starts as it says."""
        if given is not None or not self.problem.spec.latents:
            return None
        found = find_start(self.problem, setup_key, jax.random.fold_in(setup_key, 1), self.version)
        return found.place if found.informed else None

    def start(self, keys: Any, before: Any = None) -> Any:
        """States of chains before their first transition, or from `before` with other keys."""
        if before is not None:
            return before._replace(rng_key=keys)

        def begin(keys: Any, fixed: Any) -> Any:
            sampler, kwargs, around, _ = self._sampler(fixed)

            def one(key: Any) -> Any:
                return sampler.init(key, self.warmup, around(key), (), kwargs)

            with RowScale(self.problem, {}, fixed[3]):
                return jax.vmap(one)(keys)

        arguments = (keys, self.fixed)
        states = compile_program(begin, *arguments, version=self.version)(*arguments)
        energy = np.asarray(states.potential_energy)
        if not np.all(np.isfinite(energy)):
            raise AimzError(
                f"No starting point with a finite log density was found ({energy}). The chains "
                "cannot move. Check the outcome against its distribution's support and the "
                "priors' scales.",
                code="fit-diverged",
            )
        return states

    def advance(self, states: Any, count: int, bar: Any) -> tuple[Any, tuple[Draws, Draws]]:
        """Take `count` transitions; the new states, draws and statistics, (chain, draw, ...)."""

        def chunk(states: Any, active: Any, fixed: Any) -> Any:
            sampler, kwargs, around, constrain = self._sampler(fixed)
            setup_key = fixed[0]
            latents = self.problem.spec.latents

            def step(state: Any, on: Any) -> Any:
                state = jax.lax.cond(
                    on, lambda s: sampler.sample(s, (), kwargs), lambda s: s, state
                )
                stats = {
                    name: getattr(state, field)
                    for field, name in _STATS.items()
                    if hasattr(state, field)
                }
                stats["lp"] = -state.potential_energy
                return state, (state.z, stats)

            with RowScale(self.problem, {}, fixed[3]):
                sampler.init(setup_key, self.warmup, around(setup_key), (), kwargs)
                states, (z, stats) = jax.vmap(lambda state: jax.lax.scan(step, state, active))(
                    states
                )
                constrain = constrain or sampler.get_constrain_fn((), kwargs)
                values = jax.vmap(jax.vmap(constrain))(z)
            return states, ({name: values[name] for name in latents if name in values}, stats)

        found: list[Any] = []
        for first in range(0, count, _CHUNK):
            size = min(_CHUNK, count - first)
            arguments = (states, np.arange(_CHUNK) < size, self.fixed)
            with self.lock:  # groups of chains share one program, traced once
                if self.program is None:
                    self.program = compile_program(chunk, *arguments, version=self.version)
            states, part = self.program(*arguments)
            found.append(jax.tree.map(lambda leaf, size=size: np.asarray(leaf)[:, :size], part))
            bar.update(size)
        if not found:
            return states, ({}, {})
        draws, stats = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *found)
        return states, (draws, stats)

    def _sampler(self, fixed: Any) -> "_Sampler":
        """A private sampler; called inside a trace."""
        setup_key, params, arrays, _, place = fixed
        model = handlers.substitute(self.problem.kernel, data=params)
        kwargs = {**arrays, **self.problem.inputs.static}
        if self.given is not None:
            return _Sampler(self.given.sampler.wrap_model(lambda _: model), kwargs, _nowhere, None)
        if place is None:
            return _Sampler(NUTS(model), kwargs, _nowhere, None)
        guide = set_up_guide(self.problem, self.problem.inputs.rows, setup_key, arrays)
        loc, scale = place["loc"], place["scale"]

        seeded = handlers.seed(model, setup_key)

        def around(key: Any) -> Any:
            return jax.random.normal(jax.random.fold_in(key, 1), loc.shape)

        def latents(white: Any) -> Any:
            return guide._unpack_latent(loc + scale @ white)

        def energy(white: Any) -> Any:
            return potential_energy(seeded, (), kwargs, latents(white))

        def constrain(white: Any) -> Any:
            return constrain_fn(seeded, (), kwargs, latents(white))

        # NumPyro shrinks the mass matrix it learns towards the identity, which is right in
        # whitened coordinates and ruinous in those of raw covariates.
        return _Sampler(NUTS(potential_fn=energy, dense_mass=True), kwargs, around, constrain)


class _Sampler(NamedTuple):
    """A sampler, the kernel's arguments, starting points by key, and how to read its states."""

    sampler: Any
    kwargs: dict[str, Any]
    around: Callable[[Any], Any]
    constrain: Callable[[Any], Any] | None


def _run_object(
    key: Any,
    problem: Problem,
    given: Any,
    plan: _Plan,
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
        progress_bar=progress and not callable(plan.method),
    )
    run_key = key
    if record is not None:
        mcmc.post_warmup_state = record.states
        run_key = jax.random.fold_in(key, record.runs)
    is_hmc = isinstance(given.sampler, HMC) and type(given.sampler).__name__ != "MixedHMC"
    fields = tuple(_STATS) if is_hmc else ()
    arguments = {**problem.inputs.arrays, **problem.inputs.static}
    with TRACE_LOCK, RowScale(problem, {}, problem.weights):
        mcmc.run(run_key, extra_fields=fields, **arguments)
    values = mcmc.get_samples(group_by_chain=True)
    draws = {name: np.asarray(values[name]) for name in problem.spec.latents if name in values}
    extra = mcmc.get_extra_fields(group_by_chain=True)
    stats = {_STATS[name]: np.asarray(extra[name]) for name in extra if name in _STATS}
    runs = 1 if record is None else record.runs + 1
    return draws, stats, ChainRecord(mcmc.last_state, key, params, runs)


def _private_sampler(sampler: Any, kernel: Any, model: Any) -> Any:
    """A copy of a sampler, as before its first run, around a kernel whose parameters are fixed."""
    params = None if model is kernel else model.data
    try:
        return sampler.wrap_model(
            lambda inner: inner if params is None else handlers.substitute(inner, data=params)
        )
    except NotImplementedError:
        return copy.deepcopy(sampler, {id(kernel): model})


def _is_plain(given: Any) -> bool:
    return given.postprocess_fn is None and not callable(given.chain_method)


def _is_made_for(holder: Any, kernel: Any) -> bool:
    """Whether a sampler, or a part or a wrapping of it, holds the kernel."""
    if holder is kernel:
        return True
    if isinstance(holder, partial):
        return any(_is_made_for(part, kernel) for part in (holder.func, *holder.args))
    parts = [getattr(holder, name, None) for name in ("_model", "fn", "inner_kernel")]
    parts += getattr(holder, "_kernels", ())
    return any(part is not None and _is_made_for(part, kernel) for part in parts)


def _fixed_params(problem: Problem, key: Any) -> dict[str, Any]:
    """Initial values of the kernel's `param` sites, which chains hold fixed."""

    def look(key: Any, arrays: Any) -> Any:
        return initial_variables(problem, key, arrays)

    arguments = (jax.random.fold_in(key, 1), problem.inputs.arrays)
    values: dict[str, Any] = compile_program(look, *arguments, version=version_of(problem))(
        *arguments
    )
    return values


def _param_notes(params: dict[str, Any]) -> tuple[Note, ...]:
    if not params:
        return ()
    names = ", ".join(f"'{name}'" for name in sorted(params))
    message = (
        f"Chains do not learn param sites: {names} keep their initial values. Give them priors, "
        "or fit with inference='svi'."
    )
    return (Note(FitWarning, message, "param-fixed"),)


def _nowhere(_: Any) -> None:
    """No starting point: the sampler looks for its own."""


def _bar(total: int, *, shown: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, disable=not shown, desc="chains", unit="step", leave=False)
