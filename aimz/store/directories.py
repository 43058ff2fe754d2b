"""Directories that results are written to and read from."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aimz.errors import InputError

__all__ = ["as_directory", "local_path"]


def as_directory(output_dir: str | bytes | os.PathLike[str]) -> Path:
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


def local_path(value: str | bytes | os.PathLike[str], name: str) -> Path:
    """Absolute path that a path or a file URL names."""
    try:
        text = os.fsdecode(value)
    except (TypeError, UnicodeError) as error:
        msg = f"{name} is {value!r:.60}, which is no path. Pass a path or a file:// URL."
        raise InputError(msg, code="output-dir") from error
    if "\0" in text or not text:
        msg = f"{name} is {text!r:.60}, which no file system takes. Pass a path or a file:// URL."
        raise InputError(msg, code="output-dir")
    scheme, host = urlsplit(text)[:2] if "://" in text else ("", "")
    if scheme not in ("", "file") or host not in ("", "localhost"):
        msg = f"{name} {text!r:.80} is not a local directory. Pass a path or a file:// URL."
        raise InputError(msg, code="output-dir")
    path = Path(unquote(urlsplit(text).path) if scheme else text).expanduser().absolute()
    longest = max(path.parts, key=len)
    if len(os.fsencode(longest)) > LONGEST_NAME:
        msg = (
            f"{name} has a part {longest!r:.40} of over {LONGEST_NAME} letters. Pass a shorter one."
        )
        raise InputError(msg, code="output-dir")
    return path
