"""What the code of a function looks up: names of its module, attributes of what they hold."""

import dis
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType

__all__ = ["Lookups", "globals_read", "imports_inside", "lookups_of"]


_GLOBALS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_CELLS = frozenset({"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})


@dataclass(frozen=True)
class Lookups:
    """What a code, and the codes inside it, look up.

    Parameters
    ----------
    names : set of (str, tuple of str)
        Names of the module, with the attributes that are at once looked up in what they hold.
    cells : set of (str, tuple of str)
        The same of variables of the functions around it.
    attributes : set of str
        Every attribute that is looked up in anything.
    imports : set of (str, int)
        Modules that are imported, and how many packages up.
    """

    names: set[tuple[str, tuple[str, ...]]] = field(default_factory=set)
    cells: set[tuple[str, tuple[str, ...]]] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    imports: set[tuple[str, int]] = field(default_factory=set)


@lru_cache(maxsize=1024)  # a code never changes
def lookups_of(code: CodeType) -> Lookups:
    """Read a code."""
    looked = Lookups()
    for inner in _codes(code):
        steps = list(dis.get_instructions(inner))
        for place, step in enumerate(steps):
            if step.opname in _GLOBALS:
                looked.names.add((str(step.argval), _chain(steps, place)))
            elif step.opname in _CELLS:
                looked.cells.add((str(step.argval), _chain(steps, place)))
            elif step.opname in (*_ATTRIBUTES, "IMPORT_FROM", "LOAD_SUPER_ATTR"):
                looked.attributes.add(str(step.argval))
            elif step.opname == "IMPORT_NAME":
                looked.imports.add((str(step.argval), _level(steps, place)))
    return looked


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _chain(steps: list[dis.Instruction], place: int) -> tuple[str, ...]:
    """Attributes that are looked up one after the other, right after a name."""
    chain = []
    for step in steps[place + 1 :]:
        if step.opname not in _ATTRIBUTES or step.is_jump_target:
            break
        chain.append(str(step.argval))
    return tuple(chain)


def _level(steps: list[dis.Instruction], place: int) -> int:
    """How many packages up an import begins: the constant before its list of names."""
    level = steps[place - 2].argval if place > 1 else 0
    return level if isinstance(level, int) else 0


def globals_read(code: CodeType) -> set[str]:
    """Names that a function, and the functions inside it, look up in their module."""
    return {name for name, _ in lookups_of(code).names}


def imports_inside(code: CodeType) -> set[str]:
    """Modules that a function imports when it runs; a relative one begins with a dot."""
    return {"." * level + name for name, level in lookups_of(code).imports}
