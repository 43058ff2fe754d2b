"""What a disk says when it cannot be written to, in words that name the place and the way on."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from aimz.errors import AimzError, StoreError

__all__ = ["writing"]

_WORDS = {
    errno.ENOSPC: ("the disk is full", "Free some space, or choose another place"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, or choose another place"),
    errno.EACCES: ("it may not be written to", "Choose another place, or change its permissions"),
    errno.EPERM: ("it may not be written to", "Choose another place, or change its permissions"),
    errno.EROFS: ("it is read-only", "Choose another place"),
    errno.ENOTDIR: ("a file is in the way", "Choose another place, or move the file"),
    errno.EEXIST: ("something is in the way", "Choose another place, or move it"),
    errno.ENOTEMPTY: ("something is in the way", "Choose another place, or move it"),
    errno.ENAMETOOLONG: ("its name is too long", "Choose a shorter one"),
    errno.EMFILE: ("too many files are open", "Raise the limit, or close some"),
    errno.EIO: ("the disk fails", "Choose another place"),
}


@contextlib.contextmanager
def writing(place: Path, kept: str) -> Iterator[None]:
    """Say of an error of the system where it was, and what is kept.

    Raises
    ------
    StoreError
        `store-unwritable`
    """
    try:
        yield
    except AimzError:
        raise
    except OSError as error:
        if error.errno not in _WORDS:
            raise
        reason, way = _WORDS[error.errno]
        where = str(error.filename or place)
        msg = f"{where:.100} cannot be written: {reason}. {kept} {way}, and call again."
        raise StoreError(msg, code="store-unwritable") from error
