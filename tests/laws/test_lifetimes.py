"""How long results last: as long as anybody holds them, and not longer."""

import copy
import gc
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from sklearn.base import clone

import aimz
from aimz import ImpactModel, StoreError
from tests.support.store_worker import make_model, make_rows

ROWS = 1024 + 60  # two tiles


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return make_rows(ROWS)


def path_of(tree: xr.DataTree) -> Path:
    return Path(tree.attrs["artifact_path"])


def files_below(path: Path | None) -> list[Path]:
    found = path.rglob("*") if path is not None else []
    return sorted(file for file in found if file.is_file())


def test_a_result_outlives_its_model(X):
    tree = make_model().predict(X, progress=False)
    gc.collect()
    expected = make_model().predict_on_batch(X)
    np.testing.assert_array_equal(
        tree.posterior_predictive["y"].values, expected.posterior_predictive["y"].values
    )


def test_files_of_a_dropped_result_go(X):
    model = make_model()
    tree = model.predict(X, progress=False)
    path = path_of(tree)
    assert path.exists()
    del tree
    gc.collect()
    assert not path.exists()
    assert files_below(model.temp_dir) == []


def test_files_of_a_dropped_result_and_model_go(X):
    model = make_model()
    tree = model.predict(X, progress=False)
    directory = model.temp_dir
    del tree, model
    gc.collect()
    assert not directory.exists()


def test_an_array_of_a_dropped_result_still_reads(X):
    model = make_model()
    tree = model.predict(X, progress=False)
    y, expected = tree.posterior_predictive["y"], tree.posterior_predictive["y"].values
    del tree, model
    gc.collect()
    np.testing.assert_array_equal(y.values, expected)


def test_a_selection_of_a_dropped_result_still_reads(X):
    model = make_model()
    part = model.predict(X, progress=False).posterior_predictive["y"][:, :, 5:9]
    gc.collect()
    assert part.values.shape == (2, 2, 4)


def test_a_result_reads_no_zeros_after_cleanup(X):
    model = make_model()
    tree = model.predict(X, progress=False)
    model.cleanup()
    with pytest.raises(StoreError, match="has been removed") as caught:
        tree.posterior_predictive["y"].values  # noqa: B018  # reads
    assert caught.value.code == "store-missing"


def test_a_model_predicts_again_after_cleanup(X):
    model = make_model()
    first = model.predict(X, progress=False).load()
    model.cleanup()
    assert model.temp_dir is None
    second = model.predict(X, progress=False)
    np.testing.assert_array_equal(
        first.posterior_predictive["y"], second.posterior_predictive["y"].values
    )


def test_cleanup_may_be_called_at_any_time(X):
    model = make_model()
    model.cleanup()
    model.predict(X, progress=False)
    model.cleanup()
    model.cleanup()
    assert model.temp_dir is None


def test_temporary_results_of_all_models_can_be_deleted(X):
    models = [make_model(), make_model()]
    trees = [model.predict(X, progress=False) for model in models]
    ImpactModel.cleanup_models()
    for tree in trees:
        with pytest.raises(StoreError, match="removed"):
            tree.load()
    assert [model.temp_dir for model in models] == [None, None]


def test_temporary_directories_are_private(X):
    model = make_model()
    tree = model.predict(X, progress=False)
    for path in (model.temp_dir, path_of(tree).parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_model_has_no_temporary_directory_before_its_first_result():
    assert make_model().temp_dir is None


COPIES = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "clone": clone,
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_model_does_not_share_its_temporary_directory(X, duplicate):
    model = make_model()
    tree = model.predict(X, progress=False)
    twin = duplicate(model)
    assert twin.temp_dir is None
    twin.cleanup()
    del twin
    gc.collect()
    assert tree.posterior_predictive["y"].values.shape == (2, 2, ROWS)


def test_a_result_in_output_dir_survives_everything(X, tmp_path):
    model = make_model()
    path = path_of(model.predict(X, output_dir=tmp_path, progress=False))
    model.cleanup()
    ImpactModel.cleanup_models()
    del model
    gc.collect()
    assert aimz.verify(path) == []
    assert aimz.open(path).load().posterior_predictive["y"].shape == (2, 2, ROWS)


def test_a_result_survives_a_change_of_directory(X, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = make_model().predict(X, output_dir="here", progress=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert path_of(tree).parent == tmp_path / "here"
    assert tree.load().posterior_predictive["y"].shape == (2, 2, ROWS)


def test_a_result_in_memory_needs_no_files(X):
    model = make_model()
    tree = model.predict(X, store="memory", progress=False)
    assert "artifact_path" not in tree.attrs
    assert files_below(model.temp_dir) == []


def test_an_effect_of_stored_results_is_stored_and_lasts(X, tmp_path):
    model = make_model()
    effect = model.estimate_effect(
        args_baseline={"X": X, "t": 0.0, "output_dir": tmp_path, "progress": False},
        args_intervention={"X": X, "t": 1.0, "output_dir": tmp_path, "progress": False},
    )
    del model
    gc.collect()
    np.testing.assert_allclose(effect.posterior_predictive["y"], 1.0, atol=1e-5)
    assert path_of(effect).exists()
