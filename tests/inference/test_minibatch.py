"""A minibatch fit is right or refuses: batch densities, averaged, are the whole data's."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.example_libraries.optimizers import exponential_decay
from numpyro import handlers
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.util import log_density

from aimz import ImpactModel
from aimz.inference import Problem, Settings
from aimz.inference.binding import RowScale, kernel_for, row_factors, take_rows, why_whole
from aimz.inference.svi.course import plan_fit
from aimz.kernel import Inputs, inspect
from tests.support.row_kernels import KERNELS, NUM_LITERAL
from tests.support.selection import some_fast

BATCH = 5
# Kernels whose density is random: a subsample of their own, initial parameters.
OTHERS = {"flax_params", "subsample_statement", "subsampled_plate"}
ENTRIES = [entry for entry in KERNELS if entry.name not in OTHERS]


def problem_of(entry):
    arrays = {name: jnp.asarray(v) for name, v in entry.make_inputs(NUM_LITERAL, 0).items()}
    inputs = Inputs(arrays, {}, NUM_LITERAL, ("X", "y"))
    return Problem(entry.kernel, inputs, inspect(entry.kernel, inputs, "y"))


@pytest.mark.parametrize("entry", some_fast(ENTRIES, 24))
def test_batch_densities_average_to_that_of_the_whole_data(entry):
    problem = problem_of(entry)
    if why_whole(problem):
        plan = plan_fit(problem, Settings(batch_size=BATCH))
        assert plan.batch == NUM_LITERAL
        assert [note.code for note in plan.notes] == ["fit-whole"]
        return
    arrays = problem.inputs.arrays
    given = {name: value for name, value in arrays.items() if name != "y"}
    draws = Predictive(entry.kernel, num_samples=1)(jax.random.key(0), **given)
    latents = {name: draws[name][0] for name in problem.spec.latents}

    def density_of(kernel):
        return jax.jit(lambda arrays: log_density(handlers.seed(kernel, 0), (), arrays, latents)[0])

    density = density_of(kernel_for(problem, BATCH))
    factors = row_factors(problem, BATCH)
    if factors is None:
        assert plan_fit(problem, Settings(batch_size=BATCH)).batch == NUM_LITERAL
        return
    parts = []
    for rows in np.arange(NUM_LITERAL).reshape(-1, BATCH):
        with RowScale(problem, factors):
            parts.append(float(density(take_rows(problem, arrays, rows))))
    whole = float(density_of(entry.kernel)(arrays))
    assert np.mean(parts) == pytest.approx(whole, rel=2e-4, abs=2e-3)


# ------------------------------------------------------- kernels that scale their rows themselves

ROWS = 40
WEIGHTS = np.linspace(0.1, 2.0, ROWS, dtype=np.float32)


def observe(X, y):
    mean = numpyro.sample("mean", dist.Normal(0.0, 0.1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def weighted(X, w, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 0.1))
    with numpyro.plate("rows", X.shape[0]), handlers.scale(scale=w):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def weighted_in_a_written_plate(X, w, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 0.1))
    with numpyro.plate("rows", ROWS), handlers.scale(scale=w):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def weighted_factor(X, w, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 0.1))
    if y is None:
        numpyro.deterministic("y", mean + 0.0 * X[:, 0])
    else:
        with numpyro.plate("rows", X.shape[0]), handlers.scale(scale=w):
            numpyro.factor("f", dist.Normal(mean, 1.0).log_prob(y))


def scaled_to_data(X, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 0.1))
    with numpyro.plate("rows", X.shape[0]), handlers.scale(scale=ROWS / X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def scaled_to_argument(X, total, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 0.1))
    with numpyro.plate("rows", X.shape[0]), handlers.scale(scale=total / X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def weighted_and_scaled_to_data(X, w, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 0.1))
    with numpyro.plate("rows", X.shape[0]), handlers.scale(scale=w * ROWS / X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def plate_of_the_data(X, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 0.1))
    with numpyro.plate("rows", ROWS, subsample_size=X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def plate_of_a_population(X, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 0.1))
    with numpyro.plate("rows", 10 * ROWS, subsample_size=X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def subsample_of_its_own(X, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 0.1))
    with numpyro.plate("rows", X.shape[0], subsample_size=4) as i:
        numpyro.sample("y", dist.Normal(mean + 0.0 * X[i, 0], 1.0), obs=None if y is None else y[i])


def weights_inside_rows(X, w, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 0.1))
    with numpyro.plate("rows", X.shape[0], dim=-1), handlers.scale(scale=w):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def masked_with_weights(X, w, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 0.1))
    with numpyro.plate("rows", X.shape[0]), handlers.scale(scale=w), handlers.mask(mask=w > 1.0):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def everything_scaled_to_data(X, y=None):
    with handlers.scale(scale=ROWS / X.shape[0]):
        observe(X, y)


# What each row counts in a fit of all rows; None: rows cannot be cut.
COUNTS: dict[Callable[..., None], np.ndarray | None] = {
    observe: np.ones(ROWS),
    weighted: WEIGHTS,
    weighted_in_a_written_plate: WEIGHTS,
    weighted_factor: WEIGHTS,
    scaled_to_data: np.ones(ROWS),
    scaled_to_argument: np.ones(ROWS),
    weighted_and_scaled_to_data: WEIGHTS,
    plate_of_the_data: np.ones(ROWS),
    plate_of_a_population: np.full(ROWS, 10.0),
    subsample_of_its_own: np.ones(ROWS),
    weights_inside_rows: WEIGHTS,
    masked_with_weights: np.where(WEIGHTS > 1.0, WEIGHTS, 0.0),
    everything_scaled_to_data: None,
}


@pytest.mark.parametrize("kernel", COUNTS, ids=lambda kernel: kernel.__name__)
@pytest.mark.parametrize("batch", [pytest.param(4, marks=pytest.mark.slow), 10])
def test_batches_count_each_row_as_the_whole_data_do(kernel, batch):
    y = np.random.default_rng(0).normal(1.0, 1.0, ROWS).astype(np.float32)
    given: dict[str, Any] = {"w": WEIGHTS, "total": np.float32(ROWS)}
    names = kernel.__code__.co_varnames[: kernel.__code__.co_argcount]
    arrays: dict[str, Any] = {"X": np.ones((ROWS, 1), np.float32), "y": y}
    arrays |= {name: value for name, value in given.items() if name in names}
    inputs = Inputs(arrays, {}, ROWS, ("X", "y"))
    problem = Problem(kernel, inputs, inspect(kernel, inputs, "y"))
    factors = row_factors(problem, batch)
    counts = COUNTS[kernel]
    if counts is None:
        assert factors is None
        assert plan_fit(problem, Settings(batch_size=batch)).batch == ROWS
        return
    assert factors is not None
    resized = handlers.seed(kernel_for(problem, batch), 0)
    density = jax.jit(lambda own: log_density(resized, (), own, {"mean": jnp.array(0.3)})[0])
    total = 0.0
    for rows in np.arange(ROWS).reshape(-1, batch):
        with RowScale(problem, factors):
            total += float(density(take_rows(problem, arrays, rows)))
    prior = float(dist.Normal(0.0, 0.1).log_prob(0.3))
    rows = np.asarray(dist.Normal(0.3, 1.0).log_prob(y))
    exact = prior + np.sum(counts * rows)
    assert total / (ROWS / batch) == pytest.approx(exact, rel=1e-4)


@pytest.mark.slow
def test_weights_in_the_kernel_survive_the_batches_of_the_default_fit():
    """Twenty thousand rows of unit weight, under a prior of variance .0001 and data around 1."""
    rows = 20_000
    y = np.random.default_rng(0).normal(1.0, 1.0, rows)

    def kernel(X, w, y=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, 0.01))
        with numpyro.plate("row", X.shape[0]), handlers.scale(scale=w):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    im = ImpactModel(kernel).fit(np.zeros((rows, 1)), y, w=np.ones(rows), progress=False)
    precision = rows + 1 / 0.01**2
    draws = im.posterior["mean"]
    assert float(draws.mean()) == pytest.approx(y.sum() / precision, abs=0.002)
    assert float(draws.std()) == pytest.approx(precision**-0.5, rel=0.2)


# ------------------------------------------------------- twenty thousand rows, in closed form

MANY, PRIOR = 20_000, 0.01


def of_many_rows(handle):
    """A kernel of one mean; `handle` stands around its outcome."""

    def kernel(X, w, m, y=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, PRIOR))
        with numpyro.plate("rows", X.shape[0]), handle(w, m):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    return kernel


def in_both(w, m):
    stack = contextlib.ExitStack()
    stack.enter_context(handlers.scale(scale=w))
    stack.enter_context(handlers.mask(mask=m))
    return stack


#: How rows count: around the outcome, by what the call says, and so how much.
WAYS: dict[str, Any] = {
    "plain": (lambda w, m: contextlib.nullcontext(), (), lambda w, m: 1.0 + 0.0 * w),
    "scale": (lambda w, m: handlers.scale(scale=w), (), lambda w, m: w),
    "mask": (lambda w, m: handlers.mask(mask=m), (), lambda w, m: m),
    "scale and mask": (in_both, (), lambda w, m: w * m),
    "weights": (lambda w, m: contextlib.nullcontext(), ("weights",), lambda w, m: w[::-1]),
    "scale, weights": (
        lambda w, m: handlers.scale(scale=w),
        ("weights",),
        lambda w, m: w * w[::-1],
    ),
    "mask, weights": (lambda w, m: handlers.mask(mask=m), ("weights",), lambda w, m: m * w[::-1]),
    "missing": (lambda w, m: contextlib.nullcontext(), ("missing",), lambda w, m: m),
    "scale, missing": (lambda w, m: handlers.scale(scale=w), ("missing",), lambda w, m: w * m),
    "weights, missing": (
        lambda w, m: contextlib.nullcontext(),
        ("weights", "missing"),
        lambda w, m: m * w[::-1],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_many_rows_count_as_they_say_in_every_fit(way):
    """The prior is narrow and the data are far from it: a factor that is lost moves the mean."""
    handle, says, weight = WAYS[way]
    rng = np.random.default_rng(0)
    y = rng.normal(1.0, 1.0, MANY)
    w, m = rng.uniform(0.2, 2.0, MANY), rng.random(MANY) < 0.5
    options: dict[str, Any] = {"w": w, "m": m, "progress": False}
    options |= {"sample_weight": w[::-1].copy()} if "weights" in says else {}
    options |= {"missing": "mask"} if "missing" in says else {}
    given = np.where(m, y, np.nan) if "missing" in says else y
    counts = weight(w, m)
    precision = counts.sum() + 1 / PRIOR**2
    mean, sd = (counts * y).sum() / precision, precision**-0.5
    kernel, X = of_many_rows(handle), np.zeros((MANY, 1))
    fits = {
        "default": ImpactModel(kernel).fit(X, given, **options),
        "in one piece": ImpactModel(kernel).fit_on_batch(X, given, **options),
        "batches": ImpactModel(kernel, inference="svi").fit(X, given, batch_size=2048, **options),
    }
    for name, im in fits.items():
        assert im.diagnostics_["verdict"] == "good", name
        draws = np.asarray(im.posterior["mean"])
        assert abs(draws.mean() - mean) < 0.25 * sd, name
        assert draws.std() == pytest.approx(sd, rel=0.15), name


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["one", "uneven"])
@pytest.mark.parametrize("spread", [10.0, 0.01], ids=["wide", "narrow"])
def test_an_svi_of_the_users_own_counts_weights_in_the_kernel(spread, weights):
    """20,000 rows in batches of 2,000: the posterior is normal, and its moments are known."""

    def kernel(X, w, y=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, spread))
        with numpyro.plate("rows", X.shape[0]), handlers.scale(scale=w):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    rng = np.random.default_rng(0)
    y = rng.normal(1.0, 1.0, 20_000)
    w = np.ones(len(y)) if weights == "one" else rng.uniform(0.2, 1.8, len(y))
    precision = 1 / spread**2 + w.sum()
    adam = numpyro.optim.Adam(exponential_decay(0.02, 300, 0.5), b2=0.98)
    own = SVI(kernel, AutoNormal(kernel), adam, Trace_ELBO(num_particles=4))
    im = ImpactModel(kernel, rng_key=0, num_samples=4000, inference=own)
    im.fit(np.ones((len(y), 1)), y, w=w, batch_size=2000, epochs=200, progress=False)
    draws = np.asarray(im.posterior["mean"], float)
    assert draws.std() == pytest.approx(precision**-0.5, rel=0.1)
    assert draws.mean() == pytest.approx((w * y).sum() / precision, abs=0.3 * precision**-0.5)
