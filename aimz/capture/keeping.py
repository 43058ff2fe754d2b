"""How a saved model keeps its kernel: by import path, as captured code, or not at all."""

import io
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from aimz.capture.capturing import captured, run_code
from aimz.capture.names import exact_path, reached
from aimz.capture.writer import DATA, NotCapturedError
from aimz.errors import StoreError

__all__ = ["FILES", "Kept", "fetched", "imported", "kept", "kept_account"]


CODE = "kernel.py"
FILES = (CODE, DATA)
_ACCOUNTS: "WeakKeyDictionary[Any, dict[str, Any]]" = WeakKeyDictionary()
_NOT_KERNELS = (type, types.ModuleType, types.BuiltinFunctionType)


@dataclass(frozen=True)
class Kept:
    """What a saved model keeps of its kernel.

    Parameters
    ----------
    entry : mapping
        How it is found again: `import`, a path; or `code`, with the `name` in it, its `origin` and
        what was `captured`; or `absent`, with the reason.
    files : mapping of bytes
        Files that belong to it.
    """

    entry: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def absent(self) -> str:
        """Why the kernel is not kept; empty where it is."""
        return str(self.entry.get("absent", ""))


def kept(kernel: Callable[..., Any]) -> Kept:
    """What to keep of a kernel."""
    path = exact_path(kernel)
    if path is not None and not isinstance(kernel, _NOT_KERNELS):
        return Kept({"import": ":".join(path)})
    try:
        written = captured(kernel)
    except NotCapturedError as error:
        return Kept({"absent": str(error)})
    except Exception as error:  # noqa: BLE001  # of objects of any kind; `save` says it
        return Kept({"absent": f"what it reads: writing it down raised {error!r:.80}"})
    files = {CODE: written.source.encode()}
    if written.arrays:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **written.arrays)
        files[DATA] = buffer.getvalue()
    entry = {"code": CODE, "name": written.name, "origin": list(written.origin)}
    return Kept({**entry, "captured": written.account}, files)


def kept_account(kernel: Callable[..., Any]) -> dict[str, Any]:
    """What a saved model would keep of a kernel, in plain values; remembered for each kernel."""
    try:
        if kernel not in _ACCOUNTS:
            _ACCOUNTS[kernel] = dict(kept(kernel).entry)
        entry = _ACCOUNTS[kernel]
    except TypeError:  # an object that has no digest, or cannot be referred to weakly
        entry = dict(kept(kernel).entry)
    return {name: entry[name] for name in ("import", "captured", "absent") if name in entry}


def fetched(
    entry: Mapping[str, Any], files: Mapping[str, bytes], directory: Path
) -> Callable[..., Any]:
    """The kernel of a saved model: imports its module, or runs its code.

    Raises
    ------
    StoreError
        `kernel-missing`: there is none, or it does not run here; `model-unsafe`: a path that is no
        kernel's.
    """
    if "import" in entry:
        return imported(entry["import"])
    if "code" not in entry:
        reason = entry.get("absent")
        why = f", because of {reason:.120}" if reason else ""
        msg = (
            f"The model was saved without its kernel{why}. Pass it: ImpactModel.load(path, kernel)."
        )
        raise StoreError(msg, code="kernel-missing")
    arrays: dict[str, Any] = {}
    try:
        if DATA in files:
            with np.load(io.BytesIO(files[DATA]), allow_pickle=False) as stored:
                arrays = dict(stored)
        name, origin = str(entry["name"]), (str(entry["origin"][0]), str(entry["origin"][1]))
        return run_code(files[CODE].decode(), arrays, directory / CODE, name, origin)
    except Exception as error:  # code of the user's own, which may raise anything; rethrown by name
        msg = (
            f"The kernel's code, {directory / CODE!s:.60}, does not run here: {error!r:.80}. "
            "Install what it imports, or load the model with kernel=."
        )
        raise StoreError(msg, code="kernel-missing") from error


def imported(path: object) -> Callable[..., Any]:
    """Import a kernel by its path, `module:qualname`.

    Raises
    ------
    StoreError
        `kernel-missing`, `model-unsafe`: as for `fetched`.
    """
    module, _, name = str(path).partition(":")
    if not name or module.split(".")[0] in {*sys.stdlib_module_names, *sys.builtin_module_names}:
        msg = f"The model names its kernel {path!r:.60}, which is no import path of a kernel."
        raise StoreError(msg, code="model-unsafe")
    try:
        __import__(module)
        kernel: Callable[..., Any] = reached(sys.modules[module], name)
    except (ImportError, AttributeError) as error:
        msg = (
            f"The kernel {path!r:.60} cannot be imported here ({error!s:.80}). Install its "
            "package, put its module beside the program, or load the model with kernel=."
        )
        raise StoreError(msg, code="kernel-missing") from error
    if exact_path(kernel) != (module, name) or isinstance(kernel, _NOT_KERNELS):
        msg = f"{path!r:.60} is defined elsewhere: it is no import path of a kernel."
        raise StoreError(msg, code="model-unsafe")
    return kernel
