"""Tiles on a cluster: runs of them are tasks of `dask.distributed`, with answers as of one machine.

Where a client is active, what computes a tile travels once to each worker process, as the kernel
and its task, and is compiled there. What comes back is put in its place, or added in the order of
the grid, by the process that asks. Rows that are read by the piece are read by the
workers, where these see them. A task says its key, is never taken for another, and is done again
where its worker is lost. Inside a task of a worker everything is computed in place: a task
that waits for tasks may wait forever.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import pickle
import sys
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import numpyro

from aimz._version import __version__
from aimz.choices import chosen_client, devices_in_use, wants_cluster
from aimz.data import Casts, RowTile, Stream
from aimz.errors import AimzError, InputError, ProcessError
from aimz.execution.plan import Plan
from aimz.libraries import cloudpickle, distributed
from aimz.store import Tile

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Cluster", "Item", "active_client", "cluster_of", "tiles_of_a_task"]


#: Values of a task: its tiles have about so many together.
TASK_VALUES = 2**22
#: Tiles of the largest task, and how many times as many it has where only sums come back.
MOST_TILES, FOR_SUMS = 64, 4
#: Of the larger ones, bytes of rows and values: a task is read at once, and lost with its worker.
SUMS_BYTES, SUMS_VALUES = 2**26, 2**26
#: How often the scheduler, and then this process, begin a task anew whose worker is lost.
RETRIES = 3
# Tasks that wait for a thread of a worker, so that none has to wait for the next.
_AHEAD = 4
# What computes tiles in this worker, by call: some calls side by side.
_HERE: OrderedDict[str, Any] = OrderedDict()
_MOST_HERE, _LOCK = 8, threading.Lock()
# Of the allocator of glibc, which Dask tells its workers to give back all that is free above 64 kB:
# its names of two settings (malloc.h), and how many bytes to keep, and to take from what is kept.
_TRIM, _MMAP = -1, -3
_KEPT_BYTES, _MMAP_BYTES = 2**27, 2**25
type Item = tuple[RowTile, Tile]
# Digests of the rows of some tiles, and what was computed of them.
type Answers = list[tuple[str, Any]]
# The same with what only all rows tell; or why these rows could not be read.
type Reply = tuple[Answers, Casts] | str
# What computes a tile, here or in another process: it can be pickled.
type Compute = Callable[[RowTile, Tile, Any], Any]


def active_client() -> Any:
    """The client that was chosen, or is active, where tasks may be sent from here; else None."""
    if "distributed" not in sys.modules or not wants_cluster():
        return None
    try:
        distributed.get_worker()
    except ValueError:
        pass
    else:
        return None
    if chosen_client() is not None:
        return chosen_client()
    try:
        client: Any = distributed.default_client()  # type: ignore[no-untyped-call]  # it says none
    except ValueError:
        return None
    return None if client.asynchronous else client


def cluster_of(
    plan: Plan,
    compute: Compute,
    label: str,
    source: Stream | None,
    *,
    is_small: bool = False,
    row_bytes: int = 0,
) -> Cluster | None:
    """A cluster for a plan, or None where there is none, or the plan is one task's work.

    Where what comes back is small, tasks are larger, but no worker has to wait for that: what a
    task costs beside its numbers is paid less often. The workers read the rows of a `source`;
    `row_bytes` are those of a row that comes with its tile.
    """
    if plan.is_single:
        return None
    client = active_client()
    if client is None:
        return None
    size = tiles_of_a_task(plan)
    blocks = -(-plan.chains * plan.draws // plan.tile_draws)
    tiles = 0 if plan.rows is None else -(-plan.rows // plan.tile_rows) * blocks
    if plan.rows is not None and tiles <= size:
        return None
    cluster = Cluster(client, compute, label, size, source)
    if is_small:
        values = SUMS_VALUES // (plan.tile_rows * plan.tile_draws)
        rows = SUMS_BYTES // max(1, row_bytes * plan.tile_rows)
        most = min(FOR_SUMS * MOST_TILES, values, rows)
        cluster.size = max(size, min(most, tiles // cluster.lanes))
        cluster.is_small = True
    return cluster


def tiles_of_a_task(plan: Plan) -> int:
    """How many tiles are worth a task."""
    return max(1, min(MOST_TILES, TASK_VALUES // (plan.tile_rows * plan.tile_draws)))


class Cluster:
    """One call on a cluster.

    Raises
    ------
    InputError
        `cluster-kernel`: what computes a tile cannot be sent.
    """

    def __init__(
        self,
        client: Client,
        compute: Compute,
        label: str,
        size: int,
        source: Stream | None = None,
    ) -> None:
        self.client: Any = client  # of which half says no types
        self.label, self.size, self.source = label, size, source
        self.is_small = False  # what comes back
        self.token = uuid.uuid4().hex
        self._unread = ""  # why a worker could not read rows
        try:
            self._payload = cloudpickle.dumps((compute, source))
        except Exception as error:  # whatever an object of the user's may raise: rethrown as ours
            msg = (
                f"The kernel, or what it reads, cannot be sent to the cluster: {error!s:.80}. Put "
                "it into a module of the workers, or aimz.set_options(cluster=False)."
            )
            raise InputError(msg, code="cluster-kernel") from error
        self._sent: tuple[int, Any] = (-1, None)
        self._lock = threading.Lock()
        about = client.scheduler_info(n_workers=-1)["workers"].values()
        self.lanes = _AHEAD * max(1, sum(worker["nthreads"] for worker in about))
        has_cards = any("GPU" in worker.get("resources", {}) for worker in about)
        self._resources = {"GPU": 1} if has_cards else None

    def tasks(self, items: Iterator[Item]) -> Iterator[Sequence[Item]]:
        """Items, some at a time."""
        return itertools.batched(items, self.size)

    def results(self, run: Sequence[Item]) -> Answers:
        """What a worker computes of some tiles, and digests of their rows.

        Raises
        ------
        ProcessError
            `cluster-lost`, `cluster-versions`.
        InputError
            `rows-changed`
        """
        if self.source is None or self.source.away is None:
            return self._answers(self._computed(run, None))
        away = self.source.away(slice(run[0][0].rows.start, run[-1][0].rows.stop))
        if not self._unread:
            reply = self._computed(run, away)
            if not isinstance(reply, str):
                return self._answers(reply)
            self._unread = reply
        with self._lock:
            away = self.source.fetched(away, self._unread)
        return self._answers(self._computed(run, away))

    def _answers(self, reply: Any) -> Answers:
        """What was computed, once what was seen of the rows is noted beside that of others."""
        answers, casts = reply
        if self.source is not None:
            with self._lock:
                self.source.casts.merge(casts)
        made: Answers = answers
        return made

    def _computed(self, run: Sequence[Item], away: Any) -> Any:
        """What a task of some tiles returns; begun anew where its worker is lost."""
        lost: BaseException | None = None
        # A scheduler answers a key that it still has with what it has: rows that are sent after
        # they could not be read are another task.
        way = "there" if away is not None and away.parts else "sent"
        for attempt in range(RETRIES):
            key = f"aimz-{self.label}-{self.token}-{run[0][1].number}-{way}-{attempt}"
            futures: list[Any] = []
            try:
                with distributed.span("aimz", self.label):
                    payload = self._payload_there(attempt)
                    if away is not None and away.lazy:
                        futures = self.client.compute(list(away.lazy.values()), retries=RETRIES)
                    told = None if away is None else replace(away, lazy=dict.fromkeys(away.lazy))
                    future = self.client.submit(
                        _computed,
                        self.token,
                        payload,
                        pickle.dumps((run, told)),  # of which Dask would look at every part
                        futures[:],
                        _environment(),
                        is_packed=self.is_small,
                        key=key,
                        pure=False,
                        retries=RETRIES,
                        resources=self._resources,
                    )
                futures.append(future)
                reply = future.result()
                return pickle.loads(reply) if isinstance(reply, bytes) else reply  # noqa: S301  # ours
            except Exception as error:
                # A client whose scheduler is gone fails anyhow, at whatever it does next.
                is_lost = isinstance(error, _of_the_cluster()) or self.client.status != "running"
                if isinstance(error, AimzError) or not is_lost:
                    raise
                lost = error
            finally:
                for future in futures:
                    future.release()
        msg = (
            f"The cluster has lost the work on tile {run[0][1].number}: {lost!s:.80}. Look at its "
            "workers, and call again: with output_dir= it goes on."
        )
        raise ProcessError(msg, code="cluster-lost") from lost

    def _payload_there(self, attempt: int) -> Any:
        """What computes a tile, once on each worker; sent anew where it may be lost."""
        with self._lock:
            if self._sent[0] < attempt:
                kept = self.client.scatter(self._payload, broadcast=True, hash=False)
                self._sent = (attempt, kept)
            return self._sent[1]


def _of_the_cluster() -> tuple[type[BaseException], ...]:
    """Exceptions that say that work was lost, and nothing of the work."""
    from concurrent.futures import CancelledError

    from distributed.comm.core import CommClosedError

    return (CancelledError, distributed.KilledWorker, CommClosedError, TimeoutError)


def _environment() -> Mapping[str, Any]:
    """What the bits of a result depend on beside its inputs."""
    return {
        "aimz": __version__,
        "jax": jax.__version__,
        "numpyro": numpyro.__version__,
        "backend": jax.default_backend(),
        "precision": jax.config.jax_default_matmul_precision,
        "x64": bool(jax.config.jax_enable_x64),
    }


@functools.cache
def _keep_freed_memory() -> None:
    """Let this worker use what it has freed for its next tile, as it would without Dask's setting.

    With it every array of a tile is new pages of the kernel, which cost more than its numbers do.
    """
    is_dasks = "MALLOC_TRIM_THRESHOLD_" in os.environ and "MALLOC_MMAP_THRESHOLD_" not in os.environ
    if sys.platform != "linux" or not is_dasks:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM, _KEPT_BYTES)
        mallopt(_MMAP, _MMAP_BYTES)


def _computed(
    token: str,
    payload: bytes,
    work: bytes,
    lazy: Sequence[Any],
    asked: Mapping[str, Any],
    *,
    is_packed: bool,
) -> Reply | bytes:
    """Compute some tiles, in a worker; or say why their rows cannot be read here.

    Many small answers are packed: Dask would send the arrays of each one by one.
    """
    _keep_freed_memory()
    run, away = pickle.loads(work)  # noqa: S301  # of the process that asks
    with jax.enable_x64(asked["x64"]):
        found = _environment()
        differs = [name for name in asked if asked[name] != found[name]]
        if differs:
            name = differs[0]
            msg = (
                f"A worker has {name} {found[name]} and this process {asked[name]}, so its numbers "
                "may be others. Give the cluster the same environment."
            )
            raise ProcessError(msg, code="cluster-versions")
        (compute, source), casts = _here(token, payload), Casts()
        if away is not None:
            there = replace(away, lazy=dict(zip(away.lazy, lazy)))
            rows = _rows_read(source, there, run, casts)
            if isinstance(rows, str):
                return rows
            run = [(rows[row_tile.rows.start], tile) for row_tile, tile in run]
        devices = devices_in_use()
        answers = [
            (row_tile.digest, compute(row_tile, tile, devices[tile.number % len(devices)]))
            for row_tile, tile in run
        ]
        reply = answers, casts
        return pickle.dumps(reply) if is_packed else reply


def _rows_read(
    source: Stream, away: Any, run: Sequence[Item], casts: Casts
) -> dict[int, RowTile] | str:
    """Rows of tiles, read in a worker; or why they cannot be."""
    where = f"{distributed.get_worker().address}: "
    try:
        spans = {row_tile.rows.start: row_tile.rows for row_tile, _ in run}
        tiles = source.cut(away, spans.values(), casts)
    except Exception as error:
        if isinstance(error, AimzError) or not away.parts:
            raise
        # What is wrong everywhere is so where it is asked.
        return f"{where}{error!s:.40}"
    return f"{where}no such file, or another" if tiles is None else tiles


def _here(token: str, payload: bytes) -> tuple[Compute, Stream]:
    """What reads and computes the tiles of a call, made once in a process; a call has a token."""
    with _LOCK:
        if token not in _HERE:
            _HERE[token] = cloudpickle.loads(payload)
            while len(_HERE) > _MOST_HERE:
                _HERE.popitem(last=False)
        made: tuple[Compute, Stream] = _HERE[token]
        return made
