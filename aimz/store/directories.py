"""Places that results are written to and read from: directories, buckets, sessions of Icechunk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from aimz.errors import InputError
from aimz.libraries import zarr
from aimz.store.objects import Prefix, as_prefix, inside
from aimz.store.sessions import ADDRESS, InSession, Session, as_session

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = [
    "Folder",
    "Place",
    "PlaceLike",
    "Storage",
    "as_directory",
    "destination",
    "local_path",
    "place_of",
]


@dataclass(frozen=True)
class Folder:
    """A directory that a result is read from."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes | None:
        """Bytes of a file; None where there is none."""
        try:
            return (self.root / name).read_bytes()
        except OSError:
            return None

    def exists(self) -> bool:
        """Whether the directory is there."""
        return self.root.exists()

    def unfinished(self) -> bool:
        """Whether a part of the result is beside it, which the same call would go on with."""
        return self.root.with_name(f"{self.root.name}.incomplete").exists()

    def named_unfinished(self) -> bool:
        """Whether its name says that it is not finished."""
        return self.root.resolve().name.endswith(".incomplete")

    def opened(self) -> Any:
        """The store that Zarr reads."""
        return zarr.storage.LocalStore(self.root, read_only=True)


type Place = Folder | Prefix | InSession
# What results can be in: a store object of obstore, or a session of Icechunk.
type Storage = ObjectStore | Session
# A directory, the address of objects, or what they are in.
type PlaceLike = str | bytes | os.PathLike[str] | Storage


def place_of(value: PlaceLike, name: str, storage: Storage | None = None) -> Place:
    """Where a result is: a path, an address, or a store object of obstore.

    Raises
    ------
    InputError
        `output-dir`, `obstore-missing`.
    """
    session = as_session(storage, "storage")
    if session is not None:
        return InSession(session, str(value).removeprefix(ADDRESS).strip("/"))
    if storage is not None and not isinstance(storage, Session):
        return inside(storage, str(value))
    objects = as_prefix(value, name)
    return Folder(local_path(value, name)) if objects is None else objects


def destination(output_dir: PlaceLike) -> Path | Prefix | Session:
    """Where results go: a directory, objects, or a session.

    Raises
    ------
    InputError
        `output-dir`, `obstore-missing`.
    """
    session = as_session(output_dir, "output_dir")
    if session is not None:
        if session.read_only:
            msg = "The session of output_dir is read-only. Pass repo.writable_session('main')."
            raise InputError(msg, code="output-dir")
        return session
    objects = as_prefix(output_dir, "output_dir")
    return as_directory(output_dir) if objects is None else objects


def as_directory(output_dir: PlaceLike) -> Path:
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


#: Bytes of the longest name that file systems take.
LONGEST_NAME = 255


def local_path(value: PlaceLike, name: str) -> Path:
    """Absolute path that a path or a file URL names."""
    try:
        text = os.fsdecode(value)  # type: ignore[arg-type]  # refused here
    except (TypeError, UnicodeError) as error:
        msg = f"{name} is {value!r:.60}, which is no path. Pass a path or a file:// URL."
        raise InputError(msg, code="output-dir") from error
    if "\0" in text or not text:
        msg = f"{name} is {text!r:.60}, which no file system takes. Pass a path or a file:// URL."
        raise InputError(msg, code="output-dir")
    scheme, host = urlsplit(text)[:2] if "://" in text else ("", "")
    if scheme not in ("", "file") or host not in ("", "localhost"):
        where = f"{scheme}://..." if "@" in host else repr(text)[:80]  # no word of credentials
        msg = f"{name} {where} is no place that is known. Pass a path, or a file:// or s3:// URL."
        raise InputError(msg, code="output-dir")
    path = Path(unquote(urlsplit(text).path) if scheme else text).expanduser().absolute()
    longest = max(path.parts, key=len)
    if len(os.fsencode(longest)) > LONGEST_NAME:
        msg = (
            f"{name} has a part {longest!r:.40} of over {LONGEST_NAME} letters. Pass a shorter one."
        )
        raise InputError(msg, code="output-dir")
    return path
