"""What kernels observe beside rows, or outside of what their distributions can give."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpyro.distributions import transforms

from aimz import ImpactModel, InputError
from aimz.families import density_of

X = np.zeros((5, 1))
ZERO = float(scipy.stats.norm.logpdf(0.0))


def constrained(X, total=0.0, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("soft", dist.Normal(b, 0.1), obs=0.0)
    numpyro.sample("sum", dist.Normal(5 * b, 1.0), obs=total)
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Normal(b, 1.0), obs=y)


def test_what_is_observed_once_is_no_row_of_a_score():
    im = ImpactModel(constrained).set_posterior_sample({"b": np.zeros(4)})

    assert im.score(X, np.zeros(5), total=3.0) == pytest.approx(ZERO, abs=1e-6)
    found = im.log_likelihood(X, np.zeros(5), total=3.0, progress=False).log_likelihood
    assert found["soft"].dims == found["sum"].dims == ("chain", "draw")
    np.testing.assert_allclose(found["sum"].values, scipy.stats.norm.logpdf(3.0), rtol=1e-6)


class Cauchyish(dist.Distribution):  # type: ignore[misc]  # NumPyro has no stubs
    """A distribution with a density, a mean and no sampler."""

    support = dist.constraints.real
    arg_constraints = {"loc": dist.constraints.real}

    def __init__(self, loc):
        self.loc = loc
        super().__init__(jnp.shape(loc))

    def log_prob(self, value):
        return -((value - self.loc) ** 2)

    @property
    def mean(self):
        return self.loc


def unsampled(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("rows", len(X)):
        w = numpyro.sample("w", dist.Normal(b * t, 1.0))
        numpyro.sample("y", Cauchyish(2 * w), obs=y)


@pytest.mark.filterwarnings("ignore:The posterior holds no draws of w")
def test_an_outcome_without_a_sampler_is_in_nobodys_way():
    im = ImpactModel(unsampled).set_posterior_sample({"b": np.ones(50)})
    t = np.ones(5)

    own = im.predict_on_batch(X, t=t, return_sites=["w"]).posterior_predictive["w"]
    assert float(own.mean()) == pytest.approx(1.0, abs=0.3)
    effect = im.effect(X, {"t": 0.0}, {"t": 1.0}, t=t, progress=False)
    np.testing.assert_allclose(effect.draws.values, 2.0, rtol=1e-5)
    for call in (
        lambda: im.predict_on_batch(X, t=t),
        lambda: im.effect(X, {"t": 0.0}, {"t": 1.0}, t=t, target="prediction", progress=False),
    ):
        with pytest.raises(InputError) as refused:
            call()
        assert refused.value.code == "no-sampler"


def below(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Uniform(0.0, jnp.exp(b) + 2.0), obs=y)


def shifted(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    law = dist.TransformedDistribution(
        dist.Exponential(1.0).expand([len(X)]), transforms.AffineTransform(b, 2.0)
    )
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", law, obs=y)


def exact(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Delta(b * X[:, 0]), obs=y)


@pytest.mark.parametrize(("kernel", "bad"), [(below, -1.0), (shifted, -90.0), (exact, 1.0)])
def test_outcomes_that_no_draw_of_the_prior_can_give_are_refused_at_once(kernel, bad):
    y = np.r_[0.5, bad, np.full(3, 0.5)]
    y[0] = 0.0 if kernel is exact else 0.5

    with pytest.raises(InputError, match=r"In none of 64 draws of the prior .* in row [01]") as no:
        ImpactModel(kernel).fit(X, y, progress=False)
    assert no.value.code == "outcome-support"


def test_what_an_affine_transform_cannot_give_has_no_density():
    im = ImpactModel(shifted).set_posterior_sample({"b": np.ones(3)})

    found = im.log_likelihood(X, np.r_[-9.0, 0.9, 1.0, 2.0, 5.0], progress=False).log_likelihood
    want = scipy.stats.expon(loc=1.0, scale=2.0).logpdf([-9.0, 0.9, 1.0, 2.0, 5.0])
    np.testing.assert_allclose(found["y"].values[0, 0], want, rtol=1e-6)


@pytest.mark.parametrize(("first", "second"), [(2.0, 1.0), (1.0, 1.0), (1.0, 2.0), (0.5, 0.5)])
def test_the_density_of_kumaraswamy_on_its_borders(first, second):
    x = np.array([0.0, 0.3, 1.0])
    with np.errstate(divide="ignore"):
        want = np.log(first * second * x ** (first - 1) * (1 - x**first) ** (second - 1))

    found = density_of(dist.Kumaraswamy(first, second, validate_args=False), jnp.asarray(x))

    np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_one_value_is_not_spread_by_a_cumulative_sum():
    def kernel(X, spend, y=None):
        s = numpyro.sample("s", dist.HalfNormal())
        numpyro.sample("y", dist.Normal(s * jnp.cumsum(spend)[: len(X)], 0.1), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"s": np.ones(3)})

    with pytest.raises(InputError, match="'spend' has shape \\(1,\\), which would be broadcast"):
        im.predict_on_batch(X, spend=np.ones(1))
    whole = im.predict_on_batch(X, spend=np.ones(5)).posterior_predictive["y"].values
    np.testing.assert_allclose(whole.mean(axis=(0, 1)), np.arange(1.0, 6.0), atol=0.4)
