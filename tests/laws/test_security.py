"""Nothing that a name, a path or a stored file says makes the library leave its place."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import aimz
from aimz import ImpactModel, InputError, StoreError
from tests.support.store_worker import make_model, make_rows

X = make_rows(1100)


def files_in(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def model_with(site: str) -> ImpactModel:
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.deterministic(site, b + X[:, 0])
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    return ImpactModel(kernel).set_posterior_sample({"b": np.ones(2)})


NAMES = ["..", ".", "", "zarr.json", "__proto__", "a\\..\\b", "c" * 300, "a\x00b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_site_name_that_is_no_file_name_is_refused(name, tmp_path):
    with pytest.raises(InputError, match="cannot be stored under its name") as caught:
        model_with(name).predict(X, output_dir=tmp_path / "here", progress=False)
    assert caught.value.code == "site-name"
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("name", ["../../out", "/tmp/out", "../y", "a/../../b", "~/x", "$HOME"])
def test_a_site_name_with_a_path_stays_in_the_store(name, tmp_path):
    tree = model_with(name).predict(X, output_dir=tmp_path / "here", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert list((tmp_path / "here").iterdir()) == [Path(tree.attrs["artifact_path"])]
    own = name.replace("/", ".")
    np.testing.assert_array_equal(tree.posterior_predictive[own].attrs["site"], name)


@pytest.mark.parametrize("name", NAMES)
def test_a_site_of_any_name_may_stay_in_memory(name):
    if name in ("", ".", ".."):
        pytest.skip("a tree's variables cannot be called so")
    tree = model_with(name).predict_on_batch(X)
    assert name in tree.posterior_predictive


@pytest.mark.parametrize(
    "place", ["http://host/x", "hdfs://host/x", "ftp://host/x", "file://host/x"]
)
def test_output_dir_names_no_other_machine(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        make_model().predict(X, output_dir=place, progress=False)
    assert caught.value.code == "output-dir"
    assert files_in(tmp_path) == []


def test_an_unfinished_store_that_is_a_link_is_not_followed(tmp_path):
    model, here, outside = make_model(), tmp_path / "here", tmp_path / "outside"
    here.mkdir()
    left: Any = None
    try:
        model.predict(failing(), rng_key=0, output_dir=here, progress=False)
    except ConnectionError:
        (left,) = here.iterdir()
    left.rename(outside)
    left.symlink_to(outside, target_is_directory=True)
    before = files_in(outside)
    tree = model.predict(X, rng_key=0, output_dir=here, progress=False)
    assert files_in(outside) == before
    assert not Path(tree.attrs["artifact_path"]).is_symlink()


def failing() -> Any:
    yield {"X": X[:1024]}
    yield {"X": X[1024:]}
    raise ConnectionError


def test_a_link_to_an_unfinished_store_does_not_open_as_complete(tmp_path):
    model, here = make_model(), tmp_path / "here"
    with pytest.raises(ConnectionError):
        model.predict(failing(), rng_key=0, output_dir=here, progress=False)
    (left,) = here.iterdir()
    link = tmp_path / "20200101T000000000000Z_predict"
    link.symlink_to(left, target_is_directory=True)
    with pytest.raises(StoreError, match=r"not finished|unfinished|incomplete"):
        aimz.open(link)


def test_a_chunk_that_is_a_link_to_something_else_is_an_error(tmp_path):
    tree = make_model().predict(X, output_dir=tmp_path, progress=False)
    path = Path(tree.attrs["artifact_path"])
    secret = tmp_path / "secret"
    secret.write_text("root:x:0:0" * 50)
    chunk = next(p for p in (path / "posterior_predictive" / "y").rglob("*") if p.name == "0")
    while chunk.is_dir():
        chunk = next(chunk.iterdir())
    chunk.unlink()
    chunk.symlink_to(secret)
    with pytest.raises(StoreError):
        aimz.open(path).posterior_predictive["y"].load()
    assert aimz.verify(path) != []


def test_attributes_of_a_store_run_nothing(tmp_path):
    tree = make_model().predict(X, output_dir=tmp_path, progress=False)
    path = Path(tree.attrs["artifact_path"])
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["kernel"] = "!!python/object/apply:os.mkdir ['trapped']"
    (path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"changed|damaged"):
        aimz.open(path)


def test_temporary_directories_are_private():
    model = make_model()
    tree = model.predict(X, progress=False)
    assert model.temp_dir is not None
    own = Path(tree.attrs["artifact_path"]).parent
    for path in (model.temp_dir, own):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_temporary_directories_are_private_under_any_mask():
    code = """
import os, stat
os.umask(0)
from pathlib import Path
from tests.support.store_worker import make_model, make_rows
model = make_model()
tree = model.predict(make_rows(30), progress=False)
print(oct(stat.S_IMODE(model.temp_dir.stat().st_mode)))
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0o700"


def test_names_of_temporary_directories_cannot_be_foreseen():
    names = set()
    for _ in range(5):
        model = make_model()
        model.predict(X[:20], progress=False)
        names.add(os.fspath(model.temp_dir or ""))
    assert len(names) == 5
