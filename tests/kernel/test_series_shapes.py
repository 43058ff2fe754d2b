"""Scans of every shape: nested, in reverse, with branches, several outcomes, or joint ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import cond, scan
from numpyro.infer import NUTS, log_likelihood

from aimz import ImpactModel, InputError, KernelValidationError
from tests.support.series import hidden_markov

pytestmark = pytest.mark.filterwarnings("ignore:Rows are predicted together")

ROWS, INNER = 6, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 1)).astype(np.float32)
Y = np.cumsum(RNG.normal(size=ROWS)).astype(np.float32)
WIDE = RNG.normal(size=(ROWS, INNER)).astype(np.float32)
SHARE = np.array([0.4, 0.6], np.float32)


def nested(X, y=None):
    """A scan in each step of another: its level goes on from the last inner step."""
    share = numpyro.sample("share", dist.Normal(0.5, 0.2))

    def outer(level, seen):
        def inner(value, outcome):
            z = numpyro.sample("z", dist.Normal(share * value + seen[0], 0.5))
            numpyro.sample("y", dist.Normal(z, 0.7), obs=outcome)
            return z, None

        return scan(inner, level, seen[1], length=INNER)[0], None

    scan(outer, jnp.asarray(0.5), (X[:, 0], y), length=X.shape[0])


def branching(X, y=None):
    """A latent in the branches of a cond, in each step."""
    share = numpyro.sample("share", dist.Normal(0.5, 0.2))

    def step(last, seen):
        def up(value):
            return numpyro.sample("z", dist.Normal(value + 1.0, 0.5))

        def down(value):
            return numpyro.sample("z", dist.Normal(value * 0.5, 0.2))

        z = cond(seen[0] > 0, up, down, last)
        numpyro.sample("y", dist.Normal(z, 0.7), obs=seen[1])
        return share * z, None

    scan(step, jnp.asarray(0.0), (X[:, 0], y), length=X.shape[0])


def backwards(X, y=None):
    share = numpyro.sample("share", dist.Normal(0.5, 0.2))

    def step(last, seen):
        z = numpyro.sample("z", dist.Normal(share * last + seen[0], 0.5))
        numpyro.sample("y", dist.Normal(z, 0.7), obs=seen[1])
        return z, None

    scan(step, jnp.asarray(0.0), (X[:, 0], y), reverse=True, length=X.shape[0])


def from_dicts(X, z=None, y=None):
    """Two outcomes in a step, of which one follows from the other; carries and inputs by name."""
    share = numpyro.sample("share", dist.Normal(0.5, 0.2))

    def step(last, seen):
        z = numpyro.sample("z", dist.Normal(share * last["y"], 0.5), obs=seen["z"])
        now = numpyro.sample("y", dist.Normal(z, 0.7), obs=seen["y"])
        return {"y": now, "count": last["count"] + 1}, None

    begin = {"y": jnp.asarray(0.3), "count": jnp.asarray(0)}
    scan(step, begin, {"z": z, "y": y}, length=X.shape[0])


def conditioned(X, y=None):
    """An outcome that is held by a handler of the kernel, as in NumPyro's own example of an AR."""
    share = numpyro.sample("share", dist.Normal(0.5, 0.2))

    def step(last, _):
        now = numpyro.sample("y", dist.Normal(share * last, 0.7))
        return now, None

    def run():
        return scan(step, jnp.asarray(0.3), None, length=X.shape[0])

    (run if y is None else numpyro.handlers.condition(run, {"y": y}))()


CASES: dict[str, tuple[Any, Any, Any]] = {
    "nested": (nested, WIDE, (ROWS, INNER)),
    "branching": (branching, Y, (ROWS,)),
    "backwards": (backwards, Y, (ROWS,)),
    "from dicts": (from_dicts, Y, None),
    "conditioned": (conditioned, Y, None),
}


@pytest.mark.parametrize(("kernel", "y", "latent"), CASES.values(), ids=CASES)
def test_densities_in_steps_are_those_of_numpyro(kernel, y, latent):
    draws = {"share": SHARE}
    if latent is not None:
        draws["z"] = np.random.default_rng(1).normal(size=(2, *latent)).astype(np.float32)
    arguments: dict[str, Any] = {"X": X, "y": y}
    if kernel is from_dicts:
        arguments["z"] = np.linspace(-1, 1, ROWS, dtype=np.float32)
    im = ImpactModel(kernel).set_posterior_sample(draws)
    got: Any = im.log_likelihood(**arguments, store="memory", progress=False)
    if kernel is nested:  # NumPyro does not reach into it
        want = dist.Normal(draws["z"], 0.7).log_prob(y)
    else:
        given = {name: jnp.asarray(value) for name, value in arguments.items()}
        want = log_likelihood(kernel, jax.tree.map(jnp.asarray, draws), **given)["y"]
    np.testing.assert_allclose(got.log_likelihood["y"].values[0], want, atol=1e-5)


SET: dict[str, tuple[Any, tuple[int, ...]]] = {
    "nested": (nested, (ROWS, INNER)),
    "branching": (branching, (ROWS,)),
    "backwards": (backwards, (ROWS,)),
    "from dicts": (from_dicts, (ROWS,)),
}


@pytest.mark.parametrize(("kernel", "shape"), SET.values(), ids=SET)
def test_what_is_set_is_set_step_by_step(kernel, shape):
    path = np.random.default_rng(2).normal(size=shape)
    draws = {"share": SHARE}
    if kernel is not from_dicts:
        draws["z"] = np.zeros((2, *shape), np.float32)
    im = ImpactModel(kernel).set_posterior_sample(draws)
    effect = im.effect(X, {"z": path}, {"z": path**2 + 1}, estimand="ite", progress=False)
    got = effect.draws.transpose("chain", "draw", "obs", ...).values[0]
    np.testing.assert_allclose(got, np.broadcast_to(path**2 + 1 - path, got.shape), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["svi", "nuts"])
def test_a_nested_walk_has_the_posterior_of_the_dense_normal(inference):
    def walk(X, y=None):
        def outer(level, row):
            def inner(value, outcome):
                value = numpyro.sample("z", dist.Normal(value, 0.5))
                numpyro.sample("y", dist.Normal(value, 0.5), obs=outcome)
                return value, None

            return scan(inner, level, row, length=INNER)[0], None

        scan(outer, jnp.asarray(0.0), y, length=X.shape[0])

    im = ImpactModel(walk, num_samples=4000, inference=inference).fit(X, WIDE, progress=False)
    assert im.diagnostics_["verdict"] == "good"
    steps = np.arange(1, WIDE.size + 1)
    prior = 0.25 * np.minimum.outer(steps, steps)
    gain = prior @ np.linalg.inv(prior + 0.25 * np.eye(WIDE.size))
    spread = np.sqrt(np.diag(prior - gain @ prior))
    z = im.posterior["z"].reshape(-1, WIDE.size)
    assert np.abs((z.mean(0) - gain @ WIDE.ravel()) / spread).max() < 0.1
    np.testing.assert_allclose(z.std(0), spread, rtol=0.08)


def test_a_sampler_of_numpyros_own_for_a_latent_in_a_nested_scan_is_refused():
    with pytest.raises(KernelValidationError, match="in a scan inside another one"):
        ImpactModel(nested, inference=NUTS(nested)).fit(X, WIDE, progress=False)


def test_chains_for_a_nested_scan_and_a_support_that_moves_are_refused():
    def kernel(X, y=None):
        top = numpyro.sample("top", dist.HalfNormal(1.0))
        numpyro.sample("below", dist.Uniform(0.0, top))
        nested(X, y)

    with pytest.raises(KernelValidationError, match="no engine does both"):
        ImpactModel(kernel, inference="nuts").fit(X, WIDE, progress=False)


def test_a_scan_in_a_plate_is_refused():
    def kernel(X, y=None):
        with numpyro.plate("units", INNER):
            nested(X, y)

    with pytest.raises(KernelValidationError, match="Put the plate into the step"):
        ImpactModel(kernel).fit(X, WIDE, progress=False)


ORDERS: dict[str, tuple[Any, bool]] = {
    "turned": (lambda rows: jnp.arange(rows)[::-1], False),
    "rolled": (lambda rows: jnp.roll(jnp.arange(rows), 1), False),
    "as they are": (jnp.arange, True),
}


@pytest.mark.parametrize("is_scan", [True, False], ids=["scan", "plate"])
@pytest.mark.parametrize(("order", "is_right"), ORDERS.values(), ids=ORDERS)
def test_outcomes_in_another_order_than_the_rows_are_refused(order, is_right, is_scan):
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        places = order(X.shape[0])
        x, y = X[places, 0], None if y is None else y[places]

        def step(last, seen):
            return numpyro.sample("y", dist.Normal(last + b * seen[0], 1.0), obs=seen[1]), None

        if is_scan:
            scan(step, jnp.asarray(0.0), (x, y), length=X.shape[0])
            return
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * x, 1.0), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"b": np.zeros(2)})
    if is_right:
        im.log_likelihood(X, Y, store="memory", progress=False)
        return
    with pytest.raises(KernelValidationError, match="another order than the rows"):
        im.log_likelihood(X, Y, store="memory", progress=False)


# ------------------------------------------------------------------ joint outcomes


def low_rank(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    loc = b * jnp.ones(X.shape[0])
    law = dist.LowRankMultivariateNormal(loc, 3.0 * jnp.ones((len(loc), 1)), 0.1 + 0 * loc)
    numpyro.sample("y", law, obs=y)


def student(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    root = jnp.linalg.cholesky(jnp.eye(X.shape[0]) + 3.0)
    numpyro.sample("y", dist.MultivariateStudentT(4.0, b * jnp.ones(len(root)), root), obs=y)


def log_normal(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    covariance = jnp.eye(X.shape[0]) + 3.0
    law = dist.MultivariateNormal(b * jnp.ones(len(covariance)), covariance)
    law = dist.TransformedDistribution(law, dist.transforms.ExpTransform())
    numpyro.sample("y", law, obs=y)


class Forward(dist.Distribution):  # type: ignore[misc]  # NumPyro has no stubs
    """A hidden Markov model as one distribution of all steps."""

    arg_constraints: dict[str, Any] = {}
    support = dist.constraints.real_vector
    pytree_data_fields = ("means",)
    pytree_aux_fields = ("steps",)

    def __init__(self, means: Any, steps: int) -> None:
        self.means, self.steps = means, steps
        super().__init__((), (steps,))

    def log_prob(self, value: Any) -> Any:
        def step(before: Any, outcome: Any) -> Any:
            here = jax.nn.logsumexp(before[:, None] + jnp.log(MOVES), 0)
            return here + dist.Normal(self.means, 1.0).log_prob(outcome), None

        return jax.nn.logsumexp(jax.lax.scan(step, jnp.log(jnp.full(2, 0.5)), value)[0])

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        return jax.random.normal(key, (*sample_shape, self.steps))


def as_one_law(X, y=None):
    means = numpyro.sample("means", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("y", Forward(means, X.shape[0]), obs=y)


JOINT: dict[Any, dict[str, Any]] = {
    low_rank: {"b": np.zeros(2)},
    student: {"b": np.zeros(2)},
    log_normal: {"b": np.zeros(2)},
    as_one_law: {"means": np.zeros((2, 2))},
}


@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(k, id=k.__name__, marks=pytest.mark.slow if k in (student, log_normal) else ())
        for k in JOINT
    ],
)
def test_a_history_of_a_joint_law_that_cannot_be_drawn_on_is_refused(kernel):
    im = ImpactModel(kernel).set_posterior_sample(JOINT[kernel])
    with pytest.raises(InputError, match="all rows are one event of its distribution") as caught:
        im.predict_on_batch(X, condition={"y": np.exp(Y[:3])})
    assert caught.value.code == "rows-joint"


# ------------------------------------------------------------------ hidden states

MOVES = np.array([[0.8, 0.2], [0.2, 0.8]])


def forward(y: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log density of each outcome given those before it, and what it then says of the state."""
    state, densities = np.array([0.5, 0.5]), []
    for outcome in y:
        joint = state @ MOVES * np.exp(-0.5 * (outcome - means) ** 2) / np.sqrt(2 * np.pi)
        densities.append(np.log(joint.sum()))
        state = joint / joint.sum()
    return np.array(densities), state


@pytest.fixture(scope="module")
def states() -> ImpactModel:
    draws = {"means": np.tile([-1.0, 2.0], (6000, 1)), "stay": np.full(6000, 0.8)}
    return ImpactModel(hidden_markov).set_posterior_sample(draws)


def test_densities_of_hidden_states_are_those_of_all_their_paths(states):
    means = np.array([-1.0, 2.0])
    got: Any = states.log_likelihood(X, Y, store="memory", progress=False)
    densities = got.log_likelihood["y"].values[0, 0]
    np.testing.assert_allclose(densities, forward(Y, means)[0], atol=1e-5)
    paths = np.stack(np.meshgrid(*[[0, 1]] * ROWS), -1).reshape(-1, ROWS)
    chances = np.prod(np.where(paths[:, 1:] == paths[:, :-1], 0.8, 0.2), axis=1) * 0.5
    laws = np.exp(-0.5 * (Y - means[paths]) ** 2) / np.sqrt(2 * np.pi)
    assert densities.sum() == pytest.approx(np.log(chances @ laws.prod(axis=1)), abs=1e-5)


def test_a_forecast_of_hidden_states_begins_where_the_filter_ends(states):
    means, known = np.array([-1.0, 2.0]), 4
    options: Any = {"condition": {"y": Y[:known]}, "return_datatree": False}
    got = np.asarray(states.predict_on_batch(X, **options)["y"], float)
    _, state = forward(Y[:known], means)
    for step in range(known, ROWS):
        state = state @ MOVES
        mean = state @ means
        spread = np.sqrt(state @ (1 + means**2) - mean**2)
        assert abs(got[:, step].mean() - mean) < 4.5 * spread / np.sqrt(len(got))
        assert got[:, step].std() == pytest.approx(spread, rel=0.05)


def enumerated(X, y=None):
    means = numpyro.sample("means", dist.Normal(0.0, 1.0).expand([2]).to_event(1))

    def step(state, outcome):
        law = dist.Categorical(jnp.asarray(MOVES)[state])
        state = numpyro.sample("state", law, infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(means[state], 1.0), obs=outcome)
        return state, None

    scan(step, 0, y, length=X.shape[0])


@pytest.mark.parametrize("inference", ["auto", "svi", "nuts"])
def test_states_that_are_drawn_are_refused_with_the_way_out(inference):
    with pytest.raises(KernelValidationError, match="Write the forward algorithm") as caught:
        ImpactModel(enumerated, inference=inference).fit(X, Y, progress=False)
    assert caught.value.code == "enumerated"
