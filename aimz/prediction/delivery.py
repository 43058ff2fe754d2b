"""From a request and a fit to a result: what it reuses, sets and draws, and how it is carried out.

`prepare` is pure: it returns the call, its plan and its notes. `carry_out` runs it into a sink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpyro

from aimz._version import __version__
from aimz.errors import Note
from aimz.execution import Ready, compile_call, run_tiles
from aimz.libraries import xr
from aimz.prediction.preparation import Prepared
from aimz.prediction.request import Request
from aimz.programs import fingerprint_values
from aimz.results import (
    Schema,
    check_groups,
    first_outcome,
    labelled_groups,
    layout_of,
)
from aimz.store import (
    MemorySink,
    Scratch,
    Sink,
    Variable,
    check_names_storable,
    import_dask,
    sink_in,
    temporary_sink,
)

__all__ = ["Result", "carry_out"]


@dataclass(frozen=True)
class Result:
    """What a result carries beside its draws, and a last look at the rows that were read."""

    schema: Schema
    make_groups: Callable[[], Mapping[str, xr.Dataset]]
    attrs: Mapping[str, Any]
    check: Callable[[], None]

    @cached_property
    def groups(self) -> Mapping[str, xr.Dataset]:
        """Groups beside the predictive one."""
        import_dask(wait=True)
        return self.make_groups()


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
    variables = layout_of(call, ready, plan, result.schema, first_outcome(call))
    check_groups(result.groups)
    if request.to.store == "persistent":
        check_names_storable(variables, result.groups)
    sink = _sink_of(request, scratch, lambda: _identity(prepared, ready, variables))
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
        directory = sink.abort()
        if directory is not None:
            error.add_note(
                f"The finished part is in {directory}: the same call with the same output_dir goes "
                "on."
            )
        raise
    return tree, (*ready.notes, *getattr(sink, "notes", ()))


def _sink_of(request: Request, scratch: Scratch, identity: Callable[[], Mapping[str, str]]) -> Sink:
    """Where the request wants its result."""
    to = request.to
    if to.output_dir is not None:
        return sink_in(to.output_dir, request.method, identity())
    if isinstance(to.store, str):
        return MemorySink() if to.store == "memory" else temporary_sink(scratch, request.method)
    return to.store


def _identity(prepared: Prepared, ready: Ready, variables: Sequence[Variable]) -> Mapping[str, str]:
    """Digests of everything that a result follows from, by what a user would call it."""
    block, source = prepared.call.block, prepared.call.source
    rows = ({**block.row_inputs, **source.head}, prepared.plan.rows)
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
    return {name: fingerprint_values(content) for name, content in parts.items()}
