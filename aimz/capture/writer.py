"""Writes the statements that make an object again, each after those that it needs."""

import ast
import builtins
import copy
import functools
import importlib
import keyword
import math
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from aimz.capture import parts
from aimz.capture.definitions import (
    Definition,
    NotWrittenError,
    class_definition,
    class_scope,
    definition_of,
    span_of,
)
from aimz.capture.names import import_path
from aimz.reads import globals_read, imports_inside, is_installed, is_of_library

__all__ = ["DATA", "STORED", "NotCapturedError", "Writer"]


DATA = "kernel.npz"
STORED = "_stored"  # the arrays, in the file
_LITERALS = (bool, int, str, bytes, types.NoneType, types.EllipsisType)
_JITTED, _CACHED = type(jax.jit(len)), type(functools.lru_cache(len))
_HEAD = (
    '''"""The kernel of a saved model, captured from {module!r}: loading the model runs this."""'''
)


class NotCapturedError(Exception):
    """Something cannot be written down: why, and by which names the kernel reads it."""

    def __init__(self, reason: str, path: Sequence[str]) -> None:
        where = " of ".join(repr(name) for name in reversed(path))
        super().__init__(f"{where:.80}: {reason:.70}")


@dataclass
class Writer:
    """Writes statements that make objects again, each after those that it needs."""

    statements: list[str] = field(default_factory=list)
    imported: dict[str, None] = field(default_factory=dict)
    modules: dict[str, None] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    definitions: list[str] = field(default_factory=list)
    constants: dict[str, str] = field(default_factory=dict)
    _names: dict[str, Any] = field(default_factory=dict)  # what each name of the file means
    _made: dict[int, tuple[str, Any]] = field(default_factory=dict)  # names of objects, kept alive
    _pending: list[int] = field(default_factory=list)  # being written

    def source(self, module: str) -> str:
        """The file."""
        parts = [_HEAD.format(module=module), *sorted(self.imported)]
        if self.arrays:
            load = (
                f'if "{STORED}" not in globals():\n    import pathlib\n\n    import numpy\n\n'
                f'    {STORED} = numpy.load(pathlib.Path(__file__).with_name("{DATA}"))'
            )
            parts += ["", load]
        return "\n".join([*parts, "", *self.statements])

    # ------------------------------------------------------------- names

    def named(self, value: object, wanted: str, path: Sequence[str]) -> str:
        """A name of the file that means a value."""
        if self._means(wanted, value):
            return wanted
        made = self._made.get(id(value))
        if made is not None and self._means(made[0], value):
            return made[0]
        where = None if id(value) in self._made else import_path(value)
        if where is not None and "." not in where[1] and not self._is_local(value):
            return self._import_name(value, where, wanted)
        text = self.expression(value, path, wanted)
        if text.isidentifier() and self._means(text, value):
            return text
        name = self._free_name(wanted)
        self._bind(name, value)
        self.statements.append(f"{name} = {text}")
        self.constants[name] = _shown(value)
        return name

    def _means(self, name: str, value: object) -> bool:
        return name in self._names and self._names[name] is value

    def _bind(self, name: str, value: object) -> None:
        self._names[name] = value
        self._made.setdefault(id(value), (name, value))

    def _free_name(self, wanted: str) -> str:
        base = re.sub(r"\W", "_", wanted) or "value"
        base = f"_{base}" if base[0].isdigit() or keyword.iskeyword(base) else base
        name, number = base, 2
        while name in self._names or name == STORED or hasattr(builtins, name):
            name, number = f"{base}_{number}", number + 1
        return name

    def _read(self, name: str, value: Any, path: Sequence[str]) -> str | None:
        """Make a name of the file mean a value; another name where it is taken."""
        if name not in self._names and not isinstance(value, types.ModuleType):
            text = self.named(value, name, [*path, name])
            if text != name and name not in self._names:
                self._names[name] = value
                self.statements.append(f"{name} = {text}")
        elif name not in self._names:
            self._import(value, name, [*path, name])
        return None if self._means(name, value) else self.named(value, name, [*path, name])

    # ------------------------------------------------------------- expressions

    def expression(self, value: object, path: Sequence[str], wanted: str = "value") -> str:
        """Python text that makes a value; statements that it needs are written first."""
        kind = type(value)
        if kind in _LITERALS:
            return repr(value)
        if kind in (float, complex):
            return _number(value)
        made = self._made.get(id(value))
        if made is not None:
            if id(value) in self._pending:
                msg = "it refers to itself while it is made"
                raise NotCapturedError(msg, path)
            return made[0]
        if kind in (list, tuple, set, frozenset, dict):
            return self._collection(value, path)
        for kinds, write in self._writers():
            if isinstance(value, kinds):
                return write(value, path, wanted)
        imported = self._importable(value)
        return imported if imported is not None else self._object(value, path, wanted)

    def _writers(self) -> Iterator[tuple[Any, Callable[..., str]]]:
        yield types.ModuleType, lambda value, path, _: self._import(value, "", path)
        yield np.generic, self._scalar
        yield np.dtype, self._dtype
        yield jax.Array, self._jax_array
        yield np.ndarray, self._array
        yield type, self._class
        yield types.FunctionType, self._function
        yield (_JITTED, _CACHED), self._compiled
        yield functools.partial, self._partial
        yield (
            types.MethodType,
            lambda value, path, wanted: (
                f"{self.named(value.__self__, wanted + '_self', path)}.{value.__func__.__name__}"
            ),
        )

    def _collection(self, value: Any, path: Sequence[str]) -> str:
        with self._writing(value, path):
            if isinstance(value, dict):
                pairs = [
                    f"{self.expression(k, path)}: {self.expression(v, [*path, str(k)], str(k))}"
                    for k, v in value.items()
                ]
                return f"{{{', '.join(pairs)}}}"
            items = [self.expression(item, path) for item in value]
        listed = ", ".join(items)
        if isinstance(value, list):
            return f"[{listed}]"
        if isinstance(value, tuple):
            return f"({listed}{',' if len(items) == 1 else ''})"
        return f"{type(value).__name__}([{listed}])"

    @contextmanager
    def _writing(self, value: object, path: Sequence[str]) -> Iterator[None]:
        if id(value) in self._pending:
            msg = "it holds itself"
            raise NotCapturedError(msg, path)
        self._pending.append(id(value))
        yield
        self._pending.pop()

    def _scalar(self, value: Any, path: Sequence[str], wanted: str) -> str:
        return f"{self._array(np.asarray(value), path, wanted)}[()]"

    def _dtype(self, value: np.dtype[Any], *_: object) -> str:
        return f"{self._module('numpy')}.dtype({value.str!r})"

    def _array(self, value: np.ndarray, path: Sequence[str], wanted: str) -> str:
        if type(value) is not np.ndarray:
            return self._object(value, path, wanted)
        if value.dtype == object:
            listed = self.expression(value.ravel().tolist(), path, wanted)
            shape = "".join(f", {size}" for size in value.shape)
            return f"{self._helper('objects')}({listed}{shape})"
        if value.dtype.kind not in "biufcSUMm":
            msg = f"an array of {value.dtype} cannot be stored"
            raise NotCapturedError(msg, path)
        name = re.sub(r"\W", "_", wanted)
        while name in self.arrays:
            name += "_"
        self.arrays[name] = np.array(value)
        return f"{STORED}[{name!r}]"

    def _jax_array(self, value: jax.Array, path: Sequence[str], wanted: str) -> str:
        if isinstance(value, jax.core.Tracer):
            msg = "it belongs to a computation that is over (a leaked tracer)"
            raise NotCapturedError(msg, path)
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            words = self._jax_array(jax.random.key_data(value), path, wanted)
            kind = str(jax.random.key_impl(value))
            return f"{self._module('jax')}.random.wrap_key_data({words}, impl={kind!r})"
        array = np.asarray(value)
        jnp = self._module("jax.numpy")
        if array.dtype.kind == "V":  # bfloat16 and its like, which NumPy does not store
            wide = self._array(array.astype(np.float32), path, wanted)
            return f"{jnp}.asarray({wide}, {str(array.dtype)!r})"
        return f"{jnp}.asarray({self._array(array, path, wanted)})"

    def _partial(self, value: functools.partial[Any], path: Sequence[str], wanted: str) -> str:
        if type(value) is not functools.partial or vars(value):
            return self._object(value, path, wanted)
        arguments = [self.expression(item, path, wanted) for item in (value.func, *value.args)]
        arguments += [f"{n}={self.expression(v, [*path, n], n)}" for n, v in value.keywords.items()]
        return f"{self._module('functools')}.partial({', '.join(arguments)})"

    def _object(self, value: Any, path: Sequence[str], wanted: str) -> str:
        """What copies of the object are made of."""
        try:
            reduced = value.__reduce_ex__(4)
        except Exception as error:  # objects raise what they like
            if callable(value) and hasattr(value, "__wrapped__"):
                return self._wrapped(value, path, wanted)
            raise NotCapturedError(f"{str(error) or repr(error)}", path) from error
        if isinstance(reduced, str):
            msg = f"a {type(value).__name__} without a module"
            raise NotCapturedError(msg, path)
        make, args, state, items, pairs = (*reduced, None, None, None)[:5]
        with self._writing(value, path):
            written = [self.expression(item, path, wanted) for item in args]
            if make.__module__ == "copyreg" and make.__name__ == "__newobj__":
                written.insert(0, f"{written[0]}.__new__")
            else:
                written.insert(0, self.expression(make, path, wanted))
            for name, part in (("state", state), ("items", items), ("pairs", pairs)):
                if part is not None:
                    content = part if name == "state" else list(part)
                    written.append(f"{name}={self.expression(content, path, wanted)}")
        return f"{self._helper('rebuilt')}({', '.join(written)})"

    # ------------------------------------------------------------- modules

    def _import(self, module: types.ModuleType, wanted: str, path: Sequence[str]) -> str:
        """Import a module; where a name is wanted, under that one."""
        full = module.__name__
        if sys.modules.get(full) is not module or full == "__main__":
            msg = f"the module {full} cannot be imported"
            raise NotCapturedError(msg, path)
        self.modules[full] = None
        name = wanted if wanted and wanted not in self._names else ""
        made = self._made.get(id(module))
        if not name and made is not None:
            return made[0]
        top = full.split(".", maxsplit=1)[0]
        name = name or self._free_name(full.replace(".", "_"))
        self._bind(name, module)
        plain = name == full == top
        self.imported[f"import {full}" if plain else f"import {full} as {name}"] = None
        return name

    def _import_name(self, value: object, where: tuple[str, str], wanted: str) -> str:
        module, attribute = where
        name = self._free_name(wanted)
        self._bind(name, value)
        self.modules[module] = None
        alias = "" if name == attribute else f" as {name}"
        self.imported[f"from {module} import {attribute}{alias}"] = None
        return name

    def _module(self, full: str) -> str:
        """Name of a module of a library that the file itself needs."""
        usual = {"numpy": "np", "jax.numpy": "jnp"}.get(full, "")
        return self._import(importlib.import_module(full), usual, [full])

    def _helper(self, name: str) -> str:
        return f"{self._module(parts.__name__)}.{name}"

    def _importable(self, value: object) -> str | None:
        """The value by an import; None where it has no path that others can import."""
        where = import_path(value)
        if where is None:
            return None
        module, name = where
        return f"{self._import(sys.modules[module], '', [module])}.{name}"

    def _submodules(self, node: ast.AST, scope: Mapping[str, Any]) -> None:
        """Import what the code reaches as an attribute of a package, such as jax.scipy.stats."""
        for chain in ast.walk(node):
            parts: list[str] = []
            inner = chain
            while isinstance(inner, ast.Attribute):
                parts.insert(0, inner.attr)
                inner = inner.value
            root = scope.get(inner.id) if isinstance(inner, ast.Name) else None
            if not isinstance(root, types.ModuleType):
                continue
            for count in range(1, len(parts) + 1):
                full = ".".join([root.__name__, *parts[:count]])
                if isinstance(sys.modules.get(full), types.ModuleType):
                    top = full.split(".", maxsplit=1)[0]
                    self.modules[full] = None
                    self.imported[f"import {full}"] = None
                    self._names.setdefault(top, sys.modules[top])

    # ------------------------------------------------------------- functions and classes

    @staticmethod
    def _is_local(value: object) -> bool:
        """Whether it is a function of a module in the user's directory, which others lack."""
        return isinstance(value, types.FunctionType) and not is_installed(value.__module__)

    def _function(self, value: types.FunctionType, path: Sequence[str], wanted: str) -> str:
        imported = None if self._is_local(value) else self._importable(value)
        if imported is not None:
            return imported
        before = {n: copy.copy(v) for n, v in vars(self).items()}
        try:
            return self._own_function(value, path, wanted)
        except NotCapturedError:
            imported = self._importable(value)
            if imported is None:
                raise
            vars(self).update(before)
            return imported

    def _own_function(self, value: types.FunctionType, path: Sequence[str], wanted: str) -> str:
        inner = getattr(value, "__wrapped__", None)
        if isinstance(inner, types.FunctionType) and is_of_library(value):
            return self._wrapped(value, path, wanted)
        definition = _written(definition_of, value, path)
        for module in sorted(imports_inside(value.__code__)):
            if module.startswith("."):
                msg = f"it imports {module!r} relatively, from where it is"
                raise NotCapturedError(msg, path)
            self.modules[module] = None
        is_lambda = isinstance(definition.node, ast.Lambda)
        name = self._free_name(wanted if is_lambda else value.__name__)
        self._bind(name, value)
        self._pending.append(id(value))
        defined_name = "" if is_lambda else definition.node.name
        variables = self._closure(value, defined_name, path)
        defaults = self._defaults(value, definition, path)
        self._pending.pop()
        late = self._globals(value, definition, defined_name, path)
        text = definition.text([*defaults, *definition.annotations])
        self._define(name, defined_name, definition, text, {**variables, **late})
        for key, attribute in vars(value).items():
            self.statements.append(f"{name}.{key} = {self.expression(attribute, path, key)}")
        self.definitions.append(name)
        return name

    def _closure(
        self, value: types.FunctionType, defined_name: str, path: Sequence[str]
    ) -> dict[str, str]:
        """Texts of the variables of the function that has made this one."""
        variables = {}
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                continue  # never set: reading it is an error there as here
            if content is not value or name != defined_name:
                variables[name] = self.expression(content, [*path, name], name)
        return variables

    def _defaults(
        self, value: types.FunctionType, definition: Definition, path: Sequence[str]
    ) -> list[tuple[Any, str]]:
        """Defaults as they are now, in place of what they were computed by."""
        arguments = definition.node.args
        positional = zip(arguments.defaults, value.__defaults__ or (), strict=True)
        keyword_defaults = value.__kwdefaults__ or {}
        named = [
            (node, keyword_defaults[arg.arg])
            for arg, node in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if node is not None and arg.arg in keyword_defaults
        ]
        return [
            (span_of(node), self.expression(now, path, "default"))
            for node, now in [*positional, *named]
            if not isinstance(node, ast.Constant)
        ]

    def _globals(
        self,
        value: types.FunctionType,
        definition: Definition,
        defined_name: str,
        path: Sequence[str],
    ) -> dict[str, str]:
        """Write what a function reads of its module; texts of names that mean something else."""
        other = {}
        scope = value.__globals__
        for name in sorted(globals_read(value.__code__)):
            if name not in scope:  # a builtin, or an error there as here
                continue
            if scope[name] is value and name == defined_name:
                if name != self._made[id(value)][0]:
                    other[name] = ""
                continue
            found = self._read(name, scope[name], path)
            if found is not None:
                other[name] = found
        closure = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        cells = {n: c.cell_contents for n, c in closure if _is_set(c)}
        self._submodules(definition.node, {**scope, **cells})
        return {n: text for n, text in other.items() if text}

    def _define(
        self,
        name: str,
        defined_name: str,
        definition: Definition,
        text: str,
        variables: Mapping[str, str],
    ) -> None:
        """Write a definition under a name, with variables of its own where it has some."""
        lead = f"{name} = " if not defined_name else ""
        if not variables and not definition.indent and name == defined_name:
            self.statements.append(f"\n{text}\n")
            return
        if not defined_name:
            text = f"({text})"
            if not variables:
                self.statements.append(f"{lead}{text}")
                return
            self.statements.append(_made_by(name, f"    return {text}\n", variables))
            return
        indent = definition.indent or "    "
        body = text if definition.indent else definition.indented(text)
        self.statements.append(_made_by(name, f"{body}{indent}return {defined_name}\n", variables))

    def _wrapped(self, value: Any, path: Sequence[str], wanted: str) -> str:
        """A function inside what a library has made of it by a decorator."""
        inner = value
        while isinstance(getattr(inner, "__wrapped__", None), types.FunctionType):
            inner = inner.__wrapped__
        definition = _written(definition_of, inner, path)
        if definition.is_decorated:
            return self._decorated(value, inner, definition, path)
        assigned = definition.assigned(wanted)
        if assigned is not None:
            return self._assigned(value, assigned, inner.__globals__, path, wanted)
        msg = f"a function that {_maker(value)} has wrapped out of sight"
        raise NotCapturedError(msg, path)

    def _compiled(self, value: Any, path: Sequence[str], wanted: str) -> str:
        """What jax.jit or functools.lru_cache has made of a function."""
        imported = self._importable(value)
        if imported is not None:
            return imported
        name = self._free_name(wanted)
        self._bind(name, value)
        plain = self.named(value.__wrapped__, f"{wanted}_plain", path)
        if isinstance(value, _CACHED):
            options = ", ".join(f"{n}={v!r}" for n, v in value.cache_parameters().items())
            text = f"{self._module('functools')}.lru_cache({options})({plain})"
        else:
            state = value.__reduce_ex__(4)[2]
            settings = {n: state[n] for n in ("static_argnums", "static_argnames") if state.get(n)}
            options = "".join(f", {n}={v!r}" for n, v in settings.items())
            text = f"{self._module('jax')}.jit({plain}{options})"
        self.statements.append(f"{name} = {text}")
        return name

    def _assigned(
        self,
        value: object,
        node: ast.expr,
        scope: Mapping[str, Any],
        path: Sequence[str],
        wanted: str,
    ) -> str:
        """What a line of the module has assigned, such as jax.vmap(step), by that line."""
        name = self._free_name(wanted)
        self._bind(name, value)
        self._pending.append(id(value))
        variables: dict[str, str] = {}
        for word in sorted(_words(node) & scope.keys()):
            meaning = self._read(word, scope[word], path)
            variables |= {} if meaning is None else {word: meaning}
        self._pending.pop()
        self._submodules(node, scope)
        text = ast.unparse(node)
        line = f"{name} = {text}"
        self.statements.append(
            _made_by(name, f"    return {text}\n", variables) if variables else line
        )
        self.definitions.append(name)
        return name

    def _decorated(
        self, value: Any, inner: Any, definition: Definition, path: Sequence[str]
    ) -> str:
        name = self._free_name(inner.__name__)
        defined_name = definition.node.name
        self._bind(name, value)
        self._pending.append(id(value))
        used = [
            node.id
            for decorator in definition.node.decorator_list
            for node in ast.walk(decorator)
            if isinstance(node, ast.Name)
        ]
        variables = self._closure(inner, defined_name, path)
        for word in used:
            if word not in variables and word in inner.__globals__:
                text = self._read(word, inner.__globals__[word], path)
                variables |= {} if text is None else {word: text}
        defaults = self._defaults(inner, definition, path)
        self._pending.pop()
        variables |= self._globals(inner, definition, defined_name, path)
        for decorator in definition.node.decorator_list:
            self._submodules(decorator, inner.__globals__)
        changes = [*defaults, *definition.annotations]
        self._define(
            name, defined_name, definition, definition.text(changes, decorated=True), variables
        )
        self.definitions.append(name)
        return name

    def _class(self, value: type, path: Sequence[str], wanted: str) -> str:
        imported = self._importable(value)
        if imported is not None:
            return imported
        fields = getattr(value, "_fields", None)
        if (
            fields is not None
            and value.__bases__ == (tuple,)
            and "__annotations__" not in vars(value)
        ):
            return f"{self._module('collections')}.namedtuple({value.__name__!r}, {fields!r})"
        definition = _written(class_definition, value, path)
        if definition.indent:
            msg = f"the class '{value.__name__}' is made inside a function"
            raise NotCapturedError(msg, path)
        name = self._free_name(value.__name__)
        self._bind(name, value)
        scope = class_scope(value)
        variables: dict[str, str] = {}
        for word in sorted(_words(definition.node) & scope.keys()):
            if scope[word] is not value:
                meaning = self._read(word, scope[word], path)
                variables |= {} if meaning is None else {word: meaning}
        self._submodules(definition.node, scope)
        text = definition.text(decorated=True)
        self._define(name, value.__name__, definition, text, variables)
        self.definitions.append(name)
        return name


def _is_set(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _written(
    find: Callable[[Any], Definition], value: types.FunctionType | type, path: Sequence[str]
) -> Definition:
    try:
        return find(value)
    except NotWrittenError as error:
        raise NotCapturedError(str(error), path) from error


def _words(node: ast.AST) -> set[str]:
    """Names that a class may read, those in annotations that are text included."""
    nodes = list(ast.walk(node))
    texts = (n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {t for t in texts if t.isidentifier()}


def _made_by(name: str, body: str, variables: Mapping[str, str]) -> str:
    """Statements that make a value inside a function with these variables."""
    make = f"_make_{name}"
    passed = ", ".join(variables.values())
    return f"\ndef {make}({', '.join(variables)}):\n{body}\n\n{name} = {make}({passed})\n"


def _maker(value: object) -> str:
    return str(getattr(getattr(value, "__code__", None), "co_filename", type(value).__module__))


def _number(value: Any) -> str:
    if isinstance(value, complex):
        return f"complex({_number(value.real)}, {_number(value.imag)})"
    return repr(value) if math.isfinite(value) else f"float({str(value)!r})"


def _shown(value: object) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "dtype"):
        return f"{value.dtype}{list(shape)}"
    return f"{value!r:.60}" if type(value) in (*_LITERALS, float) else type(value).__name__
