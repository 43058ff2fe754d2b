"""Where a function or a class is written, found through what it is, not through its name.

Python keeps the file and the line of a function, and the file may have changed since. So the whole
source is compiled again, and the definition is the one whose code is the function's own: an edited
script or a cell that ran twice cannot put other code in its place.
"""

import __future__

import ast
import bisect
import copy
import dis
import inspect
import io
import linecache
import sys
import tokenize
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

__all__ = [
    "Definition",
    "NotWrittenError",
    "class_definition",
    "class_scope",
    "definition_of",
    "is_alike",
    "register_source",
    "span_of",
]


_FUTURE = __future__.annotations.compiler_flag  # which a code carries from its source
_PREPARE = ("PUSH_NULL", "CACHE", "NOP")
# Classes that captured files have made: their source and their module, which nobody can import.
_MADE: "WeakKeyDictionary[type, tuple[Sequence[str], dict[str, Any]]]" = WeakKeyDictionary()
type Span = tuple[tuple[int, int], tuple[int, int]]
type Change = tuple[Span, str]


class NotWrittenError(Exception):
    """There is no source of this object; says why."""


@dataclass(frozen=True)
class Definition:
    """A definition as it stands in its source.

    Parameters
    ----------
    node : FunctionDef, Lambda or ClassDef
        The definition.
    lines : sequence of str
        All lines of the source.
    """

    node: Any
    lines: Sequence[str]

    @property
    def indent(self) -> str:
        """White space before it."""
        line = str(self.lines[self.node.lineno - 1])
        return line[: len(line) - len(line.lstrip())]

    @property
    def is_decorated(self) -> bool:
        """Whether decorators stand above it."""
        return bool(getattr(self.node, "decorator_list", ()))

    @property
    def annotations(self) -> list[Change]:
        """Places of a function's annotations, which a kernel does not need, to be left out."""
        if isinstance(self.node, ast.Lambda):
            return []
        arguments = self.node.args
        every = [
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            arguments.vararg,
            arguments.kwarg,
        ]
        places = [
            (((arg.lineno, arg.col_offset), span_of(arg.annotation)[1]), arg.arg)
            for arg in every
            if arg is not None and arg.annotation is not None
        ]
        if self.node.returns is not None:
            line, column = span_of(self.node.returns)[0]
            while (place := self.lines[line - 1].encode()[:column].rfind(b"->")) < 0:
                line, column = line - 1, len(self.lines[line - 2].encode())
            places.append((((line, place), span_of(self.node.returns)[1]), ""))
        return places

    def text(self, changes: Sequence[Change] = (), *, decorated: bool = False) -> str:
        """The definition with other text in some places, (line, byte) to (line, byte)."""
        node = self.node
        if isinstance(node, ast.Lambda):
            return ast.unparse(_Changed(dict(changes)).visit(copy.deepcopy(node)))
        decorators = node.decorator_list if decorated else ()
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        data = [line.encode() for line in self.lines]
        for (start, end), new in sorted(changes, reverse=True):
            tail = data[end[0] - 1][end[1] :]
            head = data[start[0] - 1][: start[1]]
            data[start[0] - 1 : end[0]] = [head + new.encode() + tail, *[b""] * (end[0] - start[0])]
        return b"".join(data[first - 1 : node.end_lineno]).decode().rstrip("\n") + "\n"

    def assigned(self, name: str) -> ast.expr | None:
        """What the module that holds the definition has last assigned to a name."""
        tree = ast.parse("".join(self.lines))
        values = [
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and [ast.unparse(target) for target in node.targets] == [name]
        ]
        return values[-1] if values else None

    def indented(self, text: str) -> str:
        """A text of the definition, four columns further in; strings of several lines stay."""
        inside: set[int] = set()
        strings: list[int] = []
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            kind = tokenize.tok_name[token.type]
            if kind.endswith("STRING_START"):
                strings.append(token.start[0])
            elif kind.endswith("STRING_END"):
                inside |= set(range(strings.pop() + 1, token.end[0] + 1))
            elif kind == "STRING":
                inside |= set(range(token.start[0] + 1, token.end[0] + 1))
        lines = text.splitlines(keepends=True)
        return "".join(
            line if number in inside or not line.strip() else "    " + line
            for number, line in enumerate(lines, 1)
        )


def definition_of(function: types.FunctionType) -> Definition:
    """Definition of a function, without what decorators have made of it.

    Raises
    ------
    NotWrittenError
        No source, or one that has changed since.
    """
    code = function.__code__
    try:
        lines = inspect.findsource(code)[0]
    except (OSError, TypeError) as error:
        msg = "it has no source"
        raise NotWrittenError(msg) from error
    tree, compiled = _compiled("".join(lines), code.co_flags & _FUTURE)
    alike = [candidate for candidate in _codes(compiled) if is_alike(candidate, code)]
    if not alike:
        # All that `exec` runs is called "<string>", and so is the text of `python -c`.
        is_nameless = code.co_filename == "<string>"
        msg = "it has no source" if is_nameless else "its source has changed since it was run"
        raise NotWrittenError(msg)
    nearest = min(alike, key=lambda candidate: abs(candidate.co_firstlineno - code.co_firstlineno))
    return Definition(_node_of(tree, nearest), lines)


def class_definition(cls: type) -> Definition:
    """Definition of a class: where its methods are, or the last of its name in its module.

    Raises
    ------
    NotWrittenError
        No source.
    """
    for method in vars(cls).values():
        if not isinstance(method, types.FunctionType) or method.__module__ != cls.__module__:
            continue
        try:
            definition = definition_of(method)
        except NotWrittenError:  # one that a decorator of the class has made
            continue
        line, nodes = definition.node.lineno, _classes("".join(definition.lines), cls)
        within = [node for node in nodes if node.lineno <= line <= (node.end_lineno or 0)]
        if within:
            return Definition(within[-1], definition.lines)
    for lines in _sources(cls):
        nodes = _classes("".join(lines), cls)
        if nodes:
            return Definition(nodes[-1], lines)
    msg = "it has no source"
    raise NotWrittenError(msg)


def class_scope(cls: type) -> dict[str, Any]:
    """The module that a class is made in, by name."""
    if cls in _MADE:
        return _MADE[cls][1]
    return vars(sys.modules[cls.__module__])


def _sources(cls: type) -> Iterator[Sequence[str]]:
    """Where a class may be written: its captured file, its module's file, cells, newest first."""
    if cls in _MADE:
        yield _MADE[cls][0]
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file:
        yield linecache.getlines(file)
    yield from [entry[2] for entry in linecache.cache.values() if len(entry) > 2][::-1]


class _Changed(ast.NodeTransformer):
    """Puts other expressions in some places."""

    def __init__(self, changes: Mapping[Span, str]) -> None:
        self.changes = changes

    def visit(self, node: ast.AST) -> Any:
        new = self.changes.get(span_of(node)) if isinstance(node, ast.expr) else None
        return super().visit(node) if new is None else ast.parse(new, mode="eval").body


def span_of(node: Any) -> Span:
    """Where a node begins and ends."""
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def is_alike(one: types.CodeType, other: types.CodeType) -> bool:
    """Whether two codes do the same, wherever they are written."""
    parts = ("co_name", "co_varnames", "co_freevars", "co_cellvars")
    counts = ("co_argcount", "co_posonlyargcount", "co_kwonlyargcount")
    if any(getattr(one, name) != getattr(other, name) for name in (*parts, *counts)):
        return False
    if _steps(one) != _steps(other):
        return False
    inner = (
        [c for c in holder.co_consts if isinstance(c, types.CodeType)] for holder in (one, other)
    )
    return all(is_alike(a, b) for a, b in zip(*inner, strict=True))


def _steps(code: types.CodeType) -> list[tuple[str, Any]]:
    """Instructions of a code.

    A method of a module is called in two ways, which depend on where the module was imported, so
    that what prepares the call does not count.
    """
    instructions = [
        instruction
        for instruction in dis.get_instructions(code)
        if instruction.opname not in _PREPARE
    ]
    offsets = [instruction.offset for instruction in instructions]
    steps: list[tuple[str, Any]] = []
    for instruction in instructions:
        value: Any = instruction.argval
        if instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs:
            value = bisect.bisect_left(offsets, value)
        elif isinstance(value, types.CodeType):
            value = value.co_name
        elif not isinstance(value, frozenset):
            value = (type(value), repr(value))
        steps.append((instruction.opname, value))
    return steps


def register_source(name: str, source: str, scope: dict[str, Any]) -> None:
    """Let tracebacks, and later captures, find a source that is in no file for long."""
    lines = source.splitlines(keepends=True)
    linecache.cache[name] = (len(source), None, lines, name)
    for value in scope.values():
        if isinstance(value, type) and _classes(source, value):
            _MADE[value] = (lines, scope)


def _compiled(source: str, flags: int) -> tuple[ast.Module, types.CodeType]:
    try:
        tree = ast.parse(source)
        wanted = flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT  # cells may await
        return tree, compile(source, "<source>", "exec", flags=wanted, dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        msg = "its source has changed since it was run"
        raise NotWrittenError(msg) from error


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield inner
            yield from _codes(inner)


def _node_of(tree: ast.Module, code: types.CodeType) -> Any:
    """Definition of a code of this very source."""
    if code.co_name == "<lambda>":
        places = [p for p in code.co_positions() if p[0] is not None and p[2] is not None]
        around = [
            node for node in ast.walk(tree) if isinstance(node, ast.Lambda) and _holds(node, places)
        ]
        return min(around, key=lambda node: len(ast.dump(node)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == code.co_firstlineno:
                return node
    msg = "its source could not be told apart"
    raise NotWrittenError(msg)


def _holds(node: ast.Lambda, places: Sequence[Any]) -> bool:
    first, last = (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)
    # The first instruction stands for the call itself, at column 0 of its line.
    return all(first <= (p[0], p[2]) and (p[1], p[3]) <= last for p in places if p[2:] != (0, 0))


def _classes(source: str, cls: type) -> list[ast.ClassDef]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    return [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == cls.__name__]
