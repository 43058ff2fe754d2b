"""A script of a user's: kernels of all kinds that no other process can import.

`python tests/support/captured_script.py DIRECTORY` saves a model of each below DIRECTORY, and what
its outcome is drawn around; `outcome_of` finds that again.
"""

import dataclasses
import enum
import functools
import math
import sys
from collections import namedtuple
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.stats
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from jax.nn import softplus
from numpy import exp
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import Normal
from numpyro.infer.reparam import LocScaleReparam

from aimz import ImpactModel
from aimz.inference import Columns, LinearKernel, LogisticKernel

X = np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(3, 2)
SCALE = 2.5
TABLE = np.arange(6.0, dtype=np.float32).reshape(2, 3)
WEIGHTS = jnp.array([0.1, 2.0], jnp.float32)
HALF = jnp.array([1.0, 2.0], jnp.bfloat16)
KEY = jax.random.key(3)
SETTINGS = {"a": 1, "b": [1.0, float("inf")], "c": (1,), "d": {"x"}, 2: np.float32(0.1)}
PRIOR = dist.Normal(0.0, SCALE)
FRAME = pd.DataFrame({"a": [1.0, 2.0], "b": [3, 4]}, index=["u", "v"])


def helper(x: jnp.ndarray, scale: float = SCALE) -> jnp.ndarray:
    """A helper of the script's."""
    return x * scale + math.exp(0.5)


@jax.jit
def jitted(x):
    return helper(x) + WEIGHTS.sum()


@partial(jax.jit, static_argnums=1)
def with_static(x, n):
    return x * n


anonymous = jax.jit(lambda x, n: x * n, static_argnames="n")


@functools.cache
def cached(n):
    return n * SCALE


@jax.vmap
def mapped(x):
    return x + SCALE


def deco(f):
    @functools.wraps(f)
    def inner(*args, **kwargs):
        return 2.0 * f(*args, **kwargs)

    return inner


@deco
def decorated(x):
    return x + 1.0


class Colour(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class Config:
    scale: float
    loc: jnp.ndarray = dataclasses.field(default_factory=lambda: jnp.zeros(2))

    def prior(self):
        return Normal(self.loc.sum(), self.scale)


CONFIG = Config(3.0)


def even(n):
    return True if n == 0 else odd(n - 1)


def odd(n):
    return False if n == 0 else even(n - 1)


def reads_much(X, y=None):
    numpyro.sample("b", PRIOR)
    c = numpyro.sample("c", CONFIG.prior())
    once = TABLE.sum() + HALF.sum() + with_static(1.0, 3) + anonymous(1.0, n=2) + cached(2)
    once = once + jax.random.normal(KEY) + (1 if Colour.RED is Colour.RED else 0) + even(3)
    once = once + SETTINGS["a"] + SETTINGS[2] + jax.scipy.stats.norm.logpdf(0.0) + exp(0.25)
    rows = jitted(X[:, 0]) + mapped(X[:, 0]) + decorated(X[:, 1]) + softplus(c)
    numpyro.sample("y", dist.Normal(rows + once, 1.0), obs=y)


def plain(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, SCALE))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * helper(X[:, 0]), 1.0), obs=y)


def make(scale, table):
    def own(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, scale))
        text = """kept
as it is"""
        numpyro.sample("y", dist.Normal(b * X[:, 0] + table.sum() + len(text), 1.0), obs=y)

    return own


def recursive():
    def factorial(n):
        return 1 if n == 0 else n * factorial(n - 1)

    def own(X, y=None):
        numpyro.sample("y", dist.Normal(X[:, 0] * factorial(4), 1.0), obs=y)

    return own


def in_a_loop():
    kernels = []
    for shift in (1.0, 2.0):

        def own(X, y=None, shift=shift):
            numpyro.sample("y", dist.Normal(X[:, 0] + shift, 1.0), obs=y)

        kernels.append(own)
    return kernels[0]


class Kernel:
    """An object that is called."""

    shift = 1.5

    def __init__(self, scale):
        self.scale = scale
        self.parts = [np.ones(2, np.float32), PRIOR]

    def __call__(self, X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, self.scale))
        numpyro.sample("y", dist.Normal(b * X @ self.parts[0] + self.shift, 1.0), obs=y)

    def method(self, X, y=None):
        return self(X, y)


def with_defaults(X, y=None, *, loc=TABLE, scale=SCALE):
    numpyro.sample("y", dist.Normal(X[:, 0] + loc.sum() + scale, 1.0), obs=y)


def max(x):  # noqa: A001  # a name of Python's
    return x + 3.0


def shadows(X, y=None):
    numpyro.sample("y", dist.Normal(max(X[:, 0]), 1.0), obs=y)


def of_a_frame(X, y=None):
    numpyro.sample("y", dist.Normal(X[:, 0] + float(FRAME["a"].sum()), 1.0), obs=y)


def scanned(X, y=None):
    def step(level, x):
        return level * 0.5 + x, level * SCALE

    _, levels = scan(step, 0.0, X[:, 0])
    numpyro.sample("y", dist.Normal(levels, 1.0), obs=y)


Pair = namedtuple("Pair", "one other")  # noqa: PYI024  # as users write them
PAIR = Pair(1.5, np.ones(2, np.float32))
by_row = jax.vmap(lambda x: x + SCALE)
slope = jax.grad(helper, argnums=1)


class Shifted(dist.Distribution):  # type: ignore[misc]  # NumPyro is untyped
    """A distribution of the user's own."""

    support = dist.constraints.real
    arg_constraints = {"loc": dist.constraints.real}

    def __init__(self, loc, *, validate_args=None):
        self.loc = loc
        super().__init__(batch_shape=jnp.shape(loc), validate_args=validate_args)

    def sample(self, key, sample_shape=()):
        return self.loc + jax.random.normal(key, sample_shape + self.batch_shape)

    def log_prob(self, value):
        return Normal(self.loc, 1.0).log_prob(value)


def of_library_closures(X, y=None):
    from numpyro import distributions

    shift = slope(2.0, 1.0) + PAIR.one + PAIR.other.sum()
    numpyro.sample("y", distributions.Normal(by_row(X[:, 0]) + shift, 1.0), obs=y)


def of_its_own_distribution(X, y=None):
    numpyro.sample("y", Shifted(X[:, 0]), obs=y)


SPACE = Columns(np.array([0.1, 0.2]), np.array([1.0, 2.0]))
KERNELS: dict[str, Any] = {
    "all that it reads": reads_much,
    "function": plain,
    "closure": make(2.0, TABLE),
    "closure of a closure": make(3.0, WEIGHTS),
    "recursion": recursive(),
    "loop": in_a_loop(),
    "object": Kernel(2.0),
    "method": Kernel(2.0).method,
    "partial": partial(with_defaults, scale=4.0),
    "defaults": with_defaults,
    "lambda": lambda X, y=None, s=SCALE: numpyro.sample("y", dist.Normal(X[:, 0] * s, 1.0), obs=y),
    "a name of Python's": shadows,
    "frame": of_a_frame,
    "scan": scanned,
    "reparam": handlers.reparam(make(1.0, TABLE), config={"b": LocScaleReparam(0.0)}),
    "condition": handlers.condition(make(1.0, TABLE), data={"b": jnp.ones(())}),
    "library closures": of_library_closures,
    "own distribution": of_its_own_distribution,
    "linear": LinearKernel(SPACE, 1.0, 2.0),
    "logistic": LogisticKernel(SPACE, 3),
}


def outcome_of(kernel: Any) -> np.ndarray:
    """What the outcome is drawn around, by NumPyro alone."""
    found = handlers.trace(handlers.seed(kernel, 0)).get_trace(X)["y"]["fn"]
    around = found.loc if hasattr(found, "loc") else found.logits
    values: np.ndarray = np.asarray(around)
    return values


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    for number, kernel in enumerate(KERNELS.values()):
        im = ImpactModel(kernel, rng_key=7).set_posterior_sample({"b": np.linspace(0.5, 1.0, 5)})
        im.save(directory / str(number))
        np.save(directory / f"{number}.npy", outcome_of(kernel))
    im = ImpactModel(plain, rng_key=7).set_posterior_sample({"b": np.linspace(0.5, 1.0, 5)})
    tree: Any = im.predict_on_batch(X)
    np.save(directory / "drawn.npy", tree["posterior_predictive"]["y"].values)
