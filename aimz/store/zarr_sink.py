"""Results on disk: a Zarr store that is complete, or says that it is not.

A store is written under `<name>.incomplete`; its root names what it is made from and the tiles that
are finished. `commit` adds labels, seals the metadata with digests and renames the directory. The
same call again, with the same `output_dir`, finds an unfinished store that is made from the same
things and that nobody is writing, and goes on with it. Every chunk carries a crc32c checksum, and
every chunk is written.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aimz.errors import Note, OutputWarning, StoreError
from aimz.libraries import xr, zarr
from aimz.store.chunks import (
    array_in,
    check_dtype,
    chunk_path,
    is_sound,
    write_chunk,
    write_labels,
)
from aimz.store.directories import Folder
from aimz.store.elsewhere import WRITING, FolderSeen, TileWriter, writer_to
from aimz.store.links import earlier_results, write_large
from aimz.store.manifest import differences_of, manifest_of, root_document, seal, set_bytes
from aimz.store.places import Scratch, hold, let_go, writing
from aimz.store.reading import open_checked
from aimz.store.sink import Groups, Key, Tile, Variable

__all__ = ["ZarrSink", "not_resumed", "temporary_sink"]


#: Seconds between two records of the finished tiles.
RECORD_SECONDS = 1.0
#: What is said to be kept where a store cannot be written.
KEPT = "What is there is no result yet, and nothing else is lost."
_SUFFIX = ".incomplete"


def _at_its_place[**P, R](method: Callable[P, R]) -> Callable[P, R]:
    """A method of a sink that says where its errors of the system were."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        sink: Any = args[0]
        with writing(sink.directory, KEPT):
            return method(*args, **kwargs)

    return guarded


@dataclass
class ZarrSink:
    """A sink that writes a store into a directory.

    Parameters
    ----------
    directory : Path
        Where the store goes.
    method : str
        Name of the method, which the store's name ends with.
    identity : mapping of str
        Digests of everything that the result follows from; empty where it is not to be resumed.
    owner : Scratch, optional
        Temporary directory of the store, which the result keeps.
    is_difference : bool
        Whether it is of two results, and so will be averaged.
    """

    directory: Path
    method: str
    identity: Mapping[str, str]
    owner: Scratch | None = None
    is_difference: bool = False
    notes: list[Note] = field(default_factory=list)
    variables: dict[Key, Variable] = field(default_factory=dict)
    arrays: dict[Key, Any] = field(default_factory=dict)
    finished: dict[int, str] = field(default_factory=dict)
    resumed: bool = False
    _name: str = ""
    _held: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _recorded: float = 0.0

    @_at_its_place
    def begin(self, variables: Sequence[Variable]) -> None:
        self.variables = {variable.key: variable for variable in variables}
        for variable in variables:
            check_dtype(variable)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.resumed = bool(self.identity) and self._take_over()
        if not self.resumed:
            self._start()
        root = zarr.open_group(self._store, mode="r+")
        for key, variable in self.variables.items():
            self.arrays[key] = array_in(root, variable, self.finished)
        self._recorded = time.monotonic()

    def has(self, tile: Tile) -> bool:
        if self.finished.get(tile.number) != tile.digest:
            return False
        return all(
            is_sound(self.arrays[key], variable.place(tile))
            for key, variable in self.variables.items()
        )

    @_at_its_place
    def write(self, tile: Tile, values: Mapping[Key, np.ndarray]) -> None:
        self._check_place()
        with self._lock:
            if self.finished.get(tile.number, tile.digest) != tile.digest:
                # The record must not promise other rows than the chunks are about to hold.
                del self.finished[tile.number]
                self._record()
        for key, array in values.items():
            variable = self.variables[key]
            place = variable.place(tile)
            if place is None:
                continue
            if variable.grows:
                self._grow(key, tile.rows.stop)
            narrow = array.astype(variable.stored, copy=False)
            if narrow.shape == self.arrays[key].chunks and variable.stored.kind in "fb":
                write_chunk(self._store, self.arrays[key], variable, place, narrow)
            else:  # Zarr reads the rest of a chunk, which may be damaged, unless it is not there
                chunk_path(self._store, self.arrays[key], place).unlink(missing_ok=True)
                self.arrays[key][place] = narrow
        self._note(tile)

    def writer(self) -> TileWriter | None:
        """What writes tiles in another process, which sees the same folder."""
        paths = [array.path for array in self.arrays.values()]
        documents = {path: (self._path / path / "zarr.json").read_bytes() for path in paths}
        place = FolderSeen(self._path.absolute(), self._path.stat().st_ino)
        return writer_to(place, self.variables, self.arrays, documents)

    @_at_its_place
    def written(self, tile: Tile, _: object) -> None:
        """Keep in mind that another process has written a tile."""
        self._check_place()
        self._note(tile)

    @_at_its_place
    def commit(self, groups: Groups, attrs: Mapping[str, Any], rows: int) -> xr.DataTree:
        self._check_place()
        for key, variable in self.variables.items():
            array = self.arrays[key]
            if variable.grows:
                shape = list(array.shape)
                shape[variable.row_axis or 0] = rows
                array.resize(tuple(shape))
        shutil.rmtree(self._path / WRITING, ignore_errors=True)  # of writes that were cut short
        placed = {"artifact_path": str(self._final)}
        earlier = earlier_results(self._places())
        for name, group in groups.items():
            labelled = group.assign_attrs(placed)
            _write_group(self._store, name, labelled, earlier)
        seal(self._store, {**attrs, **placed}, self.identity, self.finished)
        self._path.rename(self._final)
        try:
            place = Folder(self._final)
            tree = open_checked(place, self.owner, is_difference=self.is_difference)
        except BaseException:  # what cannot be read back is not a result; rethrown as it is
            self._final.rename(self._path)
            raise
        self._release()
        return tree

    def abort(self) -> Path | None:
        if not self._name:
            return None
        keep = bool(self.identity and self.finished and self._is_in_place())
        if keep:
            with contextlib.suppress(OSError):  # a full disk keeps the record it has
                self._record()
        else:
            shutil.rmtree(self._path, ignore_errors=True)
        self._release()
        return self._path if keep else None

    @property
    def _path(self) -> Path:
        return self.directory / f"{self._name}{_SUFFIX}"

    @property
    def _final(self) -> Path:
        return self.directory / self._name

    @property
    def _store(self) -> zarr.storage.LocalStore:
        return zarr.storage.LocalStore(self._path)

    def _places(self) -> Iterable[Path]:
        """Directories in which results of the same fit are likely."""
        shared = self.owner.parent if self.owner is not None else None
        return [self.directory] if shared is None else shared.path.iterdir()

    def _is_in_place(self) -> bool:
        """Whether the directory is still the one that this sink has made or taken over."""
        if self._held is None:
            return self._path.exists()
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._held))
        except OSError:
            return False

    def _check_place(self) -> None:
        if not self._is_in_place():
            msg = f"{self._path} has been removed while the result was being written. Call again."
            raise StoreError(msg, code="store-missing")

    def _start(self) -> None:
        """Make a new store; nobody sees it before it is held and says what it is."""
        newborn = self.directory / f".{uuid.uuid4().hex}"
        newborn.mkdir()
        try:
            self._held = hold(newborn)
            self._record(newborn)
            while not self._name or self._path.exists() or self._final.exists():
                now = datetime.datetime.now(datetime.UTC)
                self._name = f"{now:%Y%m%dT%H%M%S%fZ}_{self.method}"
            newborn.replace(self._path)
        except BaseException:  # rethrown as it is
            shutil.rmtree(newborn, ignore_errors=True)
            raise

    def _note(self, tile: Tile) -> None:
        """Keep in mind that a tile is finished, and write it down now and then."""
        with self._lock:
            self.finished[tile.number] = tile.digest
            if time.monotonic() - self._recorded >= RECORD_SECONDS:
                self._record()

    def _record(self, path: Path | None = None) -> None:
        """Write down what the store is made from and which tiles are finished."""
        document = root_document(self.identity, self.finished)
        set_bytes(zarr.storage.LocalStore(path or self._path), "zarr.json", document)
        self._recorded = time.monotonic()

    def _take_over(self) -> bool:
        """Go on with the newest unfinished store of the same things that nobody writes."""
        differs: list[str] = []
        paths = sorted(self.directory.glob(f"*_{self.method}{_SUFFIX}"), reverse=True)
        for path in (path for path in paths if not path.is_symlink()):
            try:
                held = hold(path)
            except (StoreError, FileNotFoundError):
                continue
            manifest = manifest_of(path)
            if manifest.get("identity") == dict(self.identity):
                self._name = path.name.removesuffix(_SUFFIX)
                self._held = held
                self.finished = {int(n): digest for n, digest in manifest["tiles"].items()}
                for partial in path.rglob("*.partial"):  # of a write that was cut short
                    partial.unlink()
                shutil.rmtree(path / WRITING, ignore_errors=True)
                self._record()
                return True
            let_go(held)
            differs = differs or differences_of(manifest.get("identity"), self.identity)
        if differs:
            self.notes.append(not_resumed(self.method, differs))
        return False

    def _grow(self, key: Key, rows: int) -> None:
        axis = self.variables[key].row_axis or 0
        with self._lock:
            array = self.arrays[key]
            if rows > array.shape[axis]:
                shape = list(array.shape)
                shape[axis] = max(rows, 2 * shape[axis])
                array.resize(tuple(shape))

    def _release(self) -> None:
        if self._held is not None:
            let_go(self._held)
            self._held = None


def not_resumed(method: str, differs: Iterable[str]) -> Note:
    """What is said of an unfinished result that is not gone on with."""
    text = (
        f"output_dir holds an unfinished result of {method}, made from other things "
        f"({', '.join(differs):.80}). It is left alone and a new one is begun."
    )
    return Note(OutputWarning, text, "not-resumed")


def temporary_sink(scratch: Scratch, method: str, *, is_difference: bool = False) -> ZarrSink:
    """A sink in a directory of its own below `scratch`, which its result keeps."""
    own = Scratch(scratch)
    return ZarrSink(own.path, method, {}, own, is_difference)


def _write_group(
    store: zarr.storage.LocalStore, name: str, group: xr.Dataset, earlier: Iterable[Path]
) -> None:
    """Write labels, attributes and variables of a group; large ones once for several results."""
    for key in group.variables:  # of an earlier try to commit
        shutil.rmtree(store.root / name / str(key), ignore_errors=True)
    root = zarr.open_group(store, mode="r+")
    group = write_large(store, root, name, group, earlier).compute()
    write_labels(store, name, group)
