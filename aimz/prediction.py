"""From a request and a fit to a result: what it reuses, sets and draws, and how it is carried out.

`prepare` is pure: it returns the call, its plan and its notes. `carry_out` runs it into a sink.
"""

import datetime
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import numpyro
import xarray as xr

from aimz._version import __version__
from aimz.data import Arguments, as_array, as_jax_sees, bind, check_positive, row_fingerprint
from aimz.errors import AimzError, InputError, PerformanceWarning
from aimz.execute import Call, Plan, Ready, compile_call, plan_tiles, run_in_threads, run_tiles
from aimz.inference import Fit, Note, Problem
from aimz.kernel import Inputs, KernelSpec, SiteSpec, inspect, read_signature
from aimz.persist import Scratch, ZarrSink, as_directory, temporary_sink
from aimz.programs import fingerprint_values
from aimz.randomness import call_words
from aimz.results import (
    Schema,
    aligned,
    check_layout,
    difference_layout,
    labelled_groups,
    layout_of,
    observed_layout,
    shared_group,
    subtract,
)
from aimz.rows import Stream, is_lazy, open_stream
from aimz.sampling import Task, density_spec, follows_rows, log_likelihood_block
from aimz.scenario import make_block, reused_draws, rows_set, scenario_of
from aimz.store import MemorySink, Sink, Tile, Variable

__all__ = [
    "Delivery",
    "Fitted",
    "Given",
    "Prepared",
    "Request",
    "Result",
    "account_of",
    "are_fitted_rows",
    "attributes_of",
    "carry_out",
    "check_fitted_rows",
    "difference",
    "gather",
    "inspected",
    "kernel_name",
    "more_draws",
    "prepare",
    "row_numbers",
]


@dataclass(frozen=True)
class Fitted:
    """What a fit left: draws and health, the kernel's structure, and a number for its rows."""

    fit: Fit
    spec: KernelSpec | None = None
    rows: int = 0
    fingerprint: int = 0
    row_shape: tuple[int, ...] | None = None
    labels: np.ndarray | None = None
    steps: int = 0
    problem: Problem | None = None  # in this process only: never saved


@dataclass(frozen=True)
class Delivery:
    """Where a streamed result goes, and how it is read and shown on the way.

    Raises
    ------
    InputError
        `option-unknown`, `not-positive`, `output-dir`.
    """

    shard_axis: str = "obs"
    batch_size: int | None = None
    store: str = "persistent"
    output_dir: Any = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_positive(self.batch_size, "batch_size")
        options = {"shard_axis": ("obs", "draw"), "store": ("persistent", "memory")}
        for name, valid in options.items():
            if getattr(self, name) not in valid:
                listed = " or ".join(repr(value) for value in valid)
                msg = f"{name} must be {listed}, not {getattr(self, name)!r:.40}."
                raise InputError(msg, code="option-unknown")
        if self.output_dir is None:
            return
        as_directory(self.output_dir)
        if self.store == "memory":
            msg = "output_dir says where to write, but store='memory' writes nothing. Drop one."
            raise InputError(msg, code="option-unknown")


@dataclass(frozen=True)
class Request:
    """One streamed result: which program, over which draws, into which group."""

    program: Callable[..., Any]
    method: str
    group: str
    tag: int
    fit: Fit
    chains: int
    draws: int
    sites: Callable[[KernelSpec], tuple[str, ...]]
    to: Delivery
    rng_key: Any = None
    in_sample: bool = True
    intervention: Mapping[str, Any] | None = None
    condition: Mapping[str, Any] | None = None

    @property
    def conditions(self) -> bool:
        """Whether the outcome is data of the kernel, rather than kept beside its draws."""
        return self.program is log_likelihood_block


@dataclass(frozen=True)
class Given:
    """The inputs of a call as the kernel sees them: all rows, or their head and a stream."""

    arguments: Arguments
    spec: KernelSpec
    primary: Any
    fingerprint: int
    stream: Stream | None = None
    observed: np.ndarray | None = None

    @property
    def rows(self) -> int | None:
        """Number of rows; None while it is not known."""
        return self.stream.count if self.stream else self.arguments.rows

    @property
    def key_numbers(self) -> tuple[int, ...]:
        """Numbers that stand for the rows in a key: all of them, or their head and count."""
        if self.stream is None:
            return (self.fingerprint,)
        return (self.fingerprint, self.stream.count or 0)


@dataclass(frozen=True)
class Result:
    """What a result carries beside its draws, and a last look at the rows that were read."""

    schema: Schema
    groups: Mapping[str, xr.Dataset]
    attrs: Mapping[str, Any]
    check: Callable[[], None]


@dataclass(frozen=True)
class Prepared:
    """A call that is ready to run, its grid, the words of its key, and what to tell the user."""

    call: Call
    plan: Plan
    words: tuple[int, int]
    notes: tuple[Note, ...]


def inspected(
    kernel: Callable[..., Any],
    names: tuple[str, str],
    given: Mapping[str, Any],
    row_inputs: frozenset[str],
) -> tuple[Arguments, Inputs, KernelSpec]:
    """Arguments in memory, bound to the kernel's signature, and what they show of the kernel.

    `names` are those of the primary input and of the outcome.
    """
    signature = read_signature(kernel, *names)
    always = tuple(name for name in names if given.get(name) is not None)
    arguments = bind(
        {n: v for n, v in given.items() if n != names[1] or v is not None},
        names=signature.names,
        required=signature.required,
        row_inputs=row_inputs,
        always_rows=always,
    )
    inputs = Inputs(dict(arguments.arrays), dict(arguments.static), arguments.rows, always)
    return arguments, inputs, inspect(kernel, inputs, names[1])


def gather(
    kernel: Callable[..., Any],
    names: tuple[str, str],
    given: Mapping[str, Any],
    request: Request,
    row_inputs: frozenset[str],
    *,
    whole: frozenset[str] = frozenset(),
) -> Given:
    """The inputs of a streamed call; rows that are not in memory stay where they are.

    Where rows interact they are loaded: each needs the others.

    Raises
    ------
    InputError
        `batch-names`, and what `bind` and `open_stream` raise.
    """
    primary = names[0]
    stream = open_stream(given, primary, batch_size=request.to.batch_size, whole=whole)
    if stream is None:
        return _in_memory(kernel, names, given, request, row_inputs)
    arguments, spec = _read_head(kernel, names, given, request, row_inputs, stream)
    if spec.coupled:
        loaded = _in_memory(kernel, names, {**given, **stream.load()}, request, row_inputs)
        return replace(loaded, arguments=replace(loaded.arguments, labels=stream.labels))
    strays = stream.names - spec.row_inputs - set(names)
    if strays and is_lazy(given[primary]):
        return gather(kernel, names, given, request, row_inputs, whole=whole | strays)
    _check_by_piece(given, names, spec, stream)
    if stream.count is None:
        draws = request.fit.draws if request.in_sample else {}
        settings = {**(request.intervention or {}), **(request.condition or {})}
        stream.count = rows_set(spec, draws, settings)
    count = stream.count or arguments.rows
    arguments = replace(arguments, rows=count, labels=stream.labels)
    fingerprint = row_fingerprint(stream.head[primary])
    return Given(arguments, spec.at_rows(count), stream.head[primary], fingerprint, stream)


def row_numbers(value: Any, primary: str) -> tuple[int, ...]:
    """Numbers that stand for the rows of an input, in memory or read by the piece."""
    if isinstance(value, Iterator):
        msg = f"'{primary}' can be read once only, so its key is not known before. Pass rng_key=."
        raise InputError(msg, code="rng-key")
    stream = open_stream({primary: value}, primary, batch_size=None, whole=frozenset())
    if stream is None:
        return (row_fingerprint(as_array(value, primary)),)
    return (row_fingerprint(stream.head[primary]), stream.count or 0)


def are_fitted_rows(fitted: Fitted, given: Given) -> bool:
    """Whether these are the rows of the fit, as far as is known before a stream has been read."""
    if fitted.spec is None:
        return True
    if given.stream is not None:
        return given.rows in (None, fitted.rows)
    return (fitted.rows, fitted.fingerprint) == (given.rows, given.fingerprint)


def check_fitted_rows(fitted: Fitted, call: Call) -> None:
    """Refuse a stream that was not the fitted rows, where latents of these have been reused."""
    stream = call.stream
    if stream is None or fitted.spec is None or not call.block.row_posterior:
        return
    if (stream.seen, stream.fingerprint()) != (fitted.rows, fitted.fingerprint):
        site = next(iter(call.block.row_posterior))
        msg = (
            f"Site '{site}' has one value per fitted row, and these were other rows. Pass the "
            "fitted rows, or predict with in_sample=False to draw it anew."
        )
        raise InputError(msg, code="rows-not-fitted")


def prepare(
    kernel: Callable[..., Any],
    request: Request,
    given: Given,
    key: jax.Array,
    *,
    fitted_rows: bool,
) -> Prepared:
    """Turn a request on some rows into a call.

    `fitted_rows` says whether these are the rows that latents of the posterior belong to.
    """
    arguments, spec, stream = given.arguments, given.spec, given.stream
    scenario = scenario_of(spec, request.intervention, request.condition)
    draws, notes = reused_draws(
        spec,
        request.fit.draws,
        request.fit.params,
        scenario,
        fitted_rows=fitted_rows,
        in_sample=request.in_sample,
    )
    if spec.coupled:
        text = f"Rows are predicted together, not in tiles: {spec.reason}"
        notes = (*notes, Note(PerformanceWarning, text, "rows-coupled"))
    task = Task(
        kernel,
        spec,
        density_spec(spec) if request.conditions else spec,
        dict(arguments.static),
        request.sites(spec),
        scenario.do,
        scenario.condition,
        tuple(scenario.functions.items()),
    )
    words = call_words(key)
    block = make_block(
        task,
        arguments,
        scenario,
        draws,
        request.fit.params,
        words=words,
        num_draws=request.chains * request.draws,
    )
    if stream is not None:
        kept = {n: v for n, v in block.row_inputs.items() if n not in stream.names}
        block = block._replace(row_inputs=kept)
    plan = plan_tiles(spec, given.rows, request.chains, request.draws)
    call = Call(request.program, request.group, task, block, stream, given.observed)
    return Prepared(call, plan, (int(words[0]), int(words[1])), notes)


def carry_out(
    prepared: Prepared,
    result: Result,
    request: Request,
    scratch: Scratch,
    on_rows: Callable[[int], None],
) -> tuple[xr.DataTree, Sequence[Note]]:
    """Run a call into a sink, label what comes out and commit it; on any error, abort.

    Temporary stores go below `scratch`. Returns the tree, and what the sink noted.
    """
    call, plan = prepared.call, prepared.plan
    ready = compile_call(call, plan)
    variables = layout_of(call, ready, plan, result.schema)
    outcome = _first_outcome(call)
    if outcome is not None:
        variables = (*variables, observed_layout(call, outcome, plan, result.schema))
    check_layout(variables, result.groups)
    sink: Sink = MemorySink()
    if request.to.output_dir is not None:
        identity = _identity(prepared, ready, variables)
        sink = ZarrSink(as_directory(request.to.output_dir), request.method, identity)
    elif request.to.store == "persistent":
        sink = temporary_sink(scratch, request.method)
    try:
        sink.begin(variables)
        rows = run_tiles(call, ready, plan, variables, sink, on_rows)
        result.check()
        labelled = labelled_groups(variables, result.schema, call.task.results, rows)
        labelled = {name: group.assign_attrs(result.attrs) for name, group in labelled.items()}
        tree = sink.commit({**result.groups, **labelled}, result.attrs, rows)
    except BaseException as error:  # also Ctrl-C: nothing looks like a result; rethrown as it is
        kept = sink.abort()
        if kept is not None:
            error.add_note(
                f"The finished part is in {kept}: the same call with the same output_dir goes on."
            )
        raise
    return tree, getattr(sink, "notes", ())


def difference(baseline: xr.DataTree, intervention: xr.DataTree, scratch: Scratch) -> xr.DataTree:
    """Intervention minus baseline, draw by draw and row by row.

    Results on disk are subtracted a tile at a time, into a temporary store below `scratch`.
    """
    group = shared_group(baseline, intervention)
    if not any("artifact_path" in tree.attrs for tree in (baseline, intervention)):
        return subtract(baseline, intervention, group)
    pair = aligned(baseline, intervention, group)
    attrs = {str(k): v for k, v in intervention.attrs.items()}
    return _difference_on_disk(*pair, group, temporary_sink(scratch, "estimate_effect"), attrs)


def _difference_on_disk(
    baseline: xr.Dataset, intervention: xr.Dataset, group: str, sink: Sink, attrs: Mapping[str, Any]
) -> xr.DataTree:
    layout = difference_layout(baseline, intervention, group)

    def read(source: xr.Dataset, variable: Variable, place: tuple[slice, ...]) -> np.ndarray:
        values: np.ndarray = source[variable.name].variable[place].to_numpy()
        return values.astype(variable.dtype, copy=False)

    def work(item: tuple[Variable, Tile], _: int) -> int:
        variable, tile = item
        place = variable.place(tile)
        if place is not None:
            first, second = (read(ds, variable, place) for ds in (intervention, baseline))
            sink.write(tile, {variable.key: first - second})
        return 0

    variables = {variable.key: variable for variable, _ in layout}
    try:
        sink.begin(tuple(variables.values()))
        run_in_threads(iter(layout), work, lambda _: None, threads=2)
        labels = intervention.drop_vars([variable.name for variable in variables.values()])
        return sink.commit({group: labels}, attrs, 0)
    except BaseException:  # as in `carry_out`
        sink.abort()
        raise


def _check_outcome_given(request: Request, names: tuple[str, str], given: Collection[str]) -> None:
    """Refuse a log density of outcomes that nobody has observed."""
    if request.conditions and names[1] not in given:
        msg = f"A log-likelihood needs outcomes: '{names[1]}' is None. Pass one per row."
        raise InputError(msg, code="outcome-missing")


def _read_head(
    kernel: Callable[..., Any],
    names: tuple[str, str],
    given: Mapping[str, Any],
    request: Request,
    row_inputs: frozenset[str],
    stream: Stream,
) -> tuple[Arguments, KernelSpec]:
    """Arguments and structure of a call as the first rows of a stream show them."""
    head = {**given, **stream.head}
    _check_outcome_given(request, names, {n for n, v in head.items() if v is not None})
    if not request.conditions:
        head.pop(names[1], None)
    try:
        arguments, _, spec = inspected(kernel, names, head, row_inputs)
    except (TypeError, ValueError) as error:
        others = sorted(n for n in given.keys() - stream.names if np.ndim(given[n]))
        if isinstance(error, AimzError) or not others:
            raise
        msg = (
            f"The kernel does not run on the first rows of '{names[0]}': {error!s:.80}. If "
            f"'{others[0]}' has one value per row, name it in the batches."
        )
        raise InputError(msg, code="batch-names") from error
    return arguments, spec


def _check_by_piece(
    given: Mapping[str, Any], names: tuple[str, str], spec: KernelSpec, stream: Stream
) -> None:
    """Refuse row arguments that are not read with the rows, or that are but do not belong there."""
    primary, output = names
    named = {name for name, value in given.items() if value is not None}
    strays = sorted(stream.names - spec.row_inputs - set(names))
    if strays:
        msg = (
            f"The batches name '{strays[0]}', which the kernel does not read row by row. Pass it "
            "to the method by name."
        )
        raise InputError(msg, code="batch-names")
    apart = (spec.row_inputs | {output}) - stream.names
    for name in sorted(name for name in apart & named if np.ndim(given[name])):
        msg = f"'{primary}' is read by the piece, so '{name}' must be: name it in the batches."
        raise InputError(msg, code="batch-names")
    if output in stream.names:
        _check_outcomes(stream.head[output], spec)


def _in_memory(
    kernel: Callable[..., Any],
    names: tuple[str, str],
    given: Mapping[str, Any],
    request: Request,
    row_inputs: frozenset[str],
) -> Given:
    primary, output = names
    _check_outcome_given(request, names, {n for n, v in given.items() if v is not None})
    kept = {n: v for n, v in given.items() if n != output or request.conditions}
    arguments, _, spec = inspected(kernel, names, kept, row_inputs)
    outcome = given.get(output)
    if outcome is not None:
        outcome = np.asarray(as_jax_sees(as_array(outcome, output), output))
    if outcome is not None and output in spec:
        site = spec[output]
        if (
            not follows_rows(site)
            or np.moveaxis(outcome, 0, site.row_axis or 0).shape != site.shape
        ):
            msg = (
                f"'{output}' has shape {outcome.shape}, but the site has shape {site.shape}. Pass "
                "one outcome per row, of the site's shape."
            )
            raise InputError(msg, code="shape")
    observed = outcome if output in spec else None
    X = arguments.arrays[primary]
    return Given(arguments, spec, X, row_fingerprint(X), observed=observed)


def _check_outcomes(outcomes: np.ndarray, spec: KernelSpec) -> None:
    """Refuse outcomes that are not shaped like the site that they are kept beside."""
    if spec.output not in spec:
        return
    site = spec[spec.output]
    if not follows_rows(site) or np.moveaxis(outcomes, 0, site.row_axis or 0).shape != site.shape:
        msg = (
            f"'{site.name}' has shape {outcomes.shape}, but the site has shape {site.shape}. Pass "
            "one outcome per row, of the site's shape."
        )
        raise InputError(msg, code="shape")


def _first_outcome(call: Call) -> np.ndarray | None:
    """Outcomes that are kept beside the draws, or the head of them."""
    if call.observed is not None or call.stream is None:
        return call.observed
    output = call.task.spec.output
    outcome: np.ndarray | None = call.stream.head.get(output)
    return outcome if output in call.task.spec else None


def _identity(prepared: Prepared, ready: Ready, variables: Sequence[Variable]) -> Mapping[str, str]:
    """Digests of everything that a result follows from, by what a user would call it."""
    block, stream = prepared.call.block, prepared.call.stream
    rows = (stream.head, stream.count) if stream else (block.row_inputs, prepared.plan.rows)
    parts = {
        "kernel": ready.run.identity,
        "posterior": (block.posterior, block.row_posterior, block.params),
        "inputs": (block.inputs, rows, prepared.call.observed),
        "interventions or conditions": (block.values, block.row_values),
        "key": prepared.words,
        "versions": (__version__, jax.__version__, numpyro.__version__),
        "backend": jax.default_backend(),
        "layout": (repr(prepared.plan), repr(variables)),
    }
    return {name: fingerprint_values(part) for name, part in parts.items()}


def more_draws(
    engine: Any, key: jax.Array, problem: Problem | None, fit: Fit, num_samples: int
) -> Fit:
    """A fit with further draws: of a stepped state, of a guide, or of chains that continue."""
    if not fit.draws and hasattr(engine, "fit_of"):
        stepped: Fit = engine.fit_of(fit.state, key, problem, num_samples)
        return stepped
    if hasattr(engine, "proceed"):
        draws, state = engine.proceed(key, problem, fit, num_samples)
        return replace(fit, draws=dict(draws), state=state)
    return replace(fit, draws=dict(engine.draw(key, problem, fit, num_samples)))


def account_of(fitted: Fitted) -> dict[str, Any]:
    """Account of a fit in plain Python values."""
    account: dict[str, Any] = {
        "rows": fitted.rows,
        "posterior": {name: tuple(np.shape(v)) for name, v in fitted.fit.draws.items()},
        "health": dict(fitted.fit.attrs),
    }
    if fitted.spec is not None:
        account["coupled"] = fitted.spec.reason or False
        account["sites"] = {site.name: _site_account(site) for site in fitted.spec.sites}
    return account


def attributes_of(kernel: Callable[..., Any], fitted: Fitted | None, group: str) -> dict[str, Any]:
    """Attributes that every result carries."""
    attrs: dict[str, Any] = {
        "inference_library": "aimz",
        "inference_library_version": __version__,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "kernel": kernel_name(kernel),
        "group": group,
    }
    health = fitted.fit.attrs if fitted else {}
    return attrs | {f"fit_{n}": v for n, v in health.items() if np.isscalar(v)}


def kernel_name(kernel: Any) -> str:
    """Module and qualified name of a kernel."""
    module = getattr(kernel, "__module__", "")
    return f"{module}.{getattr(kernel, '__qualname__', type(kernel).__name__)}"


def _site_account(site: SiteSpec) -> dict[str, Any]:
    return {
        "kind": site.kind,
        "rows": site.rows,
        "shape": tuple(site.shape),
        "plates": list(site.plates),
        "parents": sorted(site.parents),
    }
