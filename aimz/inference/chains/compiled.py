"""HMC and NUTS as two compiled programs: one starts a chain, one takes a chunk of transitions.

A second fit compiles nothing, the bar moves, chains continue, and Ctrl-C keeps the draws that are
there. Chains by name move in standard units of latents whose spread is a latent, and in
coordinates that the posterior's own curvature has scaled, where that is affordable.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpyro import handlers, infer
from numpyro.infer import MCMC
from numpyro.infer.hmc import HMCState

from aimz.arrays import Array
from aimz.errors import AimzError
from aimz.inference.binding import RowScale, version_of
from aimz.inference.density import energy_of, has_nested_latents, values_of
from aimz.inference.engine import Draws, Problem
from aimz.inference.hierarchy import in_standard_units, spread_by_latents
from aimz.inference.normal import WHITENED_DIM, find_start, set_up_guide
from aimz.inference.remembered import program_of
from aimz.inference.settings import check_count, check_probability
from aimz.programs import Bound

__all__ = ["NUTS", "STATS", "ChainRecord", "Plan", "run_chains"]


# Transitions of one call of a program, and seconds that a call may take: Ctrl-C waits for it.
_CHUNK, _PATIENCE = 100, 0.5
# Dimensions up to which a few hundred draws tell a whole matrix.
_DENSE_DIM = 32
# Where a funnel may be left, steps are shorter.
_TARGET, _CAREFUL_TARGET = 0.8, 0.9
# How far from a mode chains start, in standard deviations; less where that is beyond a support.
_REACHES = (1.0, 0.5, 0.2, 0.05, 0.01)
#: Field of the sampler's state -> ArviZ's name.
STATS = {
    "diverging": "diverging",
    "energy": "energy",
    "accept_prob": "acceptance_rate",
    "num_steps": "n_steps",
}


@dataclass(frozen=True)
class NUTS:
    """The No-U-Turn sampler, with settings: pass it as `inference=`.

    Parameters
    ----------
    chains : int
        Chains, which run side by side.
    warmup : int
        Transitions of each chain that tune the sampler and are not kept.
    target_accept_prob : float, optional
        Higher means smaller steps and fewer divergences; default 0.8, or 0.9 where the spread of a
        latent is itself a latent, or the posterior is far from the shape that it has at its mode.
    max_tree_depth : int
        A transition takes at most 2 to the power of it steps.

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from aimz import ImpactModel
    >>> from aimz.inference import NUTS
    >>> def kernel(X, y=None):
    ...     mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
    ...     with numpyro.plate("obs", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
    >>> im = ImpactModel(kernel, inference=NUTS(chains=2, warmup=300), num_samples=500)
    >>> im.fit(np.zeros((50, 1)), np.full(50, 3.0), progress=False).diagnostics_["warmup"]
    300
    """

    chains: int = 4
    warmup: int = 1000
    target_accept_prob: float | None = None
    max_tree_depth: int = 10

    def __post_init__(self) -> None:
        """Refuse what no sampler can do; NumPyro's own class takes the kernel first."""
        for name, least in (("chains", 1), ("warmup", 0), ("max_tree_depth", 1)):
            check_count("NUTS", name, getattr(self, name), least)
        if self.target_accept_prob is not None:
            check_probability("NUTS", "target_accept_prob", self.target_accept_prob)


class ChainRecord(NamedTuple):
    """Where the chains are: the samplers' states, and what fixes their coordinates."""

    states: Any
    setup_key: Any
    params: dict[str, Any]
    runs: int
    place: dict[str, Any] | None = None


class Plan(NamedTuple):
    """Lengths of the chains, and how they run.

    `settings` are of chains by name, which start at `place` (loc, scale and starts), if it is
    given, or around the mode, if `at_mode`, or where the curvature is averaged over a guide.
    """

    chains: int
    warmup: int
    samples: int
    thinning: int
    method: Any
    settings: NUTS = NUTS()
    at_mode: bool = True
    place: dict[str, Any] | None = None


def run_chains(
    key: jax.Array,
    problem: Problem,
    given: MCMC | None,
    plan: Plan,
    params: dict[str, Any],
    record: ChainRecord | None,
    bar: Callable[[int], Any],
) -> tuple[Draws, Draws, ChainRecord | None]:
    """Run chains, or continue them: draws, statistics, and where the chains are.

    Ctrl-C ends them early with the draws that they have; the record is None where a chain has none.
    """
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
        plan = plan._replace(place=record.place)
    chains = _Chains(problem, given, plan, params, setup_key)
    numbers = np.split(np.arange(plan.chains), len(parts))  # chains start at different modes
    groups = [_Group(chains, *places) for places in zip(parts, numbers, before, strict=True)]
    _run_groups(groups, warmup, plan, bar)
    lasting = _worth_keeping(groups)
    if not lasting:
        raise KeyboardInterrupt
    histories = [group.joined(min(other.count for other in lasting)) for group in lasting]
    draws, stats = (_joined(parts, plan.thinning) for parts in zip(*histories, strict=True))
    states = [group.state for group in groups]
    if len(lasting) < len(groups):
        return draws, stats, None
    return draws, stats, ChainRecord(states, setup_key, params, runs, plan.place)


def _run_groups(groups: "list[_Group]", warmup: int, plan: Plan, bar: Callable[[int], Any]) -> None:
    """Run groups of chains to their end, or to Ctrl-C."""
    x64 = jax.config.jax_enable_x64  # of the calling thread
    stop = threading.Event()

    def one(group: "_Group") -> None:
        with jax.enable_x64(x64):
            group.run(warmup, plan.samples, bar, stop)

    if plan.method != "parallel" or len(groups) == 1:
        try:
            for group in groups:
                one(group)
        except KeyboardInterrupt:  # what is there is kept by the caller
            pass
        return
    with ThreadPoolExecutor(len(groups)) as pool:
        running = [pool.submit(one, group) for group in groups]
        try:
            for future in running:
                future.result()
        except BaseException as error:
            stop.set()
            if not isinstance(error, KeyboardInterrupt):
                raise
            for future in running:
                future.result()


def _worth_keeping(groups: "list[_Group]") -> "list[_Group]":
    """The groups that, cut to the shortest of them, keep most draws; the most groups of equals."""
    counts = sorted((group.count for group in groups), reverse=True)
    best = max(range(len(counts)), key=lambda n: ((n + 1) * counts[n], n))
    least = max(counts[best], 1)
    return [group for group in groups if group.count >= least]


def _joined(parts: Sequence[Draws], thinning: int) -> Draws:
    """Arrays of several groups of chains, thinned."""
    return {
        name: np.concatenate([draws[name] for draws in parts])[:, ::thinning] for name in parts[0]
    }


@dataclass
class _Group:
    """Chains that move together: their keys, their state, and what they have drawn."""

    chains: "_Chains"
    keys: Any
    numbers: np.ndarray
    state: Any
    found: list[Any] = field(default_factory=list)
    count: int = 0

    def run(
        self, warmup: int, samples: int, bar: Callable[[int], Any], stop: threading.Event
    ) -> None:
        """Warm up and draw, chunk by chunk."""
        self.state = self.chains.start(self.keys, self.numbers, self.state)
        size, done, total = 1, 0, warmup + samples
        while done < total and not stop.is_set():
            size = min(size, (warmup if done < warmup else total) - done, _CHUNK)
            begun = time.perf_counter()
            self.state, piece = self.chains.advance(self.state, size)
            seconds = time.perf_counter() - begun
            done += size
            bar(size)
            if done > warmup:
                self.found.append(piece)
                self.count += size
            # Many transitions a call, but no more than a reader of Ctrl-C has patience for.
            size = int(np.clip(size * _PATIENCE / max(seconds, 1e-3), 1, 10 * size))

    def joined(self, count: int) -> tuple[Draws, Draws]:
        """The first `count` draws and statistics, (chain, draw, ...)."""
        draws, stats = jax.tree.map(
            lambda *parts: np.concatenate(parts, axis=1)[:, :count], *self.found
        )
        return draws, stats


class _Chains:
    """The two programs of a group of chains."""

    def __init__(
        self,
        problem: Problem,
        given: MCMC | None,
        plan: Plan,
        params: dict[str, Any],
        setup_key: jax.Array,
    ) -> None:
        self.latents, self.given, self.plan = problem.spec.latents, given, plan
        self.spread = frozenset[str]()
        if given is None:
            self.spread = spread_by_latents(problem, version_of(problem))
            problem = in_standard_units(problem, self.spread)
        self.problem = problem
        weights = None if problem.weights is None else jnp.asarray(problem.weights)
        arrays = jax.tree.map(jnp.asarray, problem.inputs.arrays)
        self.version = version_of(problem)
        self.is_careful = bool(self.spread)
        self.fixed = (setup_key, params, arrays, weights, self._place(setup_key))
        self.program: Callable[..., Any] | None = None
        self.lock = threading.Lock()

    def _place(self, setup_key: jax.Array) -> dict[str, Any] | None:
        """Centre and scale of the posterior, for chains by name; an object starts as it says."""
        if self.given is not None or not self.latents:
            return None
        if self.plan.place is not None:
            self.is_careful = True
            return self.plan.place
        start = find_start(
            self.problem,
            setup_key,
            jax.random.fold_in(setup_key, 1),
            self.version,
            limit=WHITENED_DIM,
            has_mode=self.plan.at_mode and not self.spread,
            must_hold=True,
        )
        self.is_careful |= not start.at_mode
        if start.informed:
            return {**start.place, "starts": start.starts}
        if not (start.is_sought or has_nested_latents(self.problem)):
            return None
        loc, scale = start.place["loc"], start.place["scale"]  # NumPyro's own start is no use
        scale = scale if scale.ndim > 1 else jnp.diag(scale)
        return {"loc": loc, "scale": scale, "starts": loc[None]}

    def start(self, keys: jax.Array, numbers: np.ndarray, before: HMCState | None = None) -> Any:
        """States of chains before their first transition, or from `before` with other keys."""
        if before is not None:
            return before._replace(rng_key=keys)

        def begin(keys: jax.Array, numbers: Array, reach: Array, fixed: tuple[Any, ...]) -> Any:
            sampler, kwargs, around, _ = self._sampler(fixed)

            def one(key: jax.Array, number: Array) -> Any:
                place = around(key, number, reach)
                return sampler.init(key, self.plan.warmup, place, (), kwargs)

            with RowScale(self.problem, {}, fixed[3]):
                return jax.vmap(one)(keys, numbers)

        for reach in _REACHES:  # nearer to the mode, where a support ends beside it
            arguments = (keys, numbers, np.float32(reach), self.fixed)
            states = self._program_of(begin, *arguments)(*arguments)
            energy = np.asarray(states.potential_energy)
            if np.all(np.isfinite(energy)):
                break
        else:
            raise AimzError(
                f"No starting point with a finite log density was found ({energy}). The chains "
                "cannot move. Check the outcome against its distribution's support and the "
                "priors' scales.",
                code="fit-diverged",
            )
        return states

    def advance(self, states: HMCState, count: int) -> tuple[Any, tuple[Draws, Draws]]:
        """Take `count` transitions, at most a chunk; the new states, draws and statistics."""

        def chunk(states: HMCState, active: jax.Array, fixed: tuple[Any, ...]) -> Any:
            sampler, kwargs, around, constrain = self._sampler(fixed)

            def step(state: HMCState, on: jax.Array) -> Any:
                state = jax.lax.cond(
                    on, lambda s: sampler.sample(s, (), kwargs), lambda s: s, state
                )
                stats = {
                    name: getattr(state, field)
                    for field, name in STATS.items()
                    if hasattr(state, field)
                }
                stats["lp"] = -state.potential_energy
                return state, (state.z, stats)

            with RowScale(self.problem, {}, fixed[3]):
                setup_key = fixed[0]
                sampler.init(setup_key, self.plan.warmup, around(setup_key, 0, 1.0), (), kwargs)
                states, (z, stats) = jax.vmap(lambda state: jax.lax.scan(step, state, active))(
                    states
                )
                constrain = constrain or sampler.get_constrain_fn((), kwargs)
                values = jax.vmap(jax.vmap(constrain))(z)
            return states, ({name: values[name] for name in self.latents if name in values}, stats)

        arguments = (states, np.arange(_CHUNK) < count, self.fixed)
        with self.lock:  # groups of chains share one program, traced once
            if self.program is None:
                self.program = self._program_of(chunk, *arguments)
        states, piece = self.program(*arguments)
        return states, jax.tree.map(lambda leaf: np.asarray(leaf)[:, :count], piece)

    def _program_of(self, fn: Callable[..., Any], *arguments: object) -> Bound:
        """A program of this class, which closes over nothing else but a user's sampler."""
        beside = (self.plan.settings, self.plan.warmup, self.is_careful)
        users = () if self.given is None else (self.given.sampler,)
        return program_of(
            self.problem, fn, *arguments, version=self.version, beside=beside, users=users
        )

    def _sampler(self, fixed: tuple[Any, ...]) -> "_Sampler":
        """A private sampler; called inside a trace."""
        setup_key, params, arrays, _, place = fixed
        model = handlers.substitute(self.problem.kernel, data=params)
        kwargs = {**arrays, **self.problem.inputs.static}
        if self.given is not None:
            return _Sampler(self.given.sampler.wrap_model(lambda _: model), kwargs, _nowhere, None)
        seeded = handlers.seed(model, setup_key)
        asked = self.plan.settings.target_accept_prob
        options = {
            "target_accept_prob": asked or (_CAREFUL_TARGET if self.is_careful else _TARGET),
            "max_tree_depth": self.plan.settings.max_tree_depth,
        }
        if place is None:
            read = values_of(self.problem, seeded, kwargs, None)
            return _Sampler(infer.NUTS(model, **options), kwargs, _nowhere, read)
        guide = set_up_guide(self.problem, self.problem.inputs.rows, setup_key, arrays)
        parts = (self.problem, seeded, kwargs, guide)
        energy, values = energy_of(*parts), values_of(*parts)
        loc, scale = place["loc"], place["scale"]
        modes = jax.scipy.linalg.solve_triangular(scale, (place["starts"] - loc).T, lower=True).T

        def around(key: jax.Array, number: Array, reach: Array) -> Any:
            mode = modes[number % len(modes)]
            return mode + reach * jax.random.normal(jax.random.fold_in(key, 1), loc.shape)

        # NumPyro shrinks the mass matrix it learns towards the identity, which is right in
        # whitened coordinates and ruinous in those of raw covariates.
        dense = loc.size <= _DENSE_DIM
        sampler = infer.NUTS(
            potential_fn=lambda white: energy(loc + scale @ white), dense_mass=dense, **options
        )

        def constrained(white: jax.Array) -> Any:
            return values(guide.unpack(loc + scale @ white))

        return _Sampler(sampler, kwargs, around, constrained)


class _Sampler(NamedTuple):
    """A sampler, the kernel's arguments, starts by key and chain, and how to read its states."""

    sampler: Any
    kwargs: dict[str, Any]
    around: Callable[[Any, Any, Any], Any]
    constrain: Callable[[Any], Any] | None


def _nowhere(_: jax.Array, __: ArrayLike, ___: ArrayLike) -> None:
    """No starting point: the sampler looks for its own."""
