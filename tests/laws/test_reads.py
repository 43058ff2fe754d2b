"""A warm call takes no trace, and yet sees every change of what its kernel reads."""

import builtins
import functools
import itertools
import os
import random
import textwrap
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel
from aimz.programs import clear_programs
from aimz.programs.tracing import program_stats
from tests.support.kernels import kind_of

X = np.linspace(-1.0, 1.0, 7, dtype=np.float32)[:, None]
# A kernel's module: `value()` is what it reads, beside its arguments.
MODULE = """
def kernel(X, y=None, power=1):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    mu = numpyro.deterministic("mu", a + value() * X[:, 0] ** power)
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

class Box:
    scale = 1.0
    def __init__(self): self.inner = types.SimpleNamespace(scale=1.0)
    def __getattr__(self, name): return OTHER
    @property
    def width(self): return OTHER

def helper(factor=1.0, *, more=[1.0]): return factor * more[-1]

def outer():
    count = [1.0]
    def set(x):
        nonlocal scale
        scale = x
    scale = 1.0
    return (lambda: scale), set

def doubled(function):
    @functools.wraps(function)
    def inner(): return 2.0 * function()
    return inner

SCALE, OTHER, TABLE, CONFIG, box = 1.0, 1.0, np.ones(2), {"a": [{"b": 1.0}]}, Box()
inside, set_inside = outer()
two_away = lambda: helper()
part = functools.partial(helper, more=[1.0])
slopes = itertools.repeat(1.0)
random.seed(0)
firsts = [random.Random(seed).random() for seed in (0, 1)]
def random_scale():
    state = random.getstate()
    first = random.random()
    random.setstate(state)  # each trace of one call draws the same
    return 1.0 if first == firsts[0] else 3.0
def instead(factor=1.0, *, more=[1.0]): return 3.0
jitted = jax.jit(lambda: SCALE * jnp.ones(()))
"""
CHANGES = {
    "global": ("SCALE", "SCALE = 3.0"),
    "array in place": ("TABLE[0]", "TABLE[0] = 3.0"),
    "nested container": ("CONFIG['a'][0]['b']", "CONFIG['a'][0]['b'] = 3.0"),
    "nested attribute": ("box.inner.scale", "box.inner.scale = 3.0"),
    "attribute of a class": ("box.scale", "Box.scale = 3.0"),
    "attribute of an instance": ("box.scale", "box.scale = 3.0"),
    "property": ("box.width", "OTHER = 3.0"),
    "__getattr__": ("box.anything", "OTHER = 3.0"),
    "enclosed variable": ("inside()", "set_inside(3.0)"),
    "helper's global, calls away": ("two_away()", "helper = lambda: 3.0"),
    "mutable default": ("helper()", "helper.__kwdefaults__['more'].append(3.0)"),
    "partial": ("part()", "part.keywords['more'].append(3.0)"),
    "code of a helper": (
        "helper()",
        "helper.__code__ = (lambda factor=1, *, more=0: 3.0).__code__",
    ),
    "shadowed builtin": ("float(len('a'))", "len = lambda text: 3.0"),
    "decorator": ("doubled(helper)()", "helper.__defaults__ = (3.0,)"),
    "jitted function": ("jitted()", "SCALE = 3.0"),
    "random state": ("random_scale()", "random.seed(1)"),
    "iterator": ("next(slopes)", "slopes = itertools.repeat(3.0)"),
    "environment": ("float(os.environ['AIMZ_SCALE'])", "os.environ['AIMZ_SCALE'] = '3'"),
    "kernel's code": ("SCALE", "kernel.__code__ = other.__code__"),
}
OTHER_KERNEL = """
def other(X, y=None, power=1):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    mu = numpyro.deterministic("mu", a + 3.0 * X[:, 0])
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
"""


def module_of(value):
    modules = (functools, itertools, jax, jnp, np, numpyro, dist, os, random, types)
    names = {module.__name__.rpartition(".")[2]: module for module in modules}
    names |= {"__builtins__": builtins, "jnp": jnp, "np": np, "dist": dist}
    exec(MODULE + f"\ndef value(): return {value}\n" + OTHER_KERNEL, names)
    return names


def model_of(kernel):
    return ImpactModel(kernel).set_posterior_sample({"a": np.zeros(4)})


def mean(model, rows=X, **arguments):
    return model.predict_on_batch(rows, return_datatree=False, **arguments)["mu"][0]


# The record itself is held by tests/reads; here that predictions go by it.
FAST = {"global", "array in place", "attribute of a class", "environment", "kernel's code"}


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CHANGES]
)
def test_a_warm_prediction_sees_a_change(name, monkeypatch):
    value, change = CHANGES[name]
    monkeypatch.setenv("AIMZ_SCALE", "1")
    names = module_of(value)
    model = model_of(names["kernel"])
    before = [mean(model), mean(model)]
    exec(textwrap.dedent(change), names)
    after = mean(model)
    scale = 2.0 if name == "decorator" else 1.0
    np.testing.assert_allclose(before, [scale * X[:, 0]] * 2, rtol=1e-6)
    np.testing.assert_allclose(after, scale * 3.0 * X[:, 0], rtol=1e-6)
    clear_programs()
    np.testing.assert_array_equal(mean(model), after)


def test_a_warm_prediction_sees_what_is_put_in_the_place_of_a_distribution(monkeypatch):
    model = model_of(module_of("1.0")["kernel"])
    narrow = lambda loc, scale: dist.Delta(loc + 3.0)
    draws = []
    for _ in range(2):
        mean(model)
        draws.append(model.predict_on_batch(X, return_datatree=False)["y"])
        monkeypatch.setattr(dist, "Normal", narrow)
    np.testing.assert_allclose(draws[1], np.tile(X[:, 0] + 3.0, (4, 1)), rtol=1e-6)
    assert not np.allclose(*draws)


@pytest.mark.parametrize("value", [2, 3.0])
def test_a_warm_prediction_sees_another_static_argument(value):
    model = model_of(module_of("1.0")["kernel"])
    mean(model, power=1)
    np.testing.assert_allclose(mean(model, power=value), X[:, 0] ** value, rtol=1e-5, atol=1e-7)


def test_a_warm_prediction_sees_a_change_in_a_function_of_draws():
    model, shift = model_of(module_of("1.0")["kernel"]), [0.0]
    change = {"a": lambda draws: draws + shift[0]}
    for shift[0] in (1.0, 2.0):
        moved = mean(model, intervention=change)
        np.testing.assert_allclose(moved, X[:, 0] + shift[0], rtol=1e-6)


def traced(call):
    before = program_stats()["traced"]
    call()
    return program_stats()["traced"] - before


@pytest.mark.parametrize("method", ["predict", "predict_on_batch", "log_likelihood", "score"])
def test_a_warm_call_takes_no_trace(method):
    kind = kind_of("linear")
    model, inputs = kind.model(), kind.inputs
    more = {} if method.startswith("predict") else {"y": kind.outcomes["y"]}
    options = {"store": "memory"} if method in ("predict", "log_likelihood") else {}

    def call():
        getattr(model, method)(**inputs, **more, **options)

    call()
    assert traced(call) == 0


def test_a_warm_effect_takes_no_trace():
    kind = kind_of("linear")
    model = kind.model()
    scenarios: Any = {"baseline": {"t": 0.0}, "intervention": {"t": 1.0}}

    def call():
        model.effect(**kind.inputs, **scenarios, progress=False)

    call()
    assert traced(call) == 0
