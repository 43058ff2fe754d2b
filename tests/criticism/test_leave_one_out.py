"""Rows left out of a posterior: ArviZ's numbers without its matrix, and when not to trust them."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import arviz as az
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from arviz_stats.base import array_stats
from numpyro.contrib.control_flow import scan
from scipy import stats
from scipy.special import logsumexp

from aimz import ImpactModel, InputError, OutputWarning
from aimz.criticism import leave_one_out, smoothing
from aimz.execution import num_draws as count
from aimz.execution import plan as grid
from aimz.utils.data import ArrayDataset, ArrayLoader
from tests.support.engines import ByHand

ROOT = Path(__file__).parents[2]
ROWS, DRAWS = 40, 400
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 2))
NOISE = RNG.normal(size=(ROWS, 3))
Y = X[:, 0] + NOISE[:, 0]
B = RNG.normal([1.0, 0.0], 0.05, size=(DRAWS, 2))


# ---------------------------------------------------------------- smoothing, held to ArviZ's


def normal(rows: int, draws: int, spread: float, df: float = np.inf) -> np.ndarray:
    """Log densities of normal outcomes, under draws of a normal or a Student-t posterior."""
    rng = np.random.default_rng(1)
    law = stats.norm() if df == np.inf else stats.t(df)
    b = law.rvs((draws, 3), random_state=rng) * spread
    outcomes, rows_of = 2.0 * rng.normal(size=(rows, 1)), rng.normal(size=(rows, 3))
    return np.asarray(-0.5 * (outcomes - rows_of @ b.T) ** 2)


CASES = {
    "plain": normal(20, 1000, 0.1),
    "wide": normal(20, 1000, 1.0),
    "heavy tails": normal(20, 1000, 0.5, df=2.0),
    "few draws": normal(20, 40, 0.3),
    "many draws": normal(5, 4000, 0.3),
    "nearly flat": normal(20, 500, 1e-6),
    "far from zero": normal(20, 300, 0.3) - 1e6,
    "ties": np.repeat(normal(20, 200, 0.3), 5, axis=1),
    "rounded": np.round(normal(20, 1000, 0.3), 1),
    "shares": np.log(np.random.default_rng(2).beta(2.0, 2.0, size=(20, 300))),
    "beyond its mean": -np.log(np.random.default_rng(3).pareto(0.8, size=(20, 500)) + 1.0),
}


@pytest.mark.parametrize("efficiency", [1.0, 0.4])
@pytest.mark.parametrize("case", CASES)
def test_smoothing_is_that_of_arviz(case, efficiency):
    densities = CASES[case]
    draws = densities.shape[1]
    tail = smoothing.tail_length(draws, efficiency)
    found = smoothing.smoothed_out(densities, tail)
    for row, *values in zip(densities, *found, strict=True):
        log_weights, k = array_stats.psislw(row, r_eff=efficiency)
        elpd = logsumexp(log_weights + row)
        expected = [elpd, logsumexp(row) - np.log(draws) - elpd, k]
        np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-9)


def test_what_some_draw_finds_impossible_is_impossible_without_it():
    densities = normal(3, 100, 0.3)
    densities[0, 7] = -np.inf
    densities[1] = -np.inf
    elpd, lost, k = smoothing.smoothed_out(densities, 20)
    assert elpd[:2].tolist() == [-np.inf] * 2
    assert k[:2].tolist() == [np.inf] * 2
    np.testing.assert_array_equal(lost[:2], [np.inf, np.nan])
    assert np.isfinite([elpd[2], lost[2], k[2]]).all()


def test_what_all_draws_find_equally_likely_loses_nothing():
    elpd, lost, k = smoothing.smoothed_out(np.full((2, 100), -1.5), 20)
    np.testing.assert_allclose(elpd, -1.5)
    np.testing.assert_allclose(lost, 0.0, atol=1e-12)
    assert (k == -np.inf).all()


def test_a_tail_that_is_no_tail_is_not_judged():
    densities = np.zeros((1, 100))
    densities[0, :3] = [-1.0, -2.0, -3.0]  # more than a quarter of the tail is its least
    elpd, _, k = smoothing.smoothed_out(densities, 20)
    np.testing.assert_allclose(elpd, np.log(100) - logsumexp(-densities), rtol=1e-12)
    assert np.isnan(k).all()


def test_weights_that_differ_beyond_all_numbers_are_the_worst():
    densities = normal(1, 1000, 0.3)
    densities[0, 0] = -700.0
    _, _, k = smoothing.smoothed_out(densities, 94)
    assert k > 1.0


# ---------------------------------------------------------------- models, held to ArviZ's


def linear(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("person", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def several_values(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("item", 3, dim=-1), numpyro.plate("person", X.shape[0], dim=-2):
        numpyro.sample("y", dist.Normal((X @ b)[:, None], 1.0), obs=y)


def a_vector(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("person", X.shape[0]):
        numpyro.sample("y", dist.Normal((X @ b)[:, None], jnp.ones(3)).to_event(1), obs=y)


def masked(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("person", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, 1.0).mask(X[:, 0] > 0), obs=y)


def centred(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("person", X.shape[0]):
        numpyro.sample("y", dist.Normal((X - X.mean(0)) @ b, 1.0), obs=y)


def two_outcomes(X, z=None, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("person", X.shape[0]):
        m = numpyro.sample("z", dist.Normal(X @ b, 1.0), obs=z)
        numpyro.sample("y", dist.Normal(m + X @ b, 1.0), obs=y)


def series(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))

    def step(level, values):
        x, outcome = values
        value = numpyro.sample("y", dist.Normal(x @ b + 0.5 * level, 1.0), obs=outcome)
        return value, value

    scan(step, 0.0, (X, y))


def joint(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.MultivariateNormal(X @ b, jnp.eye(X.shape[0])), obs=y)


def with_option(X, site, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("person", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b + site, 1.0), obs=y)


def model(kernel: Any, chains: int = 1) -> ImpactModel:
    return ImpactModel(kernel).set_posterior_sample({"b": B}, num_chains=chains)


def both(im: ImpactModel, *args: Any, site: str | None = None, **kwargs: Any) -> tuple[Any, Any]:
    """Our leave-one-out, and ArviZ's of our densities."""
    options: dict[str, Any] = {"progress": False, **kwargs}
    tree = im.log_likelihood(*args, store="memory", **options)
    return im.loo(*args, site=site, **options), az.loo(tree, var_name=site)


def assert_same(ours: Any, arviz: Any) -> None:
    assert (ours.kind, ours.scale, ours.warning) == (arviz.kind, arviz.scale, arviz.warning)
    for name in ("elpd", "se", "p", "n_samples", "n_data_points", "good_k"):
        assert getattr(ours, name) == pytest.approx(getattr(arviz, name), rel=1e-9), name
    for name in ("elpd_i", "pareto_k"):
        left, right = getattr(ours, name), getattr(arviz, name)
        assert left.name == right.name
        right = right.transpose(*left.dims)
        assert left.coords.identical(right.reset_coords(drop=True).coords)
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chains", [1, 4])
def test_it_is_that_of_arviz(chains):
    assert_same(*both(model(linear, chains), X, Y))


@pytest.mark.parametrize(
    ("kernel", "y"),
    [(several_values, NOISE), (a_vector, NOISE), (masked, Y)],
    ids=["several values a row", "a vector a row", "rows that the kernel masks"],
)
def test_it_is_that_of_arviz_for(kernel, y):
    assert_same(*both(model(kernel), X, y))


@pytest.mark.filterwarnings("ignore::aimz.PerformanceWarning")
def test_rows_that_share_a_statistic_are_left_out_of_their_own_density():
    assert_same(*both(model(centred), X, Y))


def noted(seen: set[int], number: int) -> int:
    seen.add(number)
    return number


def test_draws_that_come_in_several_tiles_are_all_weighted(monkeypatch):
    whole = model(several_values, 2).loo(X, NOISE, progress=False)
    monkeypatch.setattr(grid, "TILE_BYTES", 2**13)
    seen = set()
    monkeypatch.setattr(leave_one_out, "num_draws", lambda tile: noted(seen, count(tile)))
    ours = model(several_values, 2).loo(X, NOISE, progress=False)
    assert max(seen) < DRAWS // 2
    assert (ours.elpd, ours.p) == pytest.approx((whole.elpd, whole.p), rel=1e-12)


def test_missing_outcomes_are_not_left_out_and_labels_stay():
    labels = pd.Index([f"p{n}" for n in range(ROWS)], name="who")
    y = pd.Series(np.where(np.arange(ROWS) % 4 == 1, np.nan, Y), labels)
    ours, arviz = both(model(linear), pd.DataFrame(X, labels), y, missing="mask")
    assert_same(ours, arviz)
    assert ours.n_data_points == ROWS * 3 // 4
    assert ours.elpd_i["person"].values.tolist() == y.dropna().index.tolist()


def test_of_a_row_the_values_that_are_there_are_left_out():
    y = np.where(np.arange(ROWS)[:, None] % 4 == np.arange(3), np.nan, NOISE)
    y[5] = np.nan
    ours = model(several_values).loo(X, y, missing="mask", progress=False)
    full = model(several_values).loo(X, NOISE, progress=False)
    expected = np.where(np.isnan(y), np.nan, full.elpd_i)[np.arange(ROWS) != 5]
    np.testing.assert_allclose(ours.elpd_i, expected)
    assert ours.n_data_points == np.isfinite(expected).sum()
    assert ours.elpd == pytest.approx(np.nansum(expected))


def test_rows_read_by_the_piece_are_the_same():
    loader = ArrayLoader(ArrayDataset(X=X, y=Y), rng_key=0, batch_size=7)
    ours = model(linear).loo(loader, progress=False)
    assert ours.elpd == pytest.approx(model(linear).loo(X, Y, progress=False).elpd, rel=1e-12)


def test_the_site_is_named_where_there_are_several():
    im, z = model(two_outcomes), X[:, 0]
    for site in ("y", "z"):
        assert_same(*both(im, X, Y, z=z, site=site))
    with pytest.raises(InputError, match="site='z'") as caught:
        im.loo(X, Y, z=z)
    assert caught.value.code == "site-unknown"
    with pytest.raises(InputError, match="Did you mean 'z'") as caught:
        im.loo(X, Y, z=z, site="zz")
    assert caught.value.code == "site-unknown"


def test_models_are_compared():
    found = {
        "true": model(linear).loo(X, Y, progress=False),
        "no slope": ImpactModel(linear)
        .set_posterior_sample({"b": B - [1.0, 0.0]})
        .loo(X, Y, progress=False),
    }
    table = az.compare(found)
    assert table.index[0] == "true"
    assert found["true"].elpd > found["no slope"].elpd


def test_it_is_the_density_without_the_row_in_closed_form():
    y, precision = Y, np.eye(2) + X.T @ X
    mean = np.linalg.solve(precision, X.T @ y)
    draws = RNG.multivariate_normal(mean, np.linalg.inv(precision), size=4000)
    im = ImpactModel(linear).set_posterior_sample({"b": draws})
    ours = im.loo(X, y, progress=False)
    for row in range(ROWS):
        others = np.arange(ROWS) != row
        without = np.eye(2) + X[others].T @ X[others]
        centre = X[row] @ np.linalg.solve(without, X[others].T @ y[others])
        spread = np.sqrt(1.0 + X[row] @ np.linalg.solve(without, X[row]))
        exact = stats.norm(centre, spread).logpdf(y[row])
        # The standard error of 4,000 draws is below .01 nats where k is good.
        assert float(ours.elpd_i[row]) == pytest.approx(exact, abs=0.06)


# ---------------------------------------------------------------- when not to trust it


def test_rows_that_weights_cannot_leave_out_are_counted():
    y = Y.copy()
    y[3] = 40.0
    with pytest.warns(OutputWarning, match=f"1 of {ROWS} values of 'y'") as caught:
        ours = model(linear).loo(X, y, progress=False)
    assert [w.message.code for w in caught] == ["pareto-k"]
    assert ours.warning
    assert np.flatnonzero(ours.pareto_k > ours.good_k).tolist() == [3]
    with pytest.warns(OutputWarning, match="Pareto k"):
        short = model(linear).loo(X, y, pointwise=False, progress=False)
    assert [short.elpd, short.elpd_i, short.pareto_k] == [ours.elpd, None, None]


@pytest.fixture(scope="module")
def fitted() -> ImpactModel:
    engine = ByHand(b=np.random.default_rng(1).normal([1.0, 0.0], 0.1, size=(100, 2)))
    weights = np.full(ROWS, 2.0)
    return ImpactModel(linear, inference=engine).fit(X, Y, sample_weight=weights, progress=False)


def codes_of(im: ImpactModel, *args: Any) -> set[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        im.loo(*args, progress=False)
    return {w.message.code for w in caught}


def test_rows_that_the_fit_has_not_seen_are_told(fitted):
    loader = ArrayLoader(ArrayDataset(X=X, y=Y), rng_key=0, batch_size=7)
    for same in ((X, Y), (X.astype(np.float32), Y), (loader,)):
        assert "loo-other-rows" not in codes_of(fitted, *same)
    for rows in (X + 1.0, X[::-1], X[:10]):
        assert "loo-other-rows" in codes_of(fitted, rows, Y[: len(rows)])


OTHER = {
    "other outcomes": (X, Y + 0.5),
    "one other outcome": (X, np.where(np.arange(ROWS) == 7, Y + 1, Y)),
    "outcomes in another order": (X, Y[::-1]),
    "one row twice": (X[[0, *range(ROWS - 1)]], Y[[0, *range(ROWS - 1)]]),
}
SAME = {
    "as they were": (X, Y),
    "in another order": (X[::-1], Y[::-1]),
    "shuffled": (X[np.argsort(Y)], np.sort(Y)),
    "in single precision": (X.astype(np.float32)[::-1], Y.astype(np.float32)[::-1]),
}


@pytest.mark.parametrize("name", [*OTHER, *SAME])
def test_outcomes_of_the_rows_are_those_of_the_fit_in_any_order(fitted, name):
    rows, outcomes = (OTHER | SAME)[name]
    assert ("loo-other-rows" in codes_of(fitted, rows, outcomes)) == (name in OTHER)


def test_a_loaded_model_knows_its_outcomes_in_their_order(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", linear)
    assert "loo-other-rows" not in codes_of(loaded, X, Y)
    assert "loo-other-rows" in codes_of(loaded, X, Y[::-1])


@pytest.mark.filterwarnings("ignore::aimz.FitWarning")
@pytest.mark.slow
def test_rows_that_have_been_changed_in_place_are_no_longer_those_of_the_fit():
    own, outcomes = X.astype(np.float32), Y.astype(np.float32)
    im = ImpactModel(linear).fit_on_batch(own, outcomes, num_steps=50, progress=False)
    outcomes[3] += 1.0
    assert "loo-other-rows" in codes_of(im, own, outcomes)


def test_a_weighted_fit_is_told(fitted):
    assert "loo-weighted" in codes_of(fitted, X, Y)
    assert "loo-weighted" not in codes_of(model(linear), X, Y)
    with pytest.raises(InputError) as caught:
        fitted.loo(X, Y, sample_weight=np.ones(ROWS))
    assert caught.value.code == "argument-unknown"


@pytest.mark.filterwarnings("ignore::aimz.PerformanceWarning")
def test_values_that_lead_to_the_next_are_left_out_given_the_others():
    im = model(series)
    with pytest.warns(OutputWarning, match="given all others"):
        ours = im.loo(X, Y, progress=False)
    arviz = az.loo(im.log_likelihood(X, Y, store="memory", progress=False))
    assert ours.elpd == pytest.approx(arviz.elpd, rel=1e-9)


@pytest.mark.filterwarnings("ignore::aimz.PerformanceWarning")
@pytest.mark.parametrize(
    ("kernel", "draws", "options", "code"),
    [
        pytest.param(joint, B, {}, "rows-joint", marks=pytest.mark.slow),
        (linear, B[:24], {}, "draws-few"),
        (linear, B, {"site": 3}, "site-unknown"),
        (linear, B, {"pointwise": "no"}, "option-unknown"),
        (with_option, B, {"site": X[:, 0]}, "option-ambiguous"),
        (with_option, B, {}, "option-ambiguous"),
    ],
    ids=["joint", "few draws", "no name", "no switch", "an argument's name", "an argument lacks"],
)
def test_what_has_no_answer_is_refused(kernel, draws, options, code):
    im = ImpactModel(kernel).set_posterior_sample({"b": draws})
    with pytest.raises(InputError) as caught:
        im.loo(X, Y, progress=False, **options)
    assert caught.value.code == code


def test_nothing_observed_is_refused():
    with pytest.raises(InputError) as caught:
        model(linear).loo(X, np.full(ROWS, np.nan), missing="mask", progress=False)
    assert caught.value.code == "not-finite"


def test_an_argument_named_like_an_option_is_passed_in_inputs():
    ours = model(with_option).loo(X, Y, inputs={"site": np.zeros(ROWS)}, progress=False)
    assert ours.elpd == pytest.approx(model(linear).loo(X, Y, progress=False).elpd, rel=1e-9)


MEMORY = """
import gc, pathlib
import numpy as np
from tests.criticism.test_leave_one_out import linear
from aimz import ImpactModel

def megabytes(name):
    (line,) = [x for x in open("/proc/self/status") if x.startswith(name)]
    return int(line.split()[1]) / 1e3

rng = np.random.default_rng(0)
X = rng.normal(size=(150_000, 2)).astype(np.float32)
y = X[:, 0] + rng.normal(size=len(X)).astype(np.float32)
draws = rng.normal([1.0, 0.0], 0.01, size=(500, 2)).astype(np.float32)
im = ImpactModel(linear).set_posterior_sample({"b": draws})
im.loo(X[:3000], y[:3000], progress=False)
gc.collect()
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = megabytes("VmRSS")
im.loo(X, y, progress=False)
print(megabytes("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
def test_the_matrix_of_densities_is_never_in_memory():
    run = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert float(run.stdout.split()[-1]) < 200, "the matrix has 600 MB"
