"""Results of one fit have their large arrays on disk once, and each is complete by itself."""

import gc
import shutil
from pathlib import Path
from types import SimpleNamespace

import arviz as az
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr

import aimz
from aimz import ImpactModel
from aimz.store import links, zarr_sink

DRAWS, COLUMNS = 50, 700  # 140 kB
X = np.random.default_rng(0).normal(size=(30, COLUMNS)).astype(np.float32)


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([COLUMNS]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def draws(last: float = 0.0) -> np.ndarray:
    b = np.random.default_rng(1).normal(size=(DRAWS, COLUMNS)).astype(np.float32)
    b[-1, -1] += np.float32(last)
    return b


def model(b: np.ndarray | None = None, chains: int = 2) -> ImpactModel:
    own = draws() if b is None else b
    return ImpactModel(kernel).set_posterior_sample({"b": own}, num_chains=chains)


def stored(im: ImpactModel, folder: Path, rows: np.ndarray = X) -> Path:
    tree = im.predict(rows, output_dir=folder, progress=False)
    return Path(tree.attrs["artifact_path"])


def files_of(result: Path) -> list[Path]:
    return sorted(path for path in (result / "posterior/b/c").rglob("*") if path.is_file())


def inodes(result: Path) -> list[int]:
    return [path.stat().st_ino for path in files_of(result)]


def bytes_once(folder: Path) -> int:
    """Bytes on disk: a file with several names counts once."""
    files = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum({known.st_ino: known.st_size for known in files}.values())


def is_right(result: Path, b: np.ndarray) -> bool:
    read = aimz.open(result).posterior["b"].values
    plain = xr.open_zarr(result, group="posterior", chunks=None)["b"].values
    return aimz.verify(result) == [] and all(
        np.array_equal(v.reshape(b.shape), b) for v in (read, plain)
    )


@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks of an array, the last of which goes on after it."""
    monkeypatch.setattr(links, "CHUNK_BYTES", 4 * COLUMNS * 9)


@pytest.mark.usefixtures("small_chunks")
def test_a_second_result_writes_no_draws_again(tmp_path):
    im = model()
    first = stored(im, tmp_path)
    held = bytes_once(tmp_path)
    second = stored(im, tmp_path)
    assert len(files_of(first)) == 6  # 9, 9 and 7 draws of each chain
    assert inodes(first) == inodes(second)
    assert bytes_once(tmp_path) - held < 0.25 * draws().nbytes
    assert is_right(first, draws())
    assert is_right(second, draws())


@pytest.mark.usefixtures("small_chunks")
def test_each_result_is_complete_by_itself(tmp_path):
    im = model()
    first, second = (stored(im, tmp_path / "here") for _ in range(2))
    moved = second.rename(tmp_path / second.name)
    shutil.rmtree(tmp_path / "here")
    assert is_right(moved, draws())
    assert is_right(Path(shutil.copytree(moved, tmp_path / "copy")), draws())
    assert not first.exists()


@pytest.mark.usefixtures("small_chunks")
def test_only_chunks_with_the_very_same_bytes_are_shared(tmp_path):
    first = stored(model(), tmp_path)
    second = stored(model(draws(last=1e-3)), tmp_path)  # one number of the last chunk
    same = [one == other for one, other in zip(inodes(first), inodes(second), strict=True)]
    assert same == [True] * 5 + [False]
    assert is_right(first, draws())
    assert is_right(second, draws(last=1e-3))


def test_draws_of_another_layout_are_written(tmp_path):
    first, second = stored(model(), tmp_path), stored(model(chains=1), tmp_path)
    assert not {*inodes(first)} & {*inodes(second)}
    assert is_right(second, draws())


@pytest.mark.parametrize("harm", ["flipped", "cut", "longer", "gone"])
def test_a_damaged_earlier_result_is_not_shared(harm, tmp_path):
    first = stored(model(), tmp_path)
    (path, *_) = files_of(first)
    content = path.read_bytes()
    flipped = content[:5] + bytes([content[5] ^ 1]) + content[6:]
    path.write_bytes(
        {"flipped": flipped, "cut": content[:-1], "longer": content + b"0"}.get(harm, b"")
    )
    if harm == "gone":
        path.unlink()
    second = stored(model(), tmp_path)
    assert aimz.verify(first) != []
    assert is_right(second, draws())


def test_where_no_file_can_have_two_names_all_is_written(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(links, "os", SimpleNamespace(link=refused))
    first, second = (stored(model(), tmp_path) for _ in range(2))
    assert not {*inodes(first)} & {*inodes(second)}
    assert is_right(second, draws())


def test_a_commit_that_is_tried_again_leaves_earlier_results_alone(tmp_path, monkeypatch):
    first = stored(model(), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(zarr_sink, "seal", lambda: "has no arguments")
        with pytest.raises(TypeError, match="argument"):
            stored(model(), tmp_path)
    (unfinished,) = tmp_path.glob("*.incomplete")
    assert inodes(unfinished) == inodes(first)
    second = stored(model(), tmp_path)
    assert second.name == unfinished.stem
    assert is_right(first, draws())
    assert is_right(second, draws())


def test_temporary_results_and_their_difference_share_draws():
    im = model()
    trees = [im.predict(rows, rng_key=1, progress=False) for rows in (X, X + 1)]
    trees.append(im.estimate_effect(*trees))
    results = [Path(tree.attrs["artifact_path"]) for tree in trees]
    assert len({tuple(inodes(result)) for result in results}) == 1
    first = results.pop(0)
    del trees[0]
    gc.collect()  # trees refer to their parents
    assert not first.exists()
    assert all(is_right(result, draws()) for result in results)
    assert az.summary(trees[1], var_names=["b"]).shape[0] == COLUMNS
    im.cleanup()


def test_results_in_memory_share_the_draws_of_the_model():
    im = model()
    tree = im.predict(X, store="memory", progress=False)
    assert np.shares_memory(tree.posterior["b"].values, im.posterior["b"])
