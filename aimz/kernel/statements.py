"""A kernel's structural equations, as a traced program.

A kernel is read twice at a number of rows. `read` runs it seeded and notes every statement: names,
shapes, plates. `equations` runs it again with the value of each site given, so that the traced
program has no random-number code in it: its outputs are what each site's distribution is made of,
its log density, and the values of deterministic sites. Nothing here decides anything.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state
from jax.typing import ArrayLike
from numpyro import handlers, primitives
from numpyro.distributions import TwoSidedTruncatedDistribution
from numpyro.distributions.distribution import Distribution, Unit
from numpyro.primitives import _PYRO_STACK, Messenger, plate

from aimz import programs
from aimz.errors import InputError, KernelValidationError
from aimz.families import base_distribution
from aimz.kernel.control_flow import Inside, Step, enter, leave, names_inside
from aimz.kernel.samplers import has_sampler, sampled, stand_ins

__all__ = [
    "Inputs",
    "Plate",
    "Reading",
    "Statement",
    "Watch",
    "bound_kernel",
    "drawable",
    "is_masked",
    "parts_of",
    "read",
    "row_plates",
    "shape_of",
    "spread_sites",
    "traced_plainly",
]


_SITES = ("sample", "deterministic", "param")
_ARRAY_TYPES = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)


_HAVE_SAMPLERS: programs.Cache[Hashable, bool] = programs.Cache(256)


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call of a kernel.

    Parameters
    ----------
    arrays : mapping
        Traced values: arrays, or pytrees of arrays, by argument name.
    static : mapping
        Arguments that are no arrays.
    rows : int
        Number of rows.
    always_rows : tuple of str
        Arguments that are per row by definition: the input and, when given, the outcome.
    spread : mapping
        Shapes of sites whose distribution is smaller than what they observe: see `spread_sites`.
    """

    arrays: dict[str, Any]
    static: dict[str, Any]
    rows: int
    always_rows: tuple[str, ...] = ()
    spread: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)

    def name(self, kernel: Callable[..., Any], *beside: Hashable) -> Hashable | None:
        """Name of all that a trace of a kernel on them follows from; None where it has none.

        What is `beside` the arguments stands in the name, too.
        """
        names = (
            programs.version_of(kernel),
            programs.name_of_shapes(self.arrays),
            programs.name_of(dict(self.static)),
        )
        if None in names:
            return None
        settled = (tuple(sorted(self.spread.items())), self.rows, self.always_rows)
        return (*names, *settled, *beside)


@dataclass(frozen=True)
class Plate:
    """A plate as the kernel wrote it."""

    size: int
    subsample_size: int


@dataclass
class Statement:
    """One statement of a kernel as it ran: the message's parts that matter."""

    name: str
    type: str
    fn: Any
    value: Any
    kept: Any  # the value that NumPyro keeps: without what a random module replaced by sites
    observation: Any
    scale: Any
    frames: tuple[Any, ...]
    in_control_flow: bool
    is_spread: bool  # over what it observes: see `spread_sites`
    is_nested: bool  # drawn in a scan inside another one

    @property
    def is_factor(self) -> bool:
        """Whether the statement only adds a number to the log density."""
        return self.type == "sample" and isinstance(base_distribution(self.fn), Unit)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value; of the log density for a factor, () for a pytree."""
        if self.is_factor:
            return tuple(self.fn.batch_shape)
        return tuple(np.shape(self.value)) if self.is_array else ()

    @property
    def is_array(self) -> bool:
        """Whether the value is one array."""
        return isinstance(self.value, _ARRAY_TYPES)


@dataclass(frozen=True)
class Reading:
    """Every statement and plate of a kernel at one number of rows."""

    rows: int
    statements: dict[str, Statement]
    plates: dict[str, Plate]
    program: Any  # the traced program, for its fingerprint
    outputs: tuple[tuple[str, str], ...] = ()  # of the program: (site, role) in order
    states: dict[str, Any] = field(default_factory=dict)
    in_reverse: bool = False  # whether a scan is


def is_masked(fn: Distribution) -> bool:
    """Whether a mask of the kernel may leave out elements of a distribution."""
    base = base_distribution(fn)
    while fn is not base:
        if getattr(fn, "_mask", True) is not True:
            return True
        fn = fn.base_dist
    return False


def _is_plain(thing: Any) -> bool:
    """Whether a distribution is one of NumPyro's, with nothing but such and numbers in it.

    A pytree of another kind may be a function of the user's.
    """
    if type(thing) in (tuple, list, dict, OrderedDict):
        return all(map(_is_plain, thing.values() if isinstance(thing, dict) else thing))
    if thing is None or isinstance(thing, (*_ARRAY_TYPES, str)):
        return True
    return type(thing).__module__.startswith("numpyro.distributions.") and _is_plain(vars(thing))


class row_plates(Messenger):  # type: ignore[misc]  # noqa: N801  # NumPyro: no stubs; a handler
    """A kernel whose plates `names` have `rows` rows, whatever the kernel wrote there.

    Their index is 0, 1, 2, ...: no row is left out at random, and the scaling that goes with a
    subsample is undone.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def kernel(X, y=None):
    ...     with numpyro.plate("rows", 50):
    ...         numpyro.sample("y", dist.Normal(X, 1.0), obs=y)
    >>> resized = row_plates(kernel, {"rows"}, 3)
    >>> handlers.trace(handlers.seed(resized, 0)).get_trace(jnp.zeros(3))["y"]["value"].shape
    (3,)
    """

    def __init__(self, kernel: Callable[..., Any], names: Collection[str], rows: int) -> None:
        self.names = frozenset(names)
        self.rows = rows
        super().__init__(kernel)

    @property
    def reads(self) -> tuple[Any, Hashable]:
        """The kernel beneath, and what else says what this one is."""
        return self.fn, ("row_plates", self.names, self.rows)

    def process_message(self, msg: dict[str, Any]) -> None:
        if not self.names:
            return
        if msg["type"] == "plate":
            if msg["name"] in self.names:
                msg["value"] = jnp.arange(self.rows)
                msg["args"] = (self.rows, None)
            return
        for handler in _PYRO_STACK:
            if isinstance(handler, plate) and handler.name in self.names:
                self._settle(handler, msg)

    def _settle(self, handler: primitives.plate, msg: dict[str, Any]) -> None:
        """Make a plate forget the size that the kernel wrote."""
        if handler.size == handler.subsample_size:
            return
        inside = any(frame.name == handler.name for frame in msg.get("cond_indep_stack", ()))
        if inside and msg["type"] != "deterministic" and msg["scale"] is not None:
            scale = msg["scale"] / (handler.size / handler.subsample_size)
            msg["scale"] = None if isinstance(scale, float) and abs(scale - 1) < 1e-9 else scale
        handler.size = handler.subsample_size


class spread_sites(Messenger):  # type: ignore[misc]  # noqa: N801  # as `row_plates`
    """A kernel whose sites are as large as what they observe.

    `sample("c", Exponential(), obs=C)` has one density for each value of C, though its
    distribution is a scalar. Here the distribution is expanded to the values' shape. Where the
    site observes nothing, `shapes` says how large it is, with None in the place of the rows, of
    which there are as many as in argument `primary`.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def kernel(X, C=None):
    ...     numpyro.sample("c", dist.Exponential(), obs=C)
    >>> spread = handlers.seed(spread_sites(kernel, {"c": (None,)}, "X"), 0)
    >>> handlers.trace(spread).get_trace(X=jnp.zeros((3, 2)))["c"]["value"].shape
    (3,)
    """

    def __init__(
        self,
        kernel: Callable[..., Any],
        shapes: Mapping[str, tuple[int | None, ...]],
        primary: str,
    ) -> None:
        self.shapes, self.primary, self.rows = shapes, primary, 0
        super().__init__(kernel)

    @property
    def reads(self) -> tuple[Any, Hashable]:
        """As of `row_plates`."""
        return self.fn, ("spread_sites", tuple(sorted(self.shapes.items())), self.primary)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        leaves = jax.tree.leaves(kwargs.get(self.primary))
        self.rows = jnp.shape(leaves[0])[0] if leaves and jnp.ndim(leaves[0]) else 0
        return super().__call__(*args, **kwargs)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or msg.get("_control_flow_done", False):
            return
        if not isinstance(msg["fn"], Distribution) or msg["kwargs"].get("sample_shape", ()):
            return
        if msg["value"] is not None:
            shape = jnp.shape(msg["value"])
        elif msg["name"] in self.shapes:
            shape = tuple(self.rows if n is None else n for n in self.shapes[msg["name"]])
        else:
            return
        batch = _spread_batch(msg["fn"], shape)
        if batch is not None:
            msg["fn"], msg["_is_spread"] = msg["fn"].expand(batch), True


def _spread_batch(fn: Distribution, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Batch shape of a distribution when it is spread over values of a larger shape."""
    batch = shape[: len(shape) - fn.event_dim]
    if isinstance(fn, Unit) or batch == fn.batch_shape or shape[len(batch) :] != fn.event_shape:
        return None
    try:
        spread = jnp.broadcast_shapes(batch, fn.batch_shape)
    except ValueError:
        return None
    return batch if spread == batch else None


class Watch(Messenger):  # type: ignore[misc]  # NumPyro has no stubs
    """Notes every statement and answers those whose value is given."""

    def __init__(self, kernel: Callable[..., Any], given: Mapping[str, Any] | None = None) -> None:
        self.given = given or {}
        self.statements: dict[str, Statement] = {}
        self.plates: dict[str, Plate] = {}
        self.states: dict[str, Any] = {}
        self.in_control_flow: set[str] = set()
        self.inside: dict[str, Any] = {}  # what sites in control flow observe or compute
        self.in_reverse = False  # whether a scan is
        self.nested: set[str] = set()  # what is drawn in a scan inside another one
        self.entry: Any = None
        super().__init__(kernel)

    def __enter__(self) -> Self:
        self.entry = get_opaque_trace_state()
        super().__enter__()
        return self

    def process_message(self, msg: dict[str, Any]) -> None:
        kind, name = msg["type"], str(msg.get("name"))
        if kind in _SITES:
            _refuse_transform(msg, self.entry)
            observed = self.inside.get(name, msg["value"])
            msg["_observation"] = observed if msg.get("is_observed") else None
        if kind == "control_flow":
            enter(msg, self._inside)
        elif msg.get("_control_flow_done", False):
            if kind == "deterministic":
                msg["_natural"] = self.inside[name]
        elif kind == "deterministic" and name in self.given:
            msg["_natural"] = msg["value"]  # the equation; what is below reads the given value
            msg["value"] = self.given[name]
        elif kind in ("sample", "param", "mutable") and name in self.given:
            # A copy: `random_flax_module` replaces entries of a param's tree in place.
            msg["value"] = jax.tree.map(lambda leaf: leaf, self.given[name])
        elif kind == "sample" and msg["value"] is None and _is_plain(msg["fn"]):
            with programs.shared_traces():
                msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])

    def _inside(self, step: Step | None) -> "_WatchInside":
        self.in_reverse |= step is not None and step.in_reverse
        return _WatchInside(self, step)

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        kind, name = msg["type"], msg.get("name")
        if kind == "plate":
            size, subsample_size = msg["args"]
            self.plates[msg["name"]] = Plate(size, subsample_size or len(msg["value"]))
        elif kind == "control_flow":
            self.inside |= leave(msg)
            self.in_control_flow |= names_inside(msg["value"])
        elif kind == "mutable" and msg["value"] is not None:
            self.states[msg["name"]] = jax.tree.map(lambda leaf: leaf, msg["value"])
        elif kind in _SITES and not (kind == "param" and msg["value"] is None):
            self._note(msg, str(name))

    def _note(self, msg: dict[str, Any], name: str) -> None:
        if msg["type"] != "param" and name in self.statements:
            raise KernelValidationError(
                f"The kernel has two sites named '{name}'. NumPyro needs one name for each. "
                "Rename one of them.",
                code="duplicate-site",
            )
        self.statements[name] = Statement(
            name=name,
            type=msg["type"],
            fn=msg.get("fn") if msg["type"] == "sample" else None,
            value=jax.tree.map(lambda leaf: leaf, msg.get("_natural", msg["value"])),
            kept=msg["value"],
            observation=msg["_observation"],
            scale=msg.get("scale"),
            frames=tuple(msg.get("cond_indep_stack", ())),
            in_control_flow=name in self.in_control_flow,
            is_spread=msg.get("_is_spread", False),
            is_nested=name in self.nested,
        )


class _WatchInside(Inside):
    """Answers the statements of a step whose value is given; notes what they say by themselves."""

    def __init__(self, watch: Watch, step: Step | None) -> None:
        super().__init__()
        self.watch, self.step = watch, step

    def __enter__(self) -> Self:
        self.entry = get_opaque_trace_state()
        return super().__enter__()

    def process_message(self, msg: dict[str, Any]) -> None:
        kind, name, given = msg["type"], str(msg.get("name")), self.watch.given
        if kind in _SITES:
            _refuse_transform(msg, self.entry)
        if kind == "control_flow":
            enter(msg, self.watch._inside, self.step)  # noqa: SLF001  # they are one
        if msg.get("_control_flow_done", False):
            return
        if kind == "deterministic" or (kind == "sample" and msg["is_observed"]):
            self.noted[name] = msg["value"]
        if kind == "sample" and msg["is_observed"]:
            _check_step(msg)
        elif kind == "sample" and self.step is not None and len(self.step.places) > 1:
            self.watch.nested.add(name)
        if kind in ("sample", "deterministic") and name in given:
            msg["value"] = given[name] if self.step is None else given[name][self.step.places]

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow":
            self.noted |= leave(msg)


def _refuse_transform(msg: dict[str, Any], entry: object) -> None:
    if get_opaque_trace_state() == entry:
        return
    raise KernelValidationError(
        f"Site '{msg['name']}' is inside jax.vmap, jit, grad or a lax loop. Every turn would "
        f'repeat its noise. Write `with numpyro.plate("{msg["name"]}_rows", n):` around it, '
        "or use numpyro.contrib.control_flow.scan.",
        code="site-under-transform",
    )


def _check_step(msg: dict[str, Any]) -> None:
    """Refuse an observation in a step that is not shaped like its site: NumPyro mixes up steps."""
    fn = msg["fn"]
    seen, site_shape = tuple(jnp.shape(msg["value"])), tuple(fn.shape())
    if seen == site_shape or isinstance(base_distribution(fn), Unit):
        return
    raise InputError(
        f"Site '{msg['name']}' has shape {site_shape} in a step but observes a value of shape "
        f"{seen} there. Its density would mix up steps. Put a plate around it, or give its "
        "parameters the shape of the value.",
        code="shape",
    )


def bound_kernel(
    kernel: Callable[..., Any], static: Mapping[str, Any], plates: Collection[str], rows: int
) -> Callable[..., Any]:
    """The seeded kernel as a function of its arrays, a key and given values."""

    def run(arrays: dict[str, Any], key: jax.Array, values: Mapping[str, Any] | None) -> Watch:
        with_values = stand_ins(row_plates(_unset(kernel), plates, rows))
        watch = Watch(handlers.seed(with_values, key), values)
        watch(**arrays, **static)
        return watch

    return run


def read(
    kernel: Callable[..., Any],
    arrays: Mapping[str, Any],
    static: Mapping[str, Any],
    rows: int,
    plates: Collection[str] = (),
) -> Reading:
    """Run the kernel abstractly and note its statements; `plates` are resized to `rows`."""
    watches: list[Watch] = []
    outputs: list[tuple[str, str]] = []

    def run(arrays: dict[str, Any], key: jax.Array) -> Any:
        watch = bound_kernel(kernel, static, plates, rows)(arrays, key, None)
        parts = parts_of(watch, with_density=False)
        watches.append(watch)
        outputs.extend((site, role) for site, by_role in parts.items() for role in by_role)
        return [list(by_role.values()) for by_role in parts.values()]

    program = traced_plainly(run, dict(arrays))
    (watch,) = watches
    found = watch.statements, watch.plates, program, tuple(outputs)
    return Reading(rows, *found, watch.states, watch.in_reverse)


class _unset(Messenger):  # type: ignore[misc]  # noqa: N801  # as `row_plates`
    """A kernel whose latents are not set by a handler of its own, which a fit would override."""

    def __enter__(self) -> Self:
        self.set_in_steps: set[str] = set()
        super().__enter__()
        return self

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow":
            stack = msg["kwargs"].get("substitute_stack", ())
            values = [value for kind, value in stack if kind in ("substitute", "replay")]
            self.set_in_steps |= {name for v in values if isinstance(v, dict) for name in v}
        is_latent = msg["type"] == "sample" and not msg["is_observed"]
        is_step = msg.get("_control_flow_done", False)
        is_set = msg["name"] in self.set_in_steps if is_step else msg["value"] is not None
        if is_latent and is_set:
            raise KernelValidationError(
                f"A handler of the kernel (substitute or replay) sets site '{msg['name']}', which "
                "a fit and a prediction would override. Hold it with handlers.condition or "
                "handlers.do, or pass intervention=.",
                code="site-substituted",
            )


def drawable(kernel: Callable[..., Any], inputs: Inputs) -> Callable[..., Any]:
    """The kernel, whose sites without a sampler give some value, if there are such sites."""

    def has_samplers() -> bool:
        sites = read(kernel, inputs.arrays, inputs.static, inputs.rows).statements.values()
        return all(has_sampler(s.fn) for s in sites if s.type == "sample" and s.observation is None)

    has_all = programs.remembered(_HAVE_SAMPLERS, lambda: inputs.name(kernel), has_samplers)
    made: Callable[..., Any] = kernel if has_all else sampled(kernel)
    return made


def shape_of(leaf: ArrayLike) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a leaf."""
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


def parts_of(watch: Watch, *, with_density: bool) -> dict[str, dict[str, Any]]:
    """Arrays that say what each site is: parameters, density, scale, observation, value."""
    parts: dict[str, dict[str, Any]] = {}
    for name, statement in watch.statements.items():
        arrays: dict[str, Any] = {}
        if statement.type == "deterministic":
            leaves = [leaf for leaf in jax.tree.leaves(statement.value) if _is_numeric(leaf)]
            arrays |= {"value" if i == 0 else f"value {i}": v for i, v in enumerate(leaves)}
        elif statement.type == "sample":
            leaves = [leaf for leaf in jax.tree.leaves(statement.fn) if _is_numeric(leaf)]
            arrays |= {f"parameter {i}": leaf for i, leaf in enumerate(leaves)}
            if _is_numeric(statement.scale):
                arrays["scale"] = statement.scale
            if _is_numeric(statement.observation):
                arrays["observation"] = statement.observation
            if with_density and not statement.in_control_flow:
                arrays |= _density(statement)
        parts[name] = arrays
    return parts


def _density(statement: Statement) -> dict[str, Any]:
    """The site's log density, or nothing where the distribution has none."""
    fn: Distribution = statement.fn
    try:
        return {"density": fn.log_prob(statement.value)}
    except NotImplementedError:
        return {}
    except ValueError as error:
        base = base_distribution(fn)
        low, high = (np.shape(getattr(base, limit, 0.0)) for limit in ("low", "high"))
        if not isinstance(base, TwoSidedTruncatedDistribution) or low == high:
            raise
        msg = (
            f"Site '{statement.name}' is cut between limits of different shapes, {low} and {high}, "
            "which NumPyro does not combine. Give both the same: low=jnp.full_like(high, 0.0)."
        )
        raise KernelValidationError(msg, code="limits-shape") from error


def _is_numeric(leaf: object) -> bool:
    if not isinstance(leaf, _ARRAY_TYPES):
        return False
    return not jax.dtypes.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


@functools.cache
def _some_key(implementation: str) -> jax.Array:
    """A key of JAX's default kind, for traces, which see no values."""
    del implementation
    return programs.as_key(0)


def traced_plainly(run: Callable[..., Any], arrays: dict[str, Any], *more: object) -> Any:
    """Trace, and turn what JAX says about values that are not known yet into plain words."""
    abstract = jax.tree.map(shape_of, arrays)
    try:
        return programs.trace(run, abstract, _some_key(jax.config.jax_default_prng_impl), *more)[0]
    except (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError) as error:
        raise KernelValidationError(
            "The kernel decides with a Python `if`, `for`, float() or mask on values known only "
            "when it runs. It is compiled once for all values. Write jnp.where or lax.cond.",
            code="traced-branch",
        ) from error
    except OverflowError as error:
        reason = " ".join(str(error).split())
        msg = (
            f"The kernel computes with a whole number beyond 32 bits ({reason[-70:]}). Write it "
            "as a floating-point number, or set jax.config.update('jax_enable_x64', True)."
        )
        raise InputError(msg, code="cast-overflow") from error
    except jax.errors.TracerArrayConversionError as error:
        raise KernelValidationError(
            "The kernel hands its values to NumPy. They are known only when it runs. Use the same "
            "function of jax.numpy.",
            code="traced-numpy",
        ) from error
    except NotImplementedError as error:
        if "under a `plate`" not in str(error):
            raise
        raise KernelValidationError(
            "A scan or cond stands in a plate, which NumPyro does not support: which axis is the "
            "plate's? Put the plate into the step, around what is drawn there.",
            code="scan-in-plate",
        ) from error
