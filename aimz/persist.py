"""Results on disk: a Zarr store that is complete, or says that it is not.

A store is written under `<name>.incomplete`; its root names what it is made from and the tiles that
are finished. `commit` adds labels, seals the metadata with digests and renames the directory. The
same call again, with the same `output_dir`, finds an unfinished store that is made from the same
things and that nobody is writing, and goes on with it. Every chunk carries a crc32c checksum, and
every chunk is written.
"""

import contextlib
import datetime
import functools
import hashlib
import json
import os
import shutil
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, TransposeCodec
from zarr.codecs.numcodecs import PackBits
from zarr.errors import ChunkNotFoundError
from zarr.storage import LocalStore

from aimz.errors import InputError, OutputWarning, StoreError
from aimz.inference.records import Note
from aimz.places import Scratch, hold, let_go, writing
from aimz.programs import TRACE_LOCK
from aimz.reading import (
    FORMAT_VERSION,
    LABEL_DTYPE,
    MANIFEST,
    local_path,
    open_result,
    sealed,
)
from aimz.store import Groups, Key, Tile, Variable

__all__ = ["ZarrSink", "as_directory", "check_names_storable", "temporary_sink"]

#: Letters of the longest name of a stored variable.
LONGEST_NAME = 200
#: Seconds between two records of the finished tiles.
RECORD_SECONDS = 1.0
#: Rows that an array of unknown length starts with, in tiles.
FIRST_TILES = 64

#: What is said to be kept where a store cannot be written.
KEPT = "What is there is no result yet, and nothing else is lost."

_SUFFIX = ".incomplete"
_PACK_BITS = numcodecs.PackBits()


def _at_its_place[**P, R](method: Callable[P, R]) -> Callable[P, R]:
    """A method of a sink that says where its errors of the system were."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        sink: Any = args[0]
        with writing(sink.directory, KEPT):
            return method(*args, **kwargs)

    return guarded


def as_directory(output_dir: Any) -> Path:
    """Directory that a path or a file URL names.

    Raises
    ------
    InputError
        `output-dir`: a URL of another scheme, or a file.
    """
    path = local_path(output_dir, "output_dir")
    if path.exists() and not path.is_dir():
        msg = f"output_dir {str(path)!r:.80} is a file. Pass a directory."
        raise InputError(msg, code="output-dir")
    return path


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
    """

    directory: Path
    method: str
    identity: Mapping[str, str]
    owner: Scratch | None = None
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
            _check_dtype(variable)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.resumed = bool(self.identity) and self._take_over()
        if not self.resumed:
            self._start()
        root = zarr.open_group(self._store, mode="r+")
        for key, variable in self.variables.items():
            self.arrays[key] = _array(root, variable, self.finished)
        self._recorded = time.monotonic()

    def has(self, tile: Tile) -> bool:
        if self.finished.get(tile.number) != tile.digest:
            return False
        return all(
            _is_sound(self.arrays[key], variable.place(tile))
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
                _write_chunk(self._store, self.arrays[key], variable, place, narrow)
            else:  # Zarr reads the rest of a chunk, which may be damaged, unless it is not there
                _chunk_path(self._store, self.arrays[key], place).unlink(missing_ok=True)
                self.arrays[key][place] = narrow
        with self._lock:
            self.finished[tile.number] = tile.digest
            if time.monotonic() - self._recorded >= RECORD_SECONDS:
                self._record()

    @_at_its_place
    def commit(self, groups: Groups, attrs: Mapping[str, Any], rows: int) -> xr.DataTree:
        self._check_place()
        for key, variable in self.variables.items():
            array = self.arrays[key]
            if variable.grows:
                shape = list(array.shape)
                shape[variable.row_axis or 0] = rows
                array.resize(tuple(shape))
        placed = {"artifact_path": str(self._final)}
        for name, group in groups.items():
            labelled = group.assign_attrs(placed)
            _write_group(self._store, name, labelled)
        _seal(self._store, {**attrs, **placed}, self.identity, self.finished)
        self._path.rename(self._final)
        try:
            tree = open_result(self._final, owner=self.owner)
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
    def _store(self) -> LocalStore:
        return LocalStore(self._path)

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

    def _record(self, path: Path | None = None) -> None:
        """Write down what the store is made from and which tiles are finished."""
        manifest = {
            "format_version": FORMAT_VERSION,
            "complete": False,
            "identity": dict(self.identity),
            "tiles": {str(number): digest for number, digest in self.finished.items()},
        }
        document = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {MANIFEST: json.dumps(manifest)},
        }
        _set_bytes(LocalStore(path or self._path), "zarr.json", json.dumps(document).encode())
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
            manifest = _manifest_of(path)
            if manifest.get("identity") == dict(self.identity):
                self._name = path.name.removesuffix(_SUFFIX)
                self._held = held
                self.finished = {int(n): digest for n, digest in manifest["tiles"].items()}
                for partial in path.rglob("*.partial"):  # of a write that was cut short
                    partial.unlink()
                self._record()
                return True
            let_go(held)
            differs = differs or _differences(manifest.get("identity"), self.identity)
        if differs:
            text = (
                f"output_dir holds an unfinished result of {self.method}, made from other things "
                f"({', '.join(differs):.80}). It is left alone and a new one is begun."
            )
            self.notes.append(Note(OutputWarning, text, "not-resumed"))
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


def temporary_sink(scratch: Scratch, method: str) -> ZarrSink:
    """A sink in a directory of its own below `scratch`, which its result keeps."""
    own = Scratch(scratch)
    return ZarrSink(own.path, method, {}, own)


def _array(root: Any, variable: Variable, finished: Mapping[int, str]) -> Any:
    """The variable's array, made anew unless finished tiles are in it."""
    path = f"{variable.group}/{variable.name}"
    config = {"write_empty_chunks": True}
    if finished and path in root:
        return root[path].with_config(config)
    shape = list(variable.shape)
    if variable.grows:
        axis = variable.row_axis or 0
        shape[axis] = FIRST_TILES * variable.chunks[axis]
    kind = variable.stored.kind
    attributes = variable.attrs
    if variable.stored != variable.dtype:
        attributes["site_dtype"] = str(variable.dtype)
    return root.create_array(
        path,
        shape=tuple(shape),
        chunks=tuple(max(1, size) for size in variable.chunks),
        dtype=variable.stored,
        fill_value=np.nan if kind == "f" else 0,
        filters=(TransposeCodec(order=variable.order), *((PackBits(),) if kind == "b" else ())),
        serializer=BytesCodec(),
        compressors=_compressors(variable.stored),
        dimension_names=variable.dims,
        attributes=attributes,
        config=config,
        overwrite=True,
    )


def _compressors(dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """A checksum; integers and times are packed first, where floats would not shrink."""
    packed = (
        (BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),) if dtype.kind in "iumM" else ()
    )
    return (*packed, Crc32cCodec())


def _write_chunk(
    store: LocalStore, array: Any, variable: Variable, place: tuple[slice, ...], values: np.ndarray
) -> None:
    """Write a whole chunk as Zarr does, in this thread: its event loop is one for all writers."""
    ordered = np.ascontiguousarray(values.transpose(variable.order))
    if variable.stored.kind == "b":
        data = np.asarray(_PACK_BITS.encode(ordered))
    else:
        data = ordered.astype(ordered.dtype.newbyteorder("<"), copy=False).reshape(-1)
    path = _chunk_path(store, array, place)
    try:
        file = path.open("wb")
    except FileNotFoundError:  # the first of its directory
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    with file:  # torn, it is no finished tile, and its checksum says so
        file.write(data.data)
        file.write(google_crc32c.value(data).to_bytes(4, "little"))


def _chunk_path(store: LocalStore, array: Any, place: tuple[slice, ...]) -> Path:
    """File of the chunk that holds a tile."""
    index = tuple(part.start // size for part, size in zip(place, array.chunks, strict=True))
    path: Path = store.root / array.path / array.metadata.encode_chunk_key(index)
    return path


def check_names_storable(variables: Sequence[Variable], groups: Groups) -> None:
    """Refuse names of sites and dimensions that cannot be those of directories.

    Raises
    ------
    InputError
        `site-name`.
    """
    names = {name for group in groups.values() for name in map(str, group.variables)}
    for name in sorted(names.union(*({v.name, *v.dims} for v in variables))):
        reserved = name in ("", ".", "..", "zarr.json") or name.startswith("__")
        if reserved or set(name) & set("/\\\0") or len(name.encode()) > LONGEST_NAME:
            msg = (
                f"A site or plate '{name:.60}' cannot be stored under its name. Rename it in the "
                "kernel, or use store='memory'."
            )
            raise InputError(msg, code="site-name")


def _check_dtype(variable: Variable) -> None:
    """Refuse a dtype that a store does not have."""
    name = variable.name
    if variable.stored.kind not in "biufc":
        msg = f"Site '{name:.60}' holds {variable.stored}, which no store has. Use store='memory'."
        raise InputError(msg, code="site-dtype")


def _is_sound(array: Any, place: tuple[slice, ...] | None) -> bool:
    """Whether the chunks of a tile are there and undamaged."""
    if place is None:
        return True
    if any(part.stop > size for part, size in zip(place, array.shape, strict=True)):
        return False
    try:
        array.with_config({"read_missing_chunks": False})[place]
    except (ChunkNotFoundError, ValueError, RuntimeError, OSError):
        return False
    return True


def _write_group(store: LocalStore, name: str, group: xr.Dataset) -> None:
    """Write labels, attributes and small variables of a group."""
    for key, variable in group.variables.items():
        if variable.dtype.kind == "M":
            group[key].attrs[LABEL_DTYPE] = str(variable.dtype)
    encoding: dict[str, Any] = {
        str(key): {"compressors": _compressors(variable.dtype), "filters": None}
        for key, variable in group.variables.items()
    }
    for key in group.variables:  # of an earlier try to commit
        shutil.rmtree(store.root / name / str(key), ignore_errors=True)
    group.to_zarr(
        store,
        group=name,
        mode="a",
        zarr_format=3,
        consolidated=False,
        encoding=encoding,
        write_empty_chunks=True,
    )


def _seal(
    store: LocalStore,
    attrs: Mapping[str, Any],
    identity: Mapping[str, str],
    finished: Mapping[int, str],
) -> None:
    """Collect all metadata in the root, with a digest of every document and of the root itself."""
    documents = sorted(set(store.root.rglob("zarr.json")) - {store.root / "zarr.json"})
    digests = {
        path.relative_to(store.root).as_posix(): hashlib.blake2b(
            path.read_bytes(), digest_size=16
        ).hexdigest()
        for path in documents
    }
    manifest = {
        "format_version": FORMAT_VERSION,
        "complete": True,
        "identity": dict(identity),
        "documents": digests,
        "tiles": {} if any(finished.values()) else dict.fromkeys(map(str, finished), ""),
        "signature": "",
    }
    with TRACE_LOCK, warnings.catch_warnings():  # filters are one for all threads, as the lock is
        warnings.filterwarnings("ignore", message="Consolidated metadata")  # not of the format yet
        root = zarr.open_group(store, mode="r+")
        root.attrs.update({**attrs, MANIFEST: json.dumps(manifest)})
        zarr.consolidate_metadata(store)
    _set_bytes(store, "zarr.json", sealed(_bytes(store, "zarr.json")))


def _manifest_of(path: Path) -> dict[str, Any]:
    """What an unfinished store says of itself; nothing where it cannot be read."""
    try:
        document = json.loads((path / "zarr.json").read_bytes())
        manifest: dict[str, Any] = json.loads(document["attributes"][MANIFEST])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if manifest.get("format_version") != FORMAT_VERSION:
        return {}
    return {"tiles": {}, **manifest}


def _differences(earlier: Mapping[str, str] | None, now: Mapping[str, str]) -> list[str]:
    if earlier is None:  # finished in the meantime, or not ours
        return []
    return [name for name in now if earlier.get(name) != now[name]]


def _bytes(store: LocalStore, key: str) -> bytes:
    return (store.root / key).read_bytes()


def _set_bytes(store: LocalStore, key: str, value: bytes) -> None:
    """Write a document whole or not at all."""
    path = store.root / key
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(value)
    partial.replace(path)
