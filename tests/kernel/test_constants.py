"""A kernel's own numbers that 32 bits cut or blur are refused; what NumPy made smaller is not."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax

from aimz import InputError
from aimz.prediction import problem_of

X = np.zeros((4, 1), np.float32)
MANY = np.full(4, 5_000_000_000)
TIMES = 1.7e9 + np.arange(4.0)
DAYS = 20_230_101 + np.arange(4)
# What a kernel computes with beside its input, and the code; None where nothing is lost.
CONSTANTS = {
    "whole numbers": (lambda x: jnp.asarray(MANY) + x, "cast-overflow"),
    "taken by NumPy's operator": (lambda x: MANY * x, "cast-overflow"),
    "written in the kernel": (lambda x: np.array([5_000_000_000] * 4) + x, "cast-overflow"),
    "one of NumPy's": (lambda x: np.int64(2**40) + x, "cast-overflow"),
    "one of Python's": (lambda x: 2**40 + x, "cast-overflow"),
    "made an array": (lambda x: jnp.array(2**40) + x, "cast-overflow"),
    "unsigned": (lambda x: jnp.asarray(np.array([2**63], "u8")) * 1.0 + x, "cast-overflow"),
    "with a point": (lambda x: TIMES + x, "cast-precision"),
    "made an array of JAX": (lambda x: jnp.asarray(TIMES) + x, "cast-precision"),
    "made floating-point": (lambda x: jnp.asarray(DAYS) * 1.0 + x, "cast-precision"),
    "subtracted before": (lambda x: (TIMES - TIMES[0]) + x, None),
    "divided before": (lambda x: MANY / 1e9 + x, None),
    "a floating-point number": (lambda x: x / 2.0**40 + 1e12, None),
    "divided by one of NumPy's": (lambda x: x / np.float64(2**40), None),
    "a hash": (lambda x: (jnp.arange(4) * 1_103_515_245 & 0xFF) * 1.0 + x, None),
    "a large one that is not there": (lambda x: x if x.ndim else x * 1e15, None),
    "of a wide range": (lambda x: np.array([0.0, 1.0, 3e8 + 0.5, 1e9]) + x, None),
    "one number": (lambda x: 1e7 + 0.3 + x, None),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_numbers_of_the_kernel_that_32_bits_lose_are_refused(name):
    make, code = CONSTANTS[name]

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * make(X[:, 0]), 1.0), obs=y)

    def problem():
        return problem_of(kernel, ("X", "y"), {"X": X, "y": np.zeros(4)}, None, "raise")

    if code is None:
        assert problem()
        return
    with pytest.raises(InputError) as caught:
        problem()
    assert caught.value.code == code


OF_OWN_DTYPES = ["whole numbers", "written in the kernel", "one of NumPy's", "with a point"]


@pytest.mark.parametrize(
    "name", [*OF_OWN_DTYPES, "a floating-point number", "a large one that is not there"]
)
def test_so_they_are_where_a_kernel_fixes_its_own_dtypes(name):
    """It cannot be traced in double precision, which would tell what it computes with."""
    make, code = CONSTANTS[name]

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        start = jnp.zeros((), jnp.float32)
        last, _ = lax.scan(
            lambda c, x: (jnp.float32(c) + jnp.array(1.0) * x, c), start, jnp.ones(3)
        )
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * make(X[:, 0]) + last, 1.0), obs=y)

    def problem():
        return problem_of(kernel, ("X", "y"), {"X": X, "y": np.zeros(4)}, None, "raise")

    if code is None:
        assert problem()
        return
    with pytest.raises(InputError) as caught:
        problem()
    assert caught.value.code == code
