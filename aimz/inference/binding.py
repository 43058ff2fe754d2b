"""A kernel bound to its data: batches of rows, and the scale of each row's log density.

A step on B of N rows counts every row site N / B times, beside the scale that the kernel gives it;
sample weights multiply a row's log density. Both are applied by one handler that stands outside
the kernel, so that the kernel and the user's guide are called exactly as they were written.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import init_to_feasible
from numpyro.infer.util import compute_log_probs
from numpyro.primitives import Messenger

from aimz.arrays import Array, give_back, is_large, is_mapped
from aimz.errors import FitWarning, InputError, KernelValidationError, Note
from aimz.families import Exact, base_distribution
from aimz.inference.engine import Problem
from aimz.inference.remembered import program_of, remembered
from aimz.kernel import SiteSpec, row_plates
from aimz.outcomes import filled, is_there, part_of
from aimz.programs import TRACE_LOCK, compile_program, fingerprint, trace

__all__ = [
    "RawSite",
    "RowScale",
    "as_seed",
    "bytes_of_row",
    "check_draws",
    "check_weights",
    "fixed_params",
    "initial_variables",
    "is_read_by_window",
    "kernel_for",
    "marginal_of",
    "moving_supports",
    "outcome_sites",
    "param_notes",
    "raw_sites",
    "row_arguments",
    "row_factors",
    "rows_in_order",
    "scaled_sites",
    "subsampled_plates",
    "take_rows",
    "version_of",
    "why_whole",
]


# Rows to read at a time from a file.
_ROWS_OF_FILE = 1024


class RowScale(Messenger):  # type: ignore[misc]  # NumPyro's handlers are untyped
    """Multiply the log density of each row site by its factor, and by a weight for each row."""

    def __init__(
        self, problem: Problem, factors: Mapping[str, float], weights: Array | None = None
    ) -> None:
        super().__init__(None)
        self.sites = {site.name: site for site in outcome_sites(problem) if site.follows_rows}
        self.factors = factors
        self.weights = weights
        self.fills = problem.presence.fills if problem.presence else {}

    def process_message(self, msg: dict[str, Any]) -> None:
        site = self.sites.get(msg.get("name", ""))
        if msg["type"] != "sample" or site is None or not msg["is_observed"]:
            return
        scale: Any = np.float32(self.factors.get(site.name, 1.0))
        if self.weights is not None:
            ndim = np.ndim(msg["value"]) - msg["fn"].event_dim
            shape = [1] * ndim
            shape[_row_axis(site) % max(ndim, 1)] = -1
            scale = scale * jnp.reshape(self.weights, shape)
        if site.name in self.fills:
            there = is_there(msg["value"])
            msg["value"] = filled(msg["value"], self.fills[site.name], _row_axis(site))
            msg["fn"] = part_of(msg["fn"], there)
        msg["fn"] = Exact(msg["fn"])
        msg["scale"] = scale if msg["scale"] is None else msg["scale"] * scale


def outcome_sites(problem: Problem) -> list[SiteSpec]:
    """Sites that add data to the log density."""
    return [site for site in problem.spec.sites if site.kind in ("observed", "factor")]


def row_arguments(problem: Problem) -> frozenset[str]:
    """Names of the arguments that are cut with the rows."""
    names = frozenset(problem.spec.row_inputs) | frozenset(problem.inputs.always_rows)
    return names & frozenset(problem.inputs.arrays)


def rows_in_order(problem: Problem) -> dict[str, Any]:
    """Arguments that are cut with the rows, in the order of their names."""
    return {name: problem.inputs.arrays[name] for name in sorted(row_arguments(problem))}


def bytes_of_row(arrays: Mapping[str, Any]) -> int:
    """Bytes that one row has in all of some arrays."""
    return sum(array[:1].nbytes for array in arrays.values())


def is_read_by_window(problem: Problem) -> bool:
    """Whether rows are in a file, more than memory should hold, and need not be seen together."""
    arrays = rows_in_order(problem)
    plain = all(isinstance(array, np.ndarray) for array in arrays.values())
    if not plain or not any(map(is_mapped, arrays.values())):
        return False
    return is_large(problem.inputs.rows, bytes_of_row(arrays)) and not why_whole(problem)


def take_rows(problem: Problem, arrays: dict[str, Any], index: Array) -> dict[str, Any]:
    """The arguments of a batch: row arguments at `index`, the others whole."""
    cut = row_arguments(problem)
    at_hand = isinstance(index, np.ndarray)  # NumPy takes a part without moving the whole

    def take(leaf: Array) -> Any:
        if is_mapped(leaf):
            return _from_file(np.asarray(leaf), np.asarray(index))
        return leaf[index] if at_hand and isinstance(leaf, np.ndarray) else jnp.asarray(leaf)[index]

    return {n: jax.tree.map(take, v) if n in cut else v for n, v in arrays.items()}


def _from_file(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some rows, in their order, of an array whose pages are given back."""
    read = []
    for some in np.array_split(rows, -(-len(rows) // _ROWS_OF_FILE)):
        read.append(array[some])
        give_back(array)
    return np.concatenate(read)


def kernel_for(problem: Problem, rows: int) -> Callable[..., Any]:
    """The kernel with its row plates resized to a batch of `rows` rows."""
    if rows == problem.spec.rows:
        return problem.kernel
    resized: Callable[..., Any] = row_plates(problem.kernel, problem.spec.row_plates, rows)
    return resized


def row_factors(problem: Problem, rows: int) -> dict[str, float] | None:
    """How often each row site of a batch of `rows` rows counts beside the kernel's own scale.

    A kernel's scale may already follow the batch (1000 / X.shape[0]) or not (weights of rows): it
    is compared, row by row, in a batch and in the whole data. None where no number makes up for
    the difference.
    """
    total = problem.inputs.rows
    if rows == total:
        return {}
    plates = {m.name: m.args[0] for m in raw_sites(problem) if m.type == "plate"}
    of_rows = {site.name: site for site in outcome_sites(problem) if site.rows == "leading"}
    whole = _scales(problem, total)((0, total))
    scales_of = _scales(problem, rows)
    factors: dict[str, float] = {}
    for first in (0, total - rows):
        batch = scales_of((first, first + rows))
        for name, after in batch.items():
            site = of_rows.get(name)
            before = whole[name] if site is None else _at_rows(whole[name], site, first, rows)
            ratio = _ratio(before, after)
            if ratio is None or (site is None and ratio != 1.0):
                return None
            if site is None:
                continue
            # A row plate of another size than the data stands for a population.
            sizes = [plates[n] for n in site.plates if n in problem.spec.row_plates and n in plates]
            factor = ratio * total / rows * float(np.prod([size / total for size in sizes]))
            if not np.isclose(factors.setdefault(name, factor), factor, rtol=1e-4):
                return None
    return factors


def _scales(problem: Problem, rows: int) -> Callable[[tuple[int, int]], dict[str, np.ndarray]]:
    """The kernel's own scale of each of its sample sites, for a stretch of so many rows.

    Only scales that depend on values of the arguments need these.
    """
    resized = row_plates(problem.kernel, problem.spec.row_plates, rows)
    plain: dict[str, Any] = {}

    def look(arrays: dict[str, Any]) -> dict[str, Any]:
        with handlers.block():
            seeded = handlers.seed(resized, 0)
            substituted = handlers.substitute(seeded, substitute_fn=init_to_feasible())
            messages = handlers.trace(substituted).get_trace(**arrays, **problem.inputs.static)
        scales = {n: m["scale"] for n, m in messages.items() if m["type"] == "sample"}
        traced = {n: v for n, v in scales.items() if isinstance(v, jax.Array)}
        plain.update({n: 1.0 if v is None else v for n, v in scales.items() if n not in traced})
        return traced

    def stretch(first: int, last: int) -> dict[str, Any]:
        cut = row_arguments(problem)
        arrays = problem.inputs.arrays
        return {
            name: jax.tree.map(lambda leaf: leaf[first:last], value) if name in cut else value
            for name, value in arrays.items()
        }

    def make() -> tuple[Any, dict[str, Any]]:
        with TRACE_LOCK:
            return jax.eval_shape(look, stretch(0, rows)), plain

    traced, given = remembered(problem, "scales", make, rows)

    def scales(place: tuple[int, int]) -> dict[str, np.ndarray]:
        arrays = stretch(*place)
        computed = compile_program(look, arrays)(arrays) if traced else {}
        return {n: np.asarray(v, np.float64) for n, v in {**given, **computed}.items()}

    return scales


def scaled_sites(problem: Problem) -> list[str]:
    """Sites whose log density the kernel multiplies by another number than one."""
    rows = problem.inputs.rows
    scales = _scales(problem, rows)((0, rows))
    return sorted(name for name, scale in scales.items() if np.any(scale != 1.0))


def _at_rows(scale: np.ndarray, site: SiteSpec, first: int, rows: int) -> np.ndarray:
    """The scale of some rows, where it has one for each."""
    axis = scale.ndim - (len(site.shape) - site.event_dim - _row_axis(site))
    if axis < 0 or scale.shape[axis] == 1:
        return scale
    return np.take(scale, np.arange(first, first + rows), axis=axis)


def _ratio(before: np.ndarray, after: np.ndarray) -> float | None:
    """The one number that turns a scale into another; None if there is none."""
    try:
        before, after = np.broadcast_arrays(before, after)
    except ValueError:
        return None
    counts = after != 0
    if np.any(before[~counts]):
        return None
    ratios = before[counts] / after[counts]
    if not ratios.size:
        return 1.0
    same = np.allclose(ratios, ratios.flat[0], rtol=1e-4)
    return float(ratios.flat[0]) if same else None


def why_whole(problem: Problem) -> str:
    """Why the rows cannot be cut into batches, as a sentence; empty when they can."""
    spec = problem.spec
    if spec.coupled:
        return spec.reason or "Its rows depend on each other."
    for site in spec.sites:
        if site.kind == "latent" and site.rows != "none":
            return f"Site '{site.name}' has a latent value per row."
        adds_rows = site.kind in ("observed", "factor") and not site.follows_rows
        if adds_rows and site.inputs & row_arguments(problem):
            return f"Site '{site.name}' adds up rows before its log density is known."
    return ""


def check_weights(problem: Problem) -> None:
    """Refuse weights that cannot be given to single rows."""
    if problem.weights is None:
        return
    rows = problem.inputs.rows
    shape = np.shape(problem.weights)
    if shape != (rows,):
        raise InputError(
            f"The sample weights have shape {shape} but the input has {rows} rows. Each row needs "
            f"one weight. Pass an array of shape ({rows},).",
            code="weights-shape",
        )
    for site in outcome_sites(problem):
        if site.name not in problem.spec.data_sites:
            continue  # a factor of the prior
        per_row = site.follows_rows and _row_axis(site) < len(site.shape) - site.event_dim
        if not per_row:
            raise InputError(
                f"Site '{site.name}' has no log density per row, so rows cannot be weighted. "
                "Write the site with one value per row, or fit without sample weights.",
                code="weights-site",
            )


def marginal_of(site: SiteSpec) -> str:
    """What to write in the place of a latent that is discrete."""
    if site.rows == "scan":
        return (
            "Write the forward algorithm: carry the probabilities of the states, and observe "
            "their MixtureSameFamily (see the page on time and trials)."
        )
    return "Write the marginal (e.g. MixtureSameFamily), or sample it with DiscreteHMCGibbs."


def check_draws(spec_latents: Iterable[str], draws: dict[str, Any], engine: str) -> None:
    """Every latent site must have been drawn: a missing one would be prior noise in predictions."""
    for name in spec_latents:
        if name not in draws:
            raise KernelValidationError(
                f"Engine '{engine}' gave no draws of latent site '{name}'. Predictions would draw "
                "it from its prior. Add the site to the guide or sampler, or marginalise it.",
                code="latent-missing",
            )


def initial_variables(
    problem: Problem, key: jax.Array, arrays: dict[str, Any], rows: int | None = None
) -> dict[str, Any]:
    """Initial values of the kernel's `param` sites and mutable state; called inside a trace.

    The arrays are of all rows, or of so many.
    """
    with handlers.block():
        kernel = problem.kernel if rows is None else kernel_for(problem, rows)
        seeded = handlers.seed(kernel, key)
        sites = handlers.trace(seeded).get_trace(**arrays, **problem.inputs.static)
    return {
        name: site["value"]
        for name, site in sites.items()
        if site["type"] in ("param", "mutable") and site["value"] is not None
    }


def fixed_params(problem: Problem, key: jax.Array) -> dict[str, Any]:
    """Initial values of the kernel's `param` sites, which chains hold fixed."""

    def look(key: jax.Array, arrays: dict[str, Any]) -> Any:
        return initial_variables(problem, key, arrays)

    arguments = (jax.random.fold_in(key, 1), problem.inputs.arrays)
    program = program_of(problem, look, *arguments, version=version_of(problem))
    values: dict[str, Any] = program(*arguments)
    return values


def param_notes(params: dict[str, Any]) -> tuple[Note, ...]:
    """Say which parameters keep their first values."""
    if not params:
        return ()
    names = ", ".join(f"'{name}'" for name in sorted(params))
    message = (
        f"This engine learns no param sites: {names} keep their initial values. Give them priors, "
        "or fit with inference='svi'."
    )
    return (Note(FitWarning, message, "param-fixed"),)


class RawSite(NamedTuple):
    """A message of the kernel.

    Its type and name, the sizes of a plate, whether a latent's support moves, and whether it has
    no sampler of its own, as a flat prior.
    """

    type: str
    name: str
    args: tuple[Any, ...]
    moves: bool
    has_no_draws: bool


def raw_sites(problem: Problem) -> list[RawSite]:
    """The kernel's messages, traced without computing."""
    sites: list[RawSite] = []

    def look(arrays: dict[str, Any]) -> None:
        with handlers.block():
            seeded = handlers.seed(problem.kernel, 0)
            messages = handlers.trace(seeded).get_trace(**arrays, **problem.inputs.static)
        sites.extend(map(_raw_site, messages.values()))

    def make() -> list[RawSite]:
        with TRACE_LOCK:
            jax.eval_shape(look, problem.inputs.arrays)
        return sites

    found: list[RawSite] = remembered(problem, "sites", make)
    return found


def subsampled_plates(problem: Problem) -> list[str]:
    """Plates that draw some of their members at random; one as large as the rows holds these."""
    rows = problem.inputs.rows
    plates = (site for site in raw_sites(problem) if site.type == "plate")
    return [site.name for site in plates if site.args[1] not in (None, site.args[0], rows)]


def _raw_site(message: dict[str, Any]) -> RawSite:
    kind = message["type"]
    latent = kind == "sample" and not message["is_observed"]
    leaves = jax.tree.leaves(message["fn"].support) if latent else ()
    moves = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    args = tuple(message["args"]) if kind == "plate" else ()
    return RawSite(kind, message["name"], args, moves, latent and _has_no_draws(message["fn"]))


def _has_no_draws(fn: dist.Distribution) -> bool:
    inner = base_distribution(fn)
    inner = getattr(inner, "fn", inner)  # where inspection has given it some value to start from
    return type(inner).sample is dist.Distribution.sample


def moving_supports(problem: Problem) -> list[str]:
    """Latent sites whose support depends on another latent, e.g. Uniform(0, b)."""
    latents = frozenset(problem.spec.latents)
    if not any(site.moves and site.name in latents for site in raw_sites(problem)):
        return []

    def bounds(key: jax.Array, arrays: dict[str, Any]) -> dict[str, Any]:
        with handlers.block():
            seeded = handlers.seed(problem.kernel, key)
            sites = handlers.trace(seeded).get_trace(**arrays, **problem.inputs.static)
        supports = {name: sites[name]["fn"].support for name in latents}
        return {name: jax.tree.map(jnp.asarray, jax.tree.leaves(s)) for name, s in supports.items()}

    arrays = problem.inputs.arrays
    keys = [jax.random.key(seed) for seed in range(3)]
    read = compile_program(bounds, keys[0], arrays)
    draws = [read(key, arrays) for key in keys]
    return [
        name
        for name in sorted(latents)
        if any(
            not np.array_equal(first, other)
            for draw in draws[1:]
            for first, other in zip(draws[0][name], draw[name], strict=True)
        )
    ]


def version_of(problem: Problem, *functions: Callable[..., Any]) -> str:
    """Name of what the kernel, and other functions with sites, compute: constants included."""

    def make() -> str:
        return _version_of(problem, problem.kernel, *functions)

    name: str = remembered(problem, "version", make, users=functions)
    return name


def _version_of(problem: Problem, *functions: Callable[..., Any]) -> str:
    names = []
    for fn in functions:

        def look(key: jax.Array, arrays: dict[str, Any], fn: Callable[..., Any] = fn) -> Any:
            with handlers.block():
                kwargs = {**arrays, **problem.inputs.static}
                densities, sites = compute_log_probs(
                    handlers.seed(fn, key), (), kwargs, {}, sum_log_prob=False
                )
            values = [site["value"] for site in sites.values() if site["type"] == "sample"]
            return values, densities

        closed, _ = trace(look, jax.random.key(0), problem.inputs.arrays)
        names.append(fingerprint(closed, values=True))
    return " ".join(names)


def as_seed(rng_key: jax.Array) -> list[int]:
    """The words of a key, to seed NumPy with."""
    return [int(word) for word in np.asarray(jax.random.key_data(rng_key)).ravel()]


def _row_axis(site: SiteSpec) -> int:
    return 0 if site.row_axis is None else site.row_axis
