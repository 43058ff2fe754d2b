"""Groups that the fit did not see: refused, or drawn given the posterior of all else."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel, InputError, OutputWarning

DRAWS, GROUPS = 4000, 3
KNOWN = np.array([5.0, 6.0, 7.0])
CODES = np.array([0, 2, 3, 4])  # the last two are new
X = np.zeros((len(CODES), 1))


def observed(X, mean, y):
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Normal(mean, 0.01), obs=y)


def top():
    return numpyro.sample("mu", dist.Normal()), numpyro.sample("tau", dist.HalfNormal())


def fixed(X, g, y=None):
    mu, tau = top()
    with numpyro.plate("group", GROUPS):
        a = numpyro.sample("a", dist.Normal(mu, tau))
    observed(X, a[g], y)


def counted(X, g, groups, y=None):
    mu, tau = top()
    with numpyro.plate("group", groups):
        a = numpyro.sample("a", dist.Normal(mu, tau))
    observed(X, a[g], y)


def described(X, g, table, y=None):
    mu, tau = top()
    with numpyro.plate("group", len(table)):
        a = numpyro.sample("a", dist.Normal(mu + table[:, 0], tau))
    observed(X, a[g], y)


def not_centred(X, g, y=None):
    mu, tau = top()
    with numpyro.plate("group", GROUPS):
        z = numpyro.sample("z", dist.Normal())
    a = numpyro.deterministic("a", mu + tau * z)
    observed(X, a[g], y)


def of_vectors(X, g, y=None):
    mu, tau = top()
    with numpyro.plate("group", GROUPS):
        a = numpyro.sample("a", dist.Normal(mu, tau).expand([2]).to_event(1))
    observed(X, a[g, 1], y)


def nested(X, g, y=None):
    mu, tau = top()
    with numpyro.plate("kind", 2, dim=-2), numpyro.plate("group", GROUPS, dim=-1):
        a = numpyro.sample("a", dist.Normal(mu, tau))
    observed(X, a[1, g], y)


def drawn(value):
    return np.broadcast_to(value, (DRAWS, *np.shape(value)))


TOP = {"mu": drawn(1.0), "tau": drawn(0.5)}
PAIR = np.stack([np.zeros(GROUPS), KNOWN])
CASES = [
    (fixed, {"a": drawn(KNOWN)}, {}),
    (counted, {"a": drawn(KNOWN)}, {"groups": 5}),
    (described, {"a": drawn(KNOWN)}, {"table": np.zeros((5, 1))}),
    (not_centred, {"z": drawn((KNOWN - 1.0) / 0.5)}, {}),
    (of_vectors, {"a": drawn(PAIR.T)}, {}),
    (nested, {"a": drawn(PAIR)}, {}),
]


def predicted(im, **kwargs):
    return im.predict_on_batch(X, g=CODES, return_datatree=False, **kwargs)["y"]


@pytest.mark.parametrize(("kernel", "draws", "given"), CASES)
def test_new_groups_come_from_their_distribution_and_known_ones_stay(kernel, draws, given):
    im = ImpactModel(kernel).set_posterior_sample({**TOP, **draws})

    y = predicted(im, new_groups="prior", **given)

    np.testing.assert_allclose(y[:, :2].mean(0), [5.0, 7.0], atol=0.01)
    np.testing.assert_allclose(y[:, 2:].mean(0), 1.0, atol=5 * 0.5 / DRAWS**0.5)
    np.testing.assert_allclose(y[:, 2:].std(0), 0.5, rtol=0.06)
    assert abs(np.corrcoef(y[:, 2:].T)[0, 1]) < 0.08  # each group has its own


@pytest.mark.parametrize(
    ("kernel", "given", "code"),
    [(fixed, {}, "index-range"), (counted, {"groups": 5}, "draws-shape")],
)
def test_new_groups_are_refused_unless_they_are_asked_for(kernel, given, code):
    im = ImpactModel(kernel).set_posterior_sample({**TOP, "a": drawn(KNOWN)})

    with pytest.raises(InputError, match="new_groups='prior'") as refused:
        predicted(im, **given)
    assert refused.value.code == code
    with pytest.raises(InputError, match="new_groups must be"):
        predicted(im, new_groups=True, **given)


def test_two_plates_of_one_size_are_told_apart_by_an_argument():
    def kernel(X, g, y=None):
        mu, tau = top()
        with numpyro.plate("town", GROUPS):
            a = numpyro.sample("a", dist.Normal(mu, tau))
        with numpyro.plate("shop", GROUPS):
            b = numpyro.sample("b", dist.Normal(mu, tau))
        observed(X, a[g] + b.sum(), y)

    im = ImpactModel(kernel).set_posterior_sample({**TOP, "a": drawn(KNOWN), "b": drawn(KNOWN)})

    with pytest.raises(InputError, match="plates shop, town have so many"):
        predicted(im, new_groups="prior")


@pytest.mark.slow
def test_a_latent_joint_over_the_groups_cannot_grow():
    def kernel(X, g, cover, y=None):
        a = numpyro.sample("a", dist.MultivariateNormal(jnp.zeros(len(cover)), cover))
        observed(X, a[g], y)

    im = ImpactModel(kernel).set_posterior_sample({"a": drawn(KNOWN)})

    with pytest.raises(InputError) as refused:
        predicted(im, new_groups="prior", cover=np.eye(5))
    assert refused.value.code == "draws-shape"


def test_the_effect_in_a_new_group_has_the_spread_of_groups():
    def kernel(X, g, t, y=None):
        mu, tau = top()
        with numpyro.plate("group", GROUPS):
            slope = numpyro.sample("slope", dist.Normal(mu, tau))
        observed(X, slope[g] * t, y)

    im = ImpactModel(kernel).set_posterior_sample({**TOP, "slope": drawn(KNOWN)})

    effect = im.effect(
        *(X, {"t": 0.0}, {"t": 1.0}),
        g=CODES,
        t=np.zeros(len(CODES)),
        estimand="ite",
        new_groups="prior",
        progress=False,
    )

    np.testing.assert_allclose(effect.draws.mean(("chain", "draw")), [5, 7, 1, 1], atol=0.05)
    np.testing.assert_allclose(effect.draws.std(("chain", "draw"))[2:], 0.5, rtol=0.06)


def test_new_rows_of_fitted_groups_are_told_that_these_keep_their_draws():
    im = ImpactModel(fixed).set_posterior_sample({**TOP, "a": drawn(KNOWN)})
    known: dict[str, Any] = {"g": np.array([0, 1, 2, 0]), "return_datatree": False}

    with pytest.warns(OutputWarning, match="a code of plate 'group' means the group of the fit"):
        im.predict_on_batch(X, in_sample=False, **known)
    im.predict_on_batch(X, in_sample=False, new_groups="prior", **known)


def test_coefficients_in_a_plate_are_no_groups():
    def kernel(X, y=None):
        with numpyro.plate("column", X.shape[1]):
            a = numpyro.sample("a", dist.Normal())
        observed(X, X @ a, y)

    im = ImpactModel(kernel).set_posterior_sample({"a": np.ones((5, 2))})

    im.predict_on_batch(np.ones((4, 2)), in_sample=False)
