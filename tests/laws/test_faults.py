"""Faults while a result is written: the error names the cause, nothing half-written looks like a
result, and the model is still usable. The disk, the signals and the other writers are real."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import aimz
from aimz import ImpactModel, InputError, StoreError
from aimz.store import Scratch, zarr_sink
from tests.support.store_worker import linear, make_model, make_rows

ROOT = Path(__file__).resolve().parents[2]
ROWS = 5 * 1024


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return make_rows(ROWS)


@pytest.fixture(scope="module")
def undisturbed(X) -> np.ndarray:
    return drawn(make_model(), X)


def drawn(model: ImpactModel, X: Any, **options: Any) -> np.ndarray:
    tree: Any = model.predict(X, progress=False, **options)
    values: np.ndarray = tree.posterior_predictive["y"].values
    return values


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    """A small file system in memory, where the machine allows one to be made."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no mount here: {error}")
    if done.returncode:
        pytest.skip(f"this machine forbids mounting: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def results_in(directory: Path) -> list[Path]:
    """Stores in a directory that open as complete results."""
    found = []
    for path in directory.iterdir():
        with contextlib.suppress(StoreError, InputError):
            aimz.open(path)
            found.append(path)
    return found


@pytest.fixture
def model() -> ImpactModel:
    return make_model()


# ------------------------------------------------------------------ disks


def test_a_full_disk_is_named_and_leaves_no_result(model, X, undisturbed, tmp_path):
    with mounted(tmp_path / "small", "size=100k") as disk:
        with pytest.raises(OSError, match="No space left on device"):
            model.predict(X, output_dir=disk, progress=False)
        assert results_in(disk) == []
    np.testing.assert_array_equal(drawn(model, X), undisturbed)


def test_a_result_is_finished_once_there_is_room(model, X, undisturbed, tmp_path):
    with mounted(tmp_path / "small", "size=200k") as disk:
        with pytest.raises(OSError, match="No space left on device"):
            model.predict(X, output_dir=disk, progress=False)
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        np.testing.assert_array_equal(drawn(model, X, output_dir=disk), undisturbed)
        assert len(results_in(disk)) == 1


def test_a_full_temporary_directory_is_named_and_leaves_nothing(X, undisturbed, tmp_path):
    with mounted(tmp_path / "small", "size=100k") as disk:
        before = tempfile.tempdir
        tempfile.tempdir = str(disk)
        try:
            im = make_model()
            with pytest.raises(OSError, match="No space left on device"):
                im.predict(X, progress=False)
            assert list(disk.rglob("*.incomplete")) == []
        finally:
            tempfile.tempdir = before
        im.cleanup()
        np.testing.assert_array_equal(drawn(im, X), undisturbed)


def test_a_disk_that_cannot_be_written_is_named(model, X, undisturbed, tmp_path):
    with mounted(tmp_path / "small", "ro") as disk:
        with pytest.raises(OSError, match="Read-only file system"):
            model.predict(X, output_dir=disk, progress=False)
        assert list(disk.iterdir()) == []
    np.testing.assert_array_equal(drawn(model, X), undisturbed)


@pytest.mark.parametrize("options", ["size=16k", "ro"])
def test_a_model_is_saved_elsewhere_where_a_disk_cannot_take_it(options, tmp_path):
    reason = "No space left on device" if "size" in options else "Read-only file system"
    model = ImpactModel(linear).set_posterior_sample({"b": np.ones(20_000)})
    with mounted(tmp_path / "small", options) as disk:
        with pytest.raises(StoreError, match=f"cannot be written: {reason}. .* is as it was") as e:
            model.save(disk / "model")
        assert (e.value.code, list(disk.iterdir())) == ("store-unwritable", [])
    model.save(tmp_path / "model")
    assert ImpactModel.load(tmp_path / "model").is_fitted()


def test_a_full_disk_says_what_is_kept_and_the_way_on(model, X, tmp_path):
    with mounted(tmp_path / "small", "size=200k") as disk:
        with pytest.raises(StoreError, match="Free some space, or choose another place") as caught:
            model.predict(X, output_dir=disk, progress=False)
        assert str(disk) in str(caught.value)
        assert (caught.value.code, caught.value.errno) == ("store-unwritable", errno.ENOSPC)
        assert "the same call with the same output_dir goes on" in "\n".join(caught.value.__notes__)


def test_a_file_in_the_way_is_named(model, X, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"file.* cannot be written: Not a directory") as caught:
        model.predict(X, output_dir=tmp_path / "file" / "results", progress=False)
    assert caught.value.code == "store-unwritable"
    with pytest.raises(StoreError, match="The model is not saved") as caught:
        model.save(tmp_path / "file" / "model")
    assert caught.value.code == "store-unwritable"
    assert (tmp_path / "file").read_text() == "mine"


def test_no_place_for_temporary_results_is_said(X, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="Set TMPDIR, or pass output_dir=") as caught:
        make_model().predict(X, progress=False)
    assert caught.value.code == "store-unwritable"


# ------------------------------------------------------------------ directories


def test_other_things_in_the_directory_are_left_alone(model, X, undisturbed, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "20200101T000000000000Z_predict").mkdir()
    (tmp_path / "20200101T000000000000Z_predict.incomplete").mkdir()
    before = sorted(tmp_path.iterdir())
    np.testing.assert_array_equal(drawn(model, X, output_dir=tmp_path), undisturbed)
    assert set(before) < set(tmp_path.iterdir())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_two_writers_in_one_directory_leave_two_results(X, undisturbed, tmp_path):
    values: list[np.ndarray] = []

    def run() -> None:
        values.append(drawn(make_model(), X, output_dir=tmp_path))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in values:
        np.testing.assert_array_equal(result, undisturbed)
    assert len(results_in(tmp_path)) == 2


# ------------------------------------------------------------------ interruptions


def start_worker(directory: Path, seconds: float) -> "subprocess.Popen[str]":
    """A process that predicts a stream which takes its time, and says when it has begun."""
    code = f"""
import signal, sys, time
from tests.support.store_worker import make_model, make_rows
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests
X = make_rows({ROWS})
def batches():
    for first in range(0, len(X), 1024):
        yield {{"X": X[first:first + 1024]}}
        print("batch", flush=True)
        time.sleep({seconds})
make_model().predict(batches(), rng_key=0, output_dir={str(directory)!r}, progress=False)
print("done", flush=True)
"""
    command = [sys.executable, "-c", code]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_a_signal_leaves_no_result_and_says_why(number, X, tmp_path):
    worker = start_worker(tmp_path, seconds=1.0)
    assert worker.stdout is not None
    for _ in range(3):
        assert worker.stdout.readline() == "batch\n"
    worker.send_signal(number)
    _, errors = worker.communicate(timeout=60)
    assert worker.returncode != 0
    assert number == signal.SIGKILL or "KeyboardInterrupt" in errors
    assert results_in(tmp_path) == []
    again = ({"X": X[first : first + 1024]} for first in range(0, ROWS, 1024))
    np.testing.assert_array_equal(
        drawn(make_model(), again, rng_key=0, output_dir=tmp_path),
        drawn(make_model(), X, rng_key=0, store="memory"),
    )
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_what_a_killed_process_left_is_removed_by_the_next(number, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = """
import time
from aimz.store import Scratch
scratch = Scratch()
(scratch.path / "result").write_text("0" * 100)
print("here", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", code]
    killed, other = (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    for worker in (killed, other):
        assert worker.stdout is not None
        assert worker.stdout.readline() == "here\n"
    assert len(list(tmp_path.iterdir())) == 2
    killed.send_signal(number)
    killed.communicate(timeout=60)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "aimz-run-mine").symlink_to(tmp_path.parent)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch = Scratch()
    left = {path for path in tmp_path.iterdir() if not path.is_symlink()}
    assert len(left) == 2  # its own, and that of the process that still runs
    assert scratch.path in left
    assert (left - {scratch.path}).pop().joinpath("result").exists()
    other.kill()
    other.communicate(timeout=60)
    scratch.remove()
    assert tmp_path.parent.exists()


@pytest.mark.parametrize("tile", [0, 2, 4])
def test_an_exception_in_a_tile_is_raised_as_it_was(tile, model, X, tmp_path, monkeypatch):
    write = zarr_sink.ZarrSink.write

    def failing(sink: Any, at: Any, values: Any) -> None:
        if at.number == tile:
            message = f"tile {tile} burnt"
            raise ZeroDivisionError(message)
        write(sink, at, values)

    monkeypatch.setattr(zarr_sink.ZarrSink, "write", failing)
    with pytest.raises(ZeroDivisionError, match=f"tile {tile} burnt"):
        model.predict(X, output_dir=tmp_path, progress=False)
    assert results_in(tmp_path) == []


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_an_exception_of_the_kernel_at_run_time_is_raised_as_it_was(X, tmp_path):

    def check(value: np.ndarray) -> np.ndarray:
        message = "the sensor is off"
        raise RuntimeError(message)

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        shape = jax.ShapeDtypeStruct((), np.float32)
        b = jax.pure_callback(check, shape, b, vmap_method="sequential")
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(2)})
    with pytest.raises(jax.errors.JaxRuntimeError, match="the sensor is off"):
        im.predict(X, output_dir=tmp_path, progress=False)
    assert results_in(tmp_path) == []


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_exception_of_a_loader_is_raised_as_it_was(after, model, X, tmp_path):
    def batches() -> Iterator[dict[str, np.ndarray]]:
        for number in range(after):
            yield {"X": X[number * 1024 : (number + 1) * 1024]}
        message = "the file server is gone"
        raise ConnectionError(message)

    with pytest.raises(ConnectionError, match="the file server is gone"):
        model.predict(batches(), rng_key=0, output_dir=tmp_path, progress=False)
    assert results_in(tmp_path) == []


def test_the_model_is_usable_after_a_loader_failed(model, X, undisturbed, tmp_path):
    def batches() -> Iterator[dict[str, np.ndarray]]:
        yield {"X": X[:1024]}
        raise ConnectionError

    with pytest.raises(ConnectionError):
        model.predict(batches(), rng_key=0, output_dir=tmp_path, progress=False)
    np.testing.assert_array_equal(drawn(model, X), undisturbed)


# ------------------------------------------------------------------ cleaners


def test_a_cleaner_that_removes_an_unfinished_result_is_noticed(model, X, tmp_path):
    def batches() -> Iterator[dict[str, np.ndarray]]:
        for first in range(0, ROWS, 1024):
            yield {"X": X[first : first + 1024]}
            time.sleep(0.05)
            for path in tmp_path.glob("*.incomplete"):
                shutil.rmtree(path)

    with pytest.raises(StoreError, match="has been removed while the result was being written"):
        model.predict(batches(), rng_key=0, output_dir=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_cleaner_that_removes_old_files_is_noticed_when_they_are_read(X):
    model = make_model()
    tree = model.predict(X, progress=False)
    for path in Path(tree.attrs["artifact_path"]).rglob("*"):
        if path.is_file() and "c" in path.parts:
            path.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        tree.posterior_predictive["y"].load()


def test_a_cleaner_that_removes_the_temporary_directory_of_a_model_is_noticed(X, undisturbed):
    model = make_model()
    tree = model.predict(X, progress=False)
    assert model.temp_dir is not None
    shutil.rmtree(model.temp_dir)
    with pytest.raises(StoreError):
        tree.posterior_predictive["y"].load()
    np.testing.assert_array_equal(drawn(model, X), undisturbed)


def test_a_working_directory_that_is_gone_does_no_harm(model, X, undisturbed, tmp_path):
    here = Path.cwd()
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    try:
        gone.rmdir()
        np.testing.assert_array_equal(drawn(model, X), undisturbed)
    finally:
        os.chdir(here)
