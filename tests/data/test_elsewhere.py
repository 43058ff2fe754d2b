"""Rows that another process reads: what is told, when it is seen to be the same, and when not."""

import os
import pickle
import shutil
from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

from aimz import InputError
from aimz.data import source
from aimz.data.containers import values_of
from aimz.data.elsewhere import cutter_of
from aimz.data.source import _is_lazy, open_stream

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)
SOME = slice(7, 15)


def stored(path, **settings) -> Any:
    array = zarr.create_array(
        str(path / "X"), shape=ROWS.shape, dtype="float32", **{"chunks": (4, 2)} | settings
    )
    array[:] = ROWS
    return array


def mapped(path, mode="r") -> Any:
    ROWS.tofile(path / "rows")
    return np.memmap(path / "rows", np.float32, mode, shape=ROWS.shape)


def with_a_header(path) -> Any:
    np.save(path / "rows.npy", ROWS)
    return np.load(path / "rows.npy", mmap_mode="r")


READ: dict[str, Callable[[Any], Any]] = {
    "zarr": stored,
    "zarr in shards": lambda path: stored(path, chunks=(2, 3), shards=(8, 3)),
    "zarr 2": lambda path: stored(path, zarr_format=2),
    "zarr 2, one folder": lambda path: stored(path, chunks=(1, 1), zarr_format=2),
    "map": mapped,
    "map behind a header": with_a_header,
    "a view of a map": lambda path: mapped(path)[:],
    "dask": lambda path: da.from_array(ROWS, chunks=(6, 2)),
    "dask of zarr": lambda path: da.from_zarr(stored(path)),
}


@pytest.mark.parametrize("make", READ.values(), ids=READ.keys())
def test_rows_are_read_where_a_reference_arrives(make, tmp_path):
    array = make(tmp_path)
    cut = cutter_of({"X": array, "t": ROWS[:, 0]}, _is_lazy)
    assert cut is not None
    away = cut(SOME)
    read = (away if away.lazy else pickle.loads(pickle.dumps(away))).read()
    assert read is not None
    np.testing.assert_array_equal(read["X"], ROWS[SOME], strict=True)
    np.testing.assert_array_equal(read["t"], ROWS[SOME, 0], strict=True)


def test_a_part_of_a_map_is_read_from_its_place_in_the_file(tmp_path):
    part = mapped(tmp_path)[5:18]
    cut = cutter_of({"X": part}, _is_lazy)
    assert cut is not None
    np.testing.assert_array_equal((cut(slice(2, 9)).read() or {})["X"], ROWS[7:14])


def of_another_file(path) -> Any:
    array = mapped(path)
    os.replace(shutil.copy(path / "rows", path / "copy"), path / "rows")  # noqa: PTH105
    return array


SENT: dict[str, Callable[[Any], Any]] = {
    "a map that is written": lambda path: mapped(path, "r+"),
    "a map with changes of its own": lambda path: mapped(path, "c"),
    "columns of a map": lambda path: mapped(path)[:, 1:],
    "rows of a map in another order": lambda path: mapped(path)[::-1],
    "a map whose file is gone": lambda path: (mapped(path), (path / "rows").unlink())[0],
    "a map whose path leads to another file": of_another_file,
    "zarr in memory": lambda path: zarr.array(ROWS),
}


@pytest.mark.parametrize("make", SENT.values(), ids=SENT.keys())
def test_what_another_process_may_not_see_is_not_told(make, tmp_path):
    assert cutter_of({"X": make(tmp_path)}, _is_lazy) is None


UNSEEN: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "no such folder": (stored, lambda path: shutil.rmtree(path / "X")),
    "a chunk is lacking": (stored, lambda path: (path / "X" / "c" / "2" / "0").unlink()),
    "a chunk was written": (stored, lambda path: os.utime(path / "X" / "c" / "2" / "1", ns=(1, 1))),
    "another array": (stored, lambda path: os.utime(path / "X" / "zarr.json", ns=(1, 1))),
    "no such file": (mapped, lambda path: (path / "rows").unlink()),
    "a longer file": (mapped, lambda path: (path / "rows").write_bytes(b"longer" * 60)),
    "the file was written": (mapped, lambda path: os.utime(path / "rows", ns=(1, 1))),
}


@pytest.mark.parametrize(("make", "change"), UNSEEN.values(), ids=UNSEEN.keys())
def test_rows_of_other_files_are_not_read(make, change, tmp_path):
    """A chunk that is not there would read as zeros."""
    cut = cutter_of({"X": make(tmp_path)}, _is_lazy)
    assert cut is not None
    away = cut(SOME)
    assert away.read() is not None
    change(tmp_path)
    assert away.read() is None


OF_ZARR = [n for n, (make, _) in UNSEEN.items() if make is stored]


@pytest.mark.parametrize("name", OF_ZARR)
def test_an_array_of_zarr_that_is_written_while_it_is_read_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "HEAD_ROWS", 4)  # which are read at once
    make, change = UNSEEN[name]
    array = values_of({"X": make(tmp_path)})

    def tiles():
        stream = open_stream(array, "X", batch_size=4, whole=frozenset())
        assert stream is not None
        return stream.tiles(4)

    np.testing.assert_array_equal(np.concatenate([tile.arrays["X"] for tile in tiles()]), ROWS)
    reading = tiles()
    next(reading)
    with pytest.raises(InputError, match=f"{tmp_path.name}.* has changed") as caught:  # noqa: PT012
        change(tmp_path)
        list(reading)
    assert caught.value.code == "rows-changed"
