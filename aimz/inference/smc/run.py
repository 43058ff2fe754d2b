"""The programs of tempered SMC: one starts particles, one takes a temperature, one moves them on.

Blackjax finds the temperatures and resamples; its own tempered step hands its kernels one joint
density, and blocks need it term by term.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.smc.ess import ess, ess_solver
from blackjax.smc.resampling import systematic
from blackjax.smc.solver import dichotomy
from jax.scipy.special import logsumexp

from aimz.arrays import Array
from aimz.errors import AimzError, KernelValidationError
from aimz.inference.binding import version_of
from aimz.inference.engine import Draws, Problem
from aimz.inference.progress import waited_for
from aimz.inference.smc.blocks import (
    Block,
    Moves,
    Owners,
    Particle,
    Tempered,
    blocks_of,
    roots_of,
    sweep,
)
from aimz.inference.smc.steps import grouped_steps
from aimz.inference.terms import Terms
from aimz.programs import compile_program

__all__ = ["Course", "Run"]


_PROBES = 4  # draws of the prior at which terms are looked at
_MOST_TEMPERATURES = 400
_ELEMENTS = 8_000_000  # of terms, that particles computed side by side may have
# Terms put together member by member, and computed anew: as rounding in double precision leaves.
_TOLERANCE = 1e-6
_LEAST = 1e-30  # of a temperature at which all data count that have a density
_GAIN = 1.5  # of a move's size by the share of moves accepted


class _Fixed(NamedTuple):
    arrays: dict[str, Any]
    weights: Any


@dataclass
class Course:
    """What happened on the way from the prior."""

    particles: Particle
    factors: dict[str, Any]
    params: dict[str, Any]
    log_evidence: Any
    temperatures: list[np.ndarray] = field(default_factory=list)
    acceptance: list[np.ndarray] = field(default_factory=list)
    ess: list[np.ndarray] = field(default_factory=list)
    increments: list[np.ndarray] = field(default_factory=list)

    def state(self, particles: Particle, attrs: dict[str, Any]) -> dict[str, Any]:
        """What the engine needs to go on."""
        latents = jax.tree.map(np.asarray, particles.latents)
        factors = jax.tree.map(np.asarray, self.factors)
        return {
            "latents": latents,
            "factors": factors,
            "params": self.params,
            "rounds": 1,
            "attrs": attrs,
        }


class Run:
    """Tempered SMC of one problem, in double precision."""

    def __init__(self, settings: Any, problem: Problem, params: dict[str, Any]) -> None:
        self.settings, self.problem, self.params = settings, problem, params
        self.terms = Terms(problem, params)
        self.terms.check(settings.name)
        with jax.enable_x64(True):
            weights = None if problem.weights is None else jnp.asarray(problem.weights, float)
            self.fixed = _Fixed(jax.tree.map(_in_double, problem.inputs.arrays), weights)

    @cached_property
    def version(self) -> str:
        """Name of what the kernel computes."""
        return "smc " + version_of(self.problem)

    @cached_property
    def blocks(self) -> list[Block]:
        """One block for each latent site, or each group of sites."""
        with jax.enable_x64(True):
            return self._blocks()

    def _blocks(self) -> list[Block]:
        probe = self._program(self._start)
        keys = jax.random.split(jax.random.key(0), _PROBES)
        draws = jax.tree.map(lambda *parts: jnp.stack(parts), *[probe(k, self.fixed) for k in keys])
        latents = draws.latents
        spec = self.problem.spec
        batch_dims = {name: len(spec[name].shape) - spec[name].event_dim for name in latents}
        values = {name: self._values(name) for name in self.terms.discrete}
        one = {name: value[0] for name, value in latents.items()}
        readers = self.terms.readers(one, *self.fixed)
        known = {name: self._by_row(name, readers[name], draws.terms) for name in latents}
        steps = grouped_steps(self.settings.steps, tuple(latents), self.terms.discrete)
        compute = self._compute(self.fixed)
        return blocks_of(compute, readers, latents, batch_dims, values, steps, known)

    def _by_row(self, name: str, readers: list[str], terms: dict[str, Array]) -> Owners | None:
        """The owners of terms where each row has one member of a latent."""
        spec, rows = self.problem.spec, self.problem.inputs.rows
        sites = [spec[term] for term in {name, *readers} if term in spec]
        by_row = [site for site in sites if site.rows == "leading" and site.row_axis == 0]
        if spec.coupled or len(by_row) < len({name, *readers}):
            return None
        if len(spec[name].shape) - spec[name].event_dim != 1:
            return None
        shapes = {term: jnp.shape(terms[term])[1:] for term in readers}
        if any(shape[:1] != (rows,) for shape in shapes.values()):
            return None
        numbers = np.arange(rows)
        return {
            term: np.broadcast_to(numbers.reshape(-1, *[1] * (len(shape) - 1)), shape)
            for term, shape in shapes.items()
        }

    def _values(self, name: str) -> range:
        bounds = self.problem.spec[name].bounds
        if bounds is None:
            raise KernelValidationError(
                f"Discrete latent site '{name}' has no last value, or one that its support does "
                "not tell: it cannot be enumerated. Write a family with a bounded support.",
                code="terms",
            )
        return range(bounds[0], bounds[1] + 1)

    def from_the_prior(self, key: jax.Array, advance: Callable[..., Any]) -> Course:
        """Particles from the prior to the posterior."""
        with jax.enable_x64(True):
            runs, count = self.settings.runs, self.settings.particles
            keys = jax.random.split(key, runs + 1)
            start_key, keys, blocks = keys[0], keys[1:], self.blocks
            start = self._program(self._all_started)
            particles = start(jax.random.split(start_key, (runs, count)), self.fixed)
            factors = {b.name: jnp.ones((runs, b.members)) for b in blocks if not b.values}
            course = Course(particles, factors, self.params, np.zeros(runs))
            temperature = jnp.zeros(runs)
            take = self._program(self._all_taken)
            for number in range(_MOST_TEMPERATURES):
                step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
                taken = take(step_keys, course.particles, temperature, course.factors, self.fixed)
                self._check(taken)
                course.particles, course.factors = taken.particles, taken.factors
                temperature = taken.temperature
                course.log_evidence += np.asarray(taken.increment, np.float64)
                for history, value in (
                    (course.temperatures, taken.temperature),
                    (course.acceptance, taken.acceptance),
                    (course.ess, taken.ess),
                    (course.increments, taken.increment),
                ):
                    history.append(np.asarray(value))
                advance(1, f"temperature {float(np.min(temperature)):.3g}")
                if np.min(np.asarray(temperature)) >= 1.0:
                    return course
        raise AimzError(
            f"The temperature reached {float(np.min(temperature)):.2g} of 1 in "
            f"{_MOST_TEMPERATURES} steps: the prior hardly meets the data. Narrow the priors.",
            code="fit-diverged",
        )

    def drawn(
        self, key: jax.Array, particles: Particle, course: Course, count: int
    ) -> tuple[Draws, Particle]:
        """Draws of the posterior, (run, draw, ...), from particles that are there, and more."""
        with jax.enable_x64(True):
            return self._drawn(key, particles, course.factors, count, has_first=True)

    def proceeded(
        self, key: jax.Array, state: dict[str, Any], count: int
    ) -> tuple[Draws, dict[str, Any]]:
        """More draws from a state, and the state afterwards."""
        with jax.enable_x64(True):
            latents = jax.tree.map(jnp.asarray, state["latents"])
            particles = self._recomputed(latents)
            draws, particles = self._drawn(key, particles, state["factors"], count, has_first=False)
            latents = jax.tree.map(np.asarray, particles.latents)
        return draws, {**state, "latents": latents, "rounds": state["rounds"] + 1}

    def _drawn(
        self,
        key: jax.Array,
        particles: Particle,
        factors: dict[str, Any],
        count: int,
        *,
        has_first: bool,
    ) -> tuple[Draws, Particle]:
        runs, size = self.settings.runs, self.settings.particles
        read, move = self._program(self._all_values), self._program(self._all_moved)
        parts: list[dict[str, Any]] = []
        number = 0
        while count > size * len(parts):
            if number or not has_first:
                keys = jax.random.split(jax.random.fold_in(key, number), runs)
                taken = move(keys, particles, factors, self.fixed)
                self._check(taken)
                particles = taken.particles
            parts.append(read(particles.latents, self.fixed))
            number += 1
        draws: Draws = {}
        for name in parts[0]:
            values = np.concatenate([np.asarray(part[name]) for part in parts], axis=1)
            # Neighbours are kin: as many as are asked for, from all over.
            index = np.linspace(0, values.shape[1] - 1, count).round().astype(int)
            dtype = np.float32 if values.dtype == np.float64 else values.dtype
            draws[name] = values[:, index].astype(dtype)
        return draws, particles

    def _check(self, taken: "_Taken") -> None:
        increment = np.asarray(taken.increment)
        if not np.all(np.isfinite(increment)):
            raise AimzError(
                "No particle of the prior gives the data a positive density. Nothing can be "
                "weighed. Check the outcome against its distribution's support, and the priors.",
                code="fit-diverged",
            )
        if float(np.max(np.asarray(taken.error))) > _TOLERANCE:
            raise AimzError(
                "Members of a site were moved one by one, and a term joins them where it was not "
                "seen to. The draws would be wrong. Please report the kernel; use "
                "inference='nuts' or 'svi'.",
                code="terms",
            )

    def _program(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """A function that compiles for its arguments when it is called."""

        def call(*args: Any) -> Any:
            program = compile_program(fn, *args, version=self.version)
            return waited_for(lambda: program(*args))

        return call

    def _compute(self, fixed: _Fixed) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda latents: self.terms(latents, *fixed)

    def _prior(self, fixed: _Fixed) -> Callable[[str, dict[str, Any]], tuple[Array, Array]]:
        return lambda name, latents: self.terms.normal_prior(name, latents, *fixed)

    def _start(self, key: Array, fixed: _Fixed) -> Particle:
        latents = self.terms.start(key, *fixed)
        return Particle(latents, self.terms(latents, *fixed))

    def _batch(self, terms: dict[str, Any]) -> int:
        size = sum(int(np.prod(jnp.shape(term))) for term in terms.values())
        particles: int = self.settings.particles
        return max(1, min(particles, _ELEMENTS // max(size, 1)))

    def _mapped(self, fn: Callable[..., Any], xs: Any, fixed: _Fixed) -> Any:
        """`fn` of each run and particle, as many side by side as memory likes."""
        shapes = jax.eval_shape(self._start, jax.random.key(0), fixed).terms
        batch = self._batch(shapes)
        flat = jax.tree.map(lambda x: jnp.reshape(x, (-1, *jnp.shape(x)[2:])), xs)
        lead = jax.tree.leaves(xs)[0].shape[:2]
        if batch >= lead[0] * lead[1]:
            out = jax.vmap(fn)(flat)
        else:
            out = jax.lax.map(fn, flat, batch_size=batch)
        return jax.tree.map(lambda x: jnp.reshape(x, (*lead, *jnp.shape(x)[1:])), out)

    def _all_started(self, keys: Array, fixed: _Fixed) -> Particle:
        started: Particle = self._mapped(lambda key: self._start(key, fixed), keys, fixed)
        return started

    def _recomputed(self, latents: dict[str, Any]) -> Particle:
        """Particles of latents; the blocks that are to move them are found before any trace."""
        self.blocks  # noqa: B018  # kept from here on
        particles: Particle = self._program(self._all_recomputed)(latents, self.fixed)
        return particles

    def _all_recomputed(self, latents: dict[str, Any], fixed: _Fixed) -> Particle:
        terms = self._mapped(self._compute(fixed), latents, fixed)
        return Particle(latents, terms)

    def _all_values(self, latents: dict[str, Any], fixed: _Fixed) -> dict[str, Any]:
        values: dict[str, Any] = self._mapped(
            lambda one: self.terms.values(one, *fixed), latents, fixed
        )
        return values

    def _all_taken(
        self,
        keys: Array,
        particles: Particle,
        temperature: Array,
        factors: dict[str, Any],
        fixed: _Fixed,
    ) -> "_Taken":
        """The next temperature of each run."""
        likelihood = self._likelihood(particles.terms)  # (run, particle)

        def weigh(key: Array, log_likelihood: Array, at: Any) -> tuple[Any, ...]:
            delta = ess_solver(
                lambda _: log_likelihood, (), self.settings.target_ess, 1.0 - at, dichotomy
            )
            # Particles that the data rule out leave at once, whatever share of them that is.
            least = jnp.where(jnp.any(jnp.isneginf(log_likelihood)), _LEAST, 0.0)
            delta = jnp.clip(delta, least, 1.0 - at)
            log_weights = jnp.where(delta > 0, delta * log_likelihood, 0.0)
            total = logsumexp(log_weights)
            index = systematic(key, jnp.exp(log_weights - total), len(log_weights))
            return at + delta, total - jnp.log(len(log_weights)), index, ess(log_weights)

        parts = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
        at, increment, index, effective = jax.vmap(weigh)(parts[:, 0], likelihood, temperature)
        at = jnp.where(at > 1.0 - 1e-12, 1.0, at)
        chosen = jax.tree.map(lambda leaf: jax.vmap(lambda x, i: x[i])(leaf, index), particles)
        taken = self._moved(parts[:, 1], chosen, at, factors, fixed)
        return taken._replace(increment=increment, ess=effective)

    def _all_moved(
        self, keys: Array, particles: Particle, factors: dict[str, Any], fixed: _Fixed
    ) -> "_Taken":
        """Every particle moved on at the posterior itself."""
        ones = jnp.ones(self.settings.runs)
        return self._moved(keys, particles, ones, factors, fixed)

    def _likelihood(self, terms: dict[str, Any]) -> Array:
        total: Array = jnp.zeros(jnp.shape(next(iter(terms.values())))[:2])
        for name in self.terms.tempered:
            total += jnp.sum(terms[name], axis=tuple(range(2, jnp.ndim(terms[name]))))
        return jnp.where(jnp.isnan(total), -jnp.inf, total)

    def _moved(
        self,
        keys: Array,
        particles: Particle,
        temperature: Array,
        factors: dict[str, Any],
        fixed: _Fixed,
    ) -> "_Taken":
        blocks, compute = self.blocks, self._compute(fixed)
        roots = jax.vmap(lambda latents: roots_of(blocks, latents))(particles.latents)
        moves = Moves(roots, factors)
        count = self.settings.particles

        def one(arguments: Any) -> tuple[Particle, dict[str, Any], Any]:
            key, latents, terms, at, run = arguments
            of_run = jax.tree.map(lambda leaf: leaf[run], moves)
            target = Tempered(compute, self.terms.tempered, at, self._prior(fixed))

            def again(particle: Particle, number: Array) -> tuple[Particle, dict[str, Array]]:
                sweep_key = jax.random.fold_in(key, number)
                return sweep(sweep_key, particle, blocks, target, of_run)

            numbers = jnp.arange(self.settings.mutations)
            moved, accepted = jax.lax.scan(again, Particle(latents, terms), numbers)
            anew = compute(moved.latents)
            error = jnp.max(
                jnp.stack([_difference(moved.terms[name], anew[name]) for name in anew])
            )
            shares = {name: jnp.mean(value, axis=0) for name, value in accepted.items()}
            return Particle(moved.latents, anew), shares, error

        particle_keys = jax.vmap(lambda key: jax.random.split(key, count))(keys)
        along = jnp.broadcast_to(temperature[:, None], (self.settings.runs, count))
        runs = jnp.broadcast_to(jnp.arange(self.settings.runs)[:, None], along.shape)
        arguments = (particle_keys, particles.latents, particles.terms, along, runs)
        moved, shares, error = self._mapped(one, arguments, fixed)
        by_member = {name: jnp.mean(value, axis=1) for name, value in shares.items()}
        targets = {block.name: block.target for block in blocks}
        tuned = {
            name: jnp.clip(factor * jnp.exp(_GAIN * (by_member[name] - targets[name])), 1e-3, 1e2)
            for name, factor in factors.items()
        }
        zeros = jnp.zeros(self.settings.runs)
        acceptance = jnp.stack([jnp.mean(value, axis=1) for value in by_member.values()], axis=1)
        return _Taken(moved, tuned, temperature, zeros, acceptance, zeros, error)


class _Taken(NamedTuple):
    particles: Particle
    factors: dict[str, Any]
    temperature: Any
    increment: Any
    acceptance: Any
    ess: Any
    error: Any


def _difference(one: Array, other: Array) -> Array:
    """Largest relative difference of terms that are finite."""
    finite = jnp.isfinite(one) & jnp.isfinite(other)
    gap = jnp.where(finite, jnp.abs(one - other) / (1.0 + jnp.abs(other)), 0.0)
    return jnp.max(jnp.where(jnp.isfinite(one) == jnp.isfinite(other), gap, jnp.inf))


def _in_double(leaf: Any) -> Any:
    value = jnp.asarray(leaf)
    return value.astype(float) if jnp.issubdtype(value.dtype, jnp.floating) else value
