"""Common mistakes of learning models, and the damage that the page on them says they do.

One key for all subjects is held by `test_recovery` and `test_rescorla_wagner`, a negated row of
parameters and half of a separation by the likelihoods.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import optimize

from aimz import ImpactModel
from aimz.inference import NUTS

pytestmark = pytest.mark.slow

SUBJECTS, TRIALS, ARMS = 40, 200, 5
RATES, BETA = (0.4, 0.2), 3.7


def values_and_choices() -> tuple[np.ndarray, np.ndarray]:
    """Values before each choice, and choices: softmax of 3.7 times the values."""
    rng = np.random.default_rng(2)
    reward = rng.uniform(size=(SUBJECTS, TRIALS, ARMS)) < np.linspace(0.2, 0.8, ARMS)
    value, rows = np.full((SUBJECTS, ARMS), 0.5), np.arange(SUBJECTS)
    values, choices = [], []
    for trial in range(TRIALS):
        noise = rng.gumbel(size=value.shape)
        choice = np.argmax(BETA * value + noise, -1)
        values.append(value.copy())
        choices.append(choice)
        error = reward[rows, trial, choice] - value[rows, choice]
        value[rows, choice] += np.where(error > 0, *RATES) * error
    return np.stack(values).reshape(-1, ARMS), np.stack(choices).reshape(-1)


def estimate(law: Any, values: np.ndarray, outcome: np.ndarray, upper: float) -> tuple[float, ...]:
    """Where the likelihood of a parameter is largest, and its standard error."""
    given, seen = jnp.asarray(values), jnp.asarray(outcome)

    @jax.jit
    def loss(beta: Any) -> Any:
        return -law(beta, given).log_prob(seen).sum()

    with jax.enable_x64(True):
        best = optimize.minimize_scalar(
            lambda b: float(loss(b)), bounds=(-9.0, upper), method="bounded"
        )
        return float(best.x), float(1 / jnp.sqrt(jax.grad(jax.grad(loss))(best.x)))


def test_outcomes_and_scales_that_are_not_those_of_the_choices():
    values, choices = values_and_choices()
    one_hot = np.eye(ARMS)[choices]
    right = estimate(lambda b, v: dist.Categorical(logits=b * v), values, choices, 20.0)
    shares = estimate(
        lambda b, v: dist.Bernoulli(probs=jax.nn.softmax(b * v)).to_event(1), values, one_hot, 20.0
    )
    logits = estimate(lambda b, v: dist.Bernoulli(logits=b * v).to_event(1), values, one_hot, 20.0)
    inverse = estimate(lambda b, v: dist.Categorical(logits=v / b), values, choices, 20.0)
    assert abs(right[0] - BETA) < 3 * right[1]
    assert [right[1], shares[1]] == pytest.approx([0.060, 0.051], abs=6e-4)
    assert logits[0] == pytest.approx(-1.6, abs=0.06)
    assert inverse[0] == pytest.approx(1 / right[0], rel=1e-3)
    assert inverse[0] == pytest.approx(0.27, abs=6e-3)


def test_a_spread_that_enters_twice_is_its_root():
    def twice(X, y=None):
        spread = numpyro.sample("spread", dist.HalfNormal(1.0))
        with numpyro.plate("subject", X.shape[0]):
            offset = numpyro.sample("offset", dist.Normal(0.0, spread))
            numpyro.sample("y", dist.Normal(spread * offset, 0.1), obs=y)

    rng = np.random.default_rng(0)
    level = rng.normal(size=300)
    y = 0.3 * level / level.std() + 0.1 * rng.normal(size=300)
    model = ImpactModel(twice, inference=NUTS(chains=2))
    model.fit(np.zeros((300, 1)), y, progress=False, on_bad_fit="ignore")  # its chains mix badly
    found = float(model.posterior["spread"].mean())
    assert found == pytest.approx(np.sqrt(0.3), abs=0.05)


SCHEDULE = np.zeros(4)


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_a_schedule_that_is_global_is_followed_here_and_elsewhere_not():
    def kernel(X, y=None):
        level = numpyro.sample("level", dist.Normal())
        with numpyro.plate("subject", X.shape[0]):
            numpyro.deterministic("gain", level + SCHEDULE)
            numpyro.sample("y", dist.Normal(level + SCHEDULE, 1.0), obs=y)

    compiled = jax.jit(lambda level: level + SCHEDULE)
    model = ImpactModel(kernel).set_posterior_sample({"level": np.zeros(3)})

    def seen() -> tuple[Any, Any]:
        tree: Any = model.predict_on_batch(np.zeros((4, 1)), return_sites=["gain"])
        return np.asarray(tree.posterior_predictive["gain"])[0, 0], np.asarray(compiled(0.0))

    before = seen()
    SCHEDULE[:] = 7.0
    here, elsewhere = seen()
    np.testing.assert_array_equal(before, np.zeros((2, 4)))
    np.testing.assert_array_equal(here, 7.0)
    np.testing.assert_array_equal(elsewhere, 0.0)
    SCHEDULE[:] = 0.0
