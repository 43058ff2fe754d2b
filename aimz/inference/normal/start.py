"""Where a fit starts: mode and curvature of the posterior, on real data and in double precision."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to
from numpyro.primitives import Messenger

from aimz.arrays import Array
from aimz.inference.binding import (
    RowScale,
    initial_variables,
    is_read_by_window,
    kernel_for,
    raw_sites,
    row_factors,
    take_rows,
    why_whole,
)
from aimz.inference.density import energy_of
from aimz.inference.engine import Problem
from aimz.inference.normal.guide import INIT_RADIUS, WhitenedNormal, weight_sd
from aimz.inference.normal.search import find_mode, find_normal, find_possible, plain_start
from aimz.inference.remembered import program_of, remembered
from aimz.programs import TRACE_LOCK, Bound

__all__ = ["FULL_RANK_DIM", "WHITENED_DIM", "Start", "find_start", "latent_dim", "set_up_guide"]


#: Largest number of latent dimensions that get a full-rank guide.
FULL_RANK_DIM = 200
#: Largest number whose curvature is worth its matrices, for chains.
WHITENED_DIM = 600
_NEAR_ZERO = 0.01
# Other starts of the search for a mode: as many pairs, as far, and while it costs little.
_FAR_PAIRS, _FAR_RADIUS, _FAR_DIM, _FAR_WORK = 3, 2.0, 32, 400_000
# Sd of log weights around a mode beyond which its curvature is not the posterior's.
_MAX_WEIGHT_SD = 3.0
# Rows that the start looks at: curvature costs one gradient per dimension and row.
_START_ROWS = 65_536
# In place of the log density of what is impossible, so that there can be less of it.
_IMPOSSIBLE = -1e9


class Start(NamedTuple):
    """What the guide is learned relative to, and values of the kernel's `param` sites.

    `at_mode` says whether it is the mode and the curvature there,
    `rival` is the evidence of another mode against that of both, `starts` (mode, latent) the modes.
    `is_sought` says that the density is nowhere near zero, and that this place was looked for.
    """

    place: dict[str, Any]
    params: dict[str, Any]
    informed: bool
    rival: float = 0.0
    starts: Any = None
    at_mode: bool = False
    is_sought: bool = False


def find_start(
    problem: Problem,
    setup_key: jax.Array,
    start_key: jax.Array,
    version: str,
    *,
    limit: int = FULL_RANK_DIM,
    has_mode: bool = True,
    must_hold: bool = False,
) -> Start:
    """The posterior's mode and curvature; or its place by natural gradients; or a plain start.

    `has_mode` False spares the search for a mode that is known not to be one. With `must_hold` a
    mode counts only where the density around it is near that of its curvature.
    """
    dim, num_params = _sizes(problem, setup_key)
    if num_params is not None and dim + num_params <= limit:
        cheap = dim <= _FAR_DIM and dim * problem.inputs.rows <= _FAR_WORK
        far_pairs = _FAR_PAIRS if cheap else 0
        modes = partial(_search_mode, far_pairs=far_pairs, must_hold=must_hold)
        informed = partial(_informed, problem, setup_key, start_key, version=version)
        searches = (modes, _search_normal) if has_mode else (_search_normal,)
        start = _searched(informed, searches)
        if start is None:
            sought, _ = informed(_search_possible)
            if bool(sought["usable"]):  # nothing is possible near zero, but it is there
                ones = plain_start(sought["loc"], full=dim <= FULL_RANK_DIM)
                start = _searched(partial(informed, at=sought["loc"]), searches)
                start = start or Start(ones, {}, informed=False, is_sought=True)
        if start is not None:
            return start

    def plain(key: jax.Array, arrays: dict[str, Any]) -> Any:
        guide = set_up_guide(problem, rows, key, arrays)
        return plain_start(guide._init_latent, full=dim <= FULL_RANK_DIM)

    rows = problem.inputs.rows
    rows = min(rows, _START_ROWS) if is_read_by_window(problem) else rows
    arguments = (setup_key, _first(problem, rows))
    place = program_of(problem, plain, *arguments, version=version)(*arguments)
    return Start(place, {}, informed=False)


def _first(problem: Problem, rows: int) -> dict[str, Any]:
    arrays = dict(problem.inputs.arrays)
    if rows == problem.inputs.rows:
        return arrays
    return take_rows(problem, arrays, np.arange(rows))


def _searched(
    informed: Callable[..., Any], searches: tuple[Callable[..., dict[str, Any]], ...]
) -> Start | None:
    """What the first search that finds something has found."""
    for search in searches:
        place, params = informed(search)
        if bool(place.pop("usable")):
            rival, loc = float(place.pop("rival")), np.asarray(place["loc"])
            modes_found = np.asarray(place.pop("starts"))
            others = modes_found[np.any(modes_found != loc, axis=1)]
            starts = jnp.asarray(np.concatenate([loc[None], others]))
            at_mode = search is not _search_normal
            return Start(place, params, True, rival, starts, at_mode)
    return None


def _search_mode(
    energy: Callable[[Any], Any],
    begin: jax.Array,
    dim: int,
    key: jax.Array,
    *,
    far_pairs: int,
    must_hold: bool,
) -> dict[str, Any]:
    """Climb from close to zero (with raw covariates half a unit is a long way) and from afar.

    From afar in opposite directions: there lie modes that mirror each other, in sign or in order.
    """
    shape = (far_pairs, begin.size)
    far = jax.random.uniform(key, shape, begin.dtype, -_FAR_RADIUS, _FAR_RADIUS)
    normal = find_mode(energy, jnp.concatenate([begin[None], far, -far]), dim)
    if must_hold:
        normal["usable"] &= weight_sd(energy, normal, jax.random.fold_in(key, 1)) < _MAX_WEIGHT_SD
    return normal


def _search_normal(
    energy: Callable[[Any], Any], begin: jax.Array, dim: int, key: jax.Array
) -> dict[str, Any]:
    return find_normal(energy, begin, dim, key)


def _search_possible(
    energy: Callable[[Any], Any], begin: jax.Array, dim: int, key: jax.Array
) -> dict[str, Any]:
    """A place where outcomes are possible, by a kernel that counts those that are not."""
    del key
    return find_possible(energy, begin, dim, -0.5 * _IMPOSSIBLE)


class _Counted(Messenger):  # type: ignore[misc]  # NumPyro has no types
    """Gives each observed value that is impossible the same large energy, in place of all of it."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or not msg["is_observed"]:
            return
        law = msg["fn"]
        msg["fn"] = copy.copy(law)

        def log_prob(value: Any, *intermediates: Any) -> Any:
            density = law.log_prob(value, *intermediates)
            return jnp.where(jnp.isfinite(density), density, _IMPOSSIBLE)

        msg["fn"].log_prob = log_prob


def latent_dim(problem: Problem) -> int:
    """Number of unconstrained latent dimensions."""
    return _sizes(problem, jax.random.key(0))[0]


def _sizes(problem: Problem, setup_key: jax.Array) -> tuple[int, int | None]:
    """Latent dimensions, and parameters of the kernel (None: they are a neural network's)."""
    found: tuple[int, int | None] = remembered(
        problem, "sizes", lambda: _sizes_found(problem, setup_key)
    )
    return found


def _sizes_found(problem: Problem, setup_key: jax.Array) -> tuple[int, int | None]:
    sizes: dict[str, int] = {}

    def look(key: jax.Array, arrays: dict[str, Any]) -> Any:
        sizes["dim"] = int(set_up_guide(problem, problem.inputs.rows, key, arrays).latent_dim)
        return initial_variables(problem, key, arrays)

    with TRACE_LOCK:
        values = jax.eval_shape(look, setup_key, problem.inputs.arrays)
    mutable = any(site.type == "mutable" for site in raw_sites(problem))
    if mutable or not all(hasattr(value, "shape") for value in values.values()):
        return sizes["dim"], None
    return sizes["dim"], sum(int(value.size) for value in values.values())


def set_up_guide(
    problem: Problem, rows: int, key: jax.Array, arrays: dict[str, Any]
) -> WhitenedNormal:
    """A guide that has seen the kernel, set up as `SVI.init` would with this key."""
    guide = WhitenedNormal(kernel_for(problem, rows))
    # `SVI.init` splits its key so; supports that depend on values must look the same.
    guide_key = jax.random.split(key, 3)[2]
    with handlers.block():
        handlers.seed(guide, guide_key)(**arrays, **problem.inputs.static)
    return guide


def _informed(
    problem: Problem,
    setup_key: jax.Array,
    start_key: jax.Array,
    search: Callable[..., dict[str, Any]],
    *,
    version: str,
    at: Array | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Search on the whole data, or on a part of it whose rows count for the rest.

    From close to zero, or from `at`.
    """
    index, factors = _part(problem)
    count = problem.inputs.rows if index is None else len(index)

    def look(
        setup_key: jax.Array,
        keys: jax.Array,
        arrays: dict[str, Any],
        weights: Array | None,
        at: Array | None,
    ) -> Any:
        guide = set_up_guide(problem, count, setup_key, arrays)
        transforms, begin, unpack = _flat_params(problem, setup_key, arrays)
        model, kwargs = kernel_for(problem, count), {**arrays, **problem.inputs.static}
        counting: Any = _Counted() if search is _search_possible else nullcontext()
        model_key, begin_key, search_key = keys
        dim = int(guide.latent_dim)

        def params(vector: jax.Array) -> dict[str, Any]:
            return {name: transforms[name](value) for name, value in unpack(vector).items()}

        def energy(vector: jax.Array) -> Any:
            fixed = handlers.substitute(handlers.seed(model, model_key), params(vector[dim:]))
            return energy_of(problem, fixed, kwargs, guide)(vector[:dim])

        with counting, RowScale(problem, factors or {}, weights):  # which counts what this gives
            # One draw for all sites: one for each, as the guide's own, takes long to compile.
            kind = guide._init_latent.dtype
            latent = jax.random.uniform(begin_key, (dim,), kind, -INIT_RADIUS, INIT_RADIUS)
            begin = _NEAR_ZERO * jnp.concatenate([latent, begin.astype(kind)])
            begin = begin if at is None else begin.at[:dim].set(at.astype(kind))
            normal = search(energy, begin, dim, search_key)
        vector = normal.pop("vector")
        return {"loc": vector[:dim], **normal}, params(vector[dim:])

    arrays = problem.inputs.arrays
    weights = None if problem.weights is None else np.asarray(problem.weights)
    if index is not None:
        arrays = take_rows(problem, arrays, index)
        weights = None if weights is None else weights[index]
    # `search` is one of the three functions of this module, with plain options.
    options = tuple(sorted(getattr(search, "keywords", {}).items()))
    counted = None if factors is None else tuple(sorted(factors.items()))
    beside = (getattr(search, "func", search), options, count, counted)

    def program(*arguments: object) -> Bound:
        return program_of(problem, look, *arguments, version=version, beside=beside)

    keys = jax.random.split(start_key, 3)  # outside: compiled once for all kernels
    place, params = _in_double(program, setup_key, keys, arrays, weights, at)
    return place, params


def _part(problem: Problem) -> tuple[np.ndarray | None, dict[str, float] | None]:
    """Rows of a part of large data, and how often they count; None where all are looked at."""
    rows = problem.inputs.rows
    if rows <= _START_ROWS or why_whole(problem):
        return None, None
    factors = row_factors(problem, _START_ROWS)
    if factors is None:
        return None, None
    return np.sort(np.random.default_rng(0).choice(rows, _START_ROWS, replace=False)), factors


def _flat_params(problem: Problem, key: jax.Array, arrays: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Transforms, unconstrained initial vector and its unpacking, of the kernel's parameters."""
    with handlers.block():
        seeded = handlers.seed(problem.kernel, key)
        sites = handlers.trace(seeded).get_trace(**arrays, **problem.inputs.static)
    param_sites = {
        n: s for n, s in sites.items() if s["type"] == "param" and s["value"] is not None
    }
    transforms = {
        n: biject_to(s["kwargs"].get("constraint", constraints.real))
        for n, s in param_sites.items()
    }
    begin = {n: transforms[n].inv(jnp.asarray(s["value"], float)) for n, s in param_sites.items()}
    vector, unpack = jax.flatten_util.ravel_pytree(begin)
    return transforms, vector, unpack


def _in_double(program: Callable[..., Bound], *arguments: object) -> Any:
    """Run a program in double precision where the kernel allows it, and come back."""
    try:
        with jax.enable_x64(True):
            wide = jax.tree.map(_widen, arguments)
            results = jax.tree.map(np.asarray, program(*wide)(*wide))
    except (TypeError, ValueError):  # a kernel that fixes its own dtypes
        results = program(*arguments)(*arguments)
    return jax.tree.map(_narrow, results)


def _widen(leaf: Array) -> Any:
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(np.asarray(leaf, np.float64)) if floating else leaf


def _narrow(leaf: Array) -> jax.Array:
    array = np.asarray(leaf)
    return jnp.asarray(array.astype(jnp.result_type(float)) if array.dtype.kind == "f" else array)
