"""What is missing or masked counts for nothing: not in a fit, a density, a score or an effect."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density
from scipy import stats

from aimz import ImpactModel, InputError, OutputWarning
from aimz.inference.binding import RowScale
from aimz.outcomes import part_of
from aimz.outcomes.presence import has_parts
from aimz.prediction import problem_of

ROWS = 6
X = np.linspace(-1.0, 1.0, ROWS)[:, None]
Y = np.array([0.5, -1.0, 2.0, 0.0, 1.5, -0.5])
MASK = np.array([True, True, False, True, False, True])
DRAWS = np.array([0.0, 0.5, -0.25])


# ------------------------------------------------------------------ parts of a vector

SIZE = 4
_root = np.random.default_rng(0).normal(size=(SIZE, SIZE))
COVARIANCE = _root @ _root.T + np.eye(SIZE)
LOC = np.array([0.3, -1.0, 2.0, 0.1])
FACTOR = np.random.default_rng(1).normal(size=(SIZE, 2))
SPREAD = np.array([0.5, 1.0, 2.0, 0.7])
DF = 4.5
VALUE = np.array([0.7, 1.2, 0.4, 1.9])


def normal_part(covariance: np.ndarray) -> Callable[[np.ndarray], float]:
    def log_density(there: np.ndarray) -> float:
        block = covariance[np.ix_(there, there)]
        return float(stats.multivariate_normal(LOC[there], block).logpdf(VALUE[there]))

    return log_density


def student_part(there: np.ndarray) -> float:
    block = COVARIANCE[np.ix_(there, there)]
    return float(stats.multivariate_t(LOC[there], block, DF).logpdf(VALUE[there]))


def by_element(log_density: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda there: float(log_density[there].sum())


def log_normal_part(there: np.ndarray) -> float:
    block = COVARIANCE[np.ix_(there, there)]
    x = np.log(VALUE[there])
    return float(stats.multivariate_normal(LOC[there], block).logpdf(x) - x.sum())


_TRIL = np.linalg.cholesky(COVARIANCE)
PARTS: dict[str, tuple[Any, Callable[[np.ndarray], float]]] = {
    "covariance": (
        dist.MultivariateNormal(LOC, covariance_matrix=COVARIANCE),
        normal_part(COVARIANCE),
    ),
    "precision": (
        dist.MultivariateNormal(LOC, precision_matrix=np.linalg.inv(COVARIANCE)),
        normal_part(COVARIANCE),
    ),
    "cholesky": (dist.MultivariateNormal(LOC, scale_tril=_TRIL), normal_part(COVARIANCE)),
    "low rank": (
        dist.LowRankMultivariateNormal(LOC, FACTOR, SPREAD),
        normal_part(FACTOR @ FACTOR.T + np.diag(SPREAD)),
    ),
    "student": (dist.MultivariateStudentT(DF, LOC, _TRIL), student_part),
    "independent": (
        dist.Normal(LOC, SPREAD).to_event(1),
        by_element(stats.norm(LOC, SPREAD).logpdf(VALUE)),
    ),
    "independent, positive": (
        dist.Gamma(SPREAD, 2.0).to_event(1),
        by_element(stats.gamma(SPREAD, scale=0.5).logpdf(VALUE)),
    ),
    "expanded": (
        dist.StudentT(DF, 1.0, 2.0).expand([SIZE]).to_event(1),
        by_element(stats.t(DF, 1.0, 2.0).logpdf(VALUE)),
    ),
    "masked by element": (
        dist.Normal(LOC, SPREAD).mask(np.array([True, False, True, True])).to_event(1),
        by_element(stats.norm(LOC, SPREAD).logpdf(VALUE) * [1, 0, 1, 1]),
    ),
    "exponential of a vector": (
        dist.TransformedDistribution(
            dist.MultivariateNormal(LOC, scale_tril=_TRIL), dist.transforms.ExpTransform()
        ),
        log_normal_part,
    ),
}
PATTERNS = [
    np.array(p, bool)
    for p in ([1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 0, 1], [0, 0, 1, 0], [1, 1, 1, 0])
]


@pytest.mark.parametrize("name", PARTS)
def test_the_density_of_a_part_is_the_marginal(name):
    fn, exact = PARTS[name]
    there = np.stack([*PATTERNS, np.zeros(SIZE, bool)])
    value = np.where(there, VALUE, 7.0)

    @jax.jit
    def density_at(there, value):
        return part_of(fn.expand([len(there)]), there).log_prob(value)

    density = density_at(there, value)
    wanted = [*(exact(pattern) for pattern in PATTERNS), 0.0]
    np.testing.assert_allclose(density, wanted, rtol=2e-4, atol=2e-4)
    assert has_parts(fn)


@pytest.mark.parametrize("name", ["covariance", "low rank", "student", "independent, positive"])
def test_what_is_missing_has_no_gradient_and_the_rest_a_finite_one(name):
    fn, _ = PARTS[name]
    there = jnp.asarray(PATTERNS[2])

    def density(value):
        return part_of(fn, there).log_prob(value)

    gradient = np.asarray(jax.jit(jax.grad(density))(jnp.asarray(VALUE)))
    assert np.all(np.isfinite(gradient))
    assert np.array_equal(gradient != 0, PATTERNS[2])


def test_a_family_without_marginals_loses_the_event():
    fn = dist.Dirichlet(jnp.ones(3))
    value = jnp.array([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5]])
    density = part_of(fn, jnp.array([[True, True, True], [True, False, True]])).log_prob(value)
    np.testing.assert_allclose(density, [np.log(2.0), 0.0], rtol=1e-5)
    assert not has_parts(fn)


# ------------------------------------------------------------------ scores


def log_mean(densities: np.ndarray) -> np.ndarray:
    """Log of the mean over draws, (draw, row) to (row,)."""
    return np.log(np.exp(densities).mean(axis=0))


PLAIN = log_mean(stats.norm(DRAWS[:, None], 1.0).logpdf(Y))


@dataclass(frozen=True)
class Case:
    """A kernel of a latent `a`, its arguments, and its score."""

    kernel: Callable[..., Any]
    score: float
    arguments: dict[str, Any]
    y: Any = None


def masked_by_handler(X, m, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]), handlers.mask(mask=m):
        numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


def masked_by_method(X, m, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        numpyro.sample("y", dist.Normal(a, 1.0).mask(m), obs=y)


def masked_without_plate(X, m, y=None):
    a = numpyro.sample("a", dist.Normal())
    numpyro.sample("y", dist.Normal(a + 0.0 * X[:, 0], 1.0).mask(m), obs=y)


def masked_twice(X, m, k, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]), handlers.mask(mask=m):
        numpyro.sample("y", dist.Normal(a, 1.0).mask(k), obs=y)


def masked_by_outcome_of_another(X, z, y=None):
    """A hurdle: the amount counts where there is one, the row always."""
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        numpyro.sample("z", dist.Bernoulli(logits=a), obs=z)
        with handlers.mask(mask=z > 0):
            numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


def masked_by_element(X, m, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        fn = dist.Normal(a, 1.0).expand([X.shape[0], 2]).mask(m)
        numpyro.sample("y", fn.to_event(1), obs=y)


def weighted(X, w, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]), handlers.scale(scale=w):
        numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


def scaled_alike(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]), handlers.scale(scale=100.0):
        numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


def of_a_population(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", 1000, subsample_size=X.shape[0]):
        numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


def factor_masked(X, m, y=None):
    a = numpyro.sample("a", dist.Normal())
    if y is None:
        numpyro.deterministic("y", a + 0.0 * X[:, 0])
    else:
        with numpyro.plate("o", X.shape[0]), handlers.mask(mask=m):
            numpyro.factor("f", dist.Normal(a, 1.0).log_prob(y))


def factor_in_the_prior(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    numpyro.factor("roughness", -0.5 * a**2)
    with numpyro.plate("o", X.shape[0]):
        numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


def masked_where_rows_meet(X, m, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]), handlers.mask(mask=m):
        numpyro.sample("y", dist.Normal(a + 0.0 * jnp.cumsum(X[:, 0]), 1.0), obs=y)


_WEIGHTS = np.array([1.0, 2.0, 0.0, 0.5, 3.0, 1.0])
_Z = MASK.astype(np.int32)
_PAIRS = np.array([[1, 1], [1, 0], [0, 0], [0, 1], [0, 0], [1, 1]], bool)
_HURDLE = log_mean(
    stats.bernoulli(1 / (1 + np.exp(-DRAWS[:, None]))).logpmf(_Z)
    + np.where(MASK, stats.norm(DRAWS[:, None], 1.0).logpdf(Y), 0.0)
)
_BY_PAIR = log_mean((stats.norm(DRAWS[:, None, None], 1.0).logpdf(Y[:, None]) * _PAIRS).sum(-1))
CASES = {
    "handler": Case(masked_by_handler, PLAIN[MASK].mean(), {"m": MASK}),
    "method": Case(masked_by_method, PLAIN[MASK].mean(), {"m": MASK}),
    "no plate": Case(masked_without_plate, PLAIN[MASK].mean(), {"m": MASK}),
    "twice": Case(masked_twice, PLAIN[1], {"m": MASK, "k": np.arange(ROWS) == 1}),
    "hurdle": Case(masked_by_outcome_of_another, _HURDLE.mean(), {"z": _Z}),
    "elements": Case(
        masked_by_element,
        _BY_PAIR[_PAIRS.any(1)].mean(),
        {"m": _PAIRS},
        y=np.repeat(Y[:, None], 2, axis=1),
    ),
    "weights": Case(weighted, np.average(PLAIN, weights=_WEIGHTS), {"w": _WEIGHTS}),
    "one scale": Case(scaled_alike, PLAIN.mean(), {}),
    "population": Case(of_a_population, PLAIN.mean(), {}),
    "factor": Case(factor_masked, PLAIN[MASK].mean(), {"m": MASK}),
    "factor of the prior": Case(factor_in_the_prior, PLAIN.mean(), {}),
    "rows meet": Case(masked_where_rows_meet, PLAIN[MASK].mean(), {"m": MASK}),
}
COUPLED = pytest.mark.filterwarnings("ignore:Rows are predicted together")


def model(kernel: Callable[..., Any]) -> ImpactModel:
    return ImpactModel(kernel).set_posterior_sample({"a": DRAWS})


@COUPLED
@pytest.mark.parametrize("name", CASES)
def test_the_score_is_a_mean_over_the_rows_that_count(name):
    case = CASES[name]
    y = Y if case.y is None else case.y
    score = model(case.kernel).score(X, y, **case.arguments)
    assert score == pytest.approx(case.score, abs=1e-5)


def test_weights_of_a_score_and_masks_multiply():
    weights = np.arange(1.0, 7.0)
    score = model(masked_by_handler).score(X, Y, m=MASK, sample_weight=weights)
    assert score == pytest.approx(np.average(PLAIN[MASK], weights=weights[MASK]), abs=1e-5)


def test_a_score_without_a_row_that_counts_is_refused():
    with pytest.raises(InputError, match="No row counts") as caught:
        model(masked_by_handler).score(X, Y, m=np.zeros(ROWS, bool))
    assert caught.value.code == "nothing-observed"


def test_a_masked_row_may_be_impossible():
    """A value outside of the support is what masks are for."""

    def kernel(X, m, y=None):
        a = numpyro.sample("a", dist.Normal())
        with numpyro.plate("o", X.shape[0]), handlers.mask(mask=m):
            numpyro.sample("y", dist.Exponential(jnp.exp(a)), obs=y)

    y = np.where(MASK, np.abs(Y) + 0.1, -999.0)
    exact = log_mean(stats.expon(scale=np.exp(-DRAWS[:, None])).logpdf(y[MASK]))
    assert model(kernel).score(X, y, m=MASK) == pytest.approx(exact.mean(), abs=1e-5)


# ------------------------------------------------------------------ missing outcomes, one rule


def plain(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 10.0))
    with numpyro.plate("o", X.shape[0]):
        numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


HOLES = np.where(MASK, Y, np.nan)


def as_loader() -> list[dict[str, np.ndarray]]:
    return [{"X": X[:3], "y": HOLES[:3]}, {"X": X[3:], "y": HOLES[3:]}]


def test_missing_outcomes_leave_a_score():
    im = model(plain)
    assert im.score(X, HOLES, missing="mask") == pytest.approx(PLAIN[MASK].mean(), abs=1e-5)
    with pytest.raises(InputError, match="2 values that are not finite"):
        im.score(X, HOLES)


@pytest.mark.parametrize("given", [(X, HOLES), (as_loader(), None)], ids=["memory", "pieces"])
@pytest.mark.parametrize("store", ["memory", "persistent"])
def test_missing_outcomes_leave_a_log_likelihood(given, store):
    tree = model(plain).log_likelihood(*given, missing="mask", store=store, progress=False)
    exact = stats.norm(DRAWS[:, None], 1.0).logpdf(Y)[:, MASK]
    np.testing.assert_allclose(tree.log_likelihood["y"].values[0], exact, atol=1e-5)
    assert tree.log_likelihood["o"].values.tolist() == np.flatnonzero(MASK).tolist()
    assert tree.log_likelihood.attrs["rows_left_out"] == 2
    np.testing.assert_allclose(tree.observed_data["y"].values, Y[MASK])


def test_leave_one_out_takes_what_counts():
    rng = np.random.default_rng(0)
    y = rng.normal(size=60)
    holes = np.where(np.arange(60) % 3 == 0, np.nan, y)
    rows = np.zeros((60, 1))
    im = ImpactModel(plain).set_posterior_sample({"a": rng.normal(0.0, 0.15, 400)}, num_chains=4)
    some = im.log_likelihood(rows, holes, missing="mask", store="memory", progress=False)
    there = np.isfinite(holes)
    alone = im.log_likelihood(rows[there], y[there], store="memory", progress=False)
    assert az.loo(some).elpd == pytest.approx(az.loo(alone).elpd, abs=1e-4)
    assert az.loo(some).n_data_points == 40


def test_elements_that_are_missing_have_no_log_likelihood():
    def grid(X, y=None):
        a = numpyro.sample("a", dist.Normal())
        with numpyro.plate("k", 2, dim=-1), numpyro.plate("o", X.shape[0], dim=-2):
            numpyro.sample("y", dist.Normal(a, 1.0), obs=y)

    y = np.where(_PAIRS, Y[:, None], np.nan)
    im = model(grid)
    tree = im.log_likelihood(X, y, missing="mask", store="memory", progress=False)
    kept = _PAIRS.any(1)
    assert np.array_equal(np.isfinite(tree.log_likelihood["y"].values[0, 0]), _PAIRS[kept])
    assert im.score(X, y, missing="mask") == pytest.approx(_BY_PAIR[kept].mean(), abs=1e-5)


TRAINED: dict[str, Callable[[ImpactModel], Any]] = {
    "fit": lambda im: im.fit(X, HOLES, missing="mask", progress=False),
    "fit_on_batch": lambda im: im.fit_on_batch(
        X, HOLES, missing="mask", num_steps=2000, progress=False
    ),
}


@pytest.mark.parametrize("name", [pytest.param("fit", marks=pytest.mark.slow), "fit_on_batch"])
def test_fits_leave_missing_outcomes_out(name):
    im = ImpactModel(plain)
    TRAINED[name](im)
    draws = im.posterior["a"]
    precision = MASK.sum() + 0.01
    assert draws.mean() == pytest.approx(Y[MASK].sum() / precision, abs=0.05)
    assert draws.std() == pytest.approx(precision**-0.5, rel=0.1)


def test_steps_leave_missing_outcomes_out():
    whole, holes = ImpactModel(plain), ImpactModel(plain)
    first = whole.train_on_batch(X[MASK], Y[MASK])[1]
    assert holes.train_on_batch(X, HOLES, missing="mask")[1] == pytest.approx(first, rel=1e-5)
    assert holes.partial_fit(X, HOLES, missing="mask") is holes
    with pytest.raises(InputError, match="not finite"):
        holes.train_on_batch(X, HOLES)


# ------------------------------------------------------------------ vectors with holes

PAIR_Y = np.where(_PAIRS, np.stack([Y, Y[::-1]], axis=1), np.nan)
PAIR_COVARIANCE = np.array([[1.0, 0.6], [0.6, 2.0]])


def bivariate(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        loc = jnp.stack([a, -a], -1)
        fn = dist.MultivariateNormal(loc, covariance_matrix=PAIR_COVARIANCE)
        numpyro.sample("y", fn, obs=y)


def two_columns(X, y=None):
    """A site for each column, the second of another family."""
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        numpyro.sample("y", dist.Normal(a, 1.0), obs=None if y is None else y[:, 0])
        numpyro.sample("v", dist.Laplace(a, 1.0), obs=None if y is None else y[:, 1])


def rows_last(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0], dim=-1), numpyro.plate("k", 2, dim=-2):
        numpyro.sample("y", dist.Normal(a, 1.0), obs=None if y is None else y.T)


def of_the_logarithm(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        fn = dist.Normal(a, 1.0).expand([X.shape[0], 2]).to_event(1)
        numpyro.sample("y", fn, obs=None if y is None else y / 2.0)


def pair_densities(kernel: Callable[..., Any]) -> np.ndarray:
    """Log densities of each row under each draw, of what is there, by SciPy."""
    found = np.zeros((len(DRAWS), ROWS))
    for (d, a), (r, row) in (
        (one, other) for one in enumerate(DRAWS) for other in enumerate(PAIR_Y)
    ):
        there = np.isfinite(row)
        if not there.any():
            continue
        if kernel is bivariate:
            block = PAIR_COVARIANCE[np.ix_(there, there)]
            loc = np.array([a, -a])[there]
            found[d, r] = stats.multivariate_normal(loc, block).logpdf(row[there])
        elif kernel is two_columns:
            both = [stats.norm(a, 1.0).logpdf(row[0]), stats.laplace(a, 1.0).logpdf(row[1])]
            found[d, r] = np.array(both)[there].sum()
        else:
            seen = row / 2.0 if kernel is of_the_logarithm else row
            found[d, r] = stats.norm(a, 1.0).logpdf(seen[there]).sum()
    return found


@pytest.mark.parametrize(
    "kernel", [pytest.param(bivariate, marks=pytest.mark.slow), rows_last, of_the_logarithm]
)
def test_a_score_of_vectors_with_holes_is_that_of_what_is_there(kernel):
    exact = log_mean(pair_densities(kernel))[_PAIRS.any(1)].mean()
    assert model(kernel).score(X, PAIR_Y, missing="mask") == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize(
    "kernel",
    [
        bivariate,
        *(pytest.param(kernel, marks=pytest.mark.slow) for kernel in (two_columns, rows_last)),
        of_the_logarithm,
    ],
)
@pytest.mark.slow
def test_a_fit_of_vectors_with_holes_sees_what_is_there(kernel):
    problem, _ = problem_of(kernel, ("X", "y"), {"X": X, "y": PAIR_Y}, None, "mask")

    def density(a):
        with RowScale(problem, {}):
            return log_density(handlers.seed(kernel, 0), (), problem.inputs.arrays, {"a": a})[0]

    found = [jax.value_and_grad(density)(jnp.float32(a)) for a in DRAWS]
    exact = pair_densities(kernel).sum(1) + stats.norm(0.0, 1.0).logpdf(DRAWS)
    np.testing.assert_allclose([value for value, _ in found], exact, rtol=1e-4)
    assert np.all(np.isfinite([gradient for _, gradient in found]))


def vector(X, y=None):
    m = numpyro.sample("m", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    with numpyro.plate("o", X.shape[0]):
        numpyro.sample("y", dist.MultivariateNormal(m, covariance_matrix=PAIR_COVARIANCE), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["svi", "nuts"])
def test_fits_of_vectors_with_holes_are_exact(inference):
    """A normal mean of normal vectors, in closed form."""
    rng = np.random.default_rng(0)
    y = rng.multivariate_normal([1.0, -1.0], PAIR_COVARIANCE, 60)
    there = rng.random((60, 2)) < 0.6
    precision, shift = np.eye(2) / 100, np.zeros(2)
    for row, seen in zip(y, there, strict=True):
        pick = np.eye(2)[seen]
        own = pick.T @ np.linalg.inv(pick @ PAIR_COVARIANCE @ pick.T) @ pick
        precision, shift = precision + own, shift + own @ row
    holes = np.where(there, y, np.nan)
    im = ImpactModel(vector, inference=inference)
    im.fit(np.zeros((60, 1)), holes, missing="mask", progress=False)
    draws = im.posterior["m"]
    covariance = np.linalg.inv(precision)
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(draws.mean(0), covariance @ shift, atol=0.3 * sd.max())
    np.testing.assert_allclose(draws.std(0), sd, rtol=0.15)


@COUPLED
@pytest.mark.slow
def test_a_process_over_rows_has_missing_rows():
    distance = np.abs(np.arange(ROWS)[:, None] - np.arange(ROWS))
    covariance = np.exp(-distance / 2.0)

    def process(X, y=None):
        a = numpyro.sample("a", dist.Normal())
        n = X.shape[0]
        apart = jnp.abs(jnp.arange(n)[:, None] - jnp.arange(n)) / 2.0
        numpyro.sample("y", dist.MultivariateNormal(a * jnp.ones(n), jnp.exp(-apart)), obs=y)

    tree = model(process).log_likelihood(X, HOLES, missing="mask", store="memory", progress=False)
    block = covariance[np.ix_(MASK, MASK)]
    exact = [stats.multivariate_normal(np.full(4, a), block).logpdf(Y[MASK]) for a in DRAWS]
    np.testing.assert_allclose(tree.log_likelihood["y"].values[0], exact, atol=1e-4)


def test_rows_that_are_left_out_whole_are_counted():
    def shares(X, y=None):
        a = numpyro.sample("a", dist.Normal())
        with numpyro.plate("o", X.shape[0]):
            numpyro.sample("y", dist.Dirichlet(jnp.exp(a) * jnp.ones(3)), obs=y)

    y = np.tile([0.2, 0.3, 0.5], (ROWS, 1))
    y[1, 0] = np.nan
    y[2] = np.nan
    im = model(shares)
    with pytest.warns(OutputWarning, match="1 rows of 'y' are left out whole"):
        score = im.score(X, y, missing="mask")
    exact = log_mean(
        np.array([[stats.dirichlet(np.exp(a) * np.ones(3)).logpdf([0.2, 0.3, 0.5])] for a in DRAWS])
    )
    assert score == pytest.approx(exact[0], abs=1e-5)


def categories(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        logits = jnp.stack([0.0 * a, a, 2.0 * a]) * jnp.ones((X.shape[0], 1))
        numpyro.sample("y", dist.Categorical(logits=logits), obs=y)


def ordered(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        numpyro.sample("y", dist.OrderedLogistic(a, jnp.array([-1.0, 1.0])), obs=y)


CODES = np.array([0.0, 2.0, np.nan, 1.0, np.nan, 2.0])
CODED: dict[str, Any] = {
    "floats": CODES,
    "nullable": pd.Series(CODES, dtype="Int64"),
    "labelled": pd.Series(CODES, index=list("abcdef")),
    "list": [0, 2, None, 1, None, 2],
}


@pytest.mark.parametrize("container", CODED)
@pytest.mark.parametrize("kernel", [categories, ordered])
def test_missing_categories_are_left_out(kernel, container):
    y = CODED[container]
    rows = pd.DataFrame(X, index=y.index) if container == "labelled" else X
    there = np.isfinite(CODES)
    whole = CODES[there].astype(int)
    some = model(kernel).score(rows, y, missing="mask")
    assert some == pytest.approx(model(kernel).score(X[there], whole), abs=1e-6)
    codes = np.where(there, CODES, 0.0)  # floats that are whole are codes, too
    assert model(kernel).score(X, codes) == pytest.approx(
        model(kernel).score(X, codes.astype(int)), abs=1e-6
    )


@pytest.mark.slow
def test_a_step_leaves_missing_categories_out():
    there = np.isfinite(CODES)
    whole = ImpactModel(categories).train_on_batch(X[there], CODES[there].astype(int))[1]
    some = ImpactModel(categories).train_on_batch(X, CODES, missing="mask")[1]
    assert some == pytest.approx(whole, rel=1e-5)


REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "a comparison": (lambda a, y: (dist.Bernoulli(logits=a), jnp.where(y > 0, 1, 0)), "computed"),
    "a cast": (lambda a, y: (dist.Poisson(jnp.exp(a)), jnp.abs(y).astype(int)), "computed"),
    "a fill": (lambda a, y: (dist.Normal(a, 1.0), jnp.nan_to_num(y)), "computed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_missing_outcomes_that_the_kernel_turns_into_numbers_are_refused(name):
    make, match = REFUSED[name]

    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Normal())
        fn, value = make(a, jnp.zeros(X.shape[0]) if y is None else y)
        with numpyro.plate("o", X.shape[0]):
            numpyro.sample("y", fn, obs=None if y is None else value)

    with pytest.raises(InputError, match=match) as caught:
        model(kernel).score(X, HOLES, missing="mask")
    assert caught.value.code == "missing-outcomes"


def test_a_loader_that_ends_with_holes_is_checked_like_its_head():
    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Normal())
        with numpyro.plate("o", X.shape[0]):
            obs = None if y is None else jnp.where(y > 0, 1, 0)
            numpyro.sample("y", dist.Bernoulli(logits=a), obs=obs)

    def batches() -> Iterator[dict[str, np.ndarray]]:
        yield {"X": X[:3], "y": Y[:3]}
        yield {"X": X[3:], "y": HOLES[3:]}

    with pytest.raises(InputError, match="computed"):
        model(kernel).log_likelihood(
            list(batches()), missing="mask", store="memory", progress=False
        )


_MEMORY = """
import resource
import numpy as np, numpyro, numpyro.distributions as dist
from aimz import ImpactModel

def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

rng = np.random.default_rng(0)
X, y = rng.normal(size=(160_000, 1)), rng.normal(size=160_000)
im = ImpactModel(kernel).set_posterior_sample({"b": rng.normal(size=1000)})
im.score(X[:2000], y[:2000])
before = peak()
im.score(X, y)
print(peak() - before)
"""


@pytest.mark.slow
def test_a_score_holds_no_draws_of_rows():
    """160,000 rows by 1,000 draws in single precision are 640 MB; 89 MB were measured."""
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 300
