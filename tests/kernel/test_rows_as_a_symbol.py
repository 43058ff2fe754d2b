"""A verdict on a kernel holds for another number of rows where nothing but that number differs."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel
from aimz.kernel import Inputs, inspect
from aimz.programs import clear_programs, fingerprint, trace
from aimz.programs.tracing import program_stats


def outcome(mu, y):
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def plain(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        outcome(X @ b, y)


def asks_for_more_than_50(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    outcome(b * X[:, 0] * (3.0 if X.shape[0] > 50 else 1.0), y)


def centres_above_50(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    x = X[:, 0]
    outcome(b * (x - x.mean() if X.shape[0] > 50 else x), y)


def divides_by_rows(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    outcome(b * X[:, 0] / X.shape[0], y)


def centres(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    outcome(b * (X[:, 0] - X[:, 0].mean()), y)


def has_a_constant_of_56(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([56]).to_event(1))
    outcome(b.sum() * X[:, 0], y)


def has_a_site_per_row(X, y=None):
    with numpyro.plate("rows", X.shape[0]):
        u = numpyro.sample("u", dist.Normal())
        outcome(u * X[:, 0], y)


def counts_up_to_rows(X, y=None):
    p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Binomial(X.shape[0], p + 0.0 * X[:, 0]), obs=y)


def is_below_rows(X, y=None):
    b = numpyro.sample("b", dist.Uniform(0, X.shape[0]))
    outcome(b * X[:, 0], y)


def has_a_value_per_pair_of_rows(X, y=None):
    z = numpyro.sample("z", dist.Normal().expand([X.shape[0], X.shape[0]]).to_event(2))
    outcome(z[0, 0] * X[:, 0], y)


KERNELS = [
    plain,
    asks_for_more_than_50,
    has_a_constant_of_56,
    counts_up_to_rows,
    *(
        pytest.param(kernel, marks=pytest.mark.slow)
        for kernel in (
            centres_above_50,
            is_below_rows,
            divides_by_rows,
            centres,
            has_a_site_per_row,
            has_a_value_per_pair_of_rows,
        )
    ),
]


def spec_at(kernel, rows):
    X = np.linspace(-1.0, 1.0, 2 * rows, dtype=np.float32).reshape(rows, 2)
    return inspect(kernel, Inputs({"X": X}, {}, rows, ("X",)), "y")


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_a_verdict_is_the_same_with_and_without_those_on_other_rows(kernel):
    after = [spec_at(kernel, rows) for rows in (20, 56, 57, 4, 2, 1)][1:]
    for spec in after:
        clear_programs()
        alone = spec_at(kernel, spec.rows)
        assert spec == alone
        assert (spec.version, spec.lookups) == (alone.version, alone.lookups)
        for site, same in zip(spec.sites, alone.sites, strict=True):
            assert (site.law, site.joint_dim, str(site.support)) == (
                same.law,
                same.joint_dim,
                str(same.support),
            )


def test_a_verdict_on_few_rows_says_nothing_of_more():
    clear_programs()
    assert spec_at(plain, 3).rows == 3
    before = program_stats()["traced"]
    assert not spec_at(plain, 20).coupled
    assert program_stats()["traced"] - before > 1
    before = program_stats()["traced"]
    assert spec_at(plain, 4).rows == 4
    assert program_stats()["traced"] - before == 1


def test_another_number_of_rows_costs_one_trace():
    im = ImpactModel(plain).set_posterior_sample({"b": np.ones((8, 2), np.float32)})
    X = np.ones((40, 2), np.float32)
    for rows in (40, 8):  # whose tile is that of three, too
        im.predict_on_batch(X[:rows])
    for rows in (39, 33, 37, 3):
        before = program_stats()
        im.predict_on_batch(X[:rows])
        after = program_stats()
        assert after["traced"] - before["traced"] <= 1
        assert after["made"] == before["made"]


def named(function, rows):
    closed, _ = trace(function, jnp.zeros((rows, 3)))
    return fingerprint(closed, values=True, rows=rows)


@pytest.mark.parametrize(
    ("function", "is_same"),
    [
        (lambda x: x.sum(0), True),
        (lambda x: jnp.broadcast_to(x[:, :, None], (*x.shape, x.shape[0])), True),
        (lambda x: jnp.ones(7), False),  # as many as the rows of one of the two
        (lambda x: x / x.shape[0], False),
        (lambda x: x[: x.shape[0] - 1], False),
        (lambda x: jnp.tile(x, (2, 1)), False),
        (lambda x: x + np.arange(x.shape[0])[:, None], False),
    ],
)
def test_programs_have_one_name_where_they_differ_in_the_number_of_rows_alone(function, is_same):
    assert (named(function, 7) == named(function, 9)) is is_same
