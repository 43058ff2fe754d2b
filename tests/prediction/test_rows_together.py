"""Rows that interact, asked about without the others: as in the whole fit, or not at all."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from scipy.special import logsumexp
from scipy.stats import norm

from aimz import ImpactModel, InputError, OutputWarning
from aimz.inference import Fit
from aimz.prediction import fitted_on, problem_of

ROWS, DRAWS = 12, 8
LABELS = [f"r{number}" for number in range(ROWS)]


def walk(X, y=None):
    with numpyro.plate("weeks", X.shape[0]):
        step = numpyro.sample("step", dist.Normal())
        level = numpyro.deterministic("level", jnp.cumsum(step))
        numpyro.sample("y", dist.Normal(level, 0.1), obs=y)


def walk_of_increments(X, y=None):
    path = numpyro.sample("path", dist.GaussianRandomWalk(1.0, X.shape[0] - 1))
    level = numpyro.deterministic("level", jnp.concatenate([jnp.zeros(1), path]))
    numpyro.sample("y", dist.Normal(level, 0.1), obs=y)


def areas(X, W, y=None):
    phi = numpyro.sample("phi", dist.MultivariateNormal(jnp.zeros(X.shape[0]), W))
    level = numpyro.deterministic("level", phi)
    with numpyro.plate("areas", X.shape[0]):
        numpyro.sample("y", dist.Normal(level, 0.1), obs=y)


def factored(X, W, y=None):
    with numpyro.plate("areas", X.shape[0]):
        z = numpyro.sample("z", dist.Normal())
    level = numpyro.deterministic("level", jnp.linalg.cholesky(W) @ z)
    numpyro.sample("y", dist.Normal(level, 0.1), obs=y)


def edges(X, first, second, y=None):
    with numpyro.plate("areas", X.shape[0]):
        phi = numpyro.sample("phi", dist.Normal())
    numpyro.factor("smooth", -0.5 * jnp.sum((phi[first] - phi[second]) ** 2))
    level = numpyro.deterministic("level", phi)
    numpyro.sample("y", dist.Normal(level, 0.1), obs=y)


def panel(X, y=None):
    units = 3
    with numpyro.plate("unit", units, dim=-2), numpyro.plate("week", X.shape[0] // units, dim=-1):
        step = numpyro.sample("step", dist.Normal())
    level = numpyro.deterministic("level", jnp.cumsum(step, axis=-1).reshape(-1))
    numpyro.sample("y", dist.Normal(level, 0.1), obs=y)


def panel_of_fixed_size(X, units, weeks, y=None):
    with numpyro.plate("unit", units, dim=-2), numpyro.plate("week", weeks, dim=-1):
        step = numpyro.sample("step", dist.Normal())
    level = numpyro.deterministic("level", jnp.cumsum(step, axis=-1).reshape(-1))
    numpyro.sample("y", dist.Normal(level, 0.1), obs=y)


def process(X, y=None):
    apart = X - X.T
    f = numpyro.sample(
        "f", dist.MultivariateNormal(0.0, jnp.exp(-(apart**2)) + 0.1 * jnp.eye(len(X)))
    )
    level = numpyro.deterministic("level", f)
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Normal(level, 0.1), obs=y)


def centred(X, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    x = X[:, 0]
    level = numpyro.deterministic("level", slope * (x - x.mean()))
    numpyro.sample("y", dist.Normal(level, 0.1), obs=y)


def joint(rows):
    factor = np.random.default_rng(0).normal(size=(rows, rows))
    return (factor @ factor.T / rows + np.eye(rows)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    kernel: Any
    shapes: dict[str, tuple[int, ...]]
    others: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self):
        return self.kernel.__name__


RING = {"first": np.arange(ROWS), "second": np.roll(np.arange(ROWS), 1)}
CASES = [
    Case(walk, {"step": (ROWS,)}),
    Case(walk_of_increments, {"path": (ROWS - 1,)}),
    Case(areas, {"phi": (ROWS,)}, {"W": joint(ROWS)}),
    Case(factored, {"z": (ROWS,)}, {"W": joint(ROWS)}),
    Case(edges, {"phi": (ROWS,)}, RING),
    Case(panel, {"step": (3, ROWS // 3)}),
    Case(panel_of_fixed_size, {"step": (3, ROWS // 3)}, {"units": 3, "weeks": ROWS // 3}),
    Case(process, {"f": (ROWS,)}),
    Case(centred, {"slope": ()}),
]
DEAR = (areas, process, edges, panel_of_fixed_size, walk_of_increments)  # to compile
ORDERS = {
    "last": [10, 11],
    "reversed": list(range(ROWS))[::-1],
    "every other": list(range(1, ROWS, 2)),
    "shuffled": np.random.default_rng(1).permutation(ROWS).tolist(),
    "one": [5],
}
pytestmark = pytest.mark.filterwarnings("ignore:Rows are predicted together")


def frame(rows=ROWS):
    x = np.random.default_rng(2).normal(size=(rows, 1)).astype(np.float32)
    return pd.DataFrame(x, columns=["x"], index=LABELS[:rows])


def remembering(case):
    """A model that has seen data, with draws set by hand in place of a long fit."""
    X, rng = frame(), np.random.default_rng(3)
    y = pd.Series(rng.normal(size=ROWS), X.index)
    names, given = ("X", "y"), {"X": X, "y": y, **case.others}
    problem, arguments = problem_of(case.kernel, names, given, None, "raise")
    draws = {n: rng.normal(size=(1, DRAWS, *shape)) for n, shape in case.shapes.items()}
    im = ImpactModel(case.kernel)
    im._fitted = fitted_on(
        problem, arguments, Fit(draws={n: v.astype("f4") for n, v in draws.items()})
    )
    return im, X, y


def levels(im, X, **kwargs):
    tree = im.predict_on_batch(X, return_sites=["level", "y"], **kwargs).posterior_predictive
    return tree["level"].values[0], tree["y"].values[0]


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.slow] * (c.kernel in DEAR), id=c.name) for c in CASES],
)
def test_some_rows_in_another_order_are_rows_of_the_whole(case):
    im, X, _ = remembering(case)
    order = [10, 3, 7, 0]
    whole = levels(im, X, **case.others)

    part = levels(im, X.iloc[order], **case.others)

    np.testing.assert_array_equal(part[0], whole[0][:, order])
    np.testing.assert_array_equal(part[1], whole[1][:, order])


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_every_order_and_part_of_a_walk(order):
    im, X, y = remembering(CASES[0])
    path = np.cumsum(im.posterior["step"], axis=1)

    level, _ = levels(im, X.iloc[order])
    tree = im.log_likelihood(X.iloc[order], y.iloc[order], store="memory", progress=False)

    np.testing.assert_allclose(level, path[:, order], rtol=1e-5, atol=1e-5)
    own = tree.log_likelihood["y"].values[0]
    want = norm(path[:, order], 0.1).logpdf(y.to_numpy()[order])
    np.testing.assert_allclose(own, want, rtol=1e-4)
    score = im.score(X.iloc[order], y.iloc[order])
    np.testing.assert_allclose(score, (logsumexp(want, axis=0) - np.log(DRAWS)).mean(), rtol=1e-4)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            CASES[n], marks=pytest.mark.slow if CASES[n].name == "areas" else (), id=CASES[n].name
        )
        for n in (0, 2, 5, 6)
    ],
)
def test_other_rows_and_rows_that_are_only_counted_are_refused(case):
    im, X, _ = remembering(case)

    with pytest.raises(InputError) as other:
        levels(im, X.set_axis([f"s{n}" for n in range(ROWS)]), **case.others)
    with pytest.raises(InputError) as counted:
        levels(im, X.to_numpy()[::-1], **case.others)
    assert {other.value.code, counted.value.code} == {"rows-not-fitted"}


@pytest.mark.parametrize("order", [[3, 0, 1], pytest.param([11, 4], marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_matrix_of_the_rows_asked_for_is_the_fitted_one(order):
    case = CASES[2]
    im, X, _ = remembering(case)
    W = case.others["W"]
    whole, _ = levels(im, X, W=W)

    part, _ = levels(im, X.iloc[order], W=W[np.ix_(order, order)])

    np.testing.assert_array_equal(part, whole[:, order])
    with pytest.raises(InputError, match="'W' joins the rows"):
        levels(im, X.iloc[order], W=W + 1)


@pytest.mark.slow
def test_another_matrix_draws_anew_and_says_so():
    im, X, _ = remembering(CASES[2])

    with pytest.warns(OutputWarning, match="'W' is not the fitted one, so phi below it"):
        levels(im, X, W=2 * joint(ROWS))


def joint_outcome(X, y=None):
    s = numpyro.sample("s", dist.HalfNormal())
    cover = s * jnp.exp(-((X - X.T) ** 2)) + jnp.eye(len(X))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(X)), cover), obs=y)


@pytest.mark.slow
def test_outcomes_that_are_one_event_of_all_rows():
    im, X, y = remembering(Case(joint_outcome, {"s": ()}))
    fitted = im._fitted
    im._fitted = replace(fitted, fit=replace(fitted.fit, draws={"s": np.ones((1, 8), "f4")}))
    few = [3, 1]

    whole = im.predict_on_batch(X, return_datatree=False)["y"]
    part = im.predict_on_batch(X.iloc[few], return_datatree=False)["y"]

    assert whole.shape == (8, ROWS)
    np.testing.assert_array_equal(part, whole[:, few])
    with pytest.raises(InputError, match="one density for all fitted rows together"):
        im.log_likelihood(X.iloc[few], y.iloc[few], progress=False)


@pytest.mark.filterwarnings("ignore:'X' has no column names")
def test_rows_that_are_read_by_the_piece_are_found_by_label(tmp_path):
    im, X, _ = remembering(CASES[0])
    order = [7, 3]
    labels = {"weeks": X.index[order].to_numpy()}
    lazy = xr.DataArray(X.to_numpy()[order], dims=("weeks", "column"), coords=labels)
    lazy.to_dataset(name="x").to_zarr(tmp_path / "rows.zarr", consolidated=False)
    read = xr.open_zarr(tmp_path / "rows.zarr", chunks=None, consolidated=False)["x"]

    np.testing.assert_array_equal(levels(im, read)[1], levels(im, X)[1][:, order])


def test_a_loaded_model_has_no_rows_and_says_so(tmp_path):
    im, X, _ = remembering(CASES[0])
    im.save(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model", walk)

    np.testing.assert_array_equal(levels(again, X)[1], levels(im, X)[1])
    with pytest.raises(InputError, match="site 'step' belongs to the fitted rows"):
        levels(again, X.iloc[-2:])


def test_draws_set_by_hand_with_labels_keep_their_order():
    draws = np.random.default_rng(0).normal(size=(1, 5, ROWS))
    data = xr.Dataset({"step": (("chain", "draw", "weeks"), draws)}, coords={"weeks": LABELS})
    im = ImpactModel(walk).set_posterior_sample(data)

    level, _ = levels(im, frame())

    np.testing.assert_allclose(level, np.cumsum(draws[0], axis=1), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError) as refused:
        levels(im, frame().iloc[::-1])
    assert refused.value.code == "rows-not-fitted"


# ------------------------------------------------------------------ effects


def treated_walk(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("weeks", X.shape[0]):
        step = numpyro.sample("step", dist.Normal())
        numpyro.sample("y", dist.Normal(jnp.cumsum(step + b * t), 0.1), obs=y)


def test_effect_on_some_rows_leaves_the_others_as_they_were():
    case = Case(treated_walk, {"b": (), "step": (ROWS,)}, {"t": np.zeros(ROWS, np.float32)})
    im, X, y = remembering(case)
    few, b = [3, 7, 11], im.posterior["b"]
    t = pd.Series(np.zeros(3, np.float32), X.index[few])

    with pytest.warns(OutputWarning, match="t beyond 0 to 0"):  # nothing was treated in the fit
        effect = im.effect(X.iloc[few], {"t": 0.0}, {"t": 1.0}, t=t, estimand="ite", progress=False)
    trees = im.estimate_effect(
        args_baseline={"X": X.iloc[few], "t": t},
        args_intervention={"X": X.iloc[few], "t": t + 1},
        on_batch=True,
    )

    want = np.outer(b, [1.0, 2.0, 3.0])  # the weeks between are not treated
    np.testing.assert_allclose(effect.draws.values[:, 0].T, want, rtol=1e-3, atol=1e-4)
    own = trees.posterior_predictive["y"].values[0]
    np.testing.assert_allclose(own, want, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError) as refused:
        im.effect(X.iloc[few], {"t": 0.0}, {"t": 1.0}, t=t, y=y.iloc[few], rung="counterfactual")
    assert refused.value.code == "rows-together"


def test_sites_of_rows_are_not_set_behind_the_back_of_the_others():
    im, X, _ = remembering(CASES[0])

    with pytest.raises(InputError, match="is set for some of the fitted rows"):
        levels(im, X.iloc[:2].iloc[::-1], intervention={"step": 0.0})
    with pytest.raises(InputError, match="asked about twice"):
        levels(im, X.iloc[[4, 4]])


# ------------------------------------------------------------------ statistics of the rows


@pytest.mark.parametrize(
    "statistic",
    [
        *("mean", "sort"),
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("std", "max", "median", "groups", "gram")
        ),
    ],
)
def test_new_rows_of_a_kernel_that_takes_a_statistic_warn(statistic):
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        x, group = X[:, 0], (X[:, 0] > 0).astype(int)
        found = {
            "mean": lambda: x.mean(),
            "std": lambda: x.std(),
            "max": lambda: x.max(),
            "median": lambda: jnp.median(x),
            "sort": lambda: jnp.argsort(jnp.argsort(x)),
            "groups": lambda: jax.ops.segment_sum(x, group, 2)[group],
            "gram": lambda: X.T @ X,
        }[statistic]()
        numpyro.sample("y", dist.Normal(b * (x - jnp.ravel(found)), 1.0), obs=y)

    im, X, _ = remembering(Case(kernel, {"b": ()}))

    im.predict_on_batch(X)  # the fitted rows
    with pytest.warns(OutputWarning, match="computes a statistic of 'X' over the rows"):
        im.predict_on_batch(X + 1)
    with pytest.raises(InputError, match="changes 'X', which the kernel sets against a statistic"):
        im.effect(X, {}, {"X": lambda X: X + 0.01}, progress=False)


def test_a_prior_that_is_scaled_by_the_data_warns_of_nothing():
    def scaled(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, X.std()))
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    im, X, _ = remembering(Case(scaled, {"b": ()}))

    im.predict_on_batch(X + 1)


def test_rows_that_only_follow_one_another_warn_where_their_past_is_lost():
    def lagged(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        before = jnp.concatenate([jnp.zeros(1), X[:-1, 0]])
        numpyro.sample("y", dist.Normal(b * before, 1.0), obs=y)

    im, X, _ = remembering(Case(lagged, {"b": ()}))
    more = pd.concat([X, X.set_axis([f"s{n}" for n in range(ROWS)])])

    im.predict_on_batch(more)  # the fitted rows come first
    with pytest.warns(OutputWarning, match="these are not the fitted ones"):
        im.predict_on_batch(more.iloc[ROWS:] + 1)
    im.predict_on_batch(more.iloc[ROWS:] + 1, in_sample=False)
