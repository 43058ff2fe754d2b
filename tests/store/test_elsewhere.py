"""Tiles that another process writes: the bytes of the process that asks, or nothing."""

import contextlib
import pickle
import shutil
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

import aimz
from aimz.store import ObjectSink, ZarrSink
from aimz.store.elsewhere import WRITING, TileWriter
from aimz.store.objects import inside
from tests.store.test_sink import (
    IDENTITY,
    assert_equal,
    labels,
    rows_of,
    serial,
    tile_of,
    values_of,
    variables,
)
from tests.support.s3_servers import s3_server, storage_at

COUNT = 4
VERSIONS = dict.fromkeys(range(COUNT), 0)


@contextlib.contextmanager
def in_a_folder(path) -> Iterator[tuple[Any, Any]]:
    yield ZarrSink(path, "predict", IDENTITY), None


@contextlib.contextmanager
def in_a_bucket(_) -> Iterator[tuple[Any, Any]]:
    with s3_server("moto") as address:
        storage = storage_at(address, uuid.uuid4().hex)
        yield ObjectSink(inside(storage, ""), "predict", IDENTITY), storage


@pytest.mark.parametrize("kind", [in_a_folder, in_a_bucket])
def test_a_store_whose_tiles_others_write_is_the_same(kind, tmp_path):
    """Of numbers, truth values and counts, in whole chunks and in a last one that is shorter."""
    with kind(tmp_path) as (sink, storage):
        sink.begin(variables())
        writer: TileWriter = pickle.loads(pickle.dumps(sink.writer()))
        for number in [*range(COUNT), 1]:  # one of them twice
            tile = tile_of(number, 0)
            assert not sink.has(tile) or number == 1
            receipt = writer.write(tile, values_of(number, 0))
            assert receipt is not None
            sink.written(tile, receipt)
            assert sink.has(tile)
        tree = sink.commit(labels(rows_of(COUNT)), {}, rows_of(COUNT))
        found = {name: tree["g"].to_dataset()[name].to_numpy() for name in "fbn"}
        assert_equal(found, serial(VERSIONS, COUNT))
        assert aimz.verify(tree.attrs["artifact_path"], storage=storage) == []
        if storage is None:
            assert not (Path(tree.attrs["artifact_path"]) / WRITING).exists()


def test_a_store_that_is_gone_or_another_is_not_written(tmp_path):
    sink = ZarrSink(tmp_path, "predict", IDENTITY)
    sink.begin(variables())
    told = pickle.dumps(sink.writer())
    (folder,) = tmp_path.iterdir()
    before: TileWriter = pickle.loads(told)
    assert before.write(tile_of(0, 0), values_of(0, 0))
    shutil.rmtree(folder)
    for writer in (before, pickle.loads(told)):
        assert not writer.write(tile_of(1, 0), values_of(1, 0))
        assert not folder.exists()


def test_a_folder_of_the_same_name_is_not_written(tmp_path):
    """As where another machine has one."""
    sink = ZarrSink(tmp_path, "predict", IDENTITY)
    sink.begin(variables())
    writer: TileWriter = pickle.loads(pickle.dumps(sink.writer()))
    (folder,) = tmp_path.iterdir()
    folder.rename(tmp_path / "away")
    folder.mkdir()
    assert not writer.write(tile_of(1, 0), values_of(1, 0))
    assert not list(folder.iterdir())


def test_a_chunk_that_is_cut_short_is_not_in_its_place(tmp_path, monkeypatch):
    sink = ZarrSink(tmp_path, "predict", IDENTITY)
    sink.begin(variables())
    write_bytes = Path.write_bytes

    def short(path, value):
        write_bytes(path, value[: len(value) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", short)
    assert not sink.writer().write(tile_of(0, 0), values_of(0, 0))
    monkeypatch.undo()
    (folder,) = tmp_path.iterdir()
    assert len(list((folder / WRITING).iterdir())) == 1
    assert not [path for path in folder.glob("g/*/c/**/*") if path.is_file()]
    sink.write(tile_of(0, 0), values_of(0, 0))
    sink.abort()
    again = ZarrSink(tmp_path, "predict", IDENTITY)
    again.begin(variables())
    assert again.resumed
    assert not (folder / WRITING).exists()
    again.abort()


def test_what_lives_in_one_process_and_what_grows_has_no_writer(tmp_path):
    in_memory = ObjectSink(inside(MemoryStore(), ""), "predict", {})
    in_memory.begin(variables())
    assert in_memory.writer() is None
    growing = ZarrSink(tmp_path, "predict", {})
    growing.begin(variables(grows=True))
    assert growing.writer() is None
    growing.abort()


def test_threads_that_ask_at_once_whether_a_store_is_seen_all_wait_for_the_answer():
    both = threading.Barrier(2)

    class Slow:
        def is_seen(self) -> bool:
            both.wait(10)  # another thread asks meanwhile
            return True

        def write(self, chunks) -> object:
            return True

    writer = TileWriter(Slow(), {}, {}, {})
    with ThreadPoolExecutor(2) as pool:
        receipts = pool.map(lambda number: writer.write(tile_of(number, 0), {}), range(2))
    assert list(receipts) == [True, True]
