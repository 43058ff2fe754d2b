"""A hidden cause summed or integrated out of an outcome, against sums and quadrature."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.special import expit, logsumexp
from scipy.stats import norm

from aimz import InputError
from aimz.refutation import mixed_over, shifted_by

LEAN = jnp.array([-1.0, 0.3, 40.0])
WEIGHT = jnp.array([0.7, -0.4, 1.2])
LOC = jnp.array([0.1, -2.0, 1.5])
RATE = jnp.exp(LOC)
FAMILIES = {
    "normal": (dist.Normal(LOC, 0.5), 0.3),
    "student": (dist.StudentT(4.0, LOC, 0.5), 0.3),
    "bernoulli-logits": (dist.Bernoulli(logits=LOC), 1),
    "bernoulli-probs": (dist.Bernoulli(probs=jnp.array([0.2, 0.5, 0.99])), 0),
    "bernoulli-far": (dist.Bernoulli(logits=jnp.array([30.0, -30.0, 0.0])), 0),
    "binomial": (dist.Binomial(5, logits=LOC), 2),
    "poisson": (dist.Poisson(RATE), 3),
    "gamma": (dist.Gamma(2.0, RATE), 0.8),
    "negative-binomial": (dist.NegativeBinomial2(RATE, 2.0), 2),
    "expanded": (dist.Normal(0.3, 0.5).expand([3]), 0.3),
    "event": (dist.Normal(LOC, 0.5).to_event(1), 0.3),
    "masked": (dist.Normal(LOC, 0.5).mask(jnp.array([True, False, True])), 0.3),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_binary_cause_is_summed_out(name):
    fn, number = FAMILIES[name]
    value = jnp.full(3, number)
    mixed = mixed_over(fn, LEAN, WEIGHT, "binary")
    plain = fn.base_dist if name == "event" else fn
    parts = [plain, shifted_by(plain, WEIGHT)]
    shares = np.stack([-np.logaddexp(0, LEAN), -np.logaddexp(0, -LEAN)])
    logs = logsumexp(shares + np.stack([part.log_prob(value) for part in parts]), axis=0)
    if name == "masked":
        logs = np.where([True, False, True], logs, 0.0)
    total = logs.sum() if name == "event" else logs
    np.testing.assert_allclose(mixed.log_prob(value), total, rtol=1e-5, atol=1e-6)
    means = [np.asarray(part.mean, np.float64) for part in parts]
    expected = means[0] + expit(np.asarray(LEAN, np.float64)) * (means[1] - means[0])
    np.testing.assert_allclose(mixed.mean, expected, rtol=1e-5)


@pytest.mark.parametrize("family", [dist.Normal, dist.LogNormal])
def test_a_normal_cause_is_integrated_out(family):
    nodes = np.linspace(-8, 8, 2001)
    value = jnp.array([0.3, 0.2, 2.0])
    lean = jnp.array([-1.0, 0.3, 2.0])
    mixed = mixed_over(family(LOC, 0.5), lean, WEIGHT, "normal")
    located = LOC + WEIGHT * (lean + nodes[:, None])
    densities = np.exp(np.asarray(family(located, 0.5).log_prob(value), np.float64))
    expected = norm.pdf(nodes) @ densities * (nodes[1] - nodes[0])
    np.testing.assert_allclose(np.exp(mixed.log_prob(value)), expected, rtol=1e-4)


def test_an_amount_is_of_rows_and_not_of_columns():
    """A distribution expanded from one of three columns to three rows of them."""
    fn = dist.Normal(jnp.zeros(3), 1.0).expand([3, 3])
    moved = shifted_by(fn, jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(moved.mean, [[1.0] * 3, [2.0] * 3, [3.0] * 3])


@pytest.mark.parametrize(
    ("fn", "kind"),
    [
        (dist.Beta(RATE, 1.0), "binary"),
        (dist.Bernoulli(logits=LOC), "normal"),
        (dist.StudentT(3.0, LOC), "normal"),
        (dist.Normal(jnp.zeros((3, 2)), 1.0).to_event(1), "binary"),
        (dist.Normal(0.0, 1.0).expand([3, 2]), "normal"),
        (dist.MultivariateNormal(jnp.zeros((3, 2)), jnp.eye(2)), "binary"),
    ],
    ids=["beta", "bernoulli", "student", "event", "expanded", "multivariate"],
)
def test_what_has_no_such_predictor_is_refused(fn, kind):
    with pytest.raises(InputError) as error:
        mixed_over(fn, LEAN, WEIGHT, kind)
    assert error.value.code == "family-unknown"
