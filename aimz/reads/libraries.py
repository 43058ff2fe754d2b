"""Libraries whose code is taken to compute from its arguments alone, and what is not of them.

Their code is not walked: a name that holds the same function or class as before says the same. What
users do replace, names of the modules that kernels are written with and methods of distributions,
is looked at nevertheless.
"""

import builtins
import functools
import operator
import sys
import sysconfig
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np

__all__ = [
    "DYNAMIC",
    "OPENING",
    "faces",
    "is_installed",
    "is_library_code",
    "is_library_module",
    "is_library_thing",
    "is_named",
    "is_of_library",
    "is_stateful",
]


_WHOLE = frozenset(
    {
        *("jax", "jaxlib", "numpyro", "numpy", "flax", "optax", "aimz", "builtins"),
        *("math", "cmath", "operator", "_operator", "functools", "_functools", "itertools"),
        *("collections", "_collections", "_collections_abc", "typing", "types", "dataclasses"),
        *("abc", "_abc", "enum", "contextlib", "numbers", "copy", "warnings", "_warnings"),
        *("__future__", "fractions", "bisect", "_bisect", "heapq", "_heapq", "string", "reprlib"),
    }
)
_PARTS = ("scipy.special", "scipy.linalg", "scipy.constants")
#: What these libraries have that reads files, settings or random states of the process.
_STATEFUL = frozenset(
    {
        *("numpy.random", "numpy.load", "numpy.loadtxt", "numpy.genfromtxt", "numpy.fromfile"),
        *("numpy.fromregex", "numpy.memmap", "numpy.geterr", "numpy.get_printoptions"),
        *("numpy.ctypeslib", "jax.numpy.load", "jax.numpy.fromfile"),
        *("jax._src.numpy.lax_numpy.load", "jax._src.numpy.lax_numpy.fromfile"),
    }
)
#: Python's own functions by which a kernel can read anything.
OPENING = tuple(
    getattr(builtins, name)
    for name in ("open", "eval", "exec", "compile", "globals", "locals", "input", "__import__")
)
#: Those that look up an attribute by a name that is computed.
DYNAMIC = (
    *(builtins.getattr, builtins.hasattr, builtins.setattr, builtins.delattr),
    *(builtins.vars, builtins.dir, operator.attrgetter, operator.methodcaller),
)
_LIBRARY = tuple(
    Path(sysconfig.get_path(name)).resolve()
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_FACES = (
    *("jax", "jax.numpy", "jax.lax", "jax.random", "jax.nn", "jax.scipy.special"),
    *("numpyro", "numpyro.primitives", "numpyro.handlers", "numpyro.util"),
    "numpyro.contrib.control_flow",
)


def is_library_module(name: str) -> bool:
    """Whether a module is of a library that computes from arguments alone."""
    if any(name == part or name.startswith(f"{part}.") for part in _STATEFUL):
        return False
    return name.partition(".")[0] in _WHOLE or any(
        name == part or name.startswith(f"{part}.") for part in _PARTS
    )


def is_library_thing(value: Any) -> bool:
    """Whether a function or class is such a library's own, whatever name it goes by."""
    if isinstance(value, FunctionType):  # `functools.wraps` copies the name of a module
        return is_library_code(value) and is_named(value)
    if isinstance(value, np.ufunc):
        return getattr(np, value.__name__, None) is value or _is_special(value)
    module = getattr(value, "__module__", None)
    if isinstance(value, BuiltinFunctionType):
        of_module = value.__self__ is None or isinstance(value.__self__, ModuleType)
        return of_module and isinstance(module, str) and is_library_module(module)
    return isinstance(module, str) and is_library_module(module) and is_named(value)


def is_stateful(value: Any) -> bool:
    """Whether a library's function or class reads more than its arguments."""
    return f"{getattr(value, '__module__', '')}.{_path_of(value)}" in _STATEFUL


def _path_of(value: Any) -> str:
    return str(getattr(value, "__qualname__", "") or getattr(value, "__name__", ""))


def _is_special(value: np.ufunc) -> bool:
    return getattr(sys.modules.get("scipy.special"), value.__name__, None) is value


def is_named(value: Any) -> bool:
    """Whether a module has it under the name that it says, so that nobody else made it."""
    found: Any = sys.modules.get(value.__module__)
    for name in _path_of(value).split("."):
        found = getattr(found, "__dict__", {}).get(name)
    return getattr(found, "__func__", found) is value


def is_library_code(function: FunctionType) -> bool:
    """Whether the code of a function is such a library's, whoever made the function of it."""
    name = str(function.__globals__.get("__name__"))
    loaded = getattr(sys.modules.get(name), "__dict__", None)
    return is_library_module(name) and loaded is function.__globals__


def is_of_library(function: FunctionType) -> bool:
    """Whether the code of a function is an installed package's, and not the user's."""
    file = function.__code__.co_filename
    return Path(file).is_absolute() and _lies_in_library(file)


def is_installed(module: str) -> bool:
    """Whether a module comes with Python or with a package, and not from the user's directory."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if file is None:
        return True
    if module.split(".", maxsplit=1)[0] == "aimz":
        return True
    return _lies_in_library(file)


@functools.lru_cache(maxsize=4096)
def _lies_in_library(file: str) -> bool:
    """Whether a file lies where packages are installed, as it did when it was first asked for.

    What has been loaded from it stays what it is, wherever links lead later.
    """
    path = Path(file).resolve()
    return any(path.is_relative_to(directory) for directory in _LIBRARY)


def faces() -> list[ModuleType]:
    """Modules that kernels, and the distributions in them, are written with."""
    names = [n for n in tuple(sys.modules) if f"{n}.".startswith("numpyro.distributions.")]
    loaded = (sys.modules.get(name) for name in sorted({*_FACES, *names}))
    return [module for module in loaded if isinstance(module, ModuleType)]
