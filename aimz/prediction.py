"""From a request and a fit to a result: what it reuses, sets and draws, and how it is carried out.

`prepare` is pure: it returns the call, its plan and its notes. `carry_out` runs it into a sink.
"""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
import numpyro
import xarray as xr

from aimz._version import __version__
from aimz.alongside import check_by_row, check_settings
from aimz.confirm import foresight
from aimz.continuation import carries_outcome
from aimz.data import row_fingerprint
from aimz.errors import OutputWarning, PerformanceWarning
from aimz.execute import (
    Call,
    Plan,
    Ready,
    TileRun,
    compile_call,
    plan_tiles,
    run_in_threads,
    run_tiles,
)
from aimz.groups import groups_kept
from aimz.inference import Fit, Note, Problem
from aimz.inputs import Given
from aimz.kernel import Inputs
from aimz.labels import only_counted
from aimz.persist import ZarrSink, as_directory, check_names_storable, temporary_sink
from aimz.places import Scratch
from aimz.programs import fingerprint_values
from aimz.randomness import call_words
from aimz.requests import Fitted, Request, Use
from aimz.results import (
    Schema,
    aligned,
    check_layout,
    difference_layout,
    labelled_groups,
    layout_of,
    less,
    observed_layout,
    shared_group,
    subtract,
)
from aimz.sampling import Task, density_spec
from aimz.scenario import Origin, Scenario, make_block, reused_draws, scenario_of
from aimz.spec import SiteSpec
from aimz.store import MemorySink, Sink, Tile, Variable
from aimz.structure import spread_sites

__all__ = [
    "Prepared",
    "Result",
    "account_of",
    "attributes_of",
    "carry_out",
    "described",
    "difference",
    "kernel_name",
    "more_draws",
    "precision_notes",
    "prepare",
    "why_unpaired",
]


@dataclass(frozen=True)
class Result:
    """What a result carries beside its draws, and a last look at the rows that were read."""

    schema: Schema
    groups: Mapping[str, xr.Dataset]
    attrs: Mapping[str, Any]
    check: Callable[[], None]


@dataclass(frozen=True)
class Prepared:
    """A call that is ready to run, its grid, the words of its key, and what to tell the user.

    `redrawn` names sites whose posterior draws are not used, or not in all rows.
    """

    call: Call
    plan: Plan
    words: tuple[int, int]
    notes: tuple[Note, ...]
    redrawn: tuple[str, ...] = ()


def prepare(request: Request, given: Given, origin: Origin, key: jax.Array) -> Prepared:
    """Turn a request on some rows, and where these come from, into a call."""
    arguments, spec, stream = given.arguments, given.spec, given.stream
    kernel = given.kernel or request.kernel
    if given.kept is not None:
        check_settings(spec, {**given.settings[0], **given.settings[1]})
        check_by_row(request.sites(spec), density_spec(spec) if request.conditions else spec)
    scenario = scenario_of(spec, *given.settings)
    inputs = Inputs(dict(arguments.arrays), dict(arguments.static), spec.rows)
    reuse = reused_draws(
        spec,
        request.fit,
        scenario,
        origin,
        in_sample=request.in_sample,
        foresight=partial(foresight, kernel, inputs, spec),
        grows=request.new_groups,
    )
    groups = () if request.in_sample or request.new_groups else groups_kept(spec, reuse.draws)
    notes = (*given.notes, *reuse.notes, *groups, *_history_notes(request, given, scenario))
    if spec.coupled:
        text = f"Rows are predicted together, not in tiles: {spec.reason}"
        notes = (*notes, Note(PerformanceWarning, text, "rows-coupled"))
    task = Task(
        spread_sites(kernel, spec.spread, request.names[0]),
        spec,
        density_spec(spec) if request.conditions else spec,
        dict(arguments.static),
        request.sites(spec),
        scenario.do,
        scenario.condition,
        tuple(scenario.functions.items()),
        missing=given.missing,
        unchecked=reuse.unchecked,
    )
    words = call_words(key)
    block = make_block(
        task,
        arguments,
        scenario,
        reuse,
        request.fit.params,
        words=words,
        num_draws=request.chains * request.draws,
        kept=given.kept,
    )
    if stream is not None:
        kept = {n: v for n, v in block.row_inputs.items() if n not in stream.names}
        block = block._replace(row_inputs=kept)
    plan = plan_tiles(spec, given.rows, request.chains, request.draws)
    call = Call(request.program, request.group, task, block, stream, given.observed)
    return Prepared(call, plan, (int(words[0]), int(words[1])), notes, reuse.redrawn)


def precision_notes(*runs: TileRun) -> tuple[Note, ...]:
    """What is said of results that could not be computed in double precision."""
    narrow = [r for r in runs if r.call.is_wide and not r.ready.is_wide]
    if not narrow or jax.config.jax_enable_x64:
        return ()
    text = (
        "The kernel fixes numbers to 32 bits, so this is computed in single precision: small "
        "differences of large numbers are lost. Take dtypes from the inputs, or set jax_enable_x64."
    )
    return (Note(OutputWarning, text, "single-precision"),)


def _history_notes(request: Request, given: Given, scenario: Scenario) -> tuple[Note, ...]:
    """What is said of an outcome that is to go on from a past that nothing gives."""
    fitted, output = request.fitted, request.names[1]
    is_known = output in {*scenario.condition, *scenario.do} or request.conditions
    steps = given.spec.inner_steps
    more_rows = not steps and given.kept is None and 0 < fitted.rows < (given.rows or 0)
    goes_on = more_rows or 0 < fitted.known.steps < steps
    if request.use is Use.PRIOR or is_known or not goes_on or not carries_outcome(given.spec):
        return ()
    if row_fingerprint(given.primary[: fitted.rows]) != fitted.fingerprint:
        return ()
    text = (
        f"'{output}' follows from its own past, which is not given, so it starts anew in the "
        f"first {'step' if steps else 'row'}. Pass condition={{'{output}': ...}} with the "
        "outcomes that are known."
    )
    return (Note(OutputWarning, text, "history-missing"),)


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
    if request.to.store == "persistent":
        check_names_storable(variables, result.groups)
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
        labelled = {
            name: group.assign_attrs({**result.attrs, "group": name})
            for name, group in labelled.items()
        }
        tree = sink.commit({**result.groups, **labelled}, result.attrs, rows)
    except BaseException as error:  # also Ctrl-C: nothing looks like a result; rethrown as it is
        kept = sink.abort()
        if kept is not None:
            error.add_note(
                f"The finished part is in {kept}: the same call with the same output_dir goes on."
            )
        raise
    return tree, (*precision_notes(TileRun(call, ready, plan)), *getattr(sink, "notes", ()))


def difference(baseline: xr.DataTree, intervention: xr.DataTree, scratch: Scratch) -> xr.DataTree:
    """Intervention minus baseline, draw by draw and row by row.

    Results on disk are subtracted a tile at a time, into a temporary store below `scratch`.
    """
    group = shared_group(baseline, intervention)
    kept = {} if why_unpaired(baseline, intervention) else _of_the_fit(intervention)
    if not any("artifact_path" in tree.attrs for tree in (baseline, intervention)):
        return subtract(baseline, intervention, group, kept)
    pair = aligned(baseline, intervention, group)
    attrs = {str(k): v for k, v in intervention.attrs.items()}
    sink = temporary_sink(scratch, "estimate_effect")
    return _difference_on_disk(*pair, group, sink, attrs, kept)


def _of_the_fit(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """What a result carries of the fit, in memory."""
    names = tree.children.keys() & {"posterior", "sample_stats"}
    return {name: tree[name].to_dataset().compute().drop_encoding() for name in sorted(names)}


def why_unpaired(baseline: xr.DataTree, intervention: xr.DataTree) -> str:
    """Why two predictions do not belong together, as a sentence; "" where they do."""
    first, second = (str(tree.attrs.get("kernel", "?")) for tree in (baseline, intervention))
    if first != second or not _is_one_posterior(baseline, intervention):
        models = f"different models (kernels {first} and {second})"
        if first == second:
            models = f"two posteriors of one kernel ({first}), as of two fits"
        return (
            f"The two predictions are unpaired: they are of {models}, so more than the scenario "
            "differs. Predict both with one model."
        )
    if baseline.attrs.get("words") != intervention.attrs.get("words"):
        return (
            "The two predictions are unpaired: they were drawn with different keys or rows. Pass "
            "the same rng_key= to both, so that noise cancels draw by draw."
        )
    return ""


def _is_one_posterior(first: xr.DataTree, second: xr.DataTree) -> bool:
    """Whether the first draws of two posteriors are the same; True where one is not told."""
    if not all("posterior" in tree.children for tree in (first, second)):
        return True
    one, other = (tree["posterior"].to_dataset() for tree in (first, second))
    if one.data_vars.keys() != other.data_vars.keys():
        return False
    firsts = ({d: 0 for d in ("chain", "draw") if d in ds.dims} for ds in (one, other))
    pairs = [ds.isel(place) for ds, place in zip((one, other), firsts, strict=True)]
    return all(np.array_equal(pairs[0][n].values, pairs[1][n].values) for n in one.data_vars)


def _difference_on_disk(
    baseline: xr.Dataset,
    intervention: xr.Dataset,
    group: str,
    sink: Sink,
    attrs: Mapping[str, Any],
    kept: Mapping[str, xr.Dataset],
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
            sink.write(tile, {variable.key: less(first, second, variable.measure)})
        return 0

    variables = {variable.key: variable for variable, _ in layout}
    try:
        sink.begin(tuple(variables.values()))
        run_in_threads(iter(layout), work, lambda _: None, threads=2)
        labels = intervention.drop_vars([variable.name for variable in variables.values()])
        return sink.commit({**kept, group: labels}, attrs, 0)
    except BaseException:  # as in `carry_out`
        sink.abort()
        raise


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
        "posterior": (block.posterior, block.row_posterior, block.params, block.redraw),
        "inputs": (block.inputs, rows, prepared.call.observed, block.kept),
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
        continued: Fit = engine.proceed(key, problem, fit, num_samples)
        return continued
    return replace(fit, draws=dict(engine.draw(key, problem, fit, num_samples)), stats={})


def account_of(fitted: Fitted) -> dict[str, Any]:
    """Account of a fit in plain Python values."""
    account: dict[str, Any] = {
        "rows": fitted.rows,
        "posterior": {name: tuple(np.shape(v)) for name, v in fitted.fit.draws.items()},
        "health": dict(fitted.fit.attrs),
    }
    if fitted.spec is not None:
        account["inputs"] = {name: _input_account(fitted, name) for name in fitted.known.shapes}
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
    told = {f"fit_{n}": v for n, v in health.items() if np.isscalar(v)}
    # netCDF has no bools.
    return attrs | {n: int(v) if isinstance(v, bool | np.bool_) else v for n, v in told.items()}


def described(inference: Any) -> str:
    """Inference argument in a few words."""
    if isinstance(inference, str):
        return inference
    part = getattr(inference, "guide", None) or getattr(inference, "sampler", None)
    own = type(inference).__name__
    return f"{own}({type(part).__name__})" if part is not None else own


def kernel_name(kernel: Any) -> str:
    """Module and qualified name of a kernel."""
    module = getattr(kernel, "__module__", "")
    return f"{module}.{getattr(kernel, '__qualname__', type(kernel).__name__)}"


def _input_account(fitted: Fitted, name: str) -> dict[str, Any]:
    """Shape of one row of an argument, and the names of its columns."""
    columns = fitted.known.columns.get(name, ())
    named = [] if only_counted(columns) else list(columns)
    return {"shape": tuple(fitted.known.shapes[name]), "columns": named}


def _site_account(site: SiteSpec) -> dict[str, Any]:
    return {
        "kind": site.kind,
        "law": site.law,
        "rows": site.rows,
        "shape": tuple(site.shape),
        "plates": list(site.plates),
        "parents": sorted(site.parents),
    }
