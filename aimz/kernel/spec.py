"""What is known of a kernel: frozen records of its sites, and how a statement becomes one."""

import math
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.extend import core
from numpyro.distributions import constraints

from aimz.errors import nearest
from aimz.families import FAMILIES, base_distribution, is_angular
from aimz.kernel.lookups import Lookup
from aimz.kernel.row_flow import Found, Verdict
from aimz.kernel.statements import Reading, Statement, is_masked
from aimz.kernel.whole_numbers import Total

__all__ = ["KernelSpec", "SiteSpec", "facts_of", "is_discrete", "spec_of"]


_OF_A_TRACE = ("lookups", "totals", "misfit")
_FAMILIES = frozenset(kind.__name__ for row in FAMILIES for kind in row.kinds)
_SERIES = frozenset(k.__name__ for row in FAMILIES if row.vector.earlier for k in row.kinds)


class _Read:
    """A record of what was read, of which more follows; that is worked out once and never kept."""

    def __getstate__(self) -> dict[str, Any]:
        names = (own.name for own in fields(self))  # type: ignore[arg-type]  # dataclasses only
        return {name: getattr(self, name) for name in names if name not in _OF_A_TRACE}


@dataclass(frozen=True)
class SiteSpec(_Read):
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
        The axis of the value that follows the rows; in a scan over the rows that of its steps.
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
    observes : frozenset of str
        Kernel arguments that its observed value is made of.
    discrete : bool
        Whether its values are discrete.
    scaled : bool
        Whether the kernel itself scales its log density.
    masked : bool
        Whether a mask of the kernel may leave out some of its elements.
    bounds : tuple of int or None
        Least and greatest value of a discrete site, where its support alone tells them.
    support : Constraint or None
        Values that a latent site can take, where they follow from nothing else.
    is_given : bool
        Whether the site observes a value in this call.
    is_spread : bool
        Whether its distribution is smaller than what it observes, and is spread over it.
    law : str
        Its distribution in words, such as "Normal(0, 10)"; what is computed stands as "...".
    sized : bool
        Whether the size of a site in control flow follows the rows other than one by one.
    joint_dim : int
        Number of last axes that its distribution draws as one, those of `to_event` not counted.
    is_nested : bool
        Whether it is drawn in a scan inside another one.
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
    observes: frozenset[str] = frozenset()
    discrete: bool = False
    scaled: bool = False
    masked: bool = False
    bounds: tuple[int, int] | None = None
    support: Any = field(default=None, compare=False, repr=False)
    is_given: bool = False
    is_spread: bool = False
    law: str = field(default="", compare=False)
    sized: bool = False
    joint_dim: int = field(default=0, compare=False)
    is_nested: bool = field(default=False, compare=False)

    @cached_property
    def follows_rows(self) -> bool:
        """Whether one axis of the value follows the rows one by one."""
        return self.rows in ("leading", "scan") and self.row_axis is not None

    @cached_property
    def axis(self) -> int:
        """Axis of its value in which the rows are, of one that follows them."""
        return self.row_axis or 0

    @cached_property
    def is_angle(self) -> bool:
        """Whether its values are angles, whose difference is a turn."""
        return is_angular(self.support)

    @cached_property
    def categories(self) -> int:
        """Number of categories that have no order; 0 where its values are numbers."""
        kind = getattr(dist, self.law.partition("(")[0], object)
        if self.bounds is None or FAMILIES.of[kind].has_order:
            return 0
        return self.bounds[1] + 1

    @cached_property
    def is_series(self) -> bool:
        """Whether all rows are one event of a family that knows each value given the others."""
        is_event = self.event_dim == self.joint_dim == 1
        is_by_row = self.rows == "leading" and self.row_axis == len(self.shape) - 1
        return is_event and is_by_row and self.law.partition("(")[0] in _SERIES

    @cached_property
    def belongs_to_rows(self) -> bool:
        """Whether the value is that of some rows, whatever way its size follows them."""
        return self.rows == "sized" or self.sized or self.follows_rows


@dataclass(frozen=True)
class KernelSpec(_Read):
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
    pooled : frozenset of str
        Arguments and sites of which the kernel computes a statistic over the rows, such as a mean.
    measured : frozenset of (str, int or None)
        Those that it sets against a statistic of themselves, as in `x - x.mean()`; each with the
        column, None where columns are not told apart.
    widest : int
        Elements of the largest array that the kernel computes, such as a covariance over rows; per
        row, of arrays of rows, where rows keep apart.
    in_priors : bool
        Whether rows meet, if at all, in the priors of latents that belong to none of them.
    version : str
        Fingerprint of what the kernel computes, the values that it reads included.
    lookups : tuple of Lookup
        Indices into tables that the arguments decide, for inputs of these shapes; not saved.
    totals : tuple of Total
        Whole numbers that the arguments decide and that may not fit in their bits; as `lookups`.
    misfit : (str, str) or None
        Why the outcomes are none of rows, and the code of that error; as `lookups`.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> from aimz.kernel import Inputs, inspect
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
    pooled: frozenset[str] = frozenset()
    measured: frozenset[tuple[str, int | None]] = frozenset()
    in_priors: bool = False
    widest: int = field(default=0, compare=False, repr=False)
    version: str = field(default="", compare=False, repr=False)
    lookups: tuple[Lookup, ...] = field(default=(), compare=False, repr=False)
    totals: tuple[Total, ...] = field(default=(), compare=False, repr=False)
    misfit: tuple[str, str] | None = field(default=None, compare=False, repr=False)

    def __getitem__(self, name: str) -> SiteSpec:
        try:
            return self._by_name[name]
        except KeyError:
            msg = f"The kernel has no site '{name}'. {nearest(name, self.names)}"
            raise KeyError(msg) from None

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @cached_property
    def _by_name(self) -> dict[str, SiteSpec]:
        return {site.name: site for site in self.sites}

    @cached_property
    def inner_steps(self) -> int:
        """How many steps a scan takes within each row of the output; 0 where there is none."""
        within = (s for s in self.sites if s.name == self.output and s.rows == "scan")
        return next((site.shape[0] for site in within if site.row_axis), 0)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all sites."""
        return tuple(site.name for site in self.sites)

    @cached_property
    def latents(self) -> tuple[str, ...]:
        """Names of the latent sites."""
        return tuple(site.name for site in self.sites if site.kind == "latent")

    @cached_property
    def data_sites(self) -> tuple[str, ...]:
        """Names of the sites whose density is one of data.

        A factor that reads no outcome and no rows is part of the prior.
        """
        outcomes = {self.output}.union(*(s.observes for s in self.sites))

        def reads_data(site: SiteSpec) -> bool:
            of_rows = self.row_inputs if site.follows_rows else frozenset()
            return bool(site.inputs & (outcomes | of_rows))

        return tuple(
            s.name
            for s in self.sites
            if s.kind == "observed" or (s.kind == "factor" and reads_data(s))
        )

    @cached_property
    def row_data_sites(self) -> tuple[str, ...]:
        """Those of them that are data of rows, and not of all at once, as a soft constraint is."""
        return tuple(
            name
            for name in self.data_sites
            if name == self.output or self[name].kind == "factor" or self[name].rows != "none"
        )

    @cached_property
    def row_dim(self) -> str:
        """Name of the row dimension: the output's plate over rows, else `obs`."""
        ordered = sorted(self.sites, key=lambda site: site.name != self.output)
        for site in ordered:
            if site.follows_rows and site.dims[site.axis]:
                # A tree takes no '/' (modules name sites `net/kernel`).
                return str(site.dims[site.axis]).replace("/", ".")
        return "obs"

    @cached_property
    def observed_arguments(self) -> frozenset[str]:
        """Arguments that sites observe: outcomes, and what lies between causes and them."""
        return frozenset[str]().union(*(s.observes for s in self.sites)) | {self.output}

    @property
    def spread(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the sites that are spread over what they observe, None where the rows are."""
        return {
            site.name: tuple(
                None if axis == site.row_axis else size for axis, size in enumerate(site.shape)
            )
            for site in self.sites
            if site.is_spread
        }

    def at_rows(self, count: int) -> "KernelSpec":
        """The same kernel on another number of rows, where rows do not interact."""
        sites = []
        for site in self.sites:
            shape = list(site.shape)
            if site.follows_rows and site.row_axis is not None:
                shape[site.row_axis] = count
            sites.append(replace(site, shape=tuple(shape)))
        return replace(self, sites=tuple(sites), rows=count)

    def above(self, names: Collection[str]) -> list[str]:
        """Some sites, and those that they depend on, in the order of the kernel."""
        reached, new = set(names), set(names)
        while new:
            new = {p for name in new if name in self for p in self[name].parents} - reached
            reached |= new
        return [name for name in self.names if name in reached]

    def descendants(
        self,
        names: Collection[str] = (),
        *,
        arguments: Collection[str] = (),
        held: Collection[str] = (),
    ) -> frozenset[str]:
        """Sites that a change of sites, or of arguments, reaches, not through those held.

        An argument reaches the sites that observe it, too.
        """
        changed = set(arguments)
        result = {s.name for s in self.sites if (s.inputs | s.observes) & changed} - set(held)
        reached = result | set(names)
        while True:
            below = {s.name for s in self.sites if s.parents & reached} - reached - set(held)
            if not below:
                return frozenset(result)
            reached |= below
            result |= below


def spec_of(
    verdict: Verdict, reading: Reading, arguments: Collection[str], output: str
) -> KernelSpec:
    """The record of a verdict on a kernel, which was read with these arguments."""
    sites = tuple(
        _site_of(site, verdict, reading, arguments, output)
        for site in verdict.sites.values()
        if site.statement.type != "param" or jax.tree.leaves(site.statement.kept)
    )
    return KernelSpec(
        sites=sites,
        row_inputs=verdict.row_inputs,
        row_plates=verdict.row_plates,
        rows=reading.rows,
        output=output,
        coupled=bool(verdict.reason),
        reason=verdict.reason,
        in_priors=verdict.in_priors,
        pooled=verdict.pooled & (set(arguments) | verdict.sites.keys()),
        measured=verdict.measured,
        widest=_widest(reading, by_row=not verdict.reason),
    )


def _widest(reading: Reading, *, by_row: bool) -> int:
    """Elements of the largest array that a kernel computes, or of the largest per row."""
    shapes = _shapes(reading.program.jaxpr)
    if not by_row:
        return max(map(math.prod, shapes), default=0)
    return max((math.prod(s) // reading.rows for s in shapes if reading.rows in s), default=0)


def _shapes(jaxpr: core.Jaxpr) -> Iterator[tuple[int, ...]]:
    """Shapes of all arrays that a traced program, and those inside it, compute."""
    for eqn in jaxpr.eqns:
        yield from (getattr(out.aval, "shape", ()) for out in eqn.outvars)
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=_has_equations):
            inner: Any = getattr(value, "jaxpr", value)
            yield from _shapes(inner) if hasattr(inner, "eqns") else ()


def _has_equations(value: object) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def _site_of(
    site: Found, verdict: Verdict, reading: Reading, arguments: Collection[str], output: str
) -> SiteSpec:
    statement = site.statement
    return SiteSpec(
        name=statement.name,
        kind=_kind(statement, output),
        rows=site.rows,
        row_axis=site.row_axis,
        shape=statement.shape,
        dtype=_dtype(statement),
        event_dim=_event_dim(statement),
        plates=tuple(frame.name for frame in statement.frames),
        dims=_dims(statement),
        parents=site.parents & set(verdict.sites) - _own(statement),
        inputs=site.inputs & set(arguments),
        observes=site.observed & set(arguments),
        discrete=is_discrete(statement),
        scaled=_is_scaled(reading.statements[statement.name]),
        masked=statement.type == "sample" and is_masked(statement.fn),
        bounds=_bounds(statement) if is_discrete(statement) else None,
        support=_support(statement, is_single=site.rows == "none"),
        is_given=statement.observation is not None,
        is_spread=statement.is_spread,
        law=_law(statement),
        sized=site.is_sized,
        joint_dim=_joint_dim(statement),
        is_nested=statement.is_nested,
    )


def facts_of(statement: Statement) -> tuple[Hashable, ...]:
    """All that a site's record takes from its statement, but for its shape."""
    is_sample = statement.type == "sample"
    return (
        str(_dtype(statement)),
        _event_dim(statement),
        _joint_dim(statement),
        _dims(statement),
        is_sample and is_masked(statement.fn),
        _bounds(statement) if is_discrete(statement) else None,
        _law(statement),
        statement.observation is not None,
        _is_scaled(statement),
        (statement.is_spread, statement.is_nested, statement.in_control_flow),
        type(statement.fn).__name__,
    )


def _own(statement: Statement) -> set[str]:
    """Its name; in a scan a site may truly read itself, as it was a step before."""
    return set() if statement.in_control_flow else {statement.name}


def _kind(statement: Statement, output: str) -> str:
    if statement.type != "sample":
        return statement.type
    if statement.is_factor:
        return "factor"
    observed = statement.observation is not None or statement.name == output
    return "observed" if observed else "latent"


def _dtype(statement: Statement) -> Any:
    if statement.is_factor:
        return np.dtype(jnp.result_type(float))
    return np.dtype(jnp.result_type(statement.value)) if statement.is_array else None


def _event_dim(statement: Statement) -> int:
    return 0 if statement.is_factor else getattr(statement.fn, "event_dim", 0)


def _joint_dim(statement: Statement) -> int:
    if statement.type != "sample" or statement.is_factor:
        return 0
    return int(getattr(base_distribution(statement.fn), "event_dim", 0))


def _law(statement: Statement) -> str:
    """Name of a distribution and its parameters, as far as the kernel writes them as numbers."""
    if statement.type != "sample" or statement.is_factor:
        return ""
    law = base_distribution(statement.fn)
    written = [_written(vars(law).get(name)) for name in getattr(law, "arg_constraints", {})]
    kind = type(law)
    name = kind.__name__
    if name in _FAMILIES and not FAMILIES.of[kind].name:  # a user's own class of the same name
        name = f"{kind.__module__}.{name}"
    return f"{name}({', '.join(text for text in written if text)})"


def _written(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, jax.core.Tracer) or not isinstance(value, int | float | np.generic):
        return "..."
    return f"{value:g}"


def _dims(statement: Statement) -> tuple[str | None, ...]:
    """Plate of each axis of the value."""
    shape, event_dim = statement.shape, _event_dim(statement)
    dims: list[str | None] = [None] * len(shape)
    for frame in statement.frames:
        axis = len(shape) - event_dim + frame.dim
        if 0 <= axis < len(shape) and shape[axis] == frame.size:
            dims[axis] = frame.name
    return tuple(dims)


def is_discrete(statement: Statement) -> bool:
    """Whether the values of a statement are discrete."""
    if statement.type != "sample" or statement.is_factor:
        return False
    try:
        support = statement.fn.support
    except (jax.errors.UnexpectedTracerError, NotImplementedError):  # computed with another site
        return False
    return bool(getattr(support, "is_discrete", False))


def _bounds(statement: Statement) -> tuple[int, int] | None:
    base = base_distribution(statement.fn)
    if not FAMILIES.of[type(base)].is_coded:
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


def _support(statement: Statement, *, is_single: bool) -> Any:
    """The support of a sample site, where it is the same for all rows and draws."""
    if statement.type != "sample" or statement.is_factor:
        return None
    try:
        support = statement.fn.support
    except (jax.errors.UnexpectedTracerError, NotImplementedError):
        return None
    if statement.in_control_flow and not is_angular(support):
        return None
    if not isinstance(support, constraints.Constraint) or support is constraints.dependent:
        return None
    leaves = jax.tree.leaves(support)
    fixed = all((is_single or np.ndim(leaf) == 0) and not _is_traced(leaf) for leaf in leaves)
    return support if fixed else None


def _is_traced(leaf: object) -> bool:
    return isinstance(leaf, jax.core.Tracer)


def _is_scaled(statement: Statement) -> bool:
    scale = statement.scale
    return scale is not None and not (isinstance(scale, int | float) and scale == 1)
