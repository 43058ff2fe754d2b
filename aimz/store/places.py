"""Places on disk: temporary ones, locked ones, and what is said of one that cannot be written to.

A temporary directory is locked by its process. The system lets go of a lock when a process ends,
however it ends, so that the next process can tell what a killed one has left behind, and removes
it.
"""

import contextlib
import errno
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from aimz.errors import AimzError, StoreError

__all__ = ["Scratch", "hold", "let_go", "writing"]


_PREFIX, _NEWBORN = "aimz-run-", ".aimz-new-"
_NEWBORN_SECONDS = 3600.0  # a directory that is not locked by then never will be
_ROOM, _ELSEWHERE = "Free some space, or choose another place", "Choose another place"
_WAYS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOENT), _ELSEWHERE),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY), "Move the file in the way"),
    **dict.fromkeys((errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG), _ELSEWHERE),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Close some files, or raise the limit"),
}


@contextlib.contextmanager
def writing(place: Path, kept: str) -> Iterator[None]:
    """Say of an error of the system where it was, what is kept, and the way on.

    Raises
    ------
    StoreError
        `store-unwritable`; its `errno` is the system's.
    """
    try:
        yield
    except AimzError:
        raise
    except OSError as error:
        if error.errno not in _WAYS:
            raise
        where = str(error.filename2 or error.filename or place)
        shown = where if len(where) <= 90 else f"...{where[-87:]}"
        way = _WAYS[error.errno]
        msg = f"{shown} cannot be written: {error.strerror}. {kept} {way}, and call again."
        wrapped = StoreError(msg, code="store-unwritable")
        wrapped.errno = error.errno
        raise wrapped from error


class Scratch:
    """A private temporary directory that goes when its last user does.

    Whoever keeps the object keeps the directory; `parent`, a directory around it, stays as long.

    Raises
    ------
    StoreError
        `store-unwritable`
    """

    def __init__(self, parent: "Scratch | None" = None) -> None:
        self.parent = parent
        self.path: Path
        self._held: int | None = None
        if parent is not None:
            self.path = Path(tempfile.mkdtemp(prefix="aimz-", dir=parent.path))
        else:
            root = Path(tempfile.gettempdir())
            _sweep(root)
            with writing(root, "Set TMPDIR, or pass output_dir= or store='memory'."):
                self.path, self._held = _locked_directory(root)
        self._finalizer = weakref.finalize(self, _remove, self.path, self._held)

    def remove(self) -> None:
        """Delete the directory now."""
        self._finalizer()


def hold(path: Path) -> int | None:
    """Lock a directory for this writer; the system lets go when the process ends, however it ends.

    Raises
    ------
    StoreError
        `store-held`: somebody else is writing there.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks: unfinished stores are not shared there
        return None
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StoreError(f"Another writer holds {path}.", code="store-held") from error
    return handle


def let_go(handle: int | None) -> None:
    """Unlock a directory."""
    if handle is not None:
        os.close(handle)


def _locked_directory(root: Path) -> tuple[Path, int | None]:
    """A new directory, which bears the name that others look at only once it is locked."""
    newborn = Path(tempfile.mkdtemp(prefix=_NEWBORN, dir=root))
    try:
        held = hold(newborn)
        path = newborn.with_name(_PREFIX + newborn.name.removeprefix(_NEWBORN))
        newborn.rename(path)
    except BaseException:  # rethrown as it is
        shutil.rmtree(newborn, ignore_errors=True)
        raise
    return path, held


def _remove(path: Path, held: int | None) -> None:
    shutil.rmtree(path, ignore_errors=True)
    let_go(held)


@cache
def _sweep(root: Path) -> None:
    """Remove, once in a process, what processes that were killed have left in a directory."""
    with contextlib.suppress(OSError):
        for path in root.glob(f"{_PREFIX}*"):
            _remove_if_left(path)
        for path in root.glob(f"{_NEWBORN}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime > _NEWBORN_SECONDS:
                    _remove_if_left(path)


def _remove_if_left(path: Path) -> None:
    """Remove a directory of this user's that no process holds."""
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir() or not _is_own(path):
            return
        held = hold(path)
        if held is not None:  # where there are no locks, nobody knows
            _remove(path, held)


def _is_own(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid()
