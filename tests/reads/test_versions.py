"""A function has the same version while nothing that it reads has changed, and no longer."""

import builtins
import contextvars
import enum
import functools
import importlib
import itertools
import os
import random
import sys
import textwrap
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro import handlers

from aimz import programs
from aimz.programs import Cache, one_look, trace, unversioned, version_of
from aimz.reads.libraries import faces


class Options(NamedTuple):
    scale: float
    names: list[float]


@dataclass
class Settings:
    scale: float = 1.0


class Kind(enum.Enum):
    ONE = 1


class Slotted:
    __slots__ = ("scale",)

    def __init__(self):
        self.scale = 1.0


class Meta(type):
    scale = 1.0


class Parent(metaclass=Meta):
    scale = 1.0

    def get(self):
        return self.scale


class Child(Parent):
    def __init__(self):
        self.inner = types.SimpleNamespace(deep=[1.0])

    @property
    def width(self):
        return WIDTH

    def __getattr__(self, name):
        return FALLBACK

    def __call__(self, x):
        return x * self.get() * self.width * self.other

    @staticmethod
    def make(x):
        return x * STATIC


class Item:
    def __get__(self, thing, kind):
        return ITEM


class Holder:
    item = Item()


def second():
    return DEEP


def first():
    return second()


@functools.wraps(first)
def wrapped():
    return OUTER * first()


def kernel(X, y=None):
    numpyro.sample("y", dist.Normal(X, 1.0), obs=y)


# What the functions below read; each case has a new one.
SCOPE = """
from collections import defaultdict, deque
SCALE = 1.0
TABLE = np.arange(3.0)
FROZEN = jnp.arange(3.0)
CONFIG = {"a": [1, 2, {"b": np.ones(2)}]}
ITEMS = [1.0, 2.0]
NAMES = {"a", "b"}
QUEUE = deque([1.0])
FALLS = defaultdict(list, a=[1.0])
SPACE = types.SimpleNamespace(inner=types.SimpleNamespace(scale=1.0))
SETTINGS, OPTIONS, SLOTTED = Settings(), Options(1.0, [1.0]), Slotted()
"""


def scope(*bodies):
    """A module's names, with functions that read them."""
    names = {**globals(), "__builtins__": builtins}
    exec(SCOPE, names)
    for body in bodies:
        exec(textwrap.dedent(body), names)
    return names


CHANGES = {
    "global": ("return SCALE", "SCALE = 2.0"),
    "global of another type": ("return SCALE", "SCALE = 1"),
    "array in place": ("return TABLE.sum()", "TABLE[0] = 9.0"),
    "array of another shape": ("return TABLE", "TABLE = TABLE[:, None]"),
    "JAX's array": ("return FROZEN", "FROZEN = FROZEN.at[0].set(1.0)"),
    "dict": ("return CONFIG['a']", "CONFIG['a'] = 3"),
    "key of a dict": ("return list(CONFIG)", "CONFIG['b'] = CONFIG.pop('a')"),
    "array in a dict in a list": ("return CONFIG", "CONFIG['a'][2]['b'][1] = 2.0"),
    "list": ("return ITEMS", "ITEMS.append(3.0)"),
    "item of a list": ("return ITEMS", "ITEMS[1] = 3.0"),
    "set": ("return NAMES", "NAMES.add('c')"),
    "queue": ("return QUEUE", "QUEUE.append(2.0)"),
    "dict with a default": ("return FALLS['a']", "FALLS['a'].append(1.0)"),
    "nested attribute": ("return SPACE.inner.scale", "SPACE.inner.scale = 2.0"),
    "attribute of a dataclass": ("return SETTINGS.scale", "SETTINGS.scale = 2.0"),
    "list in a tuple": ("return OPTIONS.names", "OPTIONS.names.append(2.0)"),
    "slot": ("return SLOTTED.scale", "SLOTTED.scale = 2.0"),
    "attribute by a computed name": ("return getattr(SPACE, 'in' + 'ner')", "SPACE.inner = 1"),
    "in a lambda": ("return (lambda: [SCALE for _ in range(2)])()", "SCALE = 2.0"),
    "in a class inside": ("class Inner:\n        x = SCALE\n    return Inner", "SCALE = 2.0"),
    "deleted global": ("return SCALE", "del SCALE"),
    "shadowed builtin": ("return len(ITEMS)", "def len(x): return 7"),
    "rebound function": ("return helper()", "def helper(): return 2"),
    "helper's code": ("return helper()", "helper.__code__ = (lambda: 2).__code__"),
    "helper's default": ("return helper()", "helper.__defaults__ = (2.0,)"),
    "mutable default": ("return helper()", "helper.__kwdefaults__['more'].append(1.0)"),
    "attribute of a function": ("return helper.scale", "helper.scale = 2.0"),
    "function of a partial": ("return part()", "part.keywords['b'].append(1.0)"),
    "jitted function": ("return jitted(1.0)", "SCALE = 2.0"),
    "mapped function": ("return mapped(TABLE)", "SCALE = 2.0"),
    "generated derivative": ("return custom(1.0)", "SCALE = 2.0"),
    "bound method": ("return method()", "method.__self__.scale = 2.0"),
    "distribution": ("return PRIOR", "PRIOR.loc = 2.0"),
}
HELPERS = """
def helper(a=1.0, *, more=[]): return a
helper.scale = 1.0
part = functools.partial(lambda a, b: a, 1, b=[1.0])
@jax.jit
def jitted(x): return SCALE * x
mapped = jax.vmap(lambda x: SCALE * x)
@jax.custom_jvp
def custom(x): return x
@custom.defjvp
def derivative(primals, tangents): return primals[0], SCALE * tangents[0]
method = Parent().get
PRIOR = dist.Normal(0.0, 1.0)
"""


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_what_a_function_reads_is_another_version(name):
    body, change = CHANGES[name]
    names = scope(HELPERS, f"def reads(x=None):\n    {body}")
    function = names["reads"]
    before = version_of(function)
    assert before is not None, unversioned(function)
    assert version_of(function) == before
    exec(change, names)
    assert version_of(function) != before


def test_what_a_function_does_not_read_is_no_part_of_its_version():
    names = scope("def reads(x): return SCALE * x + SPACE.inner.scale")
    before = version_of(names["reads"])
    exec("OTHER = 2.0; ITEMS.append(1.0); SPACE2 = 3.0; TABLE[0] = 2.0", names)
    assert version_of(names["reads"]) == before


WIDTH = FALLBACK = STATIC = ITEM = DEEP = OUTER = 1.0
OF_CLASSES = {
    "attribute of a class": (Child, Parent, "scale", 2.0),
    "attribute of its metaclass": (Child, Meta, "scale", 2.0),
    "method": (Child, Parent, "get", lambda self: 2.0),
    "new attribute of a class": (Child, Child, "scale", 2.0),
    "what a property reads": (Child, sys.modules[__name__], "WIDTH", 2.0),
    "what __getattr__ reads": (Child, sys.modules[__name__], "FALLBACK", 2.0),
    "what a static method reads": (Child, sys.modules[__name__], "STATIC", 2.0),
    "what a descriptor reads": (Holder, sys.modules[__name__], "ITEM", 2.0),
}


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_change_of_a_class_is_another_version_of_its_objects(name, monkeypatch):
    cls, holder, attribute, value = OF_CLASSES[name]
    thing = cls()
    before = version_of(thing)
    assert before is not None, unversioned(thing)
    monkeypatch.setattr(holder, attribute, value, raising=False)
    assert version_of(thing) != before


def test_a_change_of_an_object_or_of_its_class_is_another_version():
    thing = Child()
    versions = [version_of(thing)]
    thing.inner.deep.append(2.0)
    versions.append(version_of(thing))
    thing.scale = 3.0
    versions.append(version_of(thing))
    thing.__class__ = type("Other", (Child,), {})
    versions.append(version_of(thing))
    assert len(set(versions)) == 4
    assert None not in versions


@pytest.mark.parametrize("name", ["DEEP", "OUTER", "second"])
def test_what_is_read_calls_away_and_behind_decorators_is_seen(name, monkeypatch):
    before = version_of(wrapped)
    assert before is not None
    monkeypatch.setattr(sys.modules[__name__], name, lambda: 2.0)
    assert version_of(wrapped) != before


def test_a_variable_of_an_enclosing_function_is_seen():
    scale = 1.0

    def reads(x):
        return x * scale

    before = version_of(reads)
    scale = 2.0
    assert version_of(reads) not in (before, None)


def test_an_unset_variable_has_no_version_until_it_is_set():
    def reads():
        return later

    assert version_of(reads) is None
    later = 1.0
    assert version_of(reads) is not None


def test_functions_that_call_each_other_have_a_version():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    assert version_of(even) is not None


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's, and how it is written anew."""
    path = tmp_path / "user_helpers.py"
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(scale, reload=True):
        path.write_text(f"SCALE = {scale!r}\n\ndef scaled(x):\n    return {scale} * SCALE * x\n")
        importlib.invalidate_caches()
        if reload:
            os.utime(path, (1, 10 + scale))  # or the compiled file is taken to be new
            importlib.reload(sys.modules["user_helpers"])

    write(1, reload=False)
    yield importlib.import_module("user_helpers"), write
    del sys.modules["user_helpers"]


OF_MODULES = {
    "chain": "return user_helpers.scaled(x)",
    "constant": "return user_helpers.SCALE",
    "alias": "m = user_helpers\n    return m.SCALE",
    "import inside": "import user_helpers as m\n    return m.scaled(x)",
    "name imported inside": "from user_helpers import SCALE\n    return SCALE",
    "argument": "return passes(user_helpers)",
    "in a list": "return [user_helpers][0].SCALE",
}


@pytest.mark.parametrize("body", OF_MODULES.values(), ids=list(OF_MODULES))
def test_a_module_that_is_loaded_again_is_seen(module, body):
    loaded, write = module
    names = scope(f"def reads(x):\n    {body}", "def passes(m): return m.SCALE")
    names["user_helpers"] = loaded
    before = version_of(names["reads"])
    assert before is not None, unversioned(names["reads"])
    write(2)
    assert version_of(names["reads"]) != before


def test_a_module_in_which_a_computed_name_is_looked_up_has_no_version(module):
    names = scope("def reads(x): return getattr(user_helpers, 'SC' + 'ALE')")
    names["user_helpers"] = module[0]
    assert version_of(names["reads"]) is None
    assert "getattr" in unversioned(names["reads"])


class Shifted(dist.Normal):  # type: ignore[misc]  # NumPyro has no stubs
    def log_prob(self, value):
        return super().log_prob(value) + DEEP


def test_a_family_of_the_user_s_is_followed(monkeypatch):
    def reads(x):
        return numpyro.sample("a", Shifted(0.0, 1.0))

    before = version_of(reads)
    assert before is not None, unversioned(reads)
    monkeypatch.setattr(sys.modules[__name__], "DEEP", 2.0)
    assert version_of(reads) != before


def test_a_class_that_says_to_be_python_s_own_is_followed():
    names = scope("class Box:\n    scale = 1.0\nbox = Box()\ndef reads(x): return box.scale")
    names["Box"].__module__ = "builtins"
    before = version_of(names["reads"])
    assert before is not None
    names["Box"].scale = 2.0
    assert version_of(names["reads"]) != before


def of_library():
    return numpyro.sample("a", dist.Normal(0.0, 1.0).to_event(0)), jax.nn.relu(1.0)


PATCHES = {
    "family": (dist, "Normal", dist.Laplace),
    "sampler": (dist.Normal, "sample", lambda self, key, shape=(): jnp.zeros(shape)),
    "density": (dist.Normal, "log_prob", lambda self, value: value),
    "base class": (dist.Distribution, "to_event", lambda self, n=None: self),
    "validation": (dist.Distribution, "_validate_args", False),
    "function of NumPyro": (numpyro, "sample", lambda name, fn: 0.0),
    "function of JAX": (jax.nn, "relu", jax.nn.gelu),
    "what a sampler reads": (jax.random, "normal", jax.random.uniform),
}


@pytest.mark.parametrize("name", PATCHES)
def test_what_is_put_in_the_place_of_a_library_s_own_is_seen(name, monkeypatch):
    holder, attribute, value = PATCHES[name]
    before = version_of(of_library)
    assert before is not None, unversioned(of_library)
    monkeypatch.setattr(holder, attribute, value)
    assert version_of(of_library) != before


def test_modules_that_another_thread_loads_do_no_harm():
    stop, before = threading.Event(), sys.getswitchinterval()

    def load():
        while not stop.is_set():
            names = [f"loaded_beside_{n}" for n in range(20)]
            sys.modules.update({name: types.ModuleType(name) for name in names})
            for name in names:
                del sys.modules[name]

    thread = threading.Thread(target=load)
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        found = [len(faces()) for _ in range(100)]
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)
    assert len(set(found)) == 1


def test_what_a_replacement_in_a_library_reads_is_seen(monkeypatch):
    scales = [1.0]
    monkeypatch.setattr(dist.Normal, "mean", lambda self: scales[0])
    monkeypatch.setattr(numpyro, "deterministic", lambda name, value: scales[0])
    before = version_of(of_library)
    assert before is not None
    scales.append(2.0)
    assert version_of(of_library) != before


def reads_settings(x):
    return x if jax.config.jax_debug_nans else -x


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_default_matmul_precision", "float32"),
        ("jax_numpy_rank_promotion", "warn"),
        ("jax_default_prng_impl", "rbg"),
        ("jax_debug_nans", True),
    ],
)
def test_jax_s_settings_are_part_of_a_version(name, value):
    before, held = version_of(reads_settings), getattr(jax.config, name)
    assert before is not None
    jax.config.update(name, value)
    try:
        assert version_of(reads_settings) != before
    finally:
        jax.config.update(name, held)


def test_inside_a_handler_nothing_has_a_version():
    assert version_of(kernel) is not None
    with handlers.seed(rng_seed=0):
        assert version_of(kernel) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: handlers.reparam(kernel, config={"y": numpyro.infer.reparam.LocScaleReparam(0)}),
        lambda: functools.partial(kernel, y=None),
        lambda: functools.partial(functools.partial(kernel), y=1.0),
        lambda: handlers.condition(kernel, data={"y": jnp.zeros(3)}),
        lambda: numpyro.handlers.scale(kernel, 2.0),
        lambda: jax.vmap(kernel),
        lambda: Child(),
        lambda: Child().get,
        lambda: Kind.ONE,
    ],
    ids=[
        "reparam",
        "partial",
        "partials",
        "condition",
        "scale",
        "vmap",
        "object",
        "method",
        "enum",
    ],
)
def test_ordinary_kernels_have_a_version(make):
    thing = make()
    assert version_of(thing) is not None, unversioned(thing)
    assert version_of(thing) == version_of(thing)


ROWS = iter([1.0, 2.0])
COUNT = itertools.count()
RANDOM = random.Random(0)
GENERATOR = np.random.default_rng(0)
FRAME = pd.DataFrame({"a": [1.0]})
CONTEXT = contextvars.ContextVar("scale", default=1.0)
LARGE = np.zeros(2**22)
LONG = list(range(30_000))


@functools.cache
def remembered(n):
    return n


NEVER = {
    "iterator": lambda: next(ROWS),
    "counter": lambda: next(COUNT),
    "clock": lambda: time.time(),
    "random number": lambda: random.random(),
    "generator of random numbers": lambda: RANDOM.random(),
    "NumPy's random state": lambda: np.random.normal(),  # noqa: NPY002
    "NumPy's generator": lambda: GENERATOR.normal(),
    "environment": lambda: os.environ["A"],
    "variable of the environment": lambda: os.getenv("A"),
    "context variable": lambda: CONTEXT.get(),
    "file": lambda: open("a"),  # noqa: PTH123, SIM115
    "NumPy's file": lambda: np.load("a"),
    "JAX's file": lambda: jnp.load("a"),
    "file of numbers": lambda: np.fromfile("a"),
    "mapped file": lambda: np.memmap("a"),
    "evaluated text": lambda: eval("1"),
    "all globals": lambda: globals()["A"],
    "globals of a function": lambda: first.__globals__["A"],
    "loaded modules": lambda: sys.modules["a"],
    "imported by name": lambda: importlib.import_module("a"),
    "remembered results": lambda: remembered(1),
    "table of pandas": lambda: FRAME["a"],
    "large array": lambda: LARGE.sum(),
    "long list": lambda: LONG[0],
}


@pytest.mark.parametrize("name", NEVER)
def test_what_cannot_be_recorded_has_no_version_and_says_why(name):
    assert version_of(NEVER[name]) is None
    assert unversioned(NEVER[name])


def test_a_look_costs_little():
    version_of(of_library)
    looks, rounds = [], 200
    for _ in range(3):
        start = time.process_time()
        for _ in range(rounds):
            version_of(of_library)
        looks.append((time.process_time() - start) / rounds)
    start = time.process_time()
    for _ in range(3):
        jax.make_jaxpr(lambda x: jnp.exp(x).sum() + 0.0)(1.0)
    assert min(looks) < (time.process_time() - start) / 3


LOOKED = {"scale": 2.0}


def looked(x):
    return LOOKED["scale"] * x


def _trace() -> None:
    trace(lambda x: x, np.ones(2))


@pytest.mark.parametrize(
    ("between", "where", "is_seen"),
    [
        (lambda: None, "here", False),
        (_trace, "here", True),
        (lambda: None, "in a thread", True),
        (lambda: None, "in a look inside", True),
        (lambda: None, "of another function", True),
    ],
    ids=["nothing", "a trace", "another thread", "a look inside", "another function"],
)
def test_one_look_lasts_until_a_trace_and_is_of_one_thread(between, where, is_seen, monkeypatch):
    def other(x):
        return LOOKED["scale"] + x

    outside = {function: version_of(function) for function in (looked, other)}
    with one_look():
        before = version_of(looked)
        monkeypatch.setitem(LOOKED, "scale", 3.0)
        between()
        if where == "in a thread":
            with ThreadPoolExecutor(1) as pool:
                now = pool.submit(version_of, looked).result()
        elif where == "in a look inside":
            with one_look():
                now = version_of(looked)
        elif where == "of another function":
            before, now = outside[other], version_of(other)
        else:
            now = version_of(looked)
    assert (now != before) == is_seen
    assert version_of(looked) != outside[looked]


def test_what_is_made_while_it_changes_is_not_kept_in_one_look():
    cache: Cache[Any, float] = Cache(4)
    scale = [1.0]

    def function(x):
        return scale[0] * x

    def make() -> float:
        value = scale[0]
        trace(function, np.ones(2))
        scale[0] += 1
        return value

    with one_look():
        first = programs.remembered(cache, lambda: version_of(function), make)
        assert (first, len(cache)) == (1.0, 0)
