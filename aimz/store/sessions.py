"""Keys below a prefix in a session of Icechunk.

A session belongs to its user, and so do its commit and its history. What is written into a fork of
it is in the session once that is merged, and in the repository once the user commits.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from aimz.errors import InputError, StoreError
from aimz.libraries import zarr
from aimz.store.objects import MARKER, reason_of

__all__ = ["ADDRESS", "InSession", "Session", "SessionSeen", "as_session"]


#: How the place of a result in a session begins.
ADDRESS = "icechunk://"


@runtime_checkable
class Session(Protocol):
    """What is used of a session of Icechunk, or of a fork of one."""

    @property
    def store(self) -> Any: ...
    @property
    def read_only(self) -> bool: ...
    def fork(self) -> Any: ...
    def merge(self, *others: Any) -> None: ...


def as_session(value: object, name: str) -> Session | None:
    """The session that is given, or whose store is; None for what is not Icechunk's.

    Raises
    ------
    InputError
        `output-dir`: it is neither.
    """
    if type(value).__module__.partition(".")[0] != "icechunk":
        return None
    session = getattr(value, "session", value)  # a store knows its own
    if not isinstance(session, Session):
        msg = (
            f"{name} is Icechunk's {type(value).__name__}, which nothing is written into. Pass a "
            "session: repository.writable_session('main')."
        )
        raise InputError(msg, code="output-dir")
    return session


@dataclass(frozen=True)
class InSession:
    """A result in a session: keys that begin with its path."""

    session: Session = field(repr=False)
    path: str

    def __str__(self) -> str:
        return f"{ADDRESS}{self.path}"

    def read(self, name: str) -> bytes | None:
        """Bytes under a key; None where there are none."""
        with self._talking("read"):
            found = self._run("get", name, zarr.core.buffer.default_buffer_prototype())
        return None if found is None else bytes(found.to_bytes())

    def write(self, name: str, value: bytes) -> None:
        """Put bytes under a key; a group or an array comes before what is in it."""
        buffer = zarr.core.buffer.default_buffer_prototype().buffer
        with self._talking("written"):
            self._run("set", name, buffer.from_bytes(value))

    def remove(self) -> None:
        """Delete all keys."""
        with self._talking("written"):
            zarr.core.sync.sync(self.session.store.delete_dir(self.path))

    def exists(self) -> bool:
        """Whether the result is here."""
        return self.read(MARKER) is not None

    def forked(self) -> InSession:
        """The same place in a fork, which can be pickled."""
        with self._talking("written"):
            return InSession(self.session.fork(), self.path)

    def take(self, other: InSession) -> None:
        """Merge what has been written in a fork."""
        with self._talking("written"):
            self.session.merge(other.session)

    def unfinished(self) -> bool:
        """There is all of a result in a session, or nothing."""
        return False

    def named_unfinished(self) -> bool:
        """There is all of a result in a session, or nothing."""
        return False

    def opened(self) -> Any:
        """The store that Zarr reads."""
        from aimz.store.below import Below  # Zarr's class is its base

        return Below(self.session.store, self.path)

    def _run(self, method: str, name: str, content: Any) -> Any:
        """Do as the store does, and wait for it."""
        asked = getattr(self.session.store, method)(f"{self.path}/{name}", content)
        return zarr.core.sync.sync(asked)

    @contextlib.contextmanager
    def _talking(self, done: str) -> Iterator[None]:
        """Say of a failure where it was.

        Raises
        ------
        StoreError
            `store-unreachable`
        """
        try:
            yield
        except Exception as error:
            kind = type(error).__module__.partition(".")[0]
            if kind != "icechunk" and not isinstance(error, KeyError | ValueError | OSError):
                raise
            msg = (
                f"{self} cannot be {done}: {reason_of(error)}. Look at the session: it must be "
                "writable, and its storage there. Call again."
            )
            raise StoreError(msg, code="store-unreachable") from error


@dataclass(frozen=True)
class SessionSeen:
    """A place in a fork, of which each tile is written into a copy that comes back."""

    place: InSession

    def is_seen(self) -> bool:
        """Whether this process reads what another has begun."""
        return self.place.exists()

    def write(self, chunks: Iterator[tuple[str, bytes]]) -> InSession:
        """Put chunks into a copy: one whose worker is lost is another one's again."""
        own = InSession(copy.copy(self.place.session), self.place.path)
        for name, value in chunks:
            own.write(name, value)
        return own
