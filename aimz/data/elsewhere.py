"""Rows that another process reads by itself, told where they are.

What is in memory goes along; what is in files is named, with how large these are and when they were
written. Who sees no such file, or another, reads nothing: then the one who asks reads.
"""

from __future__ import annotations

import itertools
import math
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aimz.errors import InputError, Note, OutputWarning
from aimz.libraries import zarr

__all__ = ["Away", "Part", "changed", "cutter_of", "teller_of", "unchanged", "unseen"]


# Stores of objects that are the same from everywhere, by class or protocol.
_SHARED_CLIENTS = {"S3Store", "GCSStore", "AzureStore"}
_SHARED_PROTOCOLS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https"}
#: How large each of some files is and when it was written; None for one that is not there.
type Stamp = tuple[tuple[int, int] | None, ...]


class Part(Protocol):
    """Some rows of an argument or more, which can be pickled."""

    @property
    def place(self) -> str:
        """Where they are."""

    def read(self) -> Mapping[str, Any] | None:
        """Arrays by argument; None where these rows are not seen from here."""


@dataclass(frozen=True)
class Away:
    """Rows as another process gets them: those of arguments in memory, and what reads the others.

    `lazy` are dask arrays, which the cluster computes and puts with the others.
    """

    rows: slice
    held: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    lazy: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where those rows are that are not in memory."""
        return ", ".join(part.place for part in self.parts)

    def read(self) -> dict[str, Any] | None:
        """Arrays by argument, of all the rows; None where some are not seen from here."""
        arrays = {**self.held, **{n: np.asarray(v) for n, v in self.lazy.items()}}
        for part in self.parts:
            read = part.read()
            if read is None:
                return None
            arrays |= read
        return arrays


type _Cut = Callable[[slice], Away]


def cutter_of(values: Mapping[str, Any], is_lazy: Callable[[Any], bool]) -> _Cut | None:
    """How rows of arrays are told to another process; None where one cannot read them."""
    makers: dict[str, Callable[[slice], Part]] = {}
    held: dict[str, Any] = {}
    lazy: dict[str, Any] = {}
    for name, value in values.items():
        array = getattr(value, "data", value) if hasattr(value, "variable") else value
        if not is_lazy(value):
            held[name] = value
        elif type(array).__module__.partition(".")[0] == "dask":
            lazy[name] = array
        elif (maker := _maker_of(name, array)) is not None:
            makers[name] = maker
        else:
            return None

    def cut(rows: slice) -> Away:
        return Away(
            rows,
            {n: v.iloc[rows] if hasattr(v, "iloc") else v[rows] for n, v in held.items()},
            tuple(maker(rows) for maker in makers.values()),
            {n: v[rows] for n, v in lazy.items()},
        )

    return cut


def teller_of(source: Any) -> _Cut | None:
    """How rows of a user's source are told, which may have to open many files to know."""
    parts = source.parts
    return None if parts is None else lambda rows: Away(rows, parts=parts(rows))


def unchanged[Batch](values: Mapping[str, Any], batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches of rows that are read here, of Zarr arrays that nobody writes meanwhile.

    Raises
    ------
    InputError
        `rows-changed`, when all have been read.
    """
    arrays = [(name, array) for name, array in values.items() if _is_of_zarr(array)]
    makers = [(_in_zarr(name, array), array.shape[0]) for name, array in arrays]
    stored = [maker(slice(0, count)) for maker, count in makers if maker is not None]
    yield from batches
    for rows in stored:
        if not rows.is_unchanged():
            raise changed(rows)


def changed(rows: Away | Part) -> InputError:
    """Rows that are not what they were."""
    msg = f"{rows.place:.90} has changed since the call began, or is gone. Call again."
    return InputError(msg, code="rows-changed")


def unseen(away: Away, why: str) -> Note:
    """What is said, once, of rows that a worker could not read."""
    text = (
        f"A worker does not read {away.place:.90} ({why:.60}), so this process reads rows and "
        "sends them. Put them where workers see the same file."
    )
    return Note(OutputWarning, text, "cluster-rows")


def _maker_of(name: str, array: Any) -> Callable[[slice], Part] | None:
    if isinstance(array, np.memmap):
        return _mapped(name, array)
    return _in_zarr(name, array) if _is_of_zarr(array) else None


def _is_of_zarr(array: Any) -> bool:
    return type(array).__module__.startswith("zarr.")


def _stamp_of(paths: Iterable[Path]) -> Stamp:
    """How large files are, and when they were written."""
    found: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            about = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((about.st_size, about.st_mtime_ns))
    return tuple(found)


# ------------------------------------------------------------------ arrays of Zarr
@dataclass(frozen=True)
class _ZarrRows:
    """Rows of a Zarr array.

    A chunk that is not there reads as one that was never written: files say if they are the same.
    """

    name: str
    array: zarr.Array[Any]
    rows: slice
    files: tuple[Path, ...]
    stamp: Stamp

    @property
    def place(self) -> str:
        return str(self.array.store_path)

    def read(self) -> Mapping[str, Any] | None:
        if not self.files and not _has_same_document(self.array):
            return None
        if not self.is_unchanged():
            return None
        values = np.asarray(self.array[self.rows])
        return {self.name: values} if self.is_unchanged() else None

    def is_unchanged(self) -> bool:
        """Whether the files are those that they were; of what has no files, nobody knows."""
        return _stamp_of(self.files) == self.stamp


def _has_same_document(array: zarr.Array[Any]) -> bool:
    there = zarr.open_array(array.store, path=array.path, mode="r")
    return bool(there.metadata.to_dict() == array.metadata.to_dict())


def _in_zarr(name: str, array: zarr.Array[Any]) -> Callable[[slice], _ZarrRows] | None:
    """Rows of a Zarr array in a directory, or in a bucket; in memory nobody else sees them."""
    store: Any = array.store
    if type(store).__name__ == "LocalStore":
        step = array.shards or array.chunks
        if not all(isinstance(size, int) for size in step):
            return None
        folder = Path(store.root) / array.path

        def local(rows: slice) -> _ZarrRows:
            files = (*_documents(folder), *_chunk_files(array, folder, step, rows))
            return _ZarrRows(name, array, rows, files, _stamp_of(files))

        return local
    client, fs = getattr(store, "store", None), getattr(store, "fs", None)
    protocols = getattr(fs, "protocol", ())
    protocols = {protocols} if isinstance(protocols, str) else {*protocols}
    if type(client).__name__ in _SHARED_CLIENTS or protocols & _SHARED_PROTOCOLS:
        return lambda rows: _ZarrRows(name, array, rows, (), ())
    return None


def _documents(folder: Path) -> tuple[Path, ...]:
    return folder / "zarr.json", folder / ".zarray"  # of one format or the other


def _chunk_files(array: Any, folder: Path, step: tuple[int, ...], rows: slice) -> Iterable[Path]:
    """Files of the chunks, or shards, that hold some rows."""
    spans = [range(math.ceil(size / width)) for size, width in zip(array.shape, step, strict=True)]
    spans[0] = range(rows.start // step[0], math.ceil(rows.stop / step[0]))
    return (folder / array.metadata.encode_chunk_key(i) for i in itertools.product(*spans))


# ------------------------------------------------------------------ memory maps
@dataclass(frozen=True)
class _MappedRows:
    """Rows of an array that is a file's bytes."""

    name: str
    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    rows: slice
    stamp: Stamp

    @property
    def place(self) -> str:
        return str(self.path)

    def read(self) -> Mapping[str, Any] | None:
        if _stamp_of((self.path,)) != self.stamp:
            return None
        whole = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        values = np.array(whole[self.rows])
        return {self.name: values} if _stamp_of((self.path,)) == self.stamp else None


def _mapped(name: str, array: np.memmap[Any, Any]) -> Callable[[slice], Part] | None:
    """Rows of a map that nobody writes through, while its file is the one at its path."""
    mapped: Any = getattr(array, "_mmap", None)
    if mapped is None or array.mode != "r" or not array.flags.c_contiguous or not array.filename:
        return None
    path = Path(array.filename).absolute()
    first = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
    if not _is_mapped_at(first, path):
        return None
    into = array.__array_interface__["data"][0] - first
    offset = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY + into
    stamp = _stamp_of((path,))
    about = (name, path, array.dtype, array.shape, offset)
    return lambda rows: _MappedRows(*about, rows, stamp)


def _is_mapped_at(address: int, path: Path) -> bool:
    """Whether what is mapped at an address is the file that a path leads to now."""
    if sys.platform != "linux":
        return False
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        span, _, _, _, number, *_ = line.split()
        start, stop = (int(end, 16) for end in span.split("-"))
        if start <= address < stop:
            return int(number) == inode
    return False
