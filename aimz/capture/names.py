"""What has a name that other processes can import, and what has not."""

import functools
import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["GONE", "exact_path", "import_path", "reached"]


GONE: Any = object()


def exact_path(value: object) -> tuple[str, str] | None:
    """Module and qualified name that a value says, if importing them gives it elsewhere too."""
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        return None
    if module in ("", "__main__", "__mp_main__"):
        return None
    try:
        imported = reached(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None
    return (module, name) if imported is value else None


def import_path(value: object) -> tuple[str, str] | None:
    """The shortest public path by which others can import a value."""
    exact = exact_path(value)
    if exact is None:
        return None
    parts, name = exact[0].split("."), exact[1]
    for count in range(1, len(parts)):
        prefix = ".".join(parts[:count])
        try:
            if reached(sys.modules[prefix], name) is value:
                return prefix, name
        except (KeyError, AttributeError):
            continue
    return exact


def reached(module: ModuleType, name: str) -> Any:
    """What a dotted name means in a module."""
    return functools.reduce(getattr, name.split("."), module)
