"""Series of a linear Gaussian state against the dense normal distribution that they are."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from numpyro.infer import Predictive

from aimz import ImpactModel
from aimz.families import FAMILIES, StateSpace
from aimz.kernels import kalman

STEPS = 24
TIME = np.arange(STEPS)


class Case(NamedTuple):
    """A law, as arrays."""

    loc: Any
    transition: Any
    noise: Any
    observe: Any
    scale: Any
    start: Any
    spread: Any

    @property
    def law(self) -> StateSpace:
        return StateSpace(*(np.asarray(part, np.float32) for part in self))

    @property
    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the series."""
        states = len(self.transition)
        move, noise = np.asarray(self.transition, float), np.asarray(self.noise, float)
        weights = np.broadcast_to(np.asarray(self.observe, float), (STEPS, states))
        means, covariances = (
            [np.asarray(self.start, float)],
            [self.spread @ np.transpose(self.spread)],
        )
        for _ in range(STEPS - 1):
            means.append(move @ means[-1])
            covariances.append(move @ covariances[-1] @ move.T + noise @ noise.T)
        whole = np.diag(np.broadcast_to(np.asarray(self.scale, float) ** 2, STEPS)).copy()
        for row in range(STEPS):
            later = covariances[row]
            for column in range(row, STEPS):
                shared = weights[column] @ later @ weights[row]
                whole[column, row] += shared
                whole[row, column] += shared * (column != row)
                later = move @ later
        mean = self.loc + (weights * np.array(means)).sum(-1)
        return mean, whole


CASES = {
    "level": Case(np.zeros(STEPS), [[1.0]], [[0.3]], [1.0], 0.5, [0.0], np.array([[9.0]])),
    "trend and cycle": Case(
        np.sin(TIME),
        [[1, 1, 0], [0, 0.9, 0], [0, 0, 0.5]],
        np.array([[0.3, 0, 0], [0.05, 0.1, 0], [0, 0, 0.4]]),
        [1, 0, 1],
        0.5,
        [1, 0.2, 0],
        np.diag([2, 0.5, 1]),
    ),
    "moving weights": Case(
        np.zeros(STEPS),
        np.eye(2),
        np.diag([0.2, 0.05]),
        np.stack([np.ones(STEPS), np.cos(TIME)], axis=1),
        0.2 + 0.1 * (TIME % 3),
        [0.0, 1.0],
        np.diag([3, 1]),
    ),
    "a state that stands still": Case(
        np.zeros(STEPS), [[1.0]], [[0.0]], [1.0], 0.5, [2.0], np.array([[1.0]])
    ),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def drawn(case: Case, *, holes: bool) -> tuple[np.ndarray, np.ndarray]:
    """A series, and which of its values are there."""
    rng = np.random.default_rng(3)
    y = rng.multivariate_normal(*case.dense).astype(np.float32)
    there = rng.random(STEPS) > (0.3 if holes else 0.0)
    return y, there


@EACH
@pytest.mark.parametrize("holes", [False, True], ids=["whole", "holes"])
def test_densities_are_those_of_the_dense_normal(case, holes):
    (y, there), (mean, cover) = drawn(case, holes=holes), case.dense
    seen = np.flatnonzero(there)
    want = st.multivariate_normal(mean[seen], cover[np.ix_(seen, seen)]).logpdf(y[seen])
    value = np.where(there, y, np.nan)
    assert case.law.log_prob(value) == pytest.approx(want, rel=1e-4)
    vector = FAMILIES.of[StateSpace].vector
    assert vector.earlier is not None
    assert vector.others is not None
    earlier = np.asarray(vector.earlier(case.law, y, there))
    assert earlier.sum() == pytest.approx(want, rel=1e-4)
    assert not earlier[~there].any()
    precision = np.linalg.inv(cover[np.ix_(seen, seen)])
    pull, weight = precision @ (y - mean)[seen], np.diag(precision)
    alone = st.norm(y[seen] - pull / weight, weight**-0.5).logpdf(y[seen])
    others = np.asarray(vector.others(case.law, y, there))
    np.testing.assert_allclose(others[seen], alone, rtol=2e-4, atol=2e-4)
    assert not others[~there].any()


@EACH
def test_what_is_known_moves_a_draw_as_the_dense_normal(case):
    (y, there), (mean, cover) = drawn(case, holes=True), case.dense
    vector = FAMILIES.of[StateSpace].vector
    assert vector.completed is not None
    assert vector.after is not None
    first = STEPS // 2
    natural = jnp.asarray(mean, jnp.float32)
    for known, moved in (
        (np.flatnonzero(there), vector.completed(case.law, there, y, natural)),
        (np.arange(first), vector.after(case.law, y[:first], natural)),
    ):
        gain = np.linalg.solve(cover[np.ix_(known, known)], (y - mean)[known])
        want = mean + cover[:, known] @ gain
        unknown = np.setdiff1d(TIME, known)
        np.testing.assert_allclose(np.asarray(moved)[unknown], want[unknown], rtol=1e-4, atol=2e-4)


@EACH
def test_moments_are_those_of_the_dense_normal(case):
    mean, cover = case.dense
    np.testing.assert_allclose(case.law.mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(case.law.variance, np.diag(cover), rtol=1e-4)
    draws = np.asarray(case.law.sample(jax.random.key(0), (20_000,)))
    scale = np.sqrt(np.diag(cover))
    np.testing.assert_allclose((draws.mean(0) - mean) / scale, 0.0, atol=0.05)
    correlated = np.cov(draws.T) / np.outer(scale, scale)
    np.testing.assert_allclose(correlated, cover / np.outer(scale, scale), atol=0.05)


@EACH
def test_gradients_are_finite_where_values_are_missing(case):
    y, there = drawn(case, holes=True)
    value, seen = np.where(there, y, np.nan), np.flatnonzero(there)
    stretched = ("loc", "noise", "observe", "scale", "start", "spread")

    def stretch(by: Any) -> Case:
        parts = {name: np.asarray(getattr(case, name)) * by for name in stretched}
        return Case(**{**case._asdict(), **parts})

    def density(by: Any) -> Any:
        parts = {name: jnp.asarray(getattr(case, name), jnp.float32) * by for name in stretched}
        return StateSpace(**{**case._asdict(), **parts}).log_prob(value)

    def dense(by: float) -> Any:
        mean, cover = stretch(by).dense
        return st.multivariate_normal(mean[seen], cover[np.ix_(seen, seen)]).logpdf(y[seen])

    want = (dense(1 + 1e-4) - dense(1 - 1e-4)) / 2e-4
    assert float(jax.jit(jax.grad(density))(1.0)) == pytest.approx(want, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    "case", [CASES["trend and cycle"], CASES["moving weights"]], ids=["trend", "weights"]
)
def test_gradients_are_those_of_the_dense_normal_by_every_array(case):
    y, there = drawn(case, holes=True)
    seen, rng = np.flatnonzero(there), np.random.default_rng(0)
    exact = [np.broadcast_to(np.asarray(case.observe, float), (STEPS, len(case.transition)))]
    parts = case._replace(observe=exact[0], scale=np.broadcast_to(case.scale, STEPS))
    ways = [0.1 * rng.normal(size=np.shape(part)) for part in parts]

    def dense(at: int, by: float) -> Any:
        moved = [
            np.asarray(p, float) + by * w * (n == at)
            for n, (p, w) in enumerate(zip(parts, ways, strict=True))
        ]
        mean, cover = Case(*moved).dense
        return st.multivariate_normal(mean[seen], cover[np.ix_(seen, seen)]).logpdf(y[seen])

    def density(y: Any, *arrays: Any) -> Any:
        return StateSpace(*arrays).log_prob(y)

    arrays = [jnp.asarray(part, jnp.float32) for part in parts]
    value = jnp.asarray(np.where(there, y, np.nan))
    found = jax.jit(jax.grad(density, tuple(range(8))))(value, *arrays)
    for at, way in enumerate(ways):
        want = (dense(at, 1e-4) - dense(at, -1e-4)) / 2e-4
        assert float((found[1 + at] * way).sum()) == pytest.approx(want, rel=2e-3, abs=2e-3), at
    np.testing.assert_allclose(found[0], -found[1], rtol=1e-6)  # by the series


def test_batches_are_series_of_their_own():
    case = CASES["level"]
    y, _ = drawn(case, holes=False)
    scales = np.array([[0.5], [1.0]])
    law = StateSpace(*case._replace(loc=np.stack([case.loc] * 3), scale=scales[:, None] + 0 * TIME))
    assert law.batch_shape == (2, 3)
    assert law.sample(jax.random.key(0), (5,)).shape == (5, 2, 3, STEPS)
    dense = [case._replace(scale=scale).dense for scale in scales.ravel()]
    want = [st.multivariate_normal(mean, cover).logpdf(y) for mean, cover in dense]
    np.testing.assert_allclose(law.log_prob(y), np.repeat(want, 3).reshape(2, 3), rtol=1e-4)


@pytest.mark.slow
@EACH
def test_densities_in_parallel_are_the_same(case):
    for holes in (False, True):
        y, there = drawn(case, holes=holes)
        value = np.where(there, y, np.nan)
        parts = [np.asarray(part, np.float32) for part in case]
        law = StateSpace(*parts, parallel=True)
        assert law.log_prob(value) == pytest.approx(float(case.law.log_prob(value)), rel=1e-4)


def test_numpyro_alone_can_use_it():
    def model(y: Any = None) -> Any:
        step = numpyro.sample("step", dist.HalfNormal(1.0))
        law: Any = {"transition": [[1.0]], "noise": [step], "observe": [1.0], "scale": 0.5}
        kalman("y", np.zeros(STEPS), **law, obs=y)

    draws = Predictive(model, num_samples=7)(jax.random.key(0))
    assert draws["y"].shape == (7, STEPS)


def test_a_class_of_the_same_name_is_no_series():
    """Of the user's own: what follows from our class must not be taken to hold for it."""

    class StateSpace(dist.Distribution):  # type: ignore[misc]  # NumPyro has no stubs
        arg_constraints: Any = {}
        support = dist.constraints.real_vector

        def __init__(self, loc: Any) -> None:
            self.loc = loc
            super().__init__((), jnp.shape(loc))

        def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
            return self.loc + jax.random.normal(key, (*sample_shape, *self.event_shape))

        def log_prob(self, value: Any) -> Any:
            return -0.5 * ((value - self.loc) ** 2).sum(-1)

    def kernel(X: Any, y: Any = None) -> None:
        b = numpyro.sample("b", dist.Normal())
        numpyro.sample("y", StateSpace(b * X[:, 0]), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(3)})
    X = np.ones((4, 1))
    with pytest.warns(match="Rows are predicted together"):
        tree = im.log_likelihood(X, np.zeros(4), store="memory", progress=False)
    assert tree.log_likelihood["y"].dims == ("chain", "draw")
    with pytest.raises(Exception, match="how others follow from these is not known"):
        im.predict_on_batch(X, condition={"y": np.zeros(2)}, in_sample=False)
