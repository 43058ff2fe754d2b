"""Two predictions that are subtracted as they are made are those that are subtracted afterwards."""

from pathlib import Path
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import aimz
from aimz import ImpactModel, InputError
from aimz.execution import plan
from aimz.store import ZarrSink, reading
from aimz.store.guarded import GuardedArray
from tests.support.kernels import kind_of

slow = pytest.mark.slow
KINDS = [
    "linear",
    "weighted_logistic",
    *(
        pytest.param(name, marks=slow)
        for name in (
            "poisson",
            "hierarchical",
            "several",
            "multivariate",
            "ordered",
            "autoregression",
        )
    ),
]


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """Methods whose results are begun on disk."""
    began: list[str] = []
    real = ZarrSink.begin

    def noted(sink, variables):
        began.append(sink.method)
        real(sink, variables)

    monkeypatch.setattr(ZarrSink, "begin", noted)
    return began


def scenarios(kind) -> list[dict[str, Any]]:
    rows = len(kind.inputs["X"])
    inputs = {**kind.inputs, "progress": False, "return_sites": kind.sites, "rng_key": 3}
    return [{**inputs, "t": np.full(rows, t, np.float32)} for t in (0.0, 1.0)]


@pytest.mark.filterwarnings("ignore::aimz.OutputWarning", "ignore::aimz.PerformanceWarning")
@pytest.mark.parametrize("draws_of_a_tile", [1000, pytest.param(3, marks=slow)])
@pytest.mark.parametrize("name", KINDS)
def test_nothing_but_the_difference_is_written_and_it_is_that_of_two_results(
    name, draws_of_a_tile, written, monkeypatch
):
    monkeypatch.setattr(plan, "TILE_BYTES", 4 * 16 * draws_of_a_tile)
    kind = kind_of(name)
    model, (baseline, intervention) = kind.model(), scenarios(kind)
    effect = model.estimate_effect(args_baseline=baseline, args_intervention=intervention)
    assert written == ["estimate_effect"]
    assert aimz.verify(effect.attrs["artifact_path"]) == []
    apart = model.estimate_effect(*(model.predict(**one) for one in (baseline, intervention)))
    assert list(effect.children) == list(apart.children)
    for group, node in apart.children.items():
        one, other = effect[group].to_dataset(), node.to_dataset()
        assert one.identical(other.assign_attrs(one.attrs))
        assert {n: v.dtype for n, v in one.items()} == {n: v.dtype for n, v in other.items()}
        assert one.attrs.keys() == other.attrs.keys()
    assert effect.attrs.keys() == apart.attrs.keys()


def kernel(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X[:, 0] + b * t, 1.0), obs=y)


X = np.zeros((20, 1), np.float32)


def model() -> ImpactModel:
    return ImpactModel(kernel).set_posterior_sample({"b": np.linspace(1.0, 3.0, 5)})


@pytest.mark.parametrize("kept", [{"store": "memory"}, {"output_dir": "here"}])
def test_predictions_that_are_to_be_kept_are(kept, written, tmp_path):
    if "output_dir" in kept:
        kept = {"output_dir": tmp_path}
    ways = [{"X": X, "t": t, "progress": False, **kept} for t in (0.0, 1.0)]
    effect = model().estimate_effect(args_baseline=ways[0], args_intervention=ways[1])
    draws = np.linspace(1.0, 3.0, 5)[None, :, None]
    np.testing.assert_allclose(effect.posterior_predictive["y"], draws + 0 * X.T, rtol=1e-5)
    stored = [Path(path).name.partition("_")[2] for path in tmp_path.iterdir()]
    assert stored == ["predict"] * (2 if "output_dir" in kept else 0)
    assert written.count("predict") == len(stored)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"X": X[:-1]}, "rows-mismatch"),
        ({"return_sites": ["b"]}, "sites-differ"),
        ({"in_sample": False}, "no-shared-group"),
    ],
)
def test_predictions_that_do_not_line_up_are_refused_as_before(change, code):
    ways = [{"X": X, "t": t, "progress": False} for t in (0.0, 1.0)]
    with pytest.raises(InputError) as caught:
        model().estimate_effect(args_baseline=ways[0], args_intervention=ways[1] | change)
    assert caught.value.code == code


def batches(t: float):
    for first in range(0, 20, 5):
        yield {"X": X[first : first + 5], "t": np.full(5, t)}


def test_batches_that_can_be_read_once_are_predicted_apart(written):
    one, other = ({"X": batches(t), "rng_key": 1, "progress": False} for t in (0.0, 1.0))
    effect = model().estimate_effect(args_baseline=one, args_intervention=other)
    assert written == ["predict", "predict", "estimate_effect"]
    draws = np.linspace(1.0, 3.0, 5)[None, :, None]
    np.testing.assert_allclose(effect.posterior_predictive["y"], draws + 0 * X.T, rtol=1e-5)


def test_a_large_difference_is_averaged_in_parts(monkeypatch):
    pytest.importorskip("dask")
    rows, sizes = 3000, []
    real = GuardedArray._read

    def noted(array, key):
        values = real(array, key)
        sizes.append(values.size)
        return values

    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(X * b + t * b, 1.0), obs=y)

    draws = np.linspace(0.5, 1.5, 8, dtype=np.float32)
    im = ImpactModel(kernel).set_posterior_sample({"b": draws})
    X = np.linspace(-1.0, 1.0, rows, dtype=np.float32)
    arms: Any = [{"X": X, "t": t, "progress": False} for t in (0.0, 2.0)]
    whole = im.estimate_effect(args_baseline=arms[0], args_intervention=arms[1])
    monkeypatch.setattr(reading, "DIFFERENCE_BYTES", 0)
    monkeypatch.setattr(GuardedArray, "_read", noted)
    parts = im.estimate_effect(args_baseline=arms[0], args_intervention=arms[1])
    y = parts["posterior_predictive"]["y"]
    np.testing.assert_allclose(y.mean(("chain", "rows")), 2 * draws, rtol=1e-5)
    assert max(sizes) == 1024 * len(draws)
    np.testing.assert_array_equal(y.values, whole["posterior_predictive"]["y"].values)
    assert whole["posterior_predictive"]["y"].chunks is None
    assert im.predict(**arms[0])["posterior_predictive"]["y"].chunks is None
