"""Open stored results, complete and checked, and verify them byte by byte.

The root of a store carries digests of all metadata and a signature of itself; every chunk carries
a checksum. A chunk that is missing or damaged, or a store that has gone, is an error when it is
read, never a number.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimz.errors import StoreError
from aimz.libraries import xr, zarr
from aimz.store.chunks import LABEL_DTYPE
from aimz.store.directories import Place, PlaceLike, Storage, place_of
from aimz.store.manifest import MANIFEST, Damage, checked_manifest, damaged_documents
from aimz.store.sink import tree_of

__all__ = [
    "DIFFERENCE_BYTES",
    "RESULT_BYTES",
    "import_dask",
    "open_checked",
    "open_result",
    "open_tree",
    "verify",
]


#: A result up to this size opens without Dask.
RESULT_BYTES = 2 * 2**30
#: The same of a difference.
DIFFERENCE_BYTES = 256 * 2**20
# Words of xarray for the units of durations.
_UNITS = {"nanoseconds": "ns", "microseconds": "us", "milliseconds": "ms", "seconds": "s"}
_UNITS |= {"minutes": "m", "hours": "h", "days": "D"}
_OPENING = threading.Lock()


def open_result(
    path: PlaceLike, *, owner: object = None, storage: Storage | None = None
) -> xr.DataTree:
    """Open a stored result, after a check that it is complete and that its metadata are sound.

    Values are read when they are used. A chunk that is missing or damaged raises then.

    Parameters
    ----------
    path : path-like, URL or obstore store
        The result's directory or address: the attribute `artifact_path` of the tree that wrote it.
    owner : object, optional
        Kept alive as long as anything of the result is.
    storage : obstore store or session of Icechunk, optional
        What the result is in. A store has its credentials; without it those of the environment are
        used.

    Returns
    -------
    DataTree
        The result as the method returned it. Above 2 GiB its arrays are Dask-backed where Dask is
        installed.

    Raises
    ------
    StoreError
        `store-missing`, `store-incomplete`, `store-foreign`, `store-version`, `store-damaged`,
        `store-unreachable`.

    Examples
    --------
    >>> open_result("no/such/result")
    Traceback (most recent call last):
    aimz.errors.StoreError: There is no result at ...no/such/result...
    """
    return open_checked(place_of(path, "path", storage), owner)


def open_checked(root: Place, owner: object = None, *, is_difference: bool = False) -> xr.DataTree:
    """The tree of a store, as `open_result` opens it; a difference in parts from a smaller size on.

    What is subtracted is then averaged, which xarray does in one piece of memory unless it is in
    parts.
    """
    manifest = checked_manifest(root)
    for damage in damaged_documents(root, manifest):
        raise StoreError(
            f"The result at {root} is damaged: {damage.key} {damage.problem}. Compute it again.",
            code="store-damaged",
        )
    return open_tree(root, owner, DIFFERENCE_BYTES if is_difference else None)


def open_tree(root: Place, owner: object = None, most: int | None = None) -> xr.DataTree:
    """The tree of a store, whatever its root says of it; above `most` bytes in Dask's arrays.

    Raises
    ------
    StoreError
        `store-damaged`.
    """
    # The setting is one of the process: arrays take it with them when they are opened.
    store = root.opened()
    try:
        with _OPENING, zarr.config.set({"array.read_missing_chunks": False}):
            times: Any = xr.coders.CFDatetimeCoder(time_unit="us")
            tree = xr.open_datatree(
                store,
                engine="zarr",
                chunks=None,
                cache=False,
                decode_times=times,
                decode_timedelta=False,
            )
    except Exception as error:  # labels are read here, and whatever a store may raise
        raise StoreError(
            f"The labels of the result at {root} cannot be read. aimz.verify lists what is wrong; "
            "compute the result again.",
            code="store-damaged",
        ) from error
    names = sorted(tree.children, key=lambda name: (name == "observed_data", name))
    groups = {name: _guarded(tree[name].to_dataset(), root, owner) for name in names}
    total = sum(variable.nbytes for group in groups.values() for variable in group.values())
    if total > (RESULT_BYTES if most is None else most) and importlib.util.find_spec("dask"):
        groups = {name: _chunked(group) for name, group in groups.items()}
    opened = tree_of(groups, {str(k): v for k, v in tree.attrs.items() if k != MANIFEST})
    for group in opened.subtree:  # where the store is, wherever it was written
        if "artifact_path" in group.attrs:
            group.attrs["artifact_path"] = str(root)
    return opened


def verify(path: PlaceLike, *, storage: Storage | None = None) -> list[Damage]:
    """Read every byte of a stored result and list what is missing or damaged.

    Parameters
    ----------
    path : path-like, URL or obstore store
        Directory or address of the result.
    storage : obstore store or session of Icechunk, optional
        What the result is in.

    Returns
    -------
    list of Damage
        Pairs (key, problem); empty where the result is sound.

    Raises
    ------
    StoreError
        `store-missing`, `store-incomplete`, `store-foreign`, `store-version`, and `store-damaged`
        where the root itself is damaged.
    """
    root = place_of(path, "path", storage)
    manifest = checked_manifest(root)
    found = list(damaged_documents(root, manifest))
    broken = {damage.key.removesuffix("/zarr.json") for damage in found}
    group = zarr.open_group(root.opened(), mode="r", use_consolidated=True)
    for name, node in sorted(group.members(max_depth=None)):
        if isinstance(node, zarr.Array) and name not in broken:
            found.extend(_damaged_chunks(name, node))
    return found


def _guarded(group: xr.Dataset, root: Place, owner: object) -> xr.Dataset:
    """A group whose arrays check what they read and keep their directory alive."""
    from aimz.store.guarded import GuardedArray  # xarray's class is its base

    variables = {}
    for name, variable in group.variables.items():
        if name in group.coords:
            labels = _exact_labels(variable)
            if labels is not None:
                group = group.assign_coords({name: (variable.dims, labels)})
            continue
        attrs = dict(variable.attrs)
        dtype = np.dtype(attrs.pop("site_dtype", variable.dtype))
        array = GuardedArray(variable, dtype, root, str(name), owner)
        data = xr.core.indexing.LazilyIndexedArray(array)
        variables[name] = xr.Variable(variable.dims, data, attrs, variable.encoding)
    return group.assign(variables)


def _exact_labels(variable: xr.Variable) -> np.ndarray | None:
    """Labels in the resolution that they were written from; None where they have no other."""
    kind, unit = variable.attrs.get("dtype", ""), variable.attrs.get("units", "")
    if kind.startswith("timedelta64") and unit in _UNITS:
        durations: np.ndarray = variable.values.astype(f"m8[{_UNITS[unit]}]").astype(kind)
        return durations
    kind = variable.attrs.get(LABEL_DTYPE)
    return None if kind is None else variable.values.astype(kind)


def _chunked(group: xr.Dataset) -> xr.Dataset:
    """A group in Dask arrays of the chunks on disk."""
    parts = {}
    for name, variable in group.data_vars.items():
        chunks = variable.encoding.get("chunks", variable.shape)
        parts[name] = variable.chunk(dict(zip(variable.dims, chunks, strict=True)))
    return group.assign(parts)


def _damaged_chunks(name: str, array: zarr.Array[Any]) -> Iterable[Damage]:
    strict = array.with_config({"read_missing_chunks": False})
    grid = [math.ceil(n / c) for n, c in zip(array.shape, array.chunks, strict=True)]
    for index in itertools.product(*map(range, grid)):
        key = f"{name}/{array.metadata.encode_chunk_key(index)}"
        try:
            strict.get_block_selection(index)
        except zarr.errors.ChunkNotFoundError:
            yield Damage(key, "is missing")
        except Exception as error:  # noqa: BLE001  # whatever codecs may raise: it is reported
            yield Damage(key, f"is damaged: {error!s:.120}")


def import_dask(*, wait: bool) -> None:
    """Import Dask, where it is installed, as xarray is about to do, but in a thread of its own.

    Dask keeps the exception that tells it that Jinja is missing, and an exception keeps the frames
    of all its callers: the first result of a process would never be freed. Begun before a program
    is compiled, it has come when the result is made.
    """
    with _IMPORT.lock:
        if not _IMPORT.is_begun:
            _IMPORT.is_begun = True
            _IMPORT.thread = threading.Thread(target=_load_dask)
            _IMPORT.thread.start()
    if wait and _IMPORT.thread is not None:
        _IMPORT.thread.join()
        _IMPORT.thread = None


@dataclass
class _Import:
    """Whether an import has begun, and the thread that is at it."""

    lock: Any = field(default_factory=threading.Lock)
    is_begun: bool = False
    thread: threading.Thread | None = None


_IMPORT = _Import()


def _load_dask() -> None:
    with contextlib.suppress(ImportError):  # xarray does without it
        importlib.import_module("dask.array")
