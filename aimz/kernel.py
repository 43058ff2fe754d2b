"""Read a kernel once, as data: its sites, and how each relates to the rows.

`inspect` decides from the traced structural equations, never from values and never from the length
of an array alone: the kernel is traced at its own number of rows and at another, and the row axis
is followed through every primitive. What is not known to keep rows apart is called coupled. A
separable verdict is then confirmed on a few rows: a permutation, one row repeated, and a single row
must give the same answers.
"""

import itertools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from aimz import programs
from aimz.confirm import disagreement
from aimz.coupling import Verdict, follows, judge
from aimz.errors import InputError, KernelValidationError, nearest
from aimz.lookups import Lookup, lookups_of
from aimz.signature import Signature, read_signature
from aimz.structure import Inputs, Reading, Statement, check_rows, equations, read, row_plates

__all__ = [
    "Inputs",
    "KernelSpec",
    "Signature",
    "SiteSpec",
    "inspect",
    "read_signature",
    "row_plates",
]

_MAX_SPECS = 256
# Families whose support says truly which values they can take (that of a mixture does not).
_BOUNDED = (
    dist.BernoulliLogits,
    dist.BernoulliProbs,
    dist.BetaBinomial,
    dist.BinomialLogits,
    dist.BinomialProbs,
    dist.CategoricalLogits,
    dist.CategoricalProbs,
    dist.DiscreteUniform,
    dist.OrderedLogistic,
)
_MAX_SUBSETS = 5  # sets of arguments or plates are tried exhaustively up to this size


@dataclass(frozen=True)
class SiteSpec:
    """One named statement of a kernel.

    Parameters
    ----------
    name : str
        Name of the site.
    kind : str
        "latent", "observed", "deterministic", "param" or "factor". The output is "observed" whether
        or not its value was given.
    rows : str
        "leading": one axis of the value follows the rows; "sized": its size follows them another
        way; "scan": recorded inside NumPyro's control flow; "none".
    row_axis : int or None
        The axis of the value that follows the rows.
    shape, dtype :
        Of the value at the inspected number of rows; dtype is None for a tree of arrays.
    event_dim : int
        Number of last axes that are one event of the distribution.
    plates : tuple of str
        Plates around the statement, innermost first.
    dims : tuple of str or None
        Name of each axis of the value, where a plate gives one.
    parents, inputs : frozenset of str
        Sites and kernel arguments that the site reads directly, through any computation.
    discrete : bool
        Whether its values are discrete.
    scaled : bool
        Whether the kernel itself scales its log density.
    bounds : tuple of int or None
        Least and greatest value of a discrete site, where its support alone tells them.
    support : Constraint or None
        Values that a latent site can take, where they follow from nothing else.
    is_given : bool
        Whether the site observes a value in this call.
    """

    name: str
    kind: str
    rows: str = "none"
    row_axis: int | None = None
    shape: tuple[int, ...] = ()
    dtype: Any = None
    event_dim: int = 0
    plates: tuple[str, ...] = ()
    dims: tuple[str | None, ...] = ()
    parents: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()
    discrete: bool = False
    scaled: bool = False
    bounds: tuple[int, int] | None = None
    support: Any = field(default=None, compare=False, repr=False)
    is_given: bool = False


@dataclass(frozen=True)
class KernelSpec:
    """What is known of a kernel on inputs of one structure.

    Parameters
    ----------
    sites : tuple of SiteSpec
        In the order of the kernel.
    row_inputs : frozenset of str
        Arguments with one value per row; all others go whole.
    row_plates : frozenset of str
        Plates over the rows, whatever size the kernel wrote.
    rows : int
        Number of rows inspected.
    output : str
        Name of the output.
    coupled : bool
        Whether a row's values may depend on other rows.
    reason : str
        Why, in a sentence; "" when separable.
    version : str
        Fingerprint of what the kernel computes, the values that it reads included.
    lookups : tuple of Lookup
        Indices into tables that the arguments decide, for inputs of these shapes; not saved.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def kernel(X, y=None):
    ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    ...     numpyro.sample("y", dist.Normal(b * (X - X.mean()), 1.0), obs=y)
    >>> spec = inspect(kernel, Inputs({"X": jnp.arange(9.0)}, {}, 9, ("X",)), "y")
    >>> spec.coupled, spec.reason
    (True, "Rows meet at site 'y': reduce_sum combines rows.")
    >>> spec["y"].rows, spec.latents, spec.descendants({"b"})
    ('leading', ('b',), frozenset({'y'}))
    """

    sites: tuple[SiteSpec, ...]
    row_inputs: frozenset[str]
    row_plates: frozenset[str]
    rows: int
    output: str
    coupled: bool
    reason: str = ""
    version: str = field(default="", compare=False, repr=False)
    lookups: tuple[Lookup, ...] = field(default=(), compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lookups"}

    def __getitem__(self, name: str) -> SiteSpec:
        for site in self.sites:
            if site.name == name:
                return site
        raise KeyError(f"The kernel has no site '{name}'. {nearest(name, self.names)}")

    def __contains__(self, name: object) -> bool:
        return any(site.name == name for site in self.sites)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all sites."""
        return tuple(site.name for site in self.sites)

    @property
    def latents(self) -> tuple[str, ...]:
        """Names of the latent sites."""
        return tuple(site.name for site in self.sites if site.kind == "latent")

    def at_rows(self, count: int) -> "KernelSpec":
        """The same kernel on another number of rows, where rows do not interact."""
        sites = []
        for site in self.sites:
            shape = list(site.shape)
            if site.rows == "leading" and site.row_axis is not None:
                shape[site.row_axis] = count
            sites.append(replace(site, shape=tuple(shape)))
        return replace(self, sites=tuple(sites), rows=count)

    def descendants(self, names: Collection[str], *, held: Collection[str] = ()) -> frozenset[str]:
        """Sites that a change of sites or arguments reaches, not through those held."""
        reached = set(names)
        found: set[str] = set()
        while True:
            below = {s.name for s in self.sites if (s.parents | s.inputs) & reached} - reached
            below -= set(held)
            if not below:
                return frozenset(found)
            reached |= below
            found |= below


@dataclass(frozen=True)
class _Call:
    """One kernel on one set of inputs."""

    kernel: Callable[..., Any]
    inputs: Inputs
    output: str
    natural: Reading

    def at(self, rows: int, cut: Collection[str]) -> dict[str, Any]:
        """Shapes of the arguments when those in `cut` have another number of rows."""
        return {
            name: jax.tree.map(
                lambda leaf, cut_it=name in cut: jax.ShapeDtypeStruct(
                    (rows, *jnp.shape(leaf)[1:]) if cut_it else jnp.shape(leaf),
                    jnp.result_type(leaf),
                ),
                value,
            )
            for name, value in self.inputs.arrays.items()
        }


_SPECS: OrderedDict[Any, tuple[Any, KernelSpec]] = OrderedDict()


def inspect(kernel: Callable[..., Any], inputs: Inputs, param_output: str) -> KernelSpec:
    """Read a kernel: its sites, how each relates to the rows, whether rows interact.

    The answer is kept under the name of the traced program, so that a change of anything the
    kernel reads is noticed and a second call only traces once.

    Parameters
    ----------
    kernel : callable
        NumPyro model function.
    inputs : Inputs
        Its arguments in one call.
    param_output : str
        Name of the output, both of the argument and of the site.

    Returns
    -------
    KernelSpec
        The frozen record that everything downstream reads.

    Raises
    ------
    KernelValidationError
        "output", "duplicate-site", "site-under-transform", "traced-branch", "traced-numpy",
        "shape".
    InputError
        "shape": an argument and a site that it is observed at disagree.
    """
    check_rows(inputs)
    with programs.TRACE_LOCK:
        natural = read(kernel, inputs.arrays, inputs.static, inputs.rows)
        call = _Call(kernel, inputs, param_output, natural)
        _check_output(call)
        _check_observations(call)
        key = _key(call)
        if key in _SPECS:
            _SPECS.move_to_end(key)
            return _SPECS[key][1]
        spec = replace(_decide(call), version=key[1], lookups=_lookups_of(natural, inputs))
        _SPECS[key] = (kernel, spec)
        if len(_SPECS) > _MAX_SPECS:
            _SPECS.popitem(last=False)
        return spec


def _lookups_of(natural: Reading, inputs: Inputs) -> tuple[Lookup, ...]:
    names = [name for name in sorted(inputs.arrays) for _ in jax.tree.leaves(inputs.arrays[name])]
    return lookups_of(natural.program, [*names, None])


def _key(call: _Call) -> Any:
    """Name of everything that the verdict follows from."""
    natural, inputs = call.natural, call.inputs
    statements = tuple(
        (s.name, s.type, s.shape, s.frames, s.scale is None, s.in_control_flow, type(s.fn).__name__)
        for s in natural.statements.values()
    )
    return (
        _identity(call.kernel),
        programs.fingerprint(natural.program, values=True),
        tuple(sorted(inputs.arrays)),
        str(jax.tree.structure(inputs.arrays)),
        repr(sorted(inputs.static.items())),
        (inputs.rows, inputs.always_rows, call.output),
        statements,
        tuple(natural.plates.items()),
    )


def _identity(kernel: Any) -> Any:
    return kernel if isinstance(kernel, Hashable) else id(kernel)


def _check_output(call: _Call) -> None:
    """The output is a site observed through its argument, or computed from it by a factor."""
    name, statements = call.output, call.natural.statements
    given = name in call.inputs.arrays
    site = statements.get(name)
    if site is None:
        if given and any(s.is_factor for s in statements.values()):
            return
        sites = [s.name for s in statements.values() if s.type != "param" and not s.is_factor]
        raise KernelValidationError(
            f"The kernel has no site named '{name}'. The output needs one: nothing could be "
            f'predicted. {nearest(name, sites)} Write numpyro.sample("{name}", ..., obs={name}).',
            code="output",
        )
    if given and site.type == "sample" and site.observation is None:
        raise _unobserved(name)


def _check_observations(call: _Call) -> None:
    """Refuse an observation that NumPyro would broadcast against its site."""
    for site in call.natural.statements.values():
        if site.observation is None or site.is_factor or site.in_control_flow:
            continue
        seen, own = tuple(jnp.shape(site.observation)), tuple(site.fn.shape())
        if seen == own or (seen == () and site.name != call.output):
            continue
        raise InputError(
            f"Site '{site.name}' has shape {own} but its observed value has shape {seen}. They "
            f"would be broadcast against each other. Pass it with shape {own}, or drop or add an "
            "axis where the kernel computes the site.",
            code="shape",
        )


def _decide(call: _Call) -> KernelSpec:
    """Try which arguments and plates are rows until rows keep apart; else call them coupled."""
    fallback: Verdict | None = None
    idle: Verdict | None = None
    for verdict in _verdicts(call):
        if verdict.reason:
            fallback = fallback or verdict
        elif follows(verdict, call.output):
            return _confirmed(call, verdict)
        else:
            idle = idle or verdict
    if idle is not None:
        return _confirmed(call, idle)
    return _spec(call, fallback or _last_resort(call))


def _confirmed(call: _Call, verdict: Verdict) -> KernelSpec:
    """The verdict, after a look at a few real rows."""
    return _spec(call, verdict, disagreement(call.kernel, call.inputs, verdict))


def _verdicts(call: _Call) -> Iterator[Verdict]:
    """Verdicts under one assumption after the other, the plainest first."""
    rows = call.inputs.rows
    probe = _probe_rows(call.inputs)
    candidates = [n for n, v in call.inputs.arrays.items() if _leads_with(v, rows)]
    optional = sorted(set(candidates) - set(call.inputs.always_rows))
    for cut_out in _subsets(optional):
        cut = frozenset(candidates) - frozenset(cut_out)
        natural = _try_read(call, probe, cut, frozenset())
        following_plates = _following_plates(call, natural, probe)
        numbered = [
            name
            for name, plate in call.natural.plates.items()
            if rows in (plate.size, plate.subsample_size) and name not in following_plates
        ]
        for extra in _subsets(sorted(numbered)):
            verdict = _verdict(call, probe, cut, following_plates | set(extra))
            if verdict is not None:
                yield verdict


def _subsets(names: list[str]) -> Iterator[tuple[str, ...]]:
    """Nothing, each name, pairs, ...; of many names only nothing, each one and all."""
    sizes = range(len(names) + 1) if len(names) <= _MAX_SUBSETS else (0, 1, len(names))
    for size in sizes:
        yield from itertools.combinations(names, size)


def _probe_rows(inputs: Inputs) -> int:
    """Another number of rows, which is no size of any argument."""
    sizes = {size for leaf in jax.tree.leaves(inputs.arrays) for size in jnp.shape(leaf)}
    return next(m for m in itertools.count(max(inputs.rows + 3, 7)) if m not in sizes)


def _leads_with(value: Any, rows: int) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(jnp.shape(leaf)[:1] == (rows,) for leaf in leaves)


def _try_read(
    call: _Call, rows: int, cut: Collection[str], plates: Collection[str]
) -> Reading | None:
    """A reading at another number of rows, or None where the kernel cannot run so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read(call.kernel, call.at(rows, cut), call.inputs.static, rows, plates)
        except Exception:  # noqa: BLE001  # the kernel may raise anything at a size it never meets
            return None


def _following_plates(call: _Call, probe: Reading | None, rows: int) -> frozenset[str]:
    """Plates that follow the rows by themselves, by their size or that of their subsample."""
    if probe is None:
        return frozenset()
    n = call.inputs.rows
    return frozenset(
        name
        for name, plate in call.natural.plates.items()
        if name in probe.plates
        and {
            (plate.size, probe.plates[name].size),
            (plate.subsample_size, probe.plates[name].subsample_size),
        }
        & {(n, rows)}
    )


def _verdict(
    call: _Call, probe: int, cut: frozenset[str], plates: frozenset[str] | set[str]
) -> Verdict | None:
    """The verdict under one assumption, or None where the kernel cannot run so."""
    rows = call.inputs.rows
    plates = frozenset(plates)
    here = _try_read(call, rows, cut, plates) if plates else call.natural
    there = _try_read(call, probe, cut, plates)
    if here is None or there is None or not _fits(there):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            traced = equations(
                call.kernel, call.at(probe, cut), call.inputs.static, probe, there, plates
            )
        except Exception:  # noqa: BLE001  # as in `_try_read`
            return None
    return judge(here, there, traced, cut=cut, plates=plates)


def _fits(reading: Reading) -> bool:
    """Whether observed values have the shapes of their sites."""
    return all(
        jnp.shape(s.observation) in ((), tuple(s.fn.shape()))
        for s in reading.statements.values()
        if s.observation is not None and not s.is_factor and not s.in_control_flow
    )


def _last_resort(call: _Call) -> Verdict:
    """Verdict on a kernel that runs at one number of rows only: plates and lengths must do."""
    rows = call.inputs.rows
    cut = frozenset(n for n, v in call.inputs.arrays.items() if _leads_with(v, rows))
    traced = equations(call.kernel, call.inputs.arrays, call.inputs.static, rows, call.natural)
    verdict = judge(
        call.natural, call.natural, traced, cut=cut, plates=frozenset(), known_rows=rows
    )
    assert verdict is not None  # noqa: S101  # one reading matches itself
    reason = f"The kernel can be traced at {rows} rows only: a size in it does not follow the rows."
    return Verdict(verdict.sites, cut, frozenset(), reason)


def _check_found(call: _Call, verdict: Verdict) -> None:
    """Refuse an output that observes something else, or that only broadcasting made square."""
    found = verdict.sites.get(call.output)
    if found is None or found.statement.type != "sample":
        return
    if call.output in call.inputs.arrays and call.output not in found.observed:
        raise _unobserved(call.output)
    if found.is_broadcast:
        raise KernelValidationError(
            f"Site '{call.output}' has shape {found.statement.shape}: NumPyro broadcast a column "
            "of rows against a line. Give all its parameters the shape of the outcome, for "
            "example by X[:, 0] in place of X.",
            code="shape",
        )


def _unobserved(name: str) -> KernelValidationError:
    return KernelValidationError(
        f"Site '{name}' does not observe argument '{name}'. The outcome would have no effect on "
        f'the fit. Write numpyro.sample("{name}", ..., obs={name}).',
        code="output",
    )


def _spec(call: _Call, verdict: Verdict, disagrees: str = "") -> KernelSpec:
    _check_found(call, verdict)
    reason = verdict.reason or disagrees
    sites = []
    for name, found in verdict.sites.items():
        statement = found.statement
        if statement.type == "param" and not jax.tree.leaves(statement.kept):
            continue
        sites.append(
            SiteSpec(
                name=name,
                kind=_kind(call, statement),
                rows=found.rows,
                row_axis=found.row_axis,
                shape=statement.shape,
                dtype=_dtype(statement),
                event_dim=0 if statement.is_factor else getattr(statement.fn, "event_dim", 0),
                plates=tuple(frame.name for frame in statement.frames),
                dims=_dims(statement),
                parents=found.sources & set(verdict.sites) - {name},
                inputs=found.sources & set(call.inputs.arrays),
                discrete=_is_discrete(statement),
                scaled=_is_scaled(call.natural.statements[name]),
                bounds=_bounds(statement) if _is_discrete(statement) else None,
                support=_support(statement),
                is_given=statement.observation is not None,
            )
        )
    return KernelSpec(
        sites=tuple(sites),
        row_inputs=verdict.row_inputs,
        row_plates=verdict.row_plates,
        rows=call.inputs.rows,
        output=call.output,
        coupled=bool(reason),
        reason=reason,
    )


def _kind(call: _Call, statement: Statement) -> str:
    if statement.type != "sample":
        return statement.type
    if statement.is_factor:
        return "factor"
    observed = statement.observation is not None or statement.name == call.output
    return "observed" if observed else "latent"


def _dtype(statement: Statement) -> Any:
    if statement.is_factor:
        return np.dtype(jnp.result_type(float))
    return np.dtype(jnp.result_type(statement.value)) if statement.is_array else None


def _dims(statement: Statement) -> tuple[str | None, ...]:
    """Plate of each axis of the value."""
    shape = statement.shape
    event_dim = 0 if statement.is_factor else getattr(statement.fn, "event_dim", 0)
    dims: list[str | None] = [None] * len(shape)
    for frame in statement.frames:
        axis = len(shape) - event_dim + frame.dim
        if 0 <= axis < len(shape) and shape[axis] == frame.size:
            dims[axis] = frame.name
    return tuple(dims)


def _is_discrete(statement: Statement) -> bool:
    if statement.type != "sample" or statement.is_factor:
        return False
    return bool(getattr(statement.fn.support, "is_discrete", False))


def _bounds(statement: Statement) -> tuple[int, int] | None:
    base = statement.fn
    while isinstance(base, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        base = base.base_dist
    if type(base) not in _BOUNDED:
        return None
    support = base.support
    if support is constraints.boolean:
        return 0, 1
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    if low is None or high is None:
        return None
    if isinstance(low, jax.core.Tracer) or isinstance(high, jax.core.Tracer):
        return None
    return int(np.min(low)), int(np.max(high))


def _support(statement: Statement) -> Any:
    """The support of a sample site, where it is the same for all rows and draws."""
    if statement.type != "sample" or statement.is_factor or statement.in_control_flow:
        return None
    try:
        support = statement.fn.support
    except NotImplementedError:
        return None
    if not isinstance(support, constraints.Constraint) or support is constraints.dependent:
        return None
    fixed = all(np.ndim(leaf) == 0 and not _is_traced(leaf) for leaf in jax.tree.leaves(support))
    return support if fixed else None


def _is_traced(leaf: Any) -> bool:
    return isinstance(leaf, jax.core.Tracer)


def _is_scaled(statement: Statement) -> bool:
    scale = statement.scale
    return scale is not None and not (isinstance(scale, int | float) and scale == 1)
