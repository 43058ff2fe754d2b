"""Results in an object store: complete when one object is there, its root, and nothing before.

A run writes below a name of its own and shares it with nobody, so that no lock is needed: its
record, an object that is only made where there is none, takes the name. Tiles are whole objects.
The same call again finds records of runs that were made from the same things, whether they were
killed or are still at work, and copies their finished tiles after a look at each checksum. The
root, with digests of all documents, is put last and only where there is none.

A run that was gone on with and has not been heard of for an hour, by the clock of the server, is
removed by the one that has finished: it puts its own word in the place of the root, so that the
other cannot finish any more, and says so if it is alive.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.errors import Note, StoreError
from aimz.libraries import google_crc32c, xr
from aimz.store.drafts import Draft
from aimz.store.elsewhere import PrefixSeen, TileWriter
from aimz.store.manifest import differences_of, manifest_in, root_document
from aimz.store.objects import MARKER, RECORD, Prefix
from aimz.store.reading import open_tree
from aimz.store.sink import Groups, Key, Tile, Variable
from aimz.store.zarr_sink import not_resumed

__all__ = ["ObjectSink"]


#: Seconds between two records of the finished tiles.
RECORD_SECONDS = 2.0
#: After how long without a word a run is taken to be dead.
SILENCE = datetime.timedelta(hours=1)
#: How many earlier runs are gone on with, the newest first.
MOST_EARLIER = 8
_ABANDONED = b'{"aimz": "abandoned"}'


@dataclass
class ObjectSink:
    """A sink that writes a store of objects.

    Parameters
    ----------
    place : Prefix
        Where the store goes.
    method : str
        Name of the method, which the store's name ends with.
    identity : mapping of str
        Digests of everything that the result follows from; empty where it is not to be resumed.
    """

    place: Prefix
    method: str
    identity: Mapping[str, str]
    notes: list[Note] = field(default_factory=list)
    finished: dict[int, str] = field(default_factory=dict)
    earlier: list[tuple[Prefix, Mapping[str, str]]] = field(default_factory=list)
    _own: Prefix | None = None
    _draft: Draft = field(default_factory=Draft)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _recorded: float = 0.0

    def begin(self, variables: Sequence[Variable]) -> None:
        self._draft.begin(variables)
        self.earlier = self._runs_of_the_same() if self.identity else []
        self._start()

    def has(self, tile: Tile) -> bool:
        if self.finished.get(tile.number) == tile.digest:
            return True
        return any(
            tiles.get(str(tile.number)) == tile.digest and self._copied(run, tile)
            for run, tiles in self.earlier
        )

    def write(self, tile: Tile, values: Mapping[Key, np.ndarray]) -> None:
        self._check_same(tile)
        for name, chunk in self._draft.chunks(tile, values):
            self._place.write(name, chunk)
        self._note(tile)

    def writer(self) -> TileWriter | None:
        """What writes tiles in another process, which sees the same bucket."""
        return self._draft.writer(PrefixSeen(self._place))

    def written(self, tile: Tile, _: object) -> None:
        """Keep in mind that another process has written a tile."""
        self._check_same(tile)
        self._note(tile)

    def commit(self, groups: Groups, attrs: Mapping[str, Any], rows: int) -> xr.DataTree:
        attrs = {**attrs, "artifact_path": str(self._place)}
        made_from = (self.identity, self.finished)
        files, root = self._draft.completed(groups, attrs, rows, made_from)
        for name, value in files.items():
            self._place.write(name, value)
        if not self._place.create(MARKER, root):
            msg = f"{str(self._place)[:90]} was given up by another run, which has finished."
            raise StoreError(f"{msg} Call again.", code="store-held")
        tree = open_tree(self._place)
        self._clear_up()
        return tree

    def abort(self) -> Prefix | None:
        if self._own is None:
            return None
        keep = bool(self.identity and self.finished)
        with contextlib.suppress(StoreError):  # what it was stopped by, perhaps
            if keep:
                self._record()
            else:
                self._own.remove([name for name in self._own.all_names() if name != RECORD])
                self._own.remove([RECORD])
        return self._own if keep else None

    def _check_same(self, tile: Tile) -> None:
        """Others may be copying what the record promises: objects of a run never change."""
        if self.finished.get(tile.number, tile.digest) != tile.digest:
            msg = f"Tile {tile.number} comes again, of other rows. Begin a new result."
            raise StoreError(msg, code="store-held")

    @property
    def _place(self) -> Prefix:
        assert self._own is not None  # noqa: S101  # `begin` comes first
        return self._own

    def _start(self) -> None:
        """Take a name that nobody has."""
        document = root_document(self.identity, {})
        while self._own is None:
            now = datetime.datetime.now(datetime.UTC)
            own = self.place / f"{now:%Y%m%dT%H%M%S%fZ}_{self.method}"
            # What is there is another's, even where it says the same.
            if own.changed(RECORD) is None and own.changed(MARKER) is None:
                self._own = own if own.create(RECORD, document) else None
        self._recorded = time.monotonic()

    def _runs_of_the_same(self) -> list[tuple[Prefix, Mapping[str, str]]]:
        """Unfinished runs of the same things, the newest first, with their finished tiles."""
        names = sorted(self.place.names(), reverse=True)
        runs: list[tuple[Prefix, Mapping[str, str]]] = []
        differs: list[str] = []
        for name in (name for name in names if name.endswith(f"Z_{self.method}")):
            run = self.place / name
            document = run.read(RECORD)
            if document is None or run.changed(MARKER) is not None:
                continue
            manifest = manifest_in(document)
            if manifest.get("identity") == dict(self.identity):
                runs.append((run, manifest["tiles"]))
            else:
                differs = differs or differences_of(manifest.get("identity"), self.identity)
            if len(runs) == MOST_EARLIER:
                break
        if differs and not runs:
            self.notes.append(not_resumed(self.method, differs))
        return runs

    def _copied(self, run: Prefix, tile: Tile) -> bool:
        """Whether all chunks of a tile of another run are sound, and are now this one's."""
        chunks: dict[str, bytes] = {}
        for name in self._draft.names(tile):
            data = run.read(name)
            if data is None or not _has_its_sum(data):
                return False
            chunks[name] = data
        for name, data in chunks.items():
            self._place.write(name, data)
        self._note(tile)
        return True

    def _note(self, tile: Tile) -> None:
        """Keep in mind that a tile is finished, and write it down now and then."""
        with self._lock:
            self.finished[tile.number] = tile.digest
            if self.identity and time.monotonic() - self._recorded >= RECORD_SECONDS:
                self._record()

    def _record(self) -> None:
        self._place.write(RECORD, root_document(self.identity, self.finished))
        self._recorded = time.monotonic()

    def _clear_up(self) -> None:
        """Remove what is no longer needed: the record, and runs that are dead."""
        with contextlib.suppress(StoreError):  # the result is there, whatever is left beside it
            now = self._place.changed(MARKER)
            self._place.remove([RECORD])
            for run, _ in self.earlier:
                heard = run.changed(RECORD)
                is_dead = heard is not None and now is not None and now - heard > SILENCE
                if is_dead and run.create(MARKER, _ABANDONED):
                    run.remove([name for name in run.all_names() if name != MARKER])


def _has_its_sum(data: bytes) -> bool:
    """Whether the last bytes of a chunk are the checksum of the others."""
    its_sum: bytes = google_crc32c.value(data[:-4]).to_bytes(4, "little")
    return its_sum == data[-4:]
