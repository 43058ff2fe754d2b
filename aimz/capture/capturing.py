"""A kernel that no other process can import, as code: its source and all that it reads.

A kernel of a notebook reads helpers, constants and arrays of the notebook; one that a function has
made reads that function's variables. `captured` writes them all as a Python file that a person can
read, and puts arrays beside it. What has a name that can be imported is imported. What has no
source and no plain state, such as a lock, is named.

`Comparison` then compares what the file makes with the kernel, piece by piece, so that a mistake
here is an error where the model is saved, and never another number where it is loaded.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aimz.capture.comparison import Comparison
from aimz.capture.definitions import register_source
from aimz.capture.writer import STORED, NotCapturedError, Writer
from aimz.reads import is_installed

__all__ = ["Captured", "captured", "run_code"]


@dataclass(frozen=True)
class Captured:
    """A kernel as code.

    Parameters
    ----------
    source : str
        The Python file.
    arrays : mapping of arrays
        What the file reads from beside it.
    name : str
        Name of the kernel in it.
    origin : (str, str)
        Module and qualified name that it had.
    imports : tuple of str
        Modules that the file imports.
    definitions : tuple of str
        Functions and classes that it holds.
    constants : mapping of str
        What else it holds, by name.
    """

    source: str
    arrays: Mapping[str, np.ndarray]
    name: str
    origin: tuple[str, str]
    imports: tuple[str, ...]
    definitions: tuple[str, ...]
    constants: Mapping[str, str]

    @property
    def account(self) -> dict[str, Any]:
        """What was captured, in plain values."""
        local = [name for name in self.imports if not is_installed(name)]
        return {
            "definitions": list(self.definitions),
            "constants": dict(self.constants),
            "imports": list(self.imports),
            "local_imports": local,
        }


def captured(kernel: Callable[..., Any]) -> Captured:
    """Write a kernel, and all that it reads, as code.

    Raises
    ------
    NotCapturedError
        It reads something that cannot be written down, which the error names.
    """
    writer = Writer()
    module = str(getattr(kernel, "__module__", None) or "__main__")
    qualname = str(getattr(kernel, "__qualname__", type(kernel).__qualname__))
    name = writer.named(kernel, "kernel", [qualname.rsplit(".", 1)[-1]])
    written = Captured(
        writer.source(module),
        writer.arrays,
        name,
        (module, qualname),
        tuple(sorted(writer.modules)),
        tuple(writer.definitions),
        writer.constants,
    )
    try:
        again = run_code(written.source, written.arrays, Path("kernel.py"), name, written.origin)
    except Exception as error:  # code of the user's own, which may raise anything; rethrown by name
        raise NotCapturedError(f"running its code again raised {error!r:.80}", [name]) from error
    difference = Comparison().difference(kernel, again, (name,))
    if difference:
        raise NotCapturedError("it would come back otherwise", difference)
    return written


def run_code(
    source: str,
    arrays: Mapping[str, Any],
    path: Path,
    name: str,
    origin: tuple[str, str],
) -> Callable[..., Any]:
    """Run a captured file and return its kernel, which is called what it was."""
    file = f"<{path} {hash(source):x}>"
    module = types.ModuleType(origin[0])
    module.__dict__.update(__file__=str(path), **{STORED: arrays})
    exec(compile(source, file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102  # what `load` is asked for
    register_source(file, source, vars(module))
    kernel: Callable[..., Any] = getattr(module, name)
    if isinstance(kernel, types.FunctionType):
        kernel.__qualname__ = origin[1]
    return kernel
