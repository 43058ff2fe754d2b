"""Plan a result as tiles, and run the tiles into a sink over devices and threads.

The grid is fixed: the size of a tile follows from the kernel's spec, the number of draws and a
budget that is a constant of the library, never from the machine, the batch size or the number of
rows. The last tile is padded to its full size; an input smaller than a tile is padded to
16 x 2^k rows, all small requests for draws to the same. Rows that interact stay whole and in order,
and tiles are blocks of draws.

A few threads take one tile after another: each computes it on its device, copies it and hands it
to the sink, so that the three overlap and no more tiles are in memory than there are threads.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from aimz.choices import devices_in_use
from aimz.data import RowTile
from aimz.errors import InputError
from aimz.execution.call import (
    Call,
    Ready,
    compile_call,
    outcomes_of,
    precision_of,
    shared_block,
    with_rows,
)
from aimz.execution.cluster import Cluster, Item, active_client, cluster_of
from aimz.execution.plan import Plan, length_of, num_draws
from aimz.execution.threads import num_threads, run_in_threads
from aimz.families import Faults, fault_of
from aimz.sampling import Block, Found
from aimz.store import Sink, Tile, Variable

__all__ = ["TileRun", "each_tile", "tiles_into"]


_OUTCOMES = "aimz:outcomes"  # no site has such a name


def tiles_into(
    sink: Sink, call: Call, ready: Ready, plan: Plan, variables: Iterable[Variable]
) -> Callable[[Callable[[int], None]], int]:
    """What runs every tile of a plan into a sink, and returns the number of rows.

    It is called with what is told how many rows each finished tile adds.
    """
    run = TileRun(call, ready, plan)
    compute: Callable[..., Any] = run
    keys = {variable.site: variable for variable in variables if variable.has_draws}
    observed = next((variable for variable in variables if not variable.has_draws), None)
    if observed is not None and call.observed is None:
        compute = _WithOutcomes(run)

    # What is there already is found by its rows, which are then read here; what stands in their
    # place is taken back in the record before it is written over.
    goes_on = bool(getattr(sink, "finished", None) or getattr(sink, "earlier", None))
    put = partial(_put, call, keys, observed)
    finish: Callable[..., Any] = partial(put, sink.write)
    has_others = not (plan.is_single or goes_on) and active_client() is not None
    storing: Any = sink  # which may know how others write
    can_be_told = has_others and call.source.is_fixed and hasattr(sink, "writer")
    writer = storing.writer() if can_be_told else None
    if writer is not None:
        compute = _WrittenThere(compute, put, writer)
        finish = _unless_written(finish, storing.written)
    # A frame less in tracebacks of a kernel than a call from here.
    return partial(each_tile, call, plan, compute, finish, skip=sink.has, in_order=goes_on)


def _put(
    call: Call,
    keys: Mapping[str, Variable],
    observed: Variable | None,
    write: Callable[[Tile, Mapping[Any, np.ndarray]], Any],
    row_tile: RowTile,
    tile: Tile,
    computed: Mapping[str, Any],
) -> Any:
    """Write what was computed of a tile, and the outcomes of its rows where these are kept."""
    values = {}
    for name, value in computed.items():
        if name != _OUTCOMES:
            values[keys[name].key] = keys[name].arrange(value, tile)
    if observed is not None:
        outcomes = computed.get(_OUTCOMES)
        outcomes = outcomes_of(call, row_tile) if outcomes is None else outcomes
        values[observed.key] = observed.arrange(outcomes, tile)
    return write(tile, values)


@dataclass(frozen=True)
class _Receipt:
    """What comes back of a tile in place of its values where another process has written it."""

    of_sink: object


def _unless_written(
    finish: Callable[..., Any], written: Callable[[Tile, object], None]
) -> Callable[..., Any]:
    """How a tile is finished that another process may have written."""

    def note_or_finish(
        row_tile: RowTile, tile: Tile, computed: Mapping[str, Any] | _Receipt
    ) -> None:
        if isinstance(computed, _Receipt):
            written(tile, computed.of_sink)
        else:
            finish(row_tile, tile, computed)

    return note_or_finish


class TileRun:
    """A compiled call as a function of a tile: arrays of its sites, (row, draw, ...), or trees.

    The part of the block that tiles share is placed on a device once, where it can be. Where there
    is one device for all, arrays are not bound to it: JAX would compile a program for bound ones
    and another for those that it takes there by itself, which is cheaper.
    """

    def __init__(self, call: Call, ready: Ready, plan: Plan) -> None:
        self.call, self.ready, self.plan = call, ready, plan
        # Bound where there is a choice of devices, or some arrays are; another thread may have
        # another setting.
        self.is_bound = (
            jax.config.jax_default_device is not None
            or jax.local_device_count() > 1
            or any(v.committed for v in jax.tree.leaves(call.block) if isinstance(v, jax.Array))
        )
        self.placed: dict[Any, Block] = {}
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _compiled_anew, (self.call, self.plan)

    def __call__(
        self,
        row_tile: RowTile,
        tile: Tile,
        device: jax.Device,
        replaced: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, Any]:
        """Run one tile; `replaced` holds values of rows, (row, draw, ...), that the call holds."""
        with precision_of(is_wide=self.ready.is_wide):
            shared = self._shared(tile, device)
            block = with_rows(shared, self.call, row_tile, self.plan)
            held = dict(block.row_posterior)  # a block may be shared by threads
            for name, value in (replaced or {}).items():
                full = np.zeros(held[name].shape, held[name].dtype).swapaxes(0, 1)
                full[: len(value), : value.shape[1]] = value
                held[name] = full.swapaxes(0, 1)
            block = block._replace(row_posterior=held)
            computed: Found = self.ready.run(block)  # where its shared part is
        results = computed.values
        _check_faults(computed.faults, tile.rows, self.plan.asked)
        if self.ready.in_pairs:
            results = {n: np.asarray(v).view(bool) for n, v in results.items()}
        cut = (slice(length_of(tile.rows)), slice(num_draws(tile)))  # what was padded goes
        made = {}
        for name, value in results.items():
            its = cut if self.call.task.results[name].follows_rows else cut[1:]
            made[name] = jax.tree.map(lambda leaf, its=its: np.asarray(leaf)[its], value)
        return made

    def _shared(self, tile: Tile, device: jax.Device) -> Any:
        """The part of the block that a tile shares with others, on its device."""
        plan, block = self.plan, self.call.block
        if plan.is_single and not self.is_bound:
            return shared_block(block, tile, plan)
        place = device if self.is_bound else None
        if plan.is_single or plan.tile_draws < plan.chains * plan.draws:
            return jax.device_put(shared_block(block, tile, plan), place)
        with self.lock:
            if device not in self.placed:
                self.placed[device] = jax.device_put(shared_block(block, tile, plan), place)
            return self.placed[device]


@dataclass(frozen=True)
class _WrittenThere:
    """A run that another process writes, where it can, and returns where it cannot."""

    compute: Callable[..., Any]
    put: Callable[..., Any]
    writer: Any

    def __call__(self, row_tile: RowTile, tile: Tile, device: jax.Device) -> Any:
        return self.compute(row_tile, tile, device)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Written, (self.compute, self.put, self.writer)


class _Written(_WrittenThere):
    """What such a run is in the other process."""

    def __call__(self, row_tile: RowTile, tile: Tile, device: jax.Device) -> Any:
        computed = self.compute(row_tile, tile, device)
        receipt = self.put(self.writer.write, row_tile, tile, computed)
        return computed if receipt is None else _Receipt(receipt)


@dataclass(frozen=True)
class _WithOutcomes:
    """A run that also gives the outcomes of its rows, which are read where it is."""

    run: TileRun

    def __call__(self, row_tile: RowTile, tile: Tile, device: jax.Device) -> dict[str, Any]:
        return self.run(row_tile, tile, device) | {_OUTCOMES: outcomes_of(self.run.call, row_tile)}


def _compiled_anew(call: Call, plan: Plan) -> TileRun:
    """A run in another process."""
    return TileRun(call, compile_call(call, plan), plan)


def _check_faults(faults: Mapping[str, Faults], rows: slice, asked: np.ndarray | None) -> None:
    """Refuse what comes of parameters that a distribution cannot have."""
    marked = {name: one for name, one in faults.items() if np.asarray(one.code).any()}
    for name, of_site in marked.items():  # maybe in rows that are padding, or not asked about
        fault = fault_of(of_site, length_of(rows), None if asked is None else asked[rows])
        if fault is None:
            continue
        row, (family, parameter, value, box) = fault
        refusal = _OUTSIDE_BOX if box else _REFUSALS.get(parameter, _OF_PARAMETER)
        raise InputError(
            refusal.text.format(
                site=name.rpartition("\0")[2],
                family=family,
                parameter=parameter,
                value=value,
                box=box,
                where="" if row is None else f" in row {rows.start + row}",
            ),
            code=refusal.code,
        )


class _Refusal(NamedTuple):
    """What is said of a fault."""

    text: str
    code: str


_OF_PARAMETER = _Refusal(
    "Site '{site}' is drawn from {family} with {parameter} = {value:.6g}{where}, which it "
    "cannot have. Check the scenario, or put the parameter through a link in the kernel.",
    code="parameters",
)
_OUTSIDE_BOX = _Refusal(
    "Site '{site}' is drawn from {family} with {parameter} = {value:.6g}{where}, outside of the "
    "box that it was trained in ({box}), where it knows nothing. Narrow the priors or the "
    "scenario, or train it in a larger box.",
    code="outside-box",
)
# Of faults that are none of a parameter, by their mark.
_REFUSALS = {
    "draws": _Refusal(
        "Draws of site '{site}' from {family} may reach {value:.3g}{where}, which whole "
        "numbers of 32 bits cannot hold. Count in larger units, or set jax_enable_x64.",
        code="cast-overflow",
    ),
    "answer": _Refusal(
        "The function for site '{site}' gives {value:.6g}{where}, which 32 bits of whole "
        "numbers cannot hold. Rescale it, or set what depends on the site.",
        code="cast-overflow",
    ),
    "support": _Refusal(
        "The function for site '{site}' gives {value:.6g}{where}, which the site cannot "
        "take. Keep to its support, for example by jnp.clip, or set what depends on it.",
        code="site-support",
    ),
    "posterior": _Refusal(
        "Posterior draws of '{site}' hold {value:.6g}{where}, outside its support as it "
        "is here. Pass draws on the scale of the kernel's site.",
        code="draws-support",
    ),
    "log density": _Refusal(
        "The log density of site '{site}' is {value}{where}: its outcome says nothing, or "
        "lies where the density of its distribution has no limit. Check the outcome.",
        code="density",
    ),
}


def each_tile[Values](
    call: Call,
    plan: Plan,
    compute: Callable[[RowTile, Tile, Any], Values],
    finish: Callable[[RowTile, Tile, Values], None],
    on_rows: Callable[[int], None],
    skip: Callable[[Tile], bool] | None = None,
    *,
    is_small: bool = False,
    in_order: bool = False,
) -> int:
    """Compute every tile, here or on the cluster of an active client; returns the rows.

    `compute` travels; `finish` gets its values in this process, in any order and from several
    threads at once. Tiles that `skip` knows are left out. `is_small` says that values of a tile are
    much fewer than rows x draws, `in_order` that rows are to be read here, one after another, as
    they also are where something follows from all of them.
    """
    devices = devices_in_use()
    if plan.is_single:  # here: a thread would cost more than it gains
        (row_tile,) = call.source.tiles(plan.tile_rows)
        (tile,) = plan.tiles(row_tile)
        if skip is None or not skip(tile):
            finish(row_tile, tile, compute(row_tile, tile, devices[0]))
        on_rows(length_of(tile.rows))
        return length_of(tile.rows)
    rows = 0

    def work_on(item: Item, lane: int) -> int:
        row_tile, tile = item
        if skip is None or not skip(tile):
            finish(row_tile, tile, compute(row_tile, tile, devices[lane % len(devices)]))
        is_last = tile.chains.stop * tile.draws.stop == plan.chains * plan.draws
        return length_of(tile.rows) if is_last else 0

    def count(done: int) -> None:
        nonlocal rows
        rows += done
        on_rows(done)

    is_read_here = in_order or bool(call.block.row_posterior) or active_client() is None
    is_read_here = is_read_here or call.source.away is None
    there: Any = None if is_read_here else call.source
    head = call.source.head.values()
    row_bytes = sum(int(v.nbytes) // max(1, len(v)) for v in head)
    about: dict[str, Any] = {"is_small": is_small, "row_bytes": row_bytes}
    cluster = cluster_of(plan, compute, call.group, there, **about)
    told = call.source.tiles if cluster is None or there is None else there.told
    row_tiles = told(plan.tile_rows)
    items = ((row_tile, tile) for row_tile in row_tiles for tile in plan.tiles(row_tile))
    if cluster is None:
        run_in_threads(items, work_on, count, threads=num_threads(devices))
        return rows
    work = _sent_to(cluster, plan, finish, skip)
    run_in_threads(cluster.tasks(items), work, count, threads=cluster.lanes)
    if there is not None:
        there.casts.check()
    return rows


def _sent_to[Values](
    cluster: Cluster,
    plan: Plan,
    finish: Callable[[RowTile, Tile, Values], None],
    skip: Callable[[Tile], bool] | None,
) -> Callable[[Sequence[Item], int], int]:
    """How a thread has some tiles computed on a cluster; it returns the rows that are finished.

    Of rows that are read there it is known afterwards which they were.
    """
    is_read_there, is_cut = cluster.source is not None, plan.tile_draws < plan.chains * plan.draws
    digests: dict[int, str] = {}

    def work(run: Sequence[Item], _: int) -> int:
        is_asked = [is_read_there or skip is None or not skip(tile) for _, tile in run]
        asked = list(itertools.compress(run, is_asked))
        answers = cluster.results(asked) if asked else []
        for (row_tile, tile), (digest, values) in zip(asked, answers, strict=True):
            if is_cut and digests.setdefault(tile.rows.start, digest) != digest:
                raise _changed(tile.rows)
            seen = replace(tile, digest=digest)
            if not is_read_there or skip is None or not skip(seen):
                finish(row_tile, seen, values)
        last = plan.chains * plan.draws
        lasts = [tile for _, tile in run if tile.chains.stop * tile.draws.stop == last]
        return sum(length_of(tile.rows) for tile in lasts)

    return work


def _changed(rows: slice) -> InputError:
    """Rows that were others when other draws of them were computed."""
    msg = (
        f"Rows {rows.start} to {rows.stop - 1} were read twice, for different draws, and were "
        "others. Do not write them during a call, and give random rows a seed."
    )
    return InputError(msg, code="rows-changed")
