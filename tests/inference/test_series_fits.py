"""Kernels of series fitted end to end: the posterior is exact, what follows from it NumPyro's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import Predictive, log_likelihood

from aimz import ImpactModel
from aimz.inference import Problem
from aimz.inference.density import energy_of
from aimz.inference.hierarchy import in_standard_units
from aimz.inference.normal import set_up_guide
from aimz.kernel import Inputs, inspect
from tests.support.series import SERIES, SPREAD, Series, level_given, local_level, made_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:Rows are predicted together",
    "ignore:The posterior has another mode, with about 0% of the evidence",
)

ROWS, LATER, SUBJECTS = 30, 6, 20
#: What the outcome is drawn from.
TRUTH: dict[str, dict[str, Any]] = {
    "autoregression": {"first": 0.6, "second": 0.2, "noise": 0.7},
    "local_level": {},
    "local_trend": {"b": 1.0},
    "hidden_markov": {"means": jnp.array([-1.0, 2.0]), "stay": 0.8},
    "rescorla_wagner": {"center": 0.0, "slope": 3.0},
}
FITS = [series for series in SERIES if series.name in TRUTH]


class Case:
    """Arguments of all steps and of the first of them, with an outcome."""

    def __init__(self, series: Series) -> None:
        self.series = series
        arguments, _ = made_of(series, SUBJECTS if series.by_subject else ROWS + LATER)
        if series.by_subject:
            more = np.random.default_rng(5).integers(0, 2, size=(SUBJECTS, ROWS // 2 + LATER))
            arguments["reward"] = more.astype(np.float32)
        self.whole = {name: jnp.asarray(value) for name, value in arguments.items()}
        true = handlers.substitute(series.kernel, TRUTH[series.name])
        drawn = handlers.trace(handlers.seed(true, 3)).get_trace(**self.whole)["y"]["value"]
        self.by_step = np.asarray(drawn)[:-LATER]
        self.y = self.by_step.T
        self.first: dict[str, Any] = dict(self.whole)
        for name in ("reward",) if series.by_subject else ("X",):
            value = self.whole[name]
            self.first[name] = value[:, :-LATER] if series.by_subject else value[:-LATER]

    def fit(self, inference: str) -> ImpactModel:
        im = ImpactModel(self.series.kernel, num_samples=2000, inference=inference)
        lengths: Any = {"num_warmup": 500, "num_chains": 2} if inference == "nuts" else {}
        return im.fit(**self.first, y=self.y, progress=False, **lengths)


def of_outcome(im: ImpactModel, arguments: dict[str, Any], **options: Any) -> np.ndarray:
    drawn = im.predict_on_batch(**arguments, return_sites="y", return_datatree=False, **options)
    return np.asarray(drawn["y"], float)


def have_the_moments(got: np.ndarray, want: np.ndarray) -> None:
    """Draws of the same posterior differ by chance only."""
    spread = np.sqrt(0.5 * (got.var(0) + want.var(0)))
    error = spread * np.sqrt(1 / len(got) + 1 / len(want))
    assert np.abs((got.mean(0) - want.mean(0)) / (error + 1e-6)).max() < 4.5
    np.testing.assert_allclose(got.std(0), want.std(0), rtol=0.12, atol=1e-3)


def by_numpyro(case: Case, im: ImpactModel, arguments: Any, held: Any, seed: int) -> np.ndarray:
    """NumPyro's draws of the outcome from the fitted posterior, some sites held."""
    draws = {name: jnp.asarray(im.posterior[name]) for name in case.series.latents}
    kernel = handlers.condition(case.series.kernel, held)
    drawn = Predictive(kernel, posterior_samples=draws, return_sites=["y"])
    return np.asarray(drawn(jax.random.key(seed), **arguments)["y"], float)


# ------------------------------------------------------------------ exact posteriors

type Moments = dict[str, tuple[Any, Any]]  # mean and standard deviation of each latent


def weighed(draws: dict[str, np.ndarray], density: np.ndarray) -> Moments:
    """Moments of draws from the prior, each weighed by its likelihood."""
    weights = np.exp(density - density.max())
    assert weights.sum() ** 2 / (weights**2).sum() > 1000  # as many are enough
    moments = {}
    for name, values in draws.items():
        mean = np.average(values, 0, weights)
        moments[name] = (mean, np.sqrt(np.average((values - mean) ** 2, 0, weights)))
    return moments


def log_normal(residual: Any, scale: Any) -> Any:
    return -0.5 * (residual / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))


def of_autoregression(case: Case) -> Moments:
    rng, count, y = np.random.default_rng(0), 400_000, np.asarray(case.y, float)
    draws = {
        "first": rng.normal(0.5, 0.2, count),
        "second": rng.normal(0.0, 0.2, count),
        "noise": np.abs(rng.normal(size=count)),
    }
    before = np.concatenate([[0.0, 0.0], y])
    density = np.zeros(count)
    for one, two, now in zip(before[1:-1], before[:-2], y, strict=True):
        mean = draws["first"] * one + draws["second"] * two + 1.0
        density += log_normal(now - mean, draws["noise"])
    return weighed(draws, density)


def of_hidden_markov(case: Case) -> Moments:
    rng, count = np.random.default_rng(0), 200_000
    means = rng.normal([-1.0, 2.0], 0.5, (count, 2))
    stay = rng.beta(8.0, 2.0, count)
    state, density = np.full((count, 2), 0.5), np.zeros(count)
    for outcome in np.asarray(case.y, float):
        here = state * stay[:, None] + state[:, ::-1] * (1 - stay[:, None])
        joint = here * np.exp(log_normal(outcome - means, 1.0))
        density += np.log(joint.sum(1))
        state = joint / joint.sum(1, keepdims=True)
    return weighed({"means": means, "stay": stay}, density)


def of_local_level(case: Case) -> Moments:
    mean, covariance = level_given(case.y, ROWS)
    return {"level": (mean, np.sqrt(np.diag(covariance)))}


def of_local_trend(case: Case) -> Moments:
    """All is linear in independent standard normal noise: that of b, of slopes, of levels."""
    sums, nothing = np.tril(np.ones((ROWS, ROWS))), np.zeros((ROWS, 1))
    slope = np.hstack([nothing, 0.1 * sums, 0 * sums])
    level = np.hstack([nothing, 0.1 * sums @ sums, 0.2 * sums])
    b = np.zeros((1, 2 * ROWS + 1))
    b[0, 0] = 1.0
    seen = level + np.asarray(case.first["X"], float) * b
    gain = seen.T @ np.linalg.inv(seen @ seen.T + SPREAD**2 * np.eye(ROWS))
    mean, covariance = gain @ case.y, np.eye(2 * ROWS + 1) - gain @ seen
    parts = {"b": b, "slope": slope, "level": level}
    moments = {n: (p @ mean, np.sqrt(np.diag(p @ covariance @ p.T))) for n, p in parts.items()}
    return moments | {"b": tuple(part[0] for part in moments["b"])}


def of_rescorla_wagner(case: Case) -> Moments:
    """Subjects are independent given center and slope: sums over a grid of each one's rate."""
    center, slope = np.linspace(-3, 3, 61), np.linspace(0.01, 14, 120)
    rate = np.linspace(-4, 4, 81)
    reward, choices = (np.asarray(v, float) for v in (case.first["reward"], case.y))
    learned = 1 / (1 + np.exp(-rate))
    values = np.full((SUBJECTS, len(rate), 2), 0.5)
    density = np.zeros((SUBJECTS, len(rate), len(slope)))
    for gain, choice in zip(reward.T, choices.T, strict=True):
        pull = (values[..., 1] - values[..., 0])[..., None] * slope
        density -= np.logaddexp(0.0, np.where(choice[:, None, None] == 1, -pull, pull))
        chosen = np.eye(2)[choice.astype(int)][:, None]
        values = values + learned[:, None] * (gain[:, None, None] - values) * chosen
    likelihood = np.exp(density - density.max((1, 2), keepdims=True))
    own = np.exp(log_normal(rate - center[:, None], 0.5))  # (center, rate)
    powers = [np.einsum("cr,srv->scv", own * rate**power, likelihood) for power in range(3)]
    joint = np.exp(np.log(powers[0]).sum(0) + log_normal(center, 1.0)[:, None])
    joint *= np.exp(-0.5 * (slope / 3.0) ** 2)
    joint /= joint.sum()
    moments = {}
    for name, weights, grid in (("center", joint.sum(1), center), ("slope", joint.sum(0), slope)):
        mean = weights @ grid
        moments[name] = (mean, np.sqrt(weights @ (grid - mean) ** 2))
    first, second = ((joint * power / powers[0]).sum((1, 2)) for power in powers[1:])
    return moments | {"rate": (first, np.sqrt(second - first**2))}


POSTERIOR = {
    "autoregression": of_autoregression,
    "hidden_markov": of_hidden_markov,
    "local_level": of_local_level,
    "local_trend": of_local_trend,
    "rescorla_wagner": of_rescorla_wagner,
}


def is_exact(im: ImpactModel, want: Moments) -> None:
    for name, (mean, spread) in want.items():
        got = np.asarray(im.posterior[name], float)
        assert np.abs((got.mean(0) - mean) / spread).max() < 0.15, name
        np.testing.assert_allclose(got.std(0), spread, rtol=0.2, err_msg=name)


def is_set_inside(im: ImpactModel, case: Case) -> None:
    """What is set in each step decides the outcome's mean there."""
    name, mean_of = SET[case.series.name]
    path = np.random.default_rng(6).normal(size=case.by_step.shape)
    got = of_outcome(im, case.first, intervention={name: path})
    want = mean_of(path, im.posterior, np.asarray(case.first["X"])[:, 0])
    error = got.std(0) / np.sqrt(len(got))
    assert np.abs((got.mean(0) - want) / error).max() < 4.5


#: A site that is set inside of the scan, and the mean of the outcome that follows.
SET: dict[str, tuple[str, Any]] = {
    "autoregression": ("mean", lambda path, draws, x: path),
    "local_level": ("level", lambda path, draws, x: path),
    "local_trend": ("level", lambda path, draws, x: path + draws["b"].mean() * x),
    "rescorla_wagner": ("pull", lambda path, draws, x: 1 / (1 + np.exp(-path))),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("inference", ["auto", "nuts"])
@pytest.mark.parametrize("series", FITS, ids=lambda series: series.name)
def test_a_series_is_fitted_and_asked_like_any_other_kernel(series, inference):
    case = Case(series)
    im = case.fit(inference)
    is_exact(im, POSTERIOR[series.name](case))
    if inference == "auto":
        answers_are_right(case, im)


def answers_are_right(case: Case, im: ImpactModel) -> None:
    """What follows from a posterior is NumPyro's."""
    series = case.series
    draws = {name: jnp.asarray(im.posterior[name]) for name in series.latents}
    densities = log_likelihood(series.kernel, draws, **case.first, y=jnp.asarray(case.y))["y"]
    got: Any = im.log_likelihood(**case.first, y=case.y, store="memory", progress=False)
    flat = got.log_likelihood["y"].values.reshape(densities.shape)
    np.testing.assert_allclose(flat, densities, rtol=1e-5, atol=1e-5)
    known = {"y": jnp.asarray(case.by_step)}
    ahead = of_outcome(im, case.whole, condition={"y": case.by_step})
    np.testing.assert_array_equal(ahead[0, : len(case.by_step)], case.by_step)
    have_the_moments(ahead, by_numpyro(case, im, case.whole, known, 2))
    if series.name in SET:
        is_set_inside(im, case)


@pytest.mark.slow
def test_a_level_is_that_of_the_dense_normal():
    case = Case(next(series for series in FITS if series.name == "local_level"))
    im = ImpactModel(local_level, num_samples=2000)
    im.fit_on_batch(**case.first, y=case.y, num_steps=1000, progress=False)
    mean, covariance = level_given(case.y, ROWS)
    spread = np.sqrt(np.diag(covariance))
    levels = im.posterior["level"]
    assert np.abs((levels.mean(0) - mean) / spread).max() < 0.15
    np.testing.assert_allclose(levels.std(0), spread, rtol=0.15)


# ------------------------------------------------------------------ steps of unknown size

OUTER, INNER = 8, 4
STEPS = OUTER * INNER


def walk(X, y=None):
    """A level whose steps have a size that is a latent."""
    size = numpyro.sample("size", dist.HalfNormal(1.0))

    def step(level, outcome):
        level = numpyro.sample("level", dist.Normal(level, size))
        numpyro.sample("y", dist.Normal(level, SPREAD), obs=outcome)
        return level, None

    scan(step, 0.0, y, length=STEPS)


def nested_walk(X, y=None):
    """The same in two scans: days of hours."""
    size = numpyro.sample("size", dist.HalfNormal(1.0))

    def day(level, outcomes):
        def hour(level, outcome):
            level = numpyro.sample("level", dist.Normal(level, size))
            numpyro.sample("y", dist.Normal(level, SPREAD), obs=outcome)
            return level, None

        return scan(hour, level, outcomes, length=INNER)[0], None

    scan(day, jnp.asarray(0.0), y, length=OUTER)


WALKS: dict[Any, tuple[int, ...]] = {walk: (STEPS,), nested_walk: (OUTER, INNER)}


def problem_of(kernel: Any, y: np.ndarray) -> Problem:
    arrays = {"X": jnp.zeros((len(y), 1)), "y": jnp.asarray(y)}
    inputs = Inputs(arrays, {}, len(y), ("X", "y"))
    return Problem(kernel, inputs, inspect(kernel, inputs, "y"))


def walked(kernel: Any) -> np.ndarray:
    rng = np.random.default_rng(2)
    y = np.cumsum(0.6 * rng.normal(size=STEPS)) + SPREAD * rng.normal(size=STEPS)
    return y.astype(np.float32).reshape(WALKS[kernel])


@pytest.mark.parametrize("kernel", WALKS, ids=lambda kernel: kernel.__name__)
def test_steps_move_in_standard_units_of_their_size(kernel):
    y, shape = walked(kernel), WALKS[kernel]
    noise = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    own = in_standard_units(problem_of(kernel, y), frozenset({"level"}))
    given = {"size": {"type": "sample", "name": "size", "value": jnp.asarray(2.0)}}
    given["level_decentered"] = {"type": "sample", "value": noise, "name": "level_decentered"}
    for site in given.values():
        site |= {"is_observed": False, "infer": {}}
    replayed = handlers.replay(handlers.seed(own.kernel, 0), trace=given)
    sites = handlers.trace(replayed).get_trace(**own.inputs.arrays)
    levels = np.cumsum(2.0 * noise.ravel()).reshape(shape)
    np.testing.assert_allclose(sites["level"]["value"], levels, rtol=1e-4, atol=1e-4)
    density = sites["y"]["fn"].log_prob(sites["y"]["value"])
    np.testing.assert_allclose(density, log_normal(y - levels, SPREAD), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kernel", WALKS, ids=lambda kernel: kernel.__name__)
def test_the_density_of_steps_is_that_of_their_normals(kernel):
    y, shape = walked(kernel), WALKS[kernel]
    problem = problem_of(kernel, y)
    key, arrays = jax.random.key(0), problem.inputs.arrays
    levels = np.cumsum(np.random.default_rng(0).normal(size=shape).ravel()).reshape(shape)
    guide = set_up_guide(problem, len(y), key, arrays)
    energy = energy_of(problem, handlers.seed(kernel, key), arrays, guide)
    vector, _ = ravel_pytree({"size": jnp.log(0.8), "level": jnp.asarray(levels)})
    got = jax.jit(energy)(vector)
    moves = np.diff(levels.ravel(), prepend=0.0)
    want = log_normal(moves, 0.8).sum() + log_normal(y - levels, SPREAD).sum()
    want += np.log(2.0) + log_normal(0.8, 1.0) + np.log(0.8)
    np.testing.assert_allclose(-got, want, rtol=1e-5)


def of_a_walk(y: np.ndarray) -> Moments:
    """Normal given the size of the steps, which is a grid."""
    outcomes, steps = np.asarray(y, float).ravel(), np.arange(1, STEPS + 1)
    sizes = np.linspace(0.005, 3.0, 600)
    logs, means, squares = [], [], []
    for size in sizes:
        prior = size**2 * np.minimum.outer(steps, steps)
        seen = prior + SPREAD**2 * np.eye(STEPS)
        gain = prior @ np.linalg.inv(seen)
        mean = gain @ outcomes
        logs.append(
            -0.5 * (np.linalg.slogdet(seen)[1] + outcomes @ np.linalg.solve(seen, outcomes))
        )
        means.append(mean)
        squares.append(mean**2 + np.diag(prior - gain @ prior))
    weights = np.exp(np.array(logs) - max(logs) - sizes**2 / 2)
    weights /= weights.sum()
    moments = {}
    for name, first, second in (("size", sizes, sizes**2), ("level", means, squares)):
        mean = np.tensordot(weights, first, 1)
        shape = y.shape if name == "level" else ()
        spread = np.sqrt(np.tensordot(weights, second, 1) - mean**2)
        moments[name] = (np.reshape(mean, shape), np.reshape(spread, shape))
    return moments


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("inference", ["auto", "nuts"])
@pytest.mark.parametrize("kernel", WALKS, ids=lambda kernel: kernel.__name__)
def test_steps_of_unknown_size_are_found(kernel, inference):
    y = walked(kernel)
    im = ImpactModel(kernel, inference=inference, num_samples=2000)
    im.fit(np.zeros((len(y), 1)), y, progress=False)
    assert im.diagnostics_["verdict"] == "good"
    is_exact(im, of_a_walk(y))
