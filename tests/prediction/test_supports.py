"""Values against supports, and draws of any dtype: what a site can take, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimz import ImpactModel, InputError
from aimz.families import takes
from aimz.kernel import Inputs, inspect
from aimz.outcomes import check_outcomes
from aimz.prediction import as_site
from aimz.results import as_draws

ROWS = 4


@dataclass(frozen=True)
class Family:
    """A distribution; which numbers have a density, and the borders that only limits have."""

    fn: Any
    inside: Callable[[float], bool]
    usual: float
    borders: tuple[float, ...] = ()

    def takes(self, value: float) -> bool:
        return self.inside(value) or value in self.borders


def whole(low: float, high: float = np.inf) -> Callable[[float], bool]:
    return lambda v: low <= v <= high and v == int(v)


def between(low: float, high: float = np.inf) -> Callable[[float], bool]:
    return lambda v: low < v < high


def closed(low: float, high: float = np.inf) -> Callable[[float], bool]:
    return lambda v: low <= v <= high


SHARES = np.array([0.2, 0.3, 0.5])
CUTS = np.array([-1.0, 1.0])
FAMILIES: dict[str, Family] = {
    "bernoulli": Family(dist.Bernoulli(0.3), whole(0, 1), 1),
    "bernoulli by logits": Family(dist.Bernoulli(logits=0.3), whole(0, 1), 1),
    "binomial": Family(dist.Binomial(5, 0.3), whole(0, 5), 2),
    "binomial by logits": Family(dist.Binomial(5, logits=0.3), whole(0, 5), 2),
    "beta-binomial": Family(dist.BetaBinomial(2.0, 2.0, 5), whole(0, 5), 2),
    "categorical": Family(dist.Categorical(SHARES), whole(0, 2), 1),
    "categorical by logits": Family(dist.Categorical(logits=SHARES), whole(0, 2), 1),
    "ordered logistic": Family(dist.OrderedLogistic(0.3, CUTS), whole(0, 2), 1),
    "discrete uniform": Family(dist.DiscreteUniform(2, 5), whole(2, 5), 3),
    "poisson": Family(dist.Poisson(3.0), whole(0), 2),
    "geometric": Family(dist.Geometric(0.3), whole(0), 2),
    "negative binomial": Family(dist.NegativeBinomial2(3.0, 2.0), whole(0), 2),
    "gamma-poisson": Family(dist.GammaPoisson(3.0, 2.0), whole(0), 2),
    "zero-inflated": Family(dist.ZeroInflatedPoisson(0.3, 3.0), whole(0), 2),
    "zero-inflated by logits": Family(
        dist.ZeroInflatedDistribution(dist.Poisson(3.0), gate_logits=0.3), whole(0), 2
    ),
    "exponential": Family(dist.Exponential(2.0), closed(0), 1.5),
    "half-normal": Family(dist.HalfNormal(2.0), closed(0), 1.5),
    "half-cauchy": Family(dist.HalfCauchy(2.0), closed(0), 1.5),
    "gamma": Family(dist.Gamma(2.0, 2.0), between(0), 1.5, (0.0,)),
    "inverse gamma": Family(dist.InverseGamma(2.0, 2.0), between(0), 1.5, (0.0,)),
    "log-normal": Family(dist.LogNormal(0.0, 1.0), between(0), 1.5, (0.0,)),
    "weibull": Family(dist.Weibull(2.0, 1.5), between(0), 1.5, (0.0,)),
    "chi-squared": Family(dist.Chi2(3.0), between(0), 1.5, (0.0,)),
    "pareto": Family(dist.Pareto(2.0, 1.5), between(2), 3.0, (2.0,)),
    "uniform": Family(dist.Uniform(-1.0, 2.0), closed(-1, 2), 0.5),
    "log-uniform": Family(dist.LogUniform(1.0, 6.0), closed(1, 6), 2.0),
    "beta": Family(dist.Beta(2.0, 3.0), between(0, 1), 0.5, (0.0, 1.0)),
    "kumaraswamy": Family(dist.Kumaraswamy(2.0, 3.0), between(0, 1), 0.5, (0.0, 1.0)),
    "left-truncated": Family(dist.TruncatedNormal(0.0, 1.0, low=-0.5), closed(-0.5), 0.5),
    "right-truncated": Family(dist.TruncatedNormal(0.0, 1.0, high=1.0), closed(-np.inf, 1.0), 0.5),
    "truncated": Family(dist.TruncatedCauchy(0.0, 1.0, low=-0.5, high=1.0), closed(-0.5, 1.0), 0.5),
    "normal": Family(dist.Normal(0.0, 1.0), lambda _: True, 0.5),
    "student": Family(dist.StudentT(3.0), lambda _: True, 0.5),
    "von mises": Family(dist.VonMises(0.0, 1.0), lambda _: True, 0.5),
    "expanded": Family(dist.Gamma(2.0, 2.0).expand([]), between(0), 1.5, (0.0,)),
    "masked by True": Family(dist.Gamma(2.0, 2.0).mask(True), between(0), 1.5, (0.0,)),
}
POOL = [-1e6, -2.0, -1.0, -0.75, -0.5, -1e-3, 0.0, 1e-3, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0]
POOL += [6.0, 7.0, 1e6, 2.0**31 + 256]


def kernel_of(fn: Any) -> Any:
    def kernel(X, y=None):
        with numpyro.plate("row", X.shape[0]):
            numpyro.sample("y", fn, obs=y)

    return kernel


def refusal(fn: Any, outcome: Any, *, is_fit: bool) -> InputError | None:
    arrays = {"X": np.zeros((ROWS, 1), np.float32), "y": np.asarray(outcome, np.float32)}
    try:
        check_outcomes(kernel_of(fn), Inputs(arrays, {}, ROWS, ("X", "y")), is_fit=is_fit)
    except InputError as error:
        return error
    return None


@settings(deadline=None, max_examples=120)
@given(
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from(POOL),
    st.integers(0, ROWS - 1),
    st.booleans(),
)
def test_an_outcome_is_taken_if_it_has_a_density(name, value, row, is_fit):
    family = FAMILIES[name]
    outcome = np.full(ROWS, family.usual, float)
    outcome[row] = value
    error = refusal(family.fn, outcome, is_fit=is_fit)
    expected = family.inside(value) if is_fit else family.takes(value)
    assert (error is None) == expected, error
    if error is not None:
        assert error.code == "outcome-support"
        assert f"in row {row}," in str(error)
        assert f"observes {np.float32(value):g}" in str(error)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(FAMILIES)), st.lists(st.sampled_from(POOL), min_size=1, max_size=5))
def test_draws_are_taken_up_to_the_border_of_a_support(name, values):
    family = FAMILIES[name]
    inside = takes(family.fn.support, np.array(values))
    assert inside.tolist() == [family.takes(value) for value in values]


VECTORS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "shares": (dist.Dirichlet(np.ones(2)), [[0.25, 0.75], [1.0, 0.0]], [[0.5, 0.6], [-0.5, 1.5]]),
    "counts": (
        dist.Multinomial(4, np.array([0.5, 0.5])),
        [[1, 3], [4, 0]],
        [[1, 4], [-1, 5], [1.5, 2.5]],
    ),
    "several counts": (dist.Poisson(np.ones(2)).to_event(1), [[0, 3]], [[0, -1], [0.5, 1]]),
    "several rates": (dist.Gamma(np.ones(2)).to_event(1), [[0.5, 3]], [[0.5, -1]]),
    "vectors": (dist.MultivariateNormal(np.zeros(2), np.eye(2)), [[-9, 9]], []),
    "directions": (dist.ProjectedNormal(np.ones(2)), [[0.6, 0.8]], [[0.6, 0.9], [0, 0]]),
    "a mixture": (
        dist.MixtureSameFamily(dist.Categorical(SHARES[:2] * 2), dist.Gamma(np.ones(2))),
        [0.5, 3.0],
        [-0.5],
    ),
}
EVENTS = [
    (name, value, is_in)
    for name, (_, taken, refused) in VECTORS.items()
    for values, is_in in ((taken, True), (refused, False))
    for value in values
]


@pytest.mark.parametrize(("name", "value", "is_in"), EVENTS)
def test_an_outcome_of_several_numbers_is_taken_as_one(name, value, is_in):
    fn, taken, _ = VECTORS[name]
    outcome = np.array([taken[0]] * ROWS, float)
    outcome[2] = value
    error = refusal(fn, outcome, is_fit=False)
    assert (error is None) == is_in, error
    assert error is None or "in row 2," in str(error)
    assert bool(np.all(takes(fn.support, np.array(value, float)))) == is_in


@pytest.mark.parametrize("limit", [2.0, 4.0])
def test_a_support_of_the_arguments_is_known_row_by_row(limit):
    """What `X` says of each row, by NumPy: outcomes from 0 to the first column."""

    def kernel(X, y=None):
        with numpyro.plate("row", X.shape[0]):
            numpyro.sample("y", dist.Uniform(0.0, X[:, 0]), obs=y)

    X = np.array([[1.0], [5.0], [limit], [9.0]], np.float32)
    outcome = np.array([0.5, 4.5, 3.0, 8.0], np.float32)
    call = (kernel, Inputs({"X": X, "y": outcome}, {}, 4, ("X", "y")))
    if limit > 3.0:
        check_outcomes(*call, is_fit=True)
        return
    with pytest.raises(InputError, match=r"observes 3 in row 2, .* numbers from 0 to 2"):
        check_outcomes(*call, is_fit=True)


# ------------------------------------------------------------------ dtypes of draws

SITES: dict[str, Any] = {
    "real": dist.Normal(0.0, 1.0),
    "count": dist.Poisson(3.0),
    "bool": dist.Bernoulli(0.5),
    "trials": dist.Binomial(200, 0.5),
}
PLAIN = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
PLAIN += [">i4", ">u8", "float16", "float32", "float64", ">f4", ">f8", "longdouble"]


def of_dtype(dtype: Any, shift: float = 0.0) -> Callable[[list[int]], Any]:
    return lambda values: (np.array(values) + (shift or 0)).astype(dtype)


DTYPES: dict[str, Callable[[list[int]], Any]] = {
    **{dtype: of_dtype(dtype) for dtype in PLAIN},
    "bfloat16": of_dtype(ml_dtypes.bfloat16),
    "float8": of_dtype(ml_dtypes.float8_e4m3fn),
    "int4": of_dtype(ml_dtypes.int4),
    "list": list,
    "objects": of_dtype(object),
    "Arrow": pa.array,
    "JAX": lambda values: jnp.asarray(np.array(values).clip(-(2**31), 2**31 - 1), jnp.int32),
    "bfloat16 of JAX": lambda values: jnp.asarray(values, jnp.float32).astype(jnp.bfloat16),
    "halves": of_dtype(float, 0.5),
    "halves in bfloat16": of_dtype(ml_dtypes.bfloat16, 0.5),
}


@cache
def site_of(name: str) -> Any:
    def kernel(X, y=None):
        a = numpyro.sample("a", SITES[name])
        numpyro.sample("y", dist.Normal(a + X[:, 0], 1.0), obs=y)

    inputs = Inputs({"X": np.zeros((ROWS, 1), np.float32)}, {}, ROWS, ("X",))
    return inspect(kernel, inputs, "y")["a"]


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(sorted(SITES)),
    st.sampled_from(sorted(DTYPES)),
    st.lists(
        st.one_of(st.integers(0, 1), st.integers(0, 100), st.integers(-(2**33), 2**33)),
        min_size=1,
        max_size=4,
    ),
)
def test_draws_of_any_dtype_are_exact_or_refused(name, dtype, values):
    given_draws = DTYPES[dtype](values)
    exact = np.asarray(given_draws).astype(np.float64)
    site = site_of(name)
    try:
        found = as_site(site, as_draws({"a": given_draws})["a"])
    except InputError as error:
        refused = error.code
    else:
        refused = ""
    if refused:
        codes = {"cast-overflow", "cast-precision", "site-integer", "not-finite"}
        assert refused in codes
        is_whole = bool(np.all(exact == np.round(exact)))
        least, greatest = {"bool": (0, 1)}.get(name, (-(2**31), 2**31 - 1))
        held = bool(np.all((exact >= least) & (exact <= greatest)))
        assert not is_whole or not held or np.abs(exact).max() > 1e6
        return
    assert found.dtype == site.dtype
    rounding = 2.0**-24 * np.abs(exact).max() if name == "real" else 0.0
    assert np.abs(found.astype(np.float64).ravel() - exact).max() <= rounding


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float16", "bfloat16", "objects", ">i4"])
def test_a_kernel_computes_with_draws_of_narrow_numbers_as_with_wide_ones(dtype):
    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Poisson(3.0))
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.deterministic("big", a * 1000 - 2000 * b)
        numpyro.sample("y", dist.Normal(a + X[:, 0], 1.0), obs=y)

    draws = {name: DTYPES[dtype]([100, 3]) for name in ("a", "b")}
    im = ImpactModel(kernel).set_posterior_sample(draws)
    tree: Any = im.predict_on_batch(np.zeros((2, 1)), rng_key=jax.random.key(0))
    assert tree.posterior_predictive["big"].values.tolist() == [[-100_000.0, -3000.0]]
