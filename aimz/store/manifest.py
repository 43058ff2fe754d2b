"""The manifest of a stored result: what is sealed when the last tile is there."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aimz.errors import StoreError
from aimz.libraries import zarr
from aimz.programs import TRACE_LOCK
from aimz.store.directories import Folder, Place

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "Damage",
    "checked_manifest",
    "damaged_documents",
    "describe",
    "differences_of",
    "manifest_in",
    "manifest_of",
    "root_document",
    "seal",
    "sealed",
    "set_bytes",
]


def seal(
    store: zarr.storage.LocalStore,
    attrs: Mapping[str, Any],
    identity: Mapping[str, str],
    finished: Mapping[int, str],
) -> None:
    """Collect all metadata in the root of a directory, with digests, and put it in its place."""
    documents = {
        path.relative_to(store.root).as_posix(): path.read_bytes()
        for path in sorted(store.root.rglob("zarr.json"))
    }
    describe(store, documents, attrs, identity, finished)
    set_bytes(store, "zarr.json", sealed((store.root / "zarr.json").read_bytes()))


def describe(
    store: zarr.storage.LocalStore | zarr.storage.MemoryStore,
    documents: Mapping[str, bytes],
    attrs: Mapping[str, Any],
    identity: Mapping[str, str],
    finished: Mapping[int, str],
) -> None:
    """Put all metadata into the root, with a digest of every document; it is not signed yet."""
    digests = {
        key: hashlib.blake2b(raw, digest_size=16).hexdigest()
        for key, raw in sorted(documents.items())
        if key != "zarr.json"
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


def root_document(identity: Mapping[str, str], finished: Mapping[int, str]) -> bytes:
    """The root of a result that is not finished: what it is made from, and its finished tiles."""
    manifest = {
        "format_version": FORMAT_VERSION,
        "complete": False,
        "identity": dict(identity),
        "tiles": {str(number): digest for number, digest in finished.items()},
    }
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {MANIFEST: json.dumps(manifest)},
    }
    return json.dumps(document).encode()


def manifest_of(path: Path) -> dict[str, Any]:
    """What an unfinished store says of itself; nothing where it cannot be read."""
    return manifest_in(Folder(path).read("zarr.json"))


def manifest_in(document: bytes | None) -> dict[str, Any]:
    """What the root of an unfinished store says; nothing where it cannot be read."""
    try:
        manifest: dict[str, Any] = json.loads(json.loads(document or b"")["attributes"][MANIFEST])
    except (ValueError, KeyError, TypeError):
        return {}
    if manifest.get("format_version") != FORMAT_VERSION:
        return {}
    return {"tiles": {}, **manifest}


def differences_of(earlier: Mapping[str, str] | None, now: Mapping[str, str]) -> list[str]:
    """Names whose digest is another one now."""
    if earlier is None:  # finished in the meantime, or not ours
        return []
    return [name for name in now if earlier.get(name) != now[name]]


def set_bytes(store: zarr.storage.LocalStore, key: str, value: bytes) -> None:
    """Write a document whole or not at all."""
    path = store.root / key
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(value)
    partial.replace(path)


#: Version of the layout of stores.
FORMAT_VERSION = 1
#: Attribute of a store's root that says what the store is.
MANIFEST = "aimz_store"
_UNSIGNED = rb"\"signature\": \"\""
_SIGNED = re.compile(rb'\\"signature\\": \\"([0-9a-f]{32})\\"')


class Damage(NamedTuple):
    """One thing that is wrong with a store: where, and what."""

    key: str
    problem: str


def sealed(document: bytes) -> bytes:
    """A root document with its signature."""
    signature = hashlib.blake2b(document, digest_size=16).hexdigest().encode()
    return document.replace(_UNSIGNED, _UNSIGNED[:-2] + signature + _UNSIGNED[-2:])


def checked_manifest(root: Place) -> dict[str, Any]:
    """The manifest of a complete store whose root is sound."""
    raw = root.read("zarr.json")
    if raw is None:
        text = f"There is no result at {root}."
        if root.unfinished():
            text += " It was not finished: repeat the call with the same output_dir."
        raise StoreError(text, code="store-missing")
    try:
        manifest: dict[str, Any] = json.loads(json.loads(raw)["attributes"][MANIFEST])
        version, complete = int(manifest["format_version"]), manifest["complete"]
    except (ValueError, KeyError, TypeError) as error:
        if MANIFEST.encode() in raw:
            raise _damaged_root(root) from error
        msg = f"{root} is not a result of this library. Open it with xarray.open_datatree."
        raise StoreError(msg, code="store-foreign") from error
    if not complete or root.named_unfinished():
        msg = (
            f"The result at {root} was not finished. Repeat the call that wrote it with the same "
            "output_dir: it goes on where it stopped."
        )
        raise StoreError(msg, code="store-incomplete")
    if not _is_signed(raw):
        raise _damaged_root(root)
    if version > FORMAT_VERSION:
        msg = f"The result at {root} has format {version}; this version reads up to 1. Upgrade."
        raise StoreError(msg, code="store-version")
    return manifest


def _damaged_root(root: Place) -> StoreError:
    msg = f"The result at {root} is damaged: its root document has changed. Compute it again."
    return StoreError(msg, code="store-damaged")


def _is_signed(document: bytes) -> bool:
    found = _SIGNED.findall(document)
    if len(found) != 1:
        return False
    return sealed(_SIGNED.sub(lambda _: _UNSIGNED, document)) == document


def damaged_documents(root: Place, manifest: dict[str, Any]) -> Iterable[Damage]:
    """Documents that are not what the manifest says."""
    for key, digest in manifest["documents"].items():
        raw = root.read(key)
        if raw is None:
            yield Damage(key, "is missing")
        elif hashlib.blake2b(raw, digest_size=16).hexdigest() != digest:
            yield Damage(key, "has changed")
