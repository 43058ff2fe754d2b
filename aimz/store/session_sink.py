"""Results in a session of Icechunk: the whole of one when all is there, and nothing before.

A call writes into a fork of the session, which workers copy for each tile that they write, and
merges it in the end: one that ends before leaves the session as it was. The chunks that it has
written are in the repository's storage, where nothing names them, until garbage is collected.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aimz.libraries import xr
from aimz.store.directories import PlaceLike, destination
from aimz.store.drafts import Draft
from aimz.store.elsewhere import TileWriter
from aimz.store.object_sink import ObjectSink
from aimz.store.objects import MARKER, Prefix
from aimz.store.reading import open_tree
from aimz.store.sessions import InSession, Session, SessionSeen
from aimz.store.sink import Groups, Key, Sink, Tile, Variable
from aimz.store.zarr_sink import ZarrSink

__all__ = ["SessionSink", "sink_in"]


@dataclass
class SessionSink:
    """A sink that writes a store into a session.

    Parameters
    ----------
    session : session of Icechunk
        Where the store goes; its commit is left to its user.
    method : str
        Name of the method, which the store's name ends with.
    """

    session: Session
    method: str
    _final: InSession | None = None
    _fork: InSession | None = None
    _draft: Draft = field(default_factory=Draft)
    _shown: dict[str, bytes] = field(default_factory=dict)  # documents, as the fork has them
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, variables: Sequence[Variable]) -> None:
        self._draft.begin(variables)
        self._final = self._free_place()
        self._fork = self._final.forked()
        self._show()

    def has(self, tile: Tile) -> bool:
        return False

    def write(self, tile: Tile, values: Mapping[Key, np.ndarray]) -> None:
        place = self._own
        for name, chunk in self._draft.chunks(tile, values):
            self._show()  # arrays may have grown
            place.write(name, chunk)

    def writer(self) -> TileWriter | None:
        """What writes tiles in another process, which sees the same storage."""
        return self._draft.writer(SessionSeen(self._own.forked()))

    def written(self, tile: Tile, receipt: InSession) -> None:
        """Take what another process has written of a tile."""
        self._own.take(receipt)

    def commit(self, groups: Groups, attrs: Mapping[str, Any], rows: int) -> xr.DataTree:
        assert self._final is not None  # noqa: S101  # `begin` comes first
        attrs = {**attrs, "artifact_path": str(self._final)}
        labels, root = self._draft.completed(groups, attrs, rows, ({}, {}))
        self._show({MARKER: root})
        for name, value in labels.items():
            if name not in self._shown:
                self._own.write(name, value)
        self._final.take(self._own)
        try:
            return open_tree(self._final)
        except BaseException:  # what cannot be read back is not a result; rethrown as it is
            self._final.remove()
            raise

    def abort(self) -> None:
        """Leave the session as it was."""
        self._fork = None

    @property
    def _own(self) -> InSession:
        assert self._fork is not None  # noqa: S101  # `begin` comes first
        return self._fork

    def _free_place(self) -> InSession:
        """A name that nothing in the session has."""
        while True:
            now = datetime.datetime.now(datetime.UTC)
            place = InSession(self.session, f"{now:%Y%m%dT%H%M%S%fZ}_{self.method}")
            if not place.exists():
                return place

    def _show(self, others: Mapping[str, bytes] | None = None) -> None:
        """Put documents that the fork lacks, or has otherwise, where it has them."""
        with self._lock:
            documents = {**self._draft.documents(), **(others or {})}
            for name, document in documents.items():  # a group before what is in it
                if self._shown.get(name) != document:
                    self._own.write(name, document)
                    self._shown[name] = document


def sink_in(output_dir: PlaceLike, method: str, identity: Mapping[str, str]) -> Sink:
    """A sink that writes where the user says: into a directory, objects, or a session."""
    place = destination(output_dir)
    if isinstance(place, Prefix):
        return ObjectSink(place, method, identity)
    return (
        ZarrSink(place, method, identity) if isinstance(place, Path) else SessionSink(place, method)
    )
