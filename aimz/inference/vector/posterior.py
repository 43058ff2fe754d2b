"""A kernel's posterior as one density of one vector of unconstrained numbers, in double precision.

Functions of it are written on its `View` and compiled with the kernel, its arrays, weights and
parameters as arguments; they close over nothing else, so that what `remembered` keeps of them
follows from the kernel, the shapes, the function and its options alone.
"""

from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpyro import handlers

from aimz.errors import InputError, KernelValidationError
from aimz.inference.binding import (
    RowScale,
    check_weights,
    fixed_params,
    marginal_of,
    moving_supports,
    raw_sites,
    version_of,
)
from aimz.inference.density import energy_of, values_of
from aimz.inference.engine import Draws, Problem
from aimz.inference.normal import set_up_guide
from aimz.inference.progress import waited_for
from aimz.inference.remembered import program_of
from aimz.inference.terms import Terms

__all__ = ["VectorPosterior", "View", "begun", "import_blackjax", "values_at"]

_MOST_LATENTS = 2000  # whose curvature is a matrix
_BATCH = 64  # points that are read side by side


class _Given(NamedTuple):
    """What a program takes beside its own arguments."""

    params: dict[str, Any]
    arrays: dict[str, Any]
    weights: Any


class View(NamedTuple):
    """The posterior inside a trace.

    `energy` is minus its log density, `values` gives the latents on their own scales, `pack` a
    vector of their unconstrained values; `terms` is the kernel term by term.
    """

    dim: int
    energy: Callable[[jax.Array], Any]
    values: Callable[[jax.Array], dict[str, Any]]
    unpack: Callable[[jax.Array], dict[str, Any]]
    terms: Callable[[dict[str, Any]], dict[str, Any]]
    prior: Callable[[jax.Array], dict[str, Any]]
    tempered: frozenset[str]

    def density(self, vector: jax.Array) -> Any:
        """The log density; minus infinity where it is not a number."""
        energy = self.energy(vector)
        return jnp.where(jnp.isnan(energy), -jnp.inf, -energy)

    def pack(self, latents: dict[str, Any]) -> Any:
        """The vector of unconstrained latents by name."""
        return jax.flatten_util.ravel_pytree(dict(sorted(latents.items())))[0].astype(float)


def begun(
    engine: str, problem: Problem, key: jax.Array, state: Mapping[str, Any] | None
) -> "VectorPosterior":
    """The posterior of a fit that starts, or goes on from the `state` that an earlier one left.

    Raises
    ------
    KernelValidationError
        `terms`: latents whose matrix would be too large.
    """
    posterior = VectorPosterior(engine, problem, key, None if state is None else state["params"])
    dim = len(posterior.names)
    if dim > _MOST_LATENTS:
        msg = (
            f"There are {dim:,} latents, and engine '{engine}' keeps a matrix of them "
            f"(at most {_MOST_LATENTS:,}). Use inference='svi' or 'nuts'."
        )
        raise KernelValidationError(msg, code="terms")
    return posterior


class VectorPosterior:
    """The posterior of a problem, for an engine that moves one vector."""

    def __init__(
        self, engine: str, problem: Problem, key: jax.Array, params: dict[str, Any] | None = None
    ) -> None:
        _refuse(engine, problem)
        self.problem = problem
        self.params = fixed_params(problem, key) if params is None else params
        with jax.enable_x64(True):
            weights = None if problem.weights is None else jnp.asarray(problem.weights, float)
            params, arrays = jax.tree.map(_in_double, (self.params, dict(problem.inputs.arrays)))
            self.given = _Given(params, arrays, weights)

    @cached_property
    def names(self) -> list[str]:
        """Of each number of the vector: its site, and its place there."""

        def look(view: View) -> dict[str, Any]:
            return view.unpack(jnp.zeros(view.dim))

        with jax.enable_x64(True):
            shapes = jax.eval_shape(lambda given: look(_view(self.problem, given)), self.given)
        found = []
        for name, shape in sorted(shapes.items()):
            places = np.ndindex(*shape.shape) if shape.shape else [()]
            found += [name + (str(list(place)) if place else "") for place in places]
        return found

    @cached_property
    def has_prior(self) -> bool:
        """Whether starts can be drawn from the priors."""
        spec = self.problem.spec
        in_scan = any(spec[name].rows == "scan" for name in spec.latents)
        return not in_scan and not any(site.has_no_draws for site in raw_sites(self.problem))

    def call(self, fn: Callable[..., Any], *args: object, **options: Hashable) -> Any:
        """`fn(view, *args, **options)`, compiled, as NumPy arrays.

        `fn` is a function of a module: it reads nothing but its arguments.
        """
        with jax.enable_x64(True):
            program = self.program(fn, *args, **options)
            return jax.tree.map(np.asarray, waited_for(lambda: program(*args)))

    def program(self, fn: Callable[..., Any], *args: object, **options: Hashable) -> Any:
        """The program of `fn` for arguments like these; to be called in double precision."""
        problem = self.problem

        def run(given: _Given, *args: object) -> Any:
            return fn(_view(problem, given), *args, **options)

        beside = (f"{fn.__module__}.{fn.__qualname__}", tuple(sorted(options.items())))
        with jax.enable_x64(True):
            version = "vector " + version_of(problem)
            arguments = (self.given, *args)
            bound = program_of(problem, run, *arguments, version=version, beside=beside)
        return lambda *args: bound(self.given, *args)

    def draws(self, points: np.ndarray) -> Draws:
        """Draws of the latents, (chain, draw, ...), from points of (chain, draw, number)."""
        flat = np.reshape(points, (-1, np.shape(points)[-1]))
        values = self.call(values_at, flat)
        kind = np.float64 if jax.config.jax_enable_x64 else np.float32
        return {
            name: value.reshape(*np.shape(points)[:2], *value.shape[1:]).astype(
                kind if value.dtype == np.float64 else value.dtype
            )
            for name, value in values.items()
        }


def values_at(view: View, points: jax.Array) -> dict[str, Any]:
    """The latents on their own scales at points, (point, number)."""
    values: dict[str, Any] = jax.lax.map(view.values, points, batch_size=_BATCH)
    return values


def _view(problem: Problem, given: _Given) -> View:
    """The posterior inside a trace."""
    kwargs = {**given.arrays, **problem.inputs.static}
    guide = set_up_guide(problem, problem.inputs.rows, jax.random.key(0), given.arrays)
    model = handlers.seed(handlers.substitute(problem.kernel, data=given.params), 0)
    energy_at = energy_of(problem, model, kwargs, guide)
    values_at_point = values_of(problem, model, kwargs, guide)
    terms = Terms(problem, given.params)
    at = (given.arrays, given.weights)

    def unpack(vector: jax.Array) -> dict[str, Any]:
        latents: dict[str, Any] = guide.unpack(vector)
        return latents

    def energy(vector: jax.Array) -> Any:
        with RowScale(problem, {}, given.weights):
            return energy_at(vector)

    def values(vector: jax.Array) -> dict[str, Any]:
        found = values_at_point(unpack(vector))
        return {name: found[name] for name in problem.spec.latents}

    dim = int(guide.latent_dim)
    return View(
        dim,
        energy,
        values,
        unpack,
        lambda latents: terms(latents, *at),
        lambda key: terms.start(key, *at),
        terms.tempered,
    )


def _refuse(engine: str, problem: Problem) -> None:
    """Refuse what has no density of one vector."""
    check_weights(problem)
    if not problem.spec.latents:
        msg = (
            f"The kernel has no latent site, so there is nothing for engine '{engine}' to find. "
            "Use inference='auto'."
        )
        raise KernelValidationError(msg, code="terms")
    for name in problem.spec.latents:
        if problem.spec[name].discrete:
            raise KernelValidationError(
                f"Latent site '{name}' is discrete, and engine '{engine}' moves numbers that are "
                f"not. {marginal_of(problem.spec[name])}",
                code="enumerated",
            )
    nested = [name for name in problem.spec.latents if problem.spec[name].is_nested]
    if nested and moving_supports(problem):
        msg = (
            f"The support of '{moving_supports(problem)[0]}' depends on another latent, and "
            f"'{nested[0]}' is in a scan inside another one: no engine does both. Write one as a "
            "scaled base variable, or one scan."
        )
        raise KernelValidationError(msg, code="moving-support")
    for site in raw_sites(problem):
        if site.type == "mutable":
            msg = (
                f"Site '{site.name}' is mutable state, which engine '{engine}' does not carry. "
                "Use inference='svi'."
            )
            raise KernelValidationError(msg, code="terms")
        if site.type == "plate" and site.args[1] not in (None, site.args[0]):
            raise KernelValidationError(
                f"Plate '{site.name}' takes a subsample. Engine '{engine}' needs the whole "
                "likelihood. Leave subsample_size out, or use inference='svi'.",
                code="terms",
            )


def import_blackjax(engine: str) -> Any:
    """Blackjax, of the extra."""
    try:
        import blackjax
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "blackjax":
            raise
        msg = f"{engine} needs Blackjax, which is not installed. Run: pip install 'blackjax>=1.7'"
        raise InputError(msg, code="blackjax-missing") from error
    return blackjax


def _in_double(leaf: ArrayLike) -> Any:
    value = jnp.asarray(leaf)
    return value.astype(float) if jnp.issubdtype(value.dtype, jnp.floating) else value
