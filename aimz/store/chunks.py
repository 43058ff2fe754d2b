"""Chunks of arrays on disk: how they are cut, packed, written and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aimz.errors import InputError
from aimz.libraries import google_crc32c, numcodecs, xr, zarr
from aimz.store.sink import Groups, Variable

__all__ = [
    "LABEL_DTYPE",
    "array_in",
    "check_dtype",
    "check_names_storable",
    "chunk_name",
    "chunk_path",
    "compressors",
    "is_sound",
    "packed_chunk",
    "packed_object",
    "write_chunk",
    "write_labels",
]


#: Attribute of labels that xarray would read back in another resolution.
LABEL_DTYPE = "label_dtype"
#: Letters of the longest name of a stored variable.
LONGEST_NAME = 200
#: Rows that an array of unknown length starts with, in tiles.
FIRST_TILES = 64


def array_in(root: Any, variable: Variable, finished: Mapping[int, str]) -> Any:
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
    packed = (zarr.codecs.numcodecs.PackBits(),) if kind == "b" else ()
    attributes = dict(variable.attrs)
    if variable.stored != variable.dtype:
        attributes["site_dtype"] = str(variable.dtype)
    return root.create_array(
        path,
        shape=tuple(shape),
        chunks=tuple(max(1, size) for size in variable.chunks),
        dtype=variable.stored,
        fill_value=np.nan if kind == "f" else 0,
        filters=(zarr.codecs.TransposeCodec(order=variable.order), *packed),
        serializer=zarr.codecs.BytesCodec(),
        compressors=compressors(variable.stored),
        dimension_names=variable.dims,
        attributes=attributes,
        config=config,
        overwrite=True,
    )


def compressors(dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """A checksum; integers and times are packed first, where floats would not shrink."""
    packed = (
        (zarr.codecs.BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),)
        if dtype.kind in "iumM"
        else ()
    )
    return (*packed, zarr.codecs.Crc32cCodec())


def write_chunk(
    store: zarr.storage.LocalStore,
    array: zarr.Array[Any],
    variable: Variable,
    place: tuple[slice, ...],
    values: np.ndarray,
) -> None:
    """Write a whole chunk as Zarr does, in this thread: its event loop is one for all writers."""
    data = packed_chunk(variable, values)
    path = chunk_path(store, array, place)
    try:
        file = path.open("wb")
    except FileNotFoundError:  # the first of its directory
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    with file:  # torn, it is no finished tile, and its checksum says so
        file.writelines(data)


def packed_chunk(variable: Variable, values: np.ndarray) -> tuple[memoryview, bytes]:
    """What a file of a whole chunk of floating-point numbers or bools holds: values, and a sum."""
    ordered = np.ascontiguousarray(values.transpose(variable.order))
    if variable.stored.kind == "b":
        data = np.asarray(numcodecs.PackBits().encode(ordered))
    else:
        data = ordered.astype(ordered.dtype.newbyteorder("<"), copy=False).reshape(-1)
    return data.data, google_crc32c.value(data).to_bytes(4, "little")


def packed_object(
    variable: Variable,
    array: zarr.Array[Any],
    document: Any,
    place: tuple[slice, ...],
    values: np.ndarray,
) -> bytes:
    """What a chunk of any kind holds, whole; the document is Zarr's of the array."""
    narrow = values.astype(variable.stored, copy=False)
    if narrow.shape == array.chunks and variable.stored.kind in "fb":
        return b"".join(packed_chunk(variable, narrow))
    files: dict[str, Any] = {f"{array.path}/zarr.json": document}
    alone = zarr.open_array(zarr.storage.MemoryStore(files), path=array.path, mode="r+")
    alone.with_config({"write_empty_chunks": True})[place] = narrow
    packed: bytes = files[chunk_name(array, place)].to_bytes()
    return packed


def chunk_name(array: zarr.Array[Any], place: tuple[slice, ...]) -> str:
    """Name, in the store, of the chunk that holds a tile."""
    index = tuple(part.start // size for part, size in zip(place, array.chunks, strict=True))
    return f"{array.path}/{array.metadata.encode_chunk_key(index)}"


def chunk_path(
    store: zarr.storage.LocalStore, array: zarr.Array[Any], place: tuple[slice, ...]
) -> Path:
    """File of the chunk that holds a tile."""
    path: Path = store.root / chunk_name(array, place)
    return path


def write_labels(
    store: zarr.storage.LocalStore | zarr.storage.MemoryStore, name: str, group: xr.Dataset
) -> None:
    """Write labels, attributes and small variables of a group, each array in one chunk or so."""
    for key, variable in group.variables.items():
        if variable.dtype.kind == "M":
            group[key].attrs[LABEL_DTYPE] = str(variable.dtype)
    encoding: dict[str, Any] = {
        str(key): {"compressors": compressors(variable.dtype), "filters": None}
        for key, variable in group.variables.items()
    }
    group.to_zarr(
        store,
        group=name,
        mode="a",
        zarr_format=3,
        consolidated=False,
        encoding=encoding,
        write_empty_chunks=True,
    )


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


def check_dtype(variable: Variable) -> None:
    """Refuse a dtype that a store does not have."""
    name = variable.name
    if variable.stored.kind not in "biufc":
        msg = f"Site '{name:.60}' holds {variable.stored}, which no store has. Use store='memory'."
        raise InputError(msg, code="site-dtype")


def is_sound(array: zarr.Array[Any], place: tuple[slice, ...] | None) -> bool:
    """Whether the chunks of a tile are there and undamaged."""
    if place is None:
        return True
    if any(part.stop > size for part, size in zip(place, array.shape, strict=True)):
        return False
    try:
        array.with_config({"read_missing_chunks": False})[place]
    except (zarr.errors.ChunkNotFoundError, ValueError, RuntimeError, OSError):
        return False
    return True
