"""Arguments that do not fit the rows: an error that names them, never a number."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

from aimz import ImpactModel, InputError, KernelValidationError

ROWS = 5
X = np.zeros((ROWS, 1))
pytestmark = pytest.mark.filterwarnings("ignore:Rows are predicted together")


def dosed(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(X[:, 0] + b * t, 1.0), obs=y)


def dosed_in_a_plate(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X[:, 0] + b * t, 1.0), obs=y)


def advertised(X, spend, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(b * spend, 1.0), obs=y)


def advertised_in_a_plate(X, spend, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * spend, 1.0), obs=y)


def grouped(X, g, y=None):
    b = numpyro.sample("b", dist.Normal().expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(b[g] + X[:, 0], 1.0), obs=y)


def counting(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", y.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)


def model(kernel, *shape):
    return ImpactModel(kernel).set_posterior_sample({"b": np.ones((4, *shape))})


def predicting(im, **kwargs):
    im.predict_on_batch(X, **kwargs)


def comparing(im, **kwargs):
    (name,) = kwargs
    im.effect(X, {name: lambda v: v}, {name: lambda v: v + 1}, progress=False, **kwargs)


def fitting(im, **kwargs):
    im.fit(X, np.zeros(ROWS), progress=False, **kwargs)


def stepping(im, **kwargs):
    im.train_on_batch(X, np.zeros(ROWS), **kwargs)


COLUMN = {"t": np.ones((ROWS, 1))}
CASES = [
    (dosed, predicting, COLUMN, "Two axes of site 'y' are rows.*'t' has shape \\(5, 1\\)"),
    (dosed, comparing, COLUMN, "Two axes of site 'y' are rows"),
    (dosed, fitting, COLUMN, "A column met a line. 't' has shape \\(5, 1\\): pass it with"),
    (dosed_in_a_plate, predicting, COLUMN, "Two axes of site 'y' are rows"),
    (dosed_in_a_plate, stepping, COLUMN, "A column met a line. 't' has shape"),
    (dosed, predicting, {"t": np.ones(1)}, "'t' has shape \\(1,\\), which would be broadcast"),
    (dosed, comparing, {"t": np.ones(1)}, "'t' has shape \\(1,\\), which would be broadcast"),
    (dosed, fitting, {"t": [1.0]}, "Pass 5 values, or a number"),
    (dosed_in_a_plate, fitting, {"t": np.ones((1, 1))}, "'y' has shape \\(1, 5\\)"),
    (dosed_in_a_plate, stepping, {"t": np.ones(1)}, "'t' has shape"),
    (
        advertised,
        predicting,
        {"spend": np.ones(40)},
        "40 values, as many as 'spend'",
    ),
    (advertised, comparing, {"spend": np.ones(40)}, "40 values, as many as 'spend'"),
    (
        advertised_in_a_plate,
        predicting,
        {"spend": np.ones(40)},
        "5 rows and 'spend' has 40",
    ),
    (advertised_in_a_plate, fitting, {"spend": np.ones(40)}, "5 rows and 'spend' has 40"),
    (dosed, predicting, {"t": np.ones(ROWS - 1)}, "'X' has 5 rows and 't' has 4"),
]


@pytest.mark.parametrize(("kernel", "act", "given", "said"), CASES)
def test_an_argument_that_does_not_fit_the_rows_is_named(kernel, act, given, said):
    with pytest.raises(InputError, match=said) as refused:
        act(model(kernel), **given)
    assert len(str(refused.value)) < 240


def test_one_row_is_refused_for_arguments_of_several():
    with pytest.raises(InputError, match="4 values, as many as 't', but 'X' has 1 rows"):
        model(dosed_in_a_plate).predict_on_batch(X[:1], t=np.arange(4.0))


def test_one_value_for_all_and_tables_of_one_entry_stay():
    wanted = np.full(ROWS, 2.0)
    np.testing.assert_allclose(means(model(dosed), t=2.0), wanted)

    def tabled(X, prices, g, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.sample("y", dist.Normal(b * prices[g], 1.0), obs=y)

    given = {"prices": np.full(1, 2.0), "g": np.zeros(ROWS, int)}
    np.testing.assert_allclose(means(model(tabled), **given), wanted)

    def scaled(X, prior, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, prior).to_event(1))
        numpyro.sample("y", dist.Normal(X[:, 0] + 2 * b.sum(), 1.0), obs=y)

    np.testing.assert_allclose(means(model(scaled, 1), prior=np.ones(1)), wanted)


def means(im, **given):
    effect = im.effect(X, {"y": np.zeros(ROWS)}, {}, estimand="ite", progress=False, **given)
    return effect.draws.mean(("chain", "draw")).to_numpy()


@pytest.mark.parametrize("codes", [[0.0, 1.0, 2.0, 1.0, 0.0], np.ones(ROWS, np.float32)])
def test_codes_with_a_point_are_named(codes):
    for act in (predicting, fitting):
        with pytest.raises(InputError, match=r"takes 'g' for an index.*Pass g\.astype") as refused:
            act(model(grouped, 3), g=codes)
        assert refused.value.code == "index-float"


@pytest.mark.parametrize("take", [jnp.take, jnp.take_along_axis, lambda b, g, _: b.at[g].get()])
def test_every_way_to_index_names_codes_with_a_point(take):
    def kernel(X, g, y=None):
        b = numpyro.sample("b", dist.Normal().expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(take(b, g, 0) + X[:, 0], 1.0), obs=y)

    with pytest.raises(InputError, match="takes 'g' for an index"):
        predicting(model(kernel, 3), g=np.zeros(ROWS))


def test_a_kernel_that_reads_its_outcome_is_told_to_count_the_input():
    im = model(counting)
    im.log_likelihood(X, np.zeros(ROWS), store="memory", progress=False)  # the outcome is there

    with pytest.raises(KernelValidationError, match=r"Take sizes from the input, as by X\."):
        model(counting).predict_on_batch(X)


def test_steps_keep_to_the_columns_of_the_steps_before():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.sample("y", dist.Normal(b * X.sum(1), 1.0), obs=y)

    y = np.zeros(4)
    im = ImpactModel(kernel)
    im.train_on_batch(pd.DataFrame(np.ones((4, 2)), columns=["u", "v"]), y)

    with pytest.raises(InputError) as wider:
        im.train_on_batch(np.ones((4, 3)), y)
    with pytest.raises(InputError) as other:
        im.partial_fit(pd.DataFrame(np.ones((4, 2)), columns=["u", "w"]), y)
    assert {wider.value.code, other.value.code} == {"columns-mismatch"}
    im.train_on_batch(pd.DataFrame(np.ones((4, 2)), columns=["v", "u"]), y)


# ------------------------------------------------------------------ rows joined by another argument


def convolved(X, spend, y=None):
    s = numpyro.sample("b", dist.Normal())
    carried = jnp.convolve(spend, jnp.array([1.0, 0.5]))[: spend.shape[0]]
    numpyro.sample("y", dist.Normal(s * carried, 0.1), obs=y)


def scanned(X, spend, y=None):
    s = numpyro.sample("b", dist.Normal())

    def step(stock, new):
        stock = 0.5 * stock + new
        return stock, stock

    _, carried = jax.lax.scan(step, 0.0, spend)
    numpyro.sample("y", dist.Normal(s * carried, 0.1), obs=y)


def matrixed(X, spend, y=None):
    s = numpyro.sample("b", dist.Normal())
    weeks = jnp.arange(spend.shape[0])
    apart = weeks[:, None] - weeks[None]
    weights = jnp.where(apart >= 0, 0.5**apart, 0.0)
    with numpyro.plate("weeks", spend.shape[0]):
        numpyro.sample("y", dist.Normal(s * weights @ spend, 0.1), obs=y)


GEOMETRIC = [1.0, 1.5, 1.75, 1.875, 1.9375]


@pytest.mark.parametrize(
    ("kernel", "wanted"),
    [(convolved, [1.0, 1.5, 1.5, 1.5, 1.5]), (scanned, GEOMETRIC), (matrixed, GEOMETRIC)],
)
def test_rows_are_those_of_the_outcome_where_the_input_is_not_read(kernel, wanted):
    im = model(kernel)

    effect = im.effect(
        X, {"spend": 0.0}, {"spend": 1.0}, spend=np.ones(ROWS), estimand="ite", progress=False
    )

    np.testing.assert_allclose(effect.draws.mean(("chain", "draw")), wanted, rtol=1e-5)


# ------------------------------------------------------------------ scenarios of matrices, groups


def priced(X, A, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal((b * A).sum(-1), 1.0), obs=y)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(1.0, 3.0), (1, 3.0), (np.ones((1, 3)), 3.0), ([1, 0, 1], 2.0), (np.eye(ROWS, 3), 0.6)],
)
def test_a_scenario_of_a_matrix_is_a_number_a_row_or_all_rows(value, wanted):
    effect = model(priced).effect(
        X, {"A": 0.0}, {"A": value}, A=np.zeros((ROWS, 3)), progress=False
    )

    assert float(effect.draws.mean()) == pytest.approx(wanted)


@pytest.mark.parametrize("value", ["1", np.datetime64("2020-01-01")])
def test_a_scenario_of_text_or_a_date_is_refused(value):
    with pytest.raises(InputError, match=r"'A' holds (text|dates or times)"):
        model(priced).effect(X, {"A": 0.0}, {"A": value}, A=np.zeros((ROWS, 3)), progress=False)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (ROWS,), (ROWS, 1), (1,)])
def test_a_scenario_of_another_shape_is_refused(shape):
    with pytest.raises(InputError, match="sets 'A' to an array of shape") as refused:
        model(priced).effect(
            X, {"A": 0.0}, {"A": np.ones(shape)}, A=np.zeros((ROWS, 3)), progress=False
        )
    assert refused.value.code == "rows-mismatch"


def test_a_group_without_weight_is_named():
    weights = [1.0, 1.0, 0.0, 0.0, 1.0]

    with pytest.raises(InputError, match="Group v of by= has weight 0"):
        model(dosed).effect(
            *(X, {"t": 0.0}, {"t": 1.0}),
            t=np.zeros(ROWS),
            estimand="cate",
            by=list("uuvvu"),
            weights=weights,
            progress=False,
        )


# ------------------------------------------------------------------ values of sites


def shared(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(b, 1.0))
        e = numpyro.sample("e", dist.Normal(X, 1.0).to_event(1))
        numpyro.sample("y", dist.Normal(z + e.sum(-1), 1.0), obs=y)


@pytest.mark.filterwarnings("ignore:The posterior holds no draws")
@pytest.mark.parametrize("how", ["intervention", "condition"])
@pytest.mark.parametrize(
    ("site", "value", "wanted"),
    [
        ("z", [2.0], None),
        ("z", np.ones((1, 1)), None),
        ("z", np.ones((ROWS, 1)), None),
        ("z", 2.0, np.full(ROWS, 2.0)),
        ("z", np.arange(ROWS), np.arange(ROWS)),
        ("e", np.arange(ROWS), None),  # one per row, or one per column
        ("e", np.ones(ROWS), np.ones((ROWS, ROWS))),
        ("e", np.arange(ROWS)[:, None], np.tile(np.arange(ROWS), (ROWS, 1)).T),
        ("e", np.arange(ROWS)[None], np.tile(np.arange(ROWS), (ROWS, 1))),
    ],
)
def test_a_value_of_a_site_is_never_spread_over_rows_by_its_length(site, value, wanted, how):
    def found():
        given: dict[str, object] = {how: {site: value}, "return_sites": site}
        return model(shared).predict_on_batch(np.zeros((ROWS, ROWS)), **given)

    if wanted is None:
        with pytest.raises(InputError) as refused:
            found()
        assert refused.value.code == "site-shape"
        return
    np.testing.assert_allclose(found().posterior_predictive[site][0, 0], wanted)


def cut(X, low, high, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.TruncatedNormal(b, 1.0, low=low, high=high), obs=y)


LIMIT = np.linspace(1.0, 2.0, ROWS, dtype=np.float32)


@pytest.mark.parametrize("limits", [{"low": 0.0, "high": LIMIT}, {"low": -LIMIT, "high": 0.75}])
def test_limits_of_all_rows_and_of_each_are_named(limits):
    im = ImpactModel(cut, rng_key=0).set_posterior_sample({"b": np.zeros(3)})
    X = np.ones((ROWS, 1))
    with pytest.raises(KernelValidationError, match="'y' is cut between limits") as raised:
        im.predict(X, progress=False, **limits)
    assert raised.value.code == "limits-shape"
    of_rows: Any = {name: np.broadcast_to(value, LIMIT.shape) for name, value in limits.items()}
    draws = im.predict(X, progress=False, store="memory", **of_rows)["posterior_predictive"]["y"]
    assert np.all((draws.values >= limits["low"]) & (draws.values <= limits["high"]))
