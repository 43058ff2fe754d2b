"""Read a kernel once, as data: its sites, and how each relates to the rows.

`inspect` decides from the traced structural equations, never from values and never from the length
of an array alone: the kernel is traced at its own number of rows and at another, and the row axis
is followed through every primitive. What is not known to keep rows apart is called coupled. A
separable verdict is then confirmed on a few rows: a permutation, one row repeated, and a single row
must give the same answers.
"""

import itertools
import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Delta

from aimz import programs
from aimz.errors import InputError, KernelValidationError, nearest
from aimz.families import base_distribution
from aimz.kernel.constants import check_constants
from aimz.kernel.equations import equations
from aimz.kernel.graph import Graph, Node, graph_of
from aimz.kernel.lookups import check_fixed_indices, lookups_of
from aimz.kernel.misfits import check_rows, column_hint, outcome_misfit
from aimz.kernel.row_flow import Verdict, follows, judge
from aimz.kernel.spec import KernelSpec, facts_of, is_discrete, spec_of
from aimz.kernel.spot_check import disagreement, is_reordered
from aimz.kernel.statements import Inputs, Reading, Statement, read, spread_sites
from aimz.kernel.whole_numbers import totals_of

__all__ = ["inspect"]


_MAX_SPECS = 256
_FEW_ROWS = 4  # as many as `disagreement` looks at
_ALONG = "runs along the rows"  # as a cumulative sum does, which keeps the length
_IDLE = 2  # rank of a verdict in which rows keep apart, but have no outcome each
_MAX_SUBSETS = 5  # sets of arguments or plates are tried exhaustively up to this size


@dataclass(frozen=True)
class _Call:
    """One kernel on one set of inputs."""

    kernel: spread_sites
    inputs: Inputs
    output: str
    natural: Reading

    def at(self, rows: int, cut: Collection[str], squares: Collection[str] = ()) -> dict[str, Any]:
        """Shapes of the arguments when those in `cut` have another number of rows.

        Those in `squares` have it along their first two axes.
        """

        def resized(leaf: jax.ShapeDtypeStruct, axes: int) -> jax.ShapeDtypeStruct:
            shape = (*[rows] * axes, *jnp.shape(leaf)[axes:])
            return jax.ShapeDtypeStruct(shape, jnp.result_type(leaf))

        axes = {**dict.fromkeys(cut, 1), **dict.fromkeys(squares, 2)}
        return {
            name: jax.tree.map(partial(resized, axes=axes.get(name, 0)), value)
            for name, value in self.inputs.arrays.items()
        }


# By what the kernel reads, and the arguments: no trace is needed to find one.
_SPECS_BY_READS: programs.Cache[Any, KernelSpec] = programs.Cache(_MAX_SPECS)
# By what the kernel reads, and its program at any number of rows.
_SPECS_BY_FORM: programs.Cache[Any, KernelSpec] = programs.Cache(_MAX_SPECS)
# By what the kernel computes, which stays alive: its address is part of the name.
_SPECS: programs.Cache[Any, tuple[Any, KernelSpec]] = programs.Cache(_MAX_SPECS)


def inspect(kernel: Callable[..., Any], inputs: Inputs, param_output: str) -> KernelSpec:
    """Read a kernel: its sites, how each relates to the rows, whether rows interact.

    The answer is kept under the version of the kernel, which changes with anything that it reads.
    A kernel without a version is traced, and the answer kept under the name of its program.

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
    return programs.remembered(
        _SPECS_BY_READS,
        partial(inputs.name, kernel, param_output),
        partial(_inspected, kernel, inputs, param_output),
    )


def _inspected(kernel: Callable[..., Any], inputs: Inputs, param_output: str) -> KernelSpec:
    check_rows(inputs)
    with programs.TRACE_LOCK:
        spread = spread_sites(kernel, inputs.spread, inputs.always_rows[0])
        natural = read(spread, inputs.arrays, inputs.static, inputs.rows)
        call = _Call(spread, inputs, param_output, natural)
        outcome = _outcome_shape(call)
        if outcome is not None:
            shapes = {**inputs.spread, param_output: outcome}
            return _inspected(kernel, replace(inputs, spread=shapes), param_output)
        _check_output(call)
        _check_observations(call)
        key = _key(call)
        return _SPECS.get_or_make(key, lambda: (kernel, _spec_of(call, key[1])))[1]


def _spec_of(call: _Call, version: str) -> KernelSpec:
    """The spec of a kernel that has not been seen on such inputs."""
    check_constants(call.kernel, call.inputs, call.natural.program)
    arrays = call.inputs.arrays
    names = [name for name in sorted(arrays) for _ in jax.tree.leaves(arrays[name])]
    graph = graph_of(call.natural.program, [*names, None])
    check_fixed_indices(graph, call.inputs.rows)
    whole = _whole_numbers(call.natural, graph)
    lookups, totals = lookups_of(graph), totals_of(graph, *whole)
    spec = replace(_decided(call), version=version, lookups=lookups, totals=totals)
    return replace(spec, misfit=outcome_misfit(spec, call.inputs))


def _whole_numbers(natural: Reading, graph: Graph) -> tuple[list[Node], list[Node]]:
    """Whole numbers that are parameters of continuous distributions, and that these observe."""
    parameters: list[Node] = []
    outcomes: list[Node] = []
    each = zip(natural.outputs, graph.outputs, natural.program.out_avals, strict=True)
    for (site, role), node, aval in each:
        statement = natural.statements[site]
        if statement.type != "sample" or is_discrete(statement):
            continue
        if isinstance(base_distribution(statement.fn), Delta):
            continue
        if jnp.issubdtype(aval.dtype, jnp.integer):
            (outcomes if role == "observation" else parameters).append(node)
    return parameters, outcomes


def _decided(call: _Call) -> KernelSpec:
    """What has been decided on other rows, if the program differs in nothing but their number."""
    rows, form = call.inputs.rows, _form(call)
    if form is None:
        return _decide(call)
    if rows > _FEW_ROWS:
        known = programs.remembered(
            _SPECS_BY_FORM, lambda: _with_version(call, form), lambda: _decide(call)
        )
    else:  # what is decided on rows that were all looked at says nothing of more
        key = _with_version(call, form)
        known = (
            _SPECS_BY_FORM.get_or_make(key, lambda: _decide(call), lambda: False)
            if key is not None
            else _decide(call)
        )
    if known.rows == rows:
        return known
    spec = known.at_rows(rows)
    statements = call.natural.statements
    is_so = all(s.name in statements and s.shape == statements[s.name].shape for s in spec.sites)
    return spec if is_so and not spec.coupled else _decide(call)


def _with_version(call: _Call, form: Hashable) -> Hashable | None:
    version = programs.version_of(call.kernel)
    return None if version is None else (version, form)


def _form(call: _Call) -> Hashable | None:
    """Name of all that a verdict follows from, with a symbol in place of the number of rows.

    A size that is equal to it by accident is another one at another number.
    """
    natural, inputs = call.natural, call.inputs
    static, rows = programs.name_of(dict(inputs.static)), inputs.rows
    if static is None:
        return None

    def sizes(shape: Iterable[int]) -> tuple[Any, ...]:
        return tuple("rows" if size == rows else size for size in shape)

    statements = tuple(
        (s.name, s.type, sizes(s.shape), facts_of(s), s.scale is None)
        for s in natural.statements.values()
    )
    frames = tuple(
        (s.name, frame.name, frame.dim, *sizes([frame.size]))
        for s in natural.statements.values()
        for frame in s.frames
    )
    plates = ((n, *sizes([p.size, p.subsample_size])) for n, p in natural.plates.items())
    leaves = jax.tree.leaves(inputs.arrays)
    return (
        programs.fingerprint(natural.program, values=True, rows=rows),
        tuple(sorted(inputs.arrays)),
        str(jax.tree.structure(inputs.arrays)),
        any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves),
        (static, inputs.always_rows, call.output, tuple(sorted(inputs.spread.items()))),
        (statements, frames, tuple(plates)),
        natural.in_reverse,
    )


def _key(call: _Call) -> Any:
    """Name of everything that the verdict follows from."""
    natural, inputs = call.natural, call.inputs
    statements = tuple(
        (s.name, s.type, s.shape, s.frames, s.scale is None, s.in_control_flow, type(s.fn).__name__)
        for s in natural.statements.values()
    )
    return (
        _identity(call.kernel.fn),
        programs.fingerprint(natural.program, values=True),
        tuple(sorted(inputs.arrays)),
        str(jax.tree.structure(inputs.arrays)),
        repr(sorted(inputs.static.items())),
        (inputs.rows, inputs.always_rows, call.output),
        tuple(sorted(inputs.spread.items())),
        statements,
        tuple(natural.plates.items()),
    )


def _identity(kernel: Any) -> Any:
    return kernel if isinstance(kernel, Hashable) else id(kernel)


def _outcome_shape(call: _Call) -> tuple[int | None, ...] | None:
    """Shape of an outcome that is not given and that the kernel writes as one for all rows.

    Each row has an outcome of its own: an intercept without a plate is the mean of every row.
    """
    site = call.natural.statements.get(call.output)
    if site is None or site.type != "sample" or site.is_factor or site.in_control_flow:
        return None
    batch, event = tuple(site.fn.batch_shape), tuple(site.fn.event_shape)
    if (
        site.observation is not None
        or call.output in call.inputs.spread
        or batch[:1] not in ((), (1,))
    ):
        return None
    if (batch and call.inputs.rows == 1) or (not batch and _is_event_of_rows(call, event)):
        return None
    return (None, *batch[1:], *event)


def _is_event_of_rows(call: _Call, event: tuple[int, ...]) -> bool:
    """Whether an outcome is one event of all rows, such as a process, and not one of each row."""
    rows = call.inputs.rows
    if event[:1] != (rows,):
        return False
    probe = _probe_rows(call.inputs)
    leading = [n for n, v in call.inputs.arrays.items() if _leads_with(v, rows)]
    there = _try_read(call, call.at(probe, leading, _squares(call)), probe)
    return there is None or tuple(there.statements[call.output].fn.event_shape)[:1] == (probe,)


def _check_output(call: _Call) -> None:
    """The output is a site observed through its argument, or computed from it by a factor."""
    name, statements = call.output, call.natural.statements
    has_data = name in call.inputs.arrays
    site = statements.get(name)
    if site is None:
        if has_data and any(s.is_factor for s in statements.values()):
            return
        sites = [s.name for s in statements.values() if s.type != "param" and not s.is_factor]
        raise KernelValidationError(
            f"The kernel has no site named '{name}'. The output needs one: nothing could be "
            f'predicted. {nearest(name, sites)} Write numpyro.sample("{name}", ..., obs={name}).',
            code="output",
        )
    if has_data and site.type == "sample" and site.observation is None:
        raise _unobserved(name)


def _check_observations(call: _Call) -> None:
    """Refuse an observation that NumPyro would broadcast against its site."""
    for site in _misfits(call.natural):
        if jnp.shape(site.observation) != () or site.name == call.output:
            raise _misfit(site, call.inputs)


def _misfits(reading: Reading) -> Iterator[Statement]:
    """Sites that observe values of another shape than theirs."""
    for site in reading.statements.values():
        if site.observation is None or site.is_factor or site.in_control_flow:
            continue
        if jnp.shape(site.observation) != tuple(site.fn.shape()):
            yield site


def _misfit(site: Statement, inputs: Inputs) -> InputError:
    seen, shape = tuple(jnp.shape(site.observation)), tuple(site.fn.shape())
    msg = f"Site '{site.name}' has shape {shape} but its observed value has shape {seen}. "
    primary = inputs.always_rows[0] if inputs.always_rows else ""
    columns = [n for n, v in inputs.arrays.items() if jnp.shape(v) == (inputs.rows, 1)]
    if seen == (inputs.rows,) and set(columns) - {primary}:
        msg += f"A column met a line. {column_hint(inputs.arrays, inputs.rows, primary)}"
    elif len(shape) > 1 and shape[0] == shape[1] == inputs.rows:
        msg += (
            "Two of its axes are rows, because a column met a line. Give all parameters the shape "
            "of the outcome, for example by X[:, 0] in place of X."
        )
    else:
        msg += (
            f"They would be broadcast against each other. Pass it with shape {shape}, or drop or "
            "add an axis where the kernel computes the site."
        )
    return InputError(msg, code="shape")


def _decide(call: _Call) -> KernelSpec:
    """Try which arguments and plates are rows until rows keep apart; else call them coupled."""
    best: Verdict | None = None
    rank = 4
    for probe, squares in _probes(call):
        for verdict in _verdicts(call, probe, squares):
            # Rows apart; rows that meet, but an outcome for each; apart, but no outcome for each.
            has_outcomes = follows(verdict, call.output)
            order = (0 if has_outcomes else _IDLE) + bool(verdict.reason)
            if not order:
                return _spec(call, verdict)
            if order < rank:
                best, rank = verdict, order
        if rank < _IDLE:
            break
    if best is None or (rank == _IDLE and _is_as_long_as_rows(call)):
        best = _last_resort(call)
    return _spec(call, best)


def _is_as_long_as_rows(call: _Call) -> bool:
    site = call.natural.statements.get(call.output)
    return site is not None and site.shape[:1] == (call.inputs.rows,)


def _spec(call: _Call, verdict: Verdict) -> KernelSpec:
    """The record of a verdict; one that keeps rows apart has a look at a few real rows first."""
    reason = verdict.reason or _counts_rows(call, verdict)
    reason = reason or disagreement(call.kernel, call.inputs, verdict)
    _check_found(call, verdict)
    _check_single(call, verdict)
    return spec_of(replace(verdict, reason=reason), call.natural, call.inputs.arrays, call.output)


def _check_single(call: _Call, verdict: Verdict) -> None:
    """Refuse one value in an array where a value per row would do the same: it was broadcast."""
    rows, arrays = call.inputs.rows, call.inputs.arrays
    for name in sorted(arrays) if rows > 1 else ():
        if name in call.inputs.always_rows or not _leads_with(arrays[name], 1):
            continue
        shapes = call.at(rows, verdict.row_inputs | {name})
        natural = _try_read(call, shapes, rows, verdict.row_plates)
        if natural is None or _shapes(natural) != _shapes(call.natural):
            continue
        spread = replace(call, inputs=replace(call.inputs, arrays=shapes), natural=natural)
        probe, cut = _probe_rows(call.inputs), verdict.row_inputs | {name}
        other = _verdict(spread, probe, cut, verdict.row_plates, frozenset())
        if other is not None and (other.reason == verdict.reason or _ALONG in other.reason):
            raise InputError(
                f"'{name}' has shape {jnp.shape(arrays[name])}, which would be broadcast over "
                f"{rows} rows. Pass {rows} values, or a number in place of an array.",
                code="rows-mismatch",
            )


def _shapes(reading: Reading) -> dict[str, tuple[int, ...]]:
    return {name: site.shape for name, site in reading.statements.items()}


def _counts_rows(call: _Call, verdict: Verdict) -> str:
    """Say that a kernel computes with other numbers where there are few rows; "" if it does not."""
    counts = (call.inputs.rows, _FEW_ROWS)
    if counts[0] <= counts[1]:
        return ""
    literals = []
    for rows in counts:
        shapes, static = call.at(rows, verdict.row_inputs), call.inputs.static
        reading = _try_read(call, shapes, rows, verdict.row_plates)
        if reading is None:
            return f"The kernel cannot run on {rows} rows."
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = equations(call.kernel, shapes, static, rows, reading, verdict.row_plates)
        literals.append(programs.numbers(traced.program.jaxpr) - {0.0, 1.0, *map(float, counts)})
    if literals[0] == literals[1]:
        return ""
    number = min(literals[0] ^ literals[1])
    return f"The kernel computes with another number among few rows than among all ({number:g})."


def _probes(call: _Call) -> Iterator[tuple[int, frozenset[str]]]:
    """Numbers of rows to trace at, and arguments that are rows by rows there; the plainest first.

    A panel runs at multiples of its rows only, and areas with the matrix that joins them.
    """
    rows, probe = call.inputs.rows, _probe_rows(call.inputs)
    yield probe, frozenset()
    yield 2 * rows, frozenset()
    squares = _squares(call)
    if squares:
        yield probe, squares


def _squares(call: _Call) -> frozenset[str]:
    """Arguments of rows by rows, which may join them."""
    rows, arrays = call.inputs.rows, call.inputs.arrays
    leaves = {n: jax.tree.leaves(arrays[n]) for n in arrays.keys() - set(call.inputs.always_rows)}
    return frozenset(
        name
        for name, of_argument in leaves.items()
        if rows > 1
        and of_argument
        and all(jnp.shape(leaf)[:2] == (rows, rows) for leaf in of_argument)
    )


def _verdicts(call: _Call, probe: int, squares: frozenset[str]) -> Iterator[Verdict]:
    """Verdicts under one assumption after the other, the plainest first."""
    rows = call.inputs.rows
    candidates = [
        n for n, v in call.inputs.arrays.items() if _leads_with(v, rows) and n not in squares
    ]
    optional = sorted(set(candidates) - set(call.inputs.always_rows))
    for cut_out in _subsets(optional):
        cut = frozenset(candidates) - frozenset(cut_out)
        natural = _try_read(call, call.at(probe, cut, squares), probe)
        following_plates = _following_plates(call, natural, probe)
        numbered = [
            name
            for name, plate in call.natural.plates.items()
            if rows in (plate.size, plate.subsample_size) and name not in following_plates
        ]
        for extra in _subsets(sorted(numbered)):
            verdict = _verdict(call, probe, cut, following_plates | set(extra), squares)
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


def _leads_with(value: object, rows: int) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(jnp.shape(leaf)[:1] == (rows,) for leaf in leaves)


def _try_read(
    call: _Call, shapes: dict[str, Any], rows: int, plates: Collection[str] = ()
) -> Reading | None:
    """A reading at another number of rows, or None where the kernel cannot run so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read(call.kernel, shapes, call.inputs.static, rows, plates)
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
    call: _Call,
    probe: int,
    cut: frozenset[str],
    plates: frozenset[str] | set[str],
    squares: frozenset[str],
) -> Verdict | None:
    """The verdict under one assumption, or None where the kernel cannot run so."""
    rows, plates = call.inputs.rows, frozenset(plates)
    shapes = call.at(probe, cut, squares)
    in_full = _try_read(call, call.at(rows, cut), rows, plates) if plates else call.natural
    there = _try_read(call, shapes, probe, plates)
    if in_full is None or there is None or not _fits(there):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            traced = equations(call.kernel, shapes, call.inputs.static, probe, there, plates)
        except Exception:  # noqa: BLE001  # as in `_try_read`
            return None
    return judge(in_full, there, traced, cut=cut, plates=plates, squares=squares)


def _fits(reading: Reading) -> bool:
    """Whether observed values have the shapes of their sites."""
    return all(jnp.shape(site.observation) == () for site in _misfits(reading))


def _check_spread(call: _Call, probe: Reading | None) -> None:
    """Refuse a site of rows that observes rows x rows: it only looks as if it were spread."""
    for site in () if probe is None else _misfits(probe):
        natural = call.natural.statements.get(site.name)
        if natural is not None and natural.is_spread:
            raise InputError(
                f"Site '{site.name}' has one value per row but observes values of shape "
                f"{natural.shape}: rows would meet columns. Give its parameters a last axis of "
                "length 1, for example by mu[:, None].",
                code="shape",
            )


def _last_resort(call: _Call) -> Verdict:
    """Verdict on a kernel that runs at one number of rows only: plates and lengths must do."""
    rows, probe, squares = call.inputs.rows, _probe_rows(call.inputs), _squares(call)
    leading = frozenset(n for n, v in call.inputs.arrays.items() if _leads_with(v, rows))
    _check_spread(call, _try_read(call, call.at(probe, leading), probe))
    cut = leading - squares
    traced = equations(call.kernel, call.inputs.arrays, call.inputs.static, rows, call.natural)
    verdict = judge(
        call.natural,
        call.natural,
        traced,
        cut=cut,
        plates=frozenset(),
        squares=squares,
        known_rows=rows,
        output=call.output,
    )
    assert verdict is not None  # noqa: S101  # one reading matches itself
    reason = f"The kernel can be traced at {rows} rows only: a size in it does not follow the rows."
    return replace(verdict, row_plates=frozenset(), reason=reason)


def _check_found(call: _Call, verdict: Verdict) -> None:
    """Refuse an output that observes something else, or that only broadcasting made square."""
    output = verdict.sites.get(call.output)
    if output is None or output.statement.type != "sample":
        return
    if call.output in call.inputs.arrays and call.output not in output.observed:
        raise _unobserved(call.output)
    is_known = output.is_in_order or call.output not in call.inputs.arrays
    if not is_known and is_reordered(call.kernel, call.inputs, call.output, output.row_axis or 0):
        raise KernelValidationError(
            f"Site '{call.output}' observes the outcomes in another order than the rows, so that "
            "predictions and effects of a row would be those of another. Keep the order of the "
            "rows; a scan may run with reverse=True.",
            code="rows-order",
        )
    if output.is_broadcast:
        raise KernelValidationError(
            f"Site '{call.output}' has shape {output.statement.shape}: NumPyro broadcast a column "
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
