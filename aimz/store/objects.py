"""Objects below a prefix of a bucket: S3 and what speaks like it, Google, Azure, or memory.

Every object is written whole or not at all, and nothing is locked. Errors name the place and what
the server answered, and no address of a request: it may hold a key.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aimz.errors import InputError, StoreError
from aimz.libraries import obstore, zarr

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Prefix", "as_prefix", "inside", "reason_of"]


#: Schemes of addresses of objects.
SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
#: What an unfinished result is recorded in, and what makes it one when it is there.
RECORD, MARKER = "unfinished.json", "zarr.json"


def as_prefix(value: object, name: str) -> Prefix | None:
    """Objects that an address or a store object names; None where it is neither.

    Raises
    ------
    InputError
        `output-dir`: an address that holds credentials, or that nobody understands;
        `obstore-missing`.
    """
    if type(value).__module__.partition(".")[0] in ("obstore", "_obstore"):
        storage: Any = value
        return Prefix(storage, _called(storage))
    if not isinstance(value, str) or value.partition("://")[0] not in SCHEMES:
        return None
    if importlib.util.find_spec("obstore") is None:
        msg = f"{name} is in an object store, which needs obstore. pip install 'aimz[s3]'."
        raise InputError(msg, code="obstore-missing")
    url = urlsplit(value)
    is_account = url.scheme.startswith("abfs") and url.password is None
    if url.query or url.fragment or (url.username is not None and not is_account):
        msg = (
            f"The address of {name} holds more than a place. Leave credentials to the environment, "
            "or pass a store object of obstore, which keeps them."
        )
        raise InputError(msg, code="output-dir")
    address = value.rstrip("/")
    # Objects are deleted one at a time, and not every server knows how to delete many.
    settings: Any = {"disable_bulk_delete": True} if url.scheme in ("s3", "s3a") else None
    try:
        return Prefix(obstore.store.from_url(address, config=settings), address)
    except (obstore.exceptions.BaseError, ValueError) as error:
        msg = f"{name} {address!r:.80} is no place of objects: {reason_of(error)}."
        raise InputError(msg, code="output-dir") from None


def inside(storage: ObjectStore, path: str) -> Prefix:
    """A path in a store object, which may be said with the store's own address."""
    place = Prefix(storage, _called(storage))
    return place / path.removeprefix(place.url).strip("/")


def _called(storage: ObjectStore) -> str:
    """What a store object is called: its address, without anything that opens it."""
    settings = getattr(storage, "config", None) or {}
    schemes = {"S3Store": "s3", "GCSStore": "gs", "AzureStore": "az", "LocalStore": "file"}
    scheme = schemes.get(type(storage).__name__, "memory")
    bucket = settings.get("bucket") or settings.get("container_name") or ""
    parts = (bucket, str(getattr(storage, "prefix", None) or "").strip("/"))
    return f"{scheme}://" + "/".join(part for part in parts if part)


def reason_of(error: BaseException) -> str:
    """What a server or a client said, in one line, without an address, which may hold a key."""
    first = str(error).partition("\n")[0]
    return re.sub(r"\S+://\S+( in \S+)?", "...", first)[:105].rstrip(". ") or type(error).__name__


def _short(place: str) -> str:
    return place if len(place) <= 60 else f"{place[:24]}...{place[-33:]}"


@dataclass(frozen=True)
class Prefix:
    """Objects whose keys begin alike; `url` is what the store object is called."""

    client: ObjectStore = field(repr=False)
    url: str
    path: str = ""

    def __str__(self) -> str:
        slash = "" if self.url.endswith("/") else "/"
        return f"{self.url}{slash}{self.path}" if self.path else self.url

    def __truediv__(self, name: str) -> Prefix:
        return Prefix(self.client, self.url, f"{self.path}/{name}".strip("/"))

    def key(self, name: str) -> str:
        """Key of an object here."""
        return f"{self.path}/{name}" if self.path else name

    def read(self, name: str) -> bytes | None:
        """Bytes of an object; None where there is none."""
        with self._talking("read"):
            try:
                return bytes(obstore.get(self.client, self.key(name)).bytes())
            except (FileNotFoundError, obstore.exceptions.NotFoundError):
                return None

    def write(self, name: str, value: bytes) -> None:
        """Put an object in its place."""
        with self._talking("written"):
            obstore.put(self.client, self.key(name), value, use_multipart=False)

    def create(self, name: str, value: bytes) -> bool:
        """Put an object where there is none; whether it is there now, and nobody else's.

        A request may be repeated after its answer was lost, and then finds its own object.
        """
        with self._talking("written"):
            try:
                obstore.put(self.client, self.key(name), value, mode="create", use_multipart=False)
            except obstore.exceptions.AlreadyExistsError:
                return self.read(name) == value
        return True

    def changed(self, name: str) -> datetime | None:
        """When an object was last put, by the clock of the server; None where there is none."""
        with self._talking("read"):
            try:
                when: datetime = obstore.head(self.client, self.key(name))["last_modified"]
            except (FileNotFoundError, obstore.exceptions.NotFoundError):
                return None
        return when

    def names(self) -> list[str]:
        """Names directly below, as those of directories."""
        with self._talking("read"):
            found = obstore.list_with_delimiter(self.client, self.path or None)
        return [str(name).rstrip("/").rpartition("/")[2] for name in found["common_prefixes"]]

    def all_names(self) -> Iterator[str]:
        """Names of all objects below."""
        with self._talking("read"):
            for page in obstore.list(self.client, self.path or None):
                for about in page:
                    yield about["path"].removeprefix(f"{self.path}/" if self.path else "")

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects; those that are gone already do no harm."""
        with self._talking("written"):
            for name in names:
                with contextlib.suppress(FileNotFoundError, obstore.exceptions.NotFoundError):
                    obstore.delete(self.client, self.key(name))

    def exists(self) -> bool:
        """Whether anything of a result is here."""
        return self.changed(MARKER) is not None or self.changed(RECORD) is not None

    def unfinished(self) -> bool:
        """Whether a part of a result is here, which the same call would go on with."""
        return self.changed(RECORD) is not None

    def named_unfinished(self) -> bool:
        """Names of objects do not say: the root is there at the end only."""
        return False

    def opened(self) -> Any:
        """The store that Zarr reads."""
        from aimz.store.below import Below  # Zarr's class is its base

        return Below(zarr.storage.ObjectStore(self.client, read_only=True), self.path)

    @contextlib.contextmanager
    def _talking(self, done: str) -> Iterator[None]:
        """Say of a failure where it was, and nothing that opens the place.

        Raises
        ------
        StoreError
            `store-unreachable`
        """
        try:
            yield
        except (obstore.exceptions.BaseError, OSError) as error:
            msg = (
                f"{_short(str(self))} cannot be {done}: {reason_of(error)}. Check the place and "
                "its credentials, and call again."
            )
            raise StoreError(msg, code="store-unreachable") from None
