"""Everything that a function reads beside its arguments, followed from name to name.

The code of a function says which names of its module and which variables around it it looks up.
What they hold is followed in turn: functions by their code, objects by their state and their class,
containers by their items. Of modules only what is looked up in them is followed. So more is noted
than one call reads, and never less; where that cannot be known, `UnrecordedError` says why.
"""

import copyreg
import functools
import importlib.util
import operator
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GenericAlias,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    UnionType,
    WrapperDescriptorType,
)
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist

from aimz.reads.codes import lookups_of
from aimz.reads.libraries import (
    DYNAMIC,
    OPENING,
    faces,
    is_installed,
    is_library_code,
    is_library_module,
    is_library_thing,
    is_named,
    is_of_library,
    is_stateful,
)
from aimz.reads.record import MISSING, Record

__all__ = ["UnrecordedError", "library_record", "record_of"]


_MAX_PLACES = 20_000  # of which one look takes about half a millisecond
_MAX_BYTES = 2**24
_HEAP = 1 << 9  # flag of the classes that are made while Python runs
_WORD = operator.attrgetter("__basicsize__")(object) // 2
_JITTED = type(jax.jit(len))
_NAMED = (FunctionType, BuiltinFunctionType, type)
_ATOMS = (
    *(bool, int, float, complex, str, bytes, range, type(None), type(...), type(NotImplemented)),
    *(np.dtype, CodeType),
)


class _Pair(NamedTuple):
    one: Any


# What Python and its libraries put into a class by themselves, and what cannot be changed.
_MACHINERY = (
    *(GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType),
    *(GenericAlias, UnionType, type(classmethod.__dict__.get("__get__")), operator.itemgetter),
    *(type(dict.__dict__["fromkeys"]), type(_Pair.one)),
)
_BASES = (dict, list, tuple, set, frozenset, int, float, complex, str, bytes, deque)
# Attributes by which a kernel can reach anything.
_REACHING = frozenset(
    {"__globals__", "__builtins__", "__subclasses__", "f_globals", "f_back", "f_builtins"}
)
# Entries of a class that say how it was written.
_NOTES = frozenset(
    {
        *("__doc__", "__module__", "__qualname__", "__annotations__", "__weakref__", "__dict__"),
        *("__abstractmethods__", "_abc_impl", "__slots__", "__type_params__", "__parameters__"),
        *("__orig_bases__", "__dataclass_fields__", "__dataclass_params__", "__match_args__"),
        *(
            "__signature__",
            "__annotate__",
            "__annotations_cache__",
            "__annotate_func__",
            "__static_attributes__",
        ),
    }
)
_BASE_CLASSES = (
    *(dist.Distribution, dist.Independent, dist.MaskedDistribution, dist.ExpandedDistribution),
    *(dist.TransformedDistribution, dist.Delta, dist.Unit),
)

_code_of = operator.attrgetter("__code__")
_defaults_of = operator.attrgetter("__defaults__")
_kwdefaults_of = operator.attrgetter("__kwdefaults__")
_dict_of = operator.attrgetter("__dict__")
_mro_of = operator.attrgetter("__mro__")
_cell_of = operator.attrgetter("cell_contents")


class UnrecordedError(Exception):
    """What a function reads cannot be recorded: names the thing.

    Parameters
    ----------
    message : str
        What it is.
    may_change : bool
        Whether it may be otherwise once the function has run.
    """

    def __init__(self, message: str, *, may_change: bool = False) -> None:
        super().__init__(message)
        self.may_change = may_change


def record_of(root: object) -> Record:
    """A record of all that a function, or an object that can be called, reads.

    Raises
    ------
    UnrecordedError
        It reads what cannot be recorded.

    Examples
    --------
    >>> table = [1.0, 2.0]
    >>> record = record_of(lambda x: x * len(table))
    >>> table.append(3.0)
    >>> record.holds()
    False
    """
    walk = _Walk()
    walk.follow(root, getattr(root, "__name__", None) or type(root).__name__)
    walk.finish()
    return walk.record


def library_record() -> Record:
    """A record of what users may replace in the libraries that kernels are written with."""
    walk = _Walk()
    for module in faces():
        for value in walk.record.add_beginning(vars(module).values()):
            if isinstance(value, FunctionType | type) and _is_users(value):
                walk.follow(value, f"{module.__name__}.{value.__name__}")
    for cls in _BASE_CLASSES:
        walk.follow(cls, cls.__name__)
    walk.record.add_contents(dist.distribution.COERCIONS)
    walk.record.add_mapping(dist.biject_to._registry)  # noqa: SLF001  # users register their own
    walk.finish()
    return walk.record


def _is_users(value: FunctionType | type) -> bool:
    """Whether a function or class that a library's module holds has been put there by a user."""
    if isinstance(value, FunctionType):
        return not is_library_code(value) and not is_of_library(value)
    is_known = is_installed(value.__module__) and is_named(value)
    return bool(value.__flags__ & _HEAP) and not is_known


class _Walk:
    """One walk: what is still to be followed, and the record of what has been."""

    def __init__(self) -> None:
        self.record = Record()
        self._held: dict[int, Any] = {}  # what has been followed, kept alive
        self._waiting: list[tuple[Any, str]] = []
        self._loose: dict[int, tuple[ModuleType, str]] = {}  # modules that go from hand to hand
        self._attributes: set[str] = set()
        self._dynamic = ""
        self._bytes = 0

    def follow(self, value: Any, place: str) -> None:
        """Note a value, and later all that it holds."""
        if type(value) in _ATOMS or id(value) in self._held:
            return
        self._held[id(value)] = value
        self._waiting.append((value, place))

    def finish(self) -> None:
        """Follow everything to its end."""
        while True:
            while self._waiting:
                self._visit(*self._waiting.pop())
                if len(self.record) > _MAX_PLACES or len(self._held) > _MAX_PLACES:
                    raise UnrecordedError(f"it holds more than {_MAX_PLACES} values")
            before = len(self._attributes), len(self._loose)
            self._look_into_loose_modules()
            if not self._waiting and before == (len(self._attributes), len(self._loose)):
                break
        if self._loose and self._dynamic:
            module, place = next(iter(self._loose.values()))
            raise UnrecordedError(
                f"{self._dynamic}, and {place} is the module '{module.__name__}' as a value"
            )

    def _look_into_loose_modules(self) -> None:
        """Whatever is looked up anywhere may be looked up in a module that is handed on."""
        for module, place in list(self._loose.values()):
            for name in sorted(self._attributes & vars(module).keys()):
                self._look(module, (name,), place)
            if not is_library_module(module.__name__):
                for name in self._attributes - vars(module).keys():
                    self.record.add_entry(vars(module), name)
                if "__getattr__" in vars(module):
                    self.follow(vars(module)["__getattr__"], f"{place}.__getattr__")

    def _visit(self, value: Any, place: str) -> None:
        if isinstance(value, _NAMED) and is_stateful(value):
            raise UnrecordedError(f"it calls {value.__module__}.{value.__qualname__}()")
        for kinds, visit in _VISITS:
            if isinstance(value, kinds):
                visit(self, value, place)
                return
        if is_library_thing(value):
            return
        if type(value) in (set, frozenset, list, tuple, deque, dict, OrderedDict, defaultdict):
            self._items(value, place)
        elif isinstance(value, np.ndarray):
            self._array(value, place)
        else:
            self._instance(value, place)

    # What is looked up by a name.

    def _look(self, module: ModuleType, chain: tuple[str, ...], place: str) -> None:
        """Follow attributes of a module, through the modules in it."""
        for depth, name in enumerate(chain):
            if not is_library_module(module.__name__) and _is_of_python(module):
                raise UnrecordedError(f"it reads {module.__name__}.{name}")
            if name not in vars(module) and is_library_module(module.__name__):
                getattr(module, name, None)  # loaded when it is asked for
            found = self.record.add_entry(vars(module), name)
            place = f"{place}.{name}"
            if found is MISSING:
                raise UnrecordedError(f"it reads {place}, which is not there", may_change=True)
            if found is jax.config and depth + 1 < len(chain):
                self.record.add_result(_attribute(chain[depth + 1]), found)
                return
            if not isinstance(found, ModuleType):
                self.follow(found, place)
                return
            if depth + 1 == len(chain):
                self._loosen(found, place)
            module = found

    def _loosen(self, module: ModuleType, place: str) -> None:
        self._held[id(module)] = module
        self._loose[id(module)] = (module, place)

    def _name(self, holder: dict[str, Any], name: str, chain: tuple[str, ...]) -> None:
        """Follow a name of a function's module, or of Python's own."""
        found = self.record.add_entry(holder, name)
        if found is MISSING:
            own = holder.get("__builtins__", {})
            found = self.record.add_entry(vars(own) if isinstance(own, ModuleType) else own, name)
        if found is not MISSING:
            self._found(found, chain, name)

    def _found(self, found: Any, chain: tuple[str, ...], place: str) -> None:
        if not isinstance(found, ModuleType):
            self.follow(found, place)
        elif chain:
            self._held[id(found)] = found
            self._look(found, chain, place)
        else:
            self._loosen(found, place)

    # What there is.

    def _function(self, function: FunctionType, place: str) -> None:
        if is_library_thing(function):
            return
        code = self.record.add_result(_code_of, function)
        for get in (_defaults_of, _kwdefaults_of):
            self.follow(self.record.add_result(get, function), place)
        self._attributes_of(function, place)
        if is_library_code(function):  # such as the wrapper that a decorator of it made
            for cell in function.__closure__ or ():
                self._found(self._cell(cell, place), (), place)
            return
        self._code(function, code, place)

    def _code(self, function: FunctionType, code: CodeType, place: str) -> None:
        looked = lookups_of(code)
        reaching = looked.attributes & _REACHING
        if reaching:
            raise UnrecordedError(f"{place} reads {min(reaching)}")
        self._attributes |= looked.attributes
        for name, chain in sorted(looked.names):
            self._name(function.__globals__, name, chain)
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        chains: dict[str, set[tuple[str, ...]]] = {name: {()} for name in cells}
        for name, chain in looked.cells:
            if name in cells and chain:
                chains[name] = (chains[name] - {()}) | {chain}
        plain = {name for name, chain in looked.cells if not chain}
        for name, cell in cells.items():
            found = self._cell(cell, f"{place}: {name}")
            for chain in chains[name] | ({()} if name in plain else set()):
                self._found(found, chain, name)
        for name, level in sorted(looked.imports):
            self._import(function, name, level)

    def _cell(self, cell: CellType, place: str) -> Any:
        try:
            return self.record.add_result(_cell_of, cell)
        except ValueError:
            raise UnrecordedError(f"a variable of {place} is not set", may_change=True) from None

    def _import(self, function: FunctionType, name: str, level: int) -> None:
        if level:
            package = str(function.__globals__.get("__package__") or "")
            name = importlib.util.resolve_name("." * level + name, package)
        for module in {name.partition(".")[0], name}:
            found = self.record.add_entry(sys.modules, module)
            if not isinstance(found, ModuleType):
                raise UnrecordedError(f"it imports '{module}'", may_change=True)
            self._loosen(found, module)

    def _items(self, container: Any, place: str) -> None:
        if isinstance(container, dict | MappingProxyType):
            keys, values = self.record.add_mapping(container)
            if isinstance(container, defaultdict):
                self.follow(container.default_factory, place)
            for key, value in zip(keys, values, strict=True):
                self.follow(key, place)
                self._found(value, (), f"{place}[{key!r:.20}]")
            return
        if isinstance(container, tuple | frozenset):
            items = tuple(container)
        else:
            items = self.record.add_contents(container)
        for item in items:
            self._found(item, (), f"an item of {place}")

    def _array(self, array: np.ndarray, place: str) -> None:
        self._bytes += array.nbytes
        if type(array) is not np.ndarray or array.dtype.hasobject or self._bytes > _MAX_BYTES:
            raise UnrecordedError(f"{place} is a {type(array).__name__}{list(array.shape)}")
        self.record.add_array(array)

    def _jax(self, array: jax.Array, place: str) -> None:
        if isinstance(array, jax.core.Tracer):
            raise UnrecordedError(f"{place} is a value of another trace", may_change=True)

    def _partial(self, partial: "functools.partial[Any]", place: str) -> None:
        if type(partial) is not functools.partial:
            raise UnrecordedError(f"{place} is a {type(partial).__name__}")
        for get in (_func_of, _args_of, _keywords_of, _dict_of):
            self.follow(self.record.add_result(get, partial), place)

    def _method(self, method: MethodType, place: str) -> None:
        self.follow(method.__func__, place)
        self._found(method.__self__, (), place)

    def _builtin(self, function: BuiltinFunctionType, place: str) -> None:
        if function in OPENING:
            raise UnrecordedError(f"it calls {function.__name__}()")
        if any(function is dynamic for dynamic in DYNAMIC):
            self._dynamic = f"it calls {function.__name__}()"
        elif not is_library_thing(function):
            if function.__self__ is None or isinstance(function.__self__, ModuleType):
                raise UnrecordedError(f"it reads {function.__module__}.{function.__name__}")
            self.follow(function.__self__, place)

    def _jitted(self, function: Any, place: str) -> None:
        if not is_library_thing(function):
            self.follow(vars(function)["__wrapped__"], place)

    def _slice(self, part: slice, place: str) -> None:
        for bound in (part.start, part.stop, part.step):
            self.follow(bound, place)

    def _descriptor(self, descriptor: Any, place: str) -> None:
        names = ("fget", "fset", "fdel") if isinstance(descriptor, property) else ("__func__",)
        for name in names:
            self.follow(getattr(descriptor, name), place)

    def _class(self, cls: type, place: str) -> None:
        if any(cls is dynamic for dynamic in DYNAMIC):
            self._dynamic = f"it calls {cls.__name__}()"
        is_library = is_library_thing(cls)  # `__module__` alone can be anything
        if is_library and not cls.__flags__ & _HEAP:
            return  # nothing in it can be changed
        copyreg._slotnames(cls)  # type: ignore[attr-defined]  # noqa: SLF001  # which the first copy adds
        if not (is_library or issubclass(cls, type) or _is_open(cls)):
            raise UnrecordedError(f"{place} is a {_name_of(cls)}, whose state is hidden")
        for base in self.record.add_result(_mro_of, cls):
            if base is not cls and base is not object:
                self.follow(base, place)
        if is_library:
            self._methods(cls)
            return
        self.follow(type(cls), place)
        keys, values = self.record.add_mapping(vars(cls))
        for name, value in zip(keys, values, strict=True):
            if name not in _NOTES and not isinstance(value, _MACHINERY):
                self._found(value, (), f"{cls.__name__}.{name}")

    def _methods(self, cls: type) -> None:
        """Note what a library's class holds, and follow what a user has put there."""
        for value in self.record.add_contents(vars(cls).values()):
            if isinstance(value, FunctionType) and not is_library_code(value):
                self.follow(value, f"{cls.__name__}.{value.__name__}")

    def _instance(self, thing: Any, place: str) -> None:
        """An object by its class and its state, where Python can show all of it."""
        cls = type(thing)
        if not _is_open(cls):
            raise UnrecordedError(f"{place} is a {_name_of(cls)}")
        self.record.add_result(type, thing)
        self.follow(cls, place)
        if isinstance(thing, _BASES) and not isinstance(thing, int | float | complex | str | bytes):
            self._items(thing, place)
        self._state(thing, place)

    def _state(self, thing: Any, place: str) -> None:
        for descriptor in _slots_of(type(thing)):
            get = descriptor.__get__
            self._held[id(get)] = get
            try:
                self._found(self.record.add_result(get, thing), (), place)
            except AttributeError:
                raise UnrecordedError(f"{place} has an empty slot", may_change=True) from None
        if getattr(type(thing), "__dictoffset__", 0):
            self._attributes_of(thing, place)

    def _attributes_of(self, thing: Any, place: str) -> None:
        keys, values = self.record.add_mapping(self.record.add_result(_dict_of, thing))
        for name, value in zip(keys, values, strict=True):
            if name not in _NOTES:
                self._found(value, (), f"{place}.{name}")


_func_of = operator.attrgetter("func")
_args_of = operator.attrgetter("args")
_keywords_of = operator.attrgetter("keywords")
_VISITS: tuple[tuple[Any, Callable[[_Walk, Any, str], None]], ...] = (
    (FunctionType, _Walk._function),  # noqa: SLF001  # a table of its own methods
    (type, _Walk._class),  # noqa: SLF001
    (jax.Array, _Walk._jax),  # noqa: SLF001
    (_JITTED, _Walk._jitted),  # noqa: SLF001
    (functools.partial, _Walk._partial),  # noqa: SLF001
    (MethodType, _Walk._method),  # noqa: SLF001
    (BuiltinFunctionType, _Walk._builtin),  # noqa: SLF001
    ((property, staticmethod, classmethod), _Walk._descriptor),  # noqa: SLF001
    (slice, _Walk._slice),  # noqa: SLF001
    (MappingProxyType, _Walk._items),  # noqa: SLF001
    (np.void, _Walk._instance),  # noqa: SLF001
    ((np.generic, *_MACHINERY), lambda *_: None),
)


@functools.lru_cache(maxsize=256)  # one getter of each name: it stands for itself in a record
def _attribute(name: str) -> Callable[[Any], Any]:
    return operator.attrgetter(name)


def _is_of_python(module: ModuleType) -> bool:
    return module.__name__.partition(".")[0] in sys.stdlib_module_names


def _is_open(cls: type) -> bool:
    """Whether the state of a class's objects is all in attributes, slots and items."""
    base = next((base for base in _BASES if issubclass(cls, base)), object)
    slots = sum(1 for _ in _slots_of(cls))
    flat = base.__itemsize__ == cls.__itemsize__
    return flat and cls.__basicsize__ - base.__basicsize__ <= _WORD * (slots + _extra(cls))


def _extra(cls: type) -> int:
    """Words of an object that hold its dict and its weak references."""
    return int(cls.__dictoffset__ > 0) + int(cls.__weakrefoffset__ > 0)


def _slots_of(cls: type) -> Iterator[MemberDescriptorType]:
    for base in cls.__mro__:
        if base in (object, *_BASES):
            continue
        for value in vars(base).values():
            if isinstance(value, MemberDescriptorType):
                yield value


def _name_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")
