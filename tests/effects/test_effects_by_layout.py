"""Effects are those of stored draws of rows, however rows are read, cut and spread over devices."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel, InputError
from aimz.utils.data import ArrayDataset, ArrayLoader

ROWS, DRAWS = 1_300, 40
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 2)).astype(np.float32)
T = (RNG.uniform(size=ROWS) < 0.4).astype(np.float32)
Y = (RNG.uniform(size=ROWS) < 0.5).astype(np.int32)
BY = np.arange(ROWS) % 3
WEIGHTS = RNG.uniform(0, 2, ROWS)
B = RNG.normal(1.0, 0.3, DRAWS).astype(np.float32)
ARMS: Any = {"baseline": {"t": 0.0}, "intervention": {"t": 1.0}}


def logistic(X, t, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=b * t + X[:, 0]), obs=y)


def model() -> ImpactModel:
    return ImpactModel(logistic).set_posterior_sample({"b": B}, num_chains=2)


def ask(X: Any = X, t: Any = T, **options: Any) -> Any:
    arms = {} if "scenarios" in options else ARMS
    return model().effect(X, **{**arms, "t": t, "progress": False, "rng_key": 7, **options})


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Any:
    """Outcomes of each row in each arm, as they are stored: (draw, row)."""
    found = []
    for arm in (0.0, 1.0):
        place = tmp_path_factory.mktemp(f"arm{arm}")
        tree: Any = model().predict(
            X, t=np.full(ROWS, arm, np.float32), rng_key=7, output_dir=place, progress=False
        )
        found.append(tree.posterior_predictive["y"].values.reshape(DRAWS, ROWS).astype(float))
    return found


def ratio_of_odds(averages):
    new, old = averages["intervention"], averages["baseline"]
    return new / (1 - new) / (old / (1 - old))


def odds_ratio(old: np.ndarray, new: np.ndarray) -> Any:
    return new.mean(1) / (1 - new.mean(1)) / (old.mean(1) / (1 - old.mean(1)))


# Each question, and its answer by arithmetic on stored draws (draw, row) of both arms.
QUESTIONS: dict[str, tuple[dict[str, Any], Any]] = {
    "ate": ({}, lambda old, new: (new - old).mean(1)),
    "att": ({"estimand": "att"}, lambda old, new: (new - old)[:, T == 1].mean(1)),
    "atc": ({"estimand": "atc"}, lambda old, new: (new - old)[:, T == 0].mean(1)),
    "cate": (
        {"estimand": "cate", "by": BY},
        lambda old, new: np.stack([(new - old)[:, k == BY].mean(1) for k in range(3)]),
    ),
    "weights": ({"weights": WEIGHTS}, lambda old, new: (new - old) @ WEIGHTS / WEIGHTS.sum()),
    "ratio": ({"comparison": "ratio"}, lambda old, new: new.sum(1) / old.sum(1)),
    "lift": ({"comparison": "lift"}, lambda old, new: new.sum(1) / old.sum(1) - 1),
    "odds ratio": ({"comparison": "odds_ratio"}, odds_ratio),
    "a callable": ({"estimand": ratio_of_odds}, odds_ratio),
    "finite": (
        {"population": "finite", "y": Y},
        lambda old, new: (np.where(T == 1, Y, new) - np.where(T == 0, Y, old)).mean(1),
    ),
    "ite": ({"estimand": "ite"}, lambda old, new: (new - old).T),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_effect_is_that_of_stored_draws(name, stored):
    options, answer = QUESTIONS[name]
    got = ask(target="prediction", **options).draws.stack(all=("chain", "draw"), create_index=False)
    desired = answer(*stored)
    np.testing.assert_allclose(got.values, desired, atol=1e-5 * desired.std(-1).max(), rtol=0)


# ------------------------------------------------------------------ rows read by the piece


def read(kind: str) -> Any:
    """The rows by the piece, and what else the call then passes."""
    if kind == "loader":
        dataset = ArrayDataset(X=X, t=T)
        return ArrayLoader(dataset, rng_key=0, batch_size=100), {}
    if kind == "batches of unknown number":
        return ({"X": X[n : n + 90], "t": T[n : n + 90]} for n in range(0, ROWS, 90)), {}
    if kind == "zarr":
        zarr = pytest.importorskip("zarr")
        return zarr.array(X, chunks=(256, 2)), {"t": zarr.array(T, chunks=(256,))}
    dask = pytest.importorskip("dask.array")
    return dask.from_array(X, chunks=(200, 2)), {"t": T}


KINDS = ["loader", "batches of unknown number", "zarr", "dask"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_read_by_the_piece_have_the_same_effect(kind):
    rows, others = read(kind)
    got = model().effect(rows, **ARMS, **others, progress=False, rng_key=7)
    np.testing.assert_array_equal(got.draws, ask().draws)
    assert got.rows == ROWS


@pytest.mark.parametrize("kind", ["zarr", "dask"])
def test_groups_weights_and_arms_of_rows_read_by_the_piece(kind):
    options: list[dict[str, Any]] = [
        {"estimand": "cate", "by": BY},
        {"weights": WEIGHTS},
        {"estimand": "att"},
        {"scenarios": {"none": {"t": 0.0}, "own": {}, "given": {"t": T[::-1].copy()}}},
        {"scenarios": {"low": {"b": 0.0}, "high": {"b": 2.0}}},
        {"population": "superpopulation"},
        {"row_summary": True},
    ]
    for asked in options:
        rows, others = read(kind)
        arms = {} if "scenarios" in asked else ARMS
        got = model().effect(rows, **arms, **others, **asked, progress=False, rng_key=7)
        same = ask(**asked)
        np.testing.assert_array_equal(got.draws, same.draws)
        if got.row_summary is not None:
            np.testing.assert_array_equal(got.row_summary["mean"], same.row_summary["mean"])


def test_what_needs_all_rows_at_once_is_refused_where_they_are_read_by_the_piece():
    def refused(kind: str, **options: Any) -> str:
        rows, others = read(kind)
        arms = {} if "scenarios" in options else ARMS
        with pytest.raises(InputError) as caught:
            model().effect(rows, **{**arms, **others, "progress": False, **options})
        assert caught.value.code == "rows-lazy", caught.value
        return str(caught.value)

    unknown = "batches of unknown number"
    assert "by a function" in refused("dask", scenarios={"a": {}, "b": {"t": lambda t: 1 - t}})
    refused("dask", scenarios={"a": {}, "b": {"X": X}})
    refused("dask", rung="counterfactual", y=Y)
    refused(unknown, estimand="cate", by=BY)
    refused(unknown, estimand="att")
    refused(unknown, estimand="ite")


def test_values_of_a_scenario_that_the_call_lacks_are_refused_where_rows_are_read_by_the_piece():
    def kernel(X, t=0.0, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(b * t + 0.0 * X[:, 0], 1.0), obs=y)

    dask = pytest.importorskip("dask.array")
    rows = dask.from_array(X, chunks=(200, 2))
    im = ImpactModel(kernel).set_posterior_sample({"b": B})
    with pytest.raises(InputError, match="gives each row its 't', which the call does not"):
        im.effect(rows, {}, {"t": T}, t=0.0, progress=False)


def test_labelled_values_of_a_scenario_are_lined_up_where_rows_are_read_by_the_piece():
    xr, pd = pytest.importorskip("xarray"), pytest.importorskip("pandas")
    labels = [f"r{n}" for n in range(ROWS)]
    rows = xr.DataArray(X, dims=("obs", "c"), coords={"obs": labels})
    dose = pd.Series(np.linspace(0, 1, ROWS, dtype=np.float32), index=labels)
    arms: Any = {"t": 0.0}, {"t": dose.sample(frac=1.0, random_state=0)}
    found = [
        model().effect(x, *arms, t=T, rng_key=7, progress=False).draws
        for x in (rows, rows.chunk({"obs": 200}))
    ]
    np.testing.assert_array_equal(found[0], found[1])


# ------------------------------------------------------------------ summaries of rows


def test_summaries_of_rows_are_those_of_their_draws(stored):
    rows = stored[1] - stored[0]
    asked = {"quantiles": [0.1, 0.5, 0.9], "threshold": 0.5}
    got = ask(target="prediction", row_summary=asked).row_summary
    np.testing.assert_allclose(got["mean"], rows.mean(0), atol=1e-12)
    np.testing.assert_allclose(got["sd"], rows.std(0, ddof=1), atol=1e-12)
    np.testing.assert_allclose(got["quantiles"], np.quantile(rows, [0.1, 0.5, 0.9], axis=0))
    np.testing.assert_allclose(got["probability"], (rows > 0.5).mean(0))
    assert got["quantile"].values.tolist() == [0.1, 0.5, 0.9]


def test_summaries_of_rows_do_not_depend_on_tiles(monkeypatch):
    whole = ask(row_summary=True).row_summary
    monkeypatch.setattr("aimz.execution.plan.MAX_ROWS", 64)
    monkeypatch.setattr("aimz.execution.plan.TILE_BYTES", 64 * 4 * 7)
    for name, values in ask(row_summary=True).row_summary.items():
        np.testing.assert_allclose(values, whole[name], atol=1e-6)


def test_summaries_of_rows_name_contrasts():
    doses = {dose: {"t": dose} for dose in (0.0, 0.5, 1.0)}
    got = ask(scenarios=doses, row_summary=True).row_summary
    assert got["contrast"].values.tolist() == ["0.5 vs 0.0", "1.0 vs 0.0"]
    assert got["mean"].dims == ("contrast", "obs")


# ------------------------------------------------------------------ devices


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_draws_do_not_depend_on_the_number_of_devices(devices, tmp_path):
    # Effects in a process of its own, with as many devices as are asked for.
    code = (
        "import sys, jax, numpy as np\n"
        f"jax.config.update('jax_num_cpu_devices', {devices})\n"
        "from tests.effects.test_effects_by_layout import ask, BY, Y\n"
        f"assert len(jax.local_devices()) == {devices}\n"
        "found = [ask(estimand='cate', by=BY), ask(population='superpopulation'),\n"
        "         ask(rung='counterfactual', y=Y)]\n"
        "np.savez(sys.argv[1], *[effect.draws.values for effect in found])\n"
    )
    file = tmp_path / "draws.npz"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, cwd=root)
    here = [
        ask(estimand="cate", by=BY),
        ask(population="superpopulation"),
        ask(rung="counterfactual", y=Y),
    ]
    with np.load(file) as found:
        for name, effect in zip(found.files, here, strict=True):
            np.testing.assert_array_equal(found[name], effect.draws.values)


# ------------------------------------------------------------------ conditions


def drifting(X, y=None):
    """A level that is observed in a scenario, and what follows it."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("obs", X.shape[0]):
        level = numpyro.sample("level", dist.Normal(X[:, 0], scale))
        numpyro.sample("y", dist.Normal(2.0 * level, 1.0), obs=y)


@pytest.mark.filterwarnings("ignore:The posterior holds no draws of level")
def test_a_scenario_may_observe_a_site():
    im = ImpactModel(drifting).set_posterior_sample({"scale": np.full(DRAWS, 0.5)})
    seen = X[:, 0] + 1.0
    got = im.effect(X, {}, {"condition": {"level": seen}}, rng_key=1, progress=False)
    np.testing.assert_allclose(
        got.averages.sel(scenario="intervention"), 2.0 * seen.mean(dtype=float), rtol=1e-5
    )
    with pytest.raises(InputError, match="no argument or site"):
        im.effect(X, {}, {"condition": 3.0}, progress=False)
