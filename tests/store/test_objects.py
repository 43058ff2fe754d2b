"""Results in object stores: complete or not there, on memory and on an S3 server on loopback."""

import importlib.util
import itertools
import pickle
import random
import subprocess
import sys
import threading
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from obstore.store import MemoryStore

import aimz
from aimz import InputError, StoreError
from aimz.store import ObjectSink, object_sink
from aimz.store.objects import inside
from aimz.testing import SinkContract
from tests.store.test_sink import (
    IDENTITY,
    assert_equal,
    labels,
    serial,
    tile_of,
    values_of,
    variables,
)
from tests.support.s3_servers import KEY, SECRET, Door, all_keys, s3_server, storage_at
from tests.support.store_worker import TILES, batches, make_model, make_rows

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = dict.fromkeys(range(4), 0)


@pytest.fixture(
    scope="module", params=["moto", pytest.param("localbucket", marks=pytest.mark.slow)]
)
def server(request):
    with s3_server(request.param) as address:
        yield address


@pytest.fixture(scope="module")
def X():
    return make_rows()


@pytest.fixture(scope="module")
def expected(X):
    tree = make_model().predict(X, store="memory", progress=False)
    return tree["posterior_predictive"]["y"].values


class TestObjectsInMemory(SinkContract):
    def make_sink(self):
        return ObjectSink(inside(MemoryStore(), ""), "predict", {})


class TestObjectsOnAServer(SinkContract):
    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.address = server

    def make_sink(self):
        return ObjectSink(
            inside(storage_at(self.address, uuid.uuid4().hex), ""), "predict", IDENTITY
        )


def begun(storage, identity=IDENTITY, *, grows=False) -> ObjectSink:
    sink = ObjectSink(inside(storage, ""), "predict", identity)
    sink.begin(variables(grows=grows))
    return sink


def finish(sink, versions=VERSIONS, count=4):
    """Write what the sink does not have, commit and read; gives the numbers that were written."""
    written = []
    for number in range(count):
        tile = tile_of(number, versions[number])
        if not sink.has(tile):
            sink.write(tile, values_of(number, versions[number]))
            written.append(number)
    tree = sink.commit(labels(min(count * 4, 14)), {}, min(count * 4, 14))
    found = {name: tree["g"].to_dataset()[name].to_numpy() for name in "fbn"}
    assert_equal(found, serial(versions, count))
    return written


@pytest.mark.parametrize("grows", [False, True])
def test_the_same_call_goes_on_with_what_a_run_has_left(grows):
    storage = MemoryStore()
    first = begun(storage, grows=grows)
    for number in (0, 2):
        first.write(tile_of(number, 0), values_of(number, 0))
    first._record()  # and then it is killed
    assert finish(begun(storage, grows=grows)) == [1, 3]


def test_tiles_of_other_rows_are_not_taken():
    storage = MemoryStore()
    first = begun(storage)
    for number in (0, 2):
        first.write(tile_of(number, 0), values_of(number, 0))
    first._record()
    assert finish(begun(storage), VERSIONS | {2: 1}) == [1, 2, 3]


def test_a_tile_of_other_rows_is_refused_where_one_is_written():
    sink = begun(MemoryStore())
    sink.write(tile_of(0, 0), values_of(0, 0))
    with pytest.raises(StoreError, match="Tile 0 comes again"):
        sink.write(tile_of(0, 1), values_of(0, 1))


@pytest.mark.parametrize("how", ["flipped", "shorter", "empty", "gone"])
@pytest.mark.parametrize("name", ["f", "b"])
def test_harmed_tiles_are_computed_anew(name, how):
    storage = MemoryStore()
    first = begun(storage)
    for number in (0, 2):
        first.write(tile_of(number, 0), values_of(number, 0))
    first._record()
    key = first._own.key(f"g/{name}/c/0/0/2")
    raw = bytes(obstore.get(storage, key).bytes())
    if how == "gone":
        obstore.delete(storage, key)
    else:
        harmed = {"flipped": bytes([raw[0] ^ 1]) + raw[1:], "shorter": raw[:-3], "empty": b""}
        obstore.put(storage, key, harmed[how])
    assert finish(begun(storage)) == [1, 2, 3]


def test_another_call_leaves_it_alone_and_says_so():
    storage = MemoryStore()
    first = begun(storage)
    first.write(tile_of(0, 0), values_of(0, 0))
    assert first.abort() is first._own
    before = all_keys(storage)
    second = begun(storage, IDENTITY | {"posterior": "another"})
    assert [note.code for note in second.notes] == ["not-resumed"]
    assert finish(second) == [0, 1, 2, 3]
    assert set(before) <= set(all_keys(storage))


def test_two_writers_of_one_call_leave_two_equal_results(server):
    storage = storage_at(server, uuid.uuid4().hex)
    sinks = [begun(storage), begun(storage)]
    lanes = [threading.Thread(target=finish, args=(sink,)) for sink in sinks]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    places = [str(sink._own) for sink in sinks]
    assert len(set(places)) == 2
    assert [aimz.verify(place, storage=storage) for place in places] == [[], []]


def test_a_dead_run_is_removed_and_cannot_finish(monkeypatch):
    storage = MemoryStore()
    first = begun(storage)
    first.write(tile_of(0, 0), values_of(0, 0))
    first._record()
    second = begun(storage)
    monkeypatch.setattr(object_sink, "SILENCE", timedelta(seconds=-1))
    assert finish(second) == [1, 2, 3]
    with pytest.raises(StoreError, match="given up") as caught:
        finish(first)
    assert caught.value.code == "store-held"
    assert aimz.verify(str(second._own), storage=storage) == []


def test_a_run_that_is_alive_is_left_alone():
    storage = MemoryStore()
    first = begun(storage)
    first.write(tile_of(0, 0), values_of(0, 0))
    first._record()
    assert finish(begun(storage)) == [1, 2, 3]
    assert finish(first) == [1, 2, 3]


def test_nothing_opens_before_it_is_complete():
    storage = MemoryStore()
    sink = begun(storage)
    sink.write(tile_of(0, 0), values_of(0, 0))
    with pytest.raises(StoreError, match="was not finished") as caught:
        aimz.open(str(sink._own), storage=storage)
    assert caught.value.code == "store-missing"
    with pytest.raises(StoreError, match="no result"):
        aimz.open("memory://elsewhere", storage=storage)


@pytest.fixture(scope="module")
def stored(server, X):
    """A result on a server, and what it is in."""
    storage = storage_at(server, uuid.uuid4().hex)
    tree = make_model().predict(X, output_dir=storage, progress=False)
    return storage, tree


def test_a_result_has_the_bits_that_memory_has(stored, expected):
    storage, tree = stored
    again = aimz.open(tree.attrs["artifact_path"], storage=storage)
    for found in (tree, again, pickle.loads(pickle.dumps(again))):
        np.testing.assert_array_equal(found["posterior_predictive"]["y"].values, expected)
    assert aimz.verify(tree.attrs["artifact_path"], storage=storage) == []


def test_every_harm_to_every_object_is_noticed(stored):
    """On a copy in memory: each object is flipped, and deleted."""
    storage, tree = stored
    place = tree.attrs["artifact_path"].rpartition("/")[2]
    copy = MemoryStore()
    keys = [key for key in all_keys(storage) if "/" in key]
    files = {key: bytes(obstore.get(storage, key).bytes()) for key in keys}
    for key, raw in files.items():
        obstore.put(copy, key, raw)
    assert aimz.verify(place, storage=copy) == []

    def is_noticed() -> bool:
        try:
            return bool(aimz.verify(place, storage=copy))
        except StoreError:
            return True

    assert len(files) > 20
    for key, raw in files.items():
        at = len(raw) // 2
        obstore.put(copy, key, raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
        assert is_noticed(), key
        obstore.delete(copy, key)
        assert is_noticed(), key
        obstore.put(copy, key, raw)


def test_a_lost_chunk_is_an_error_when_it_is_read(server, X):
    storage = storage_at(server, uuid.uuid4().hex)
    y = make_model().predict(X, output_dir=storage, progress=False)["posterior_predictive"]["y"]
    (chunk,) = (key for key in all_keys(storage) if key.endswith("posterior_predictive/y/c/0/0/1"))
    obstore.delete(storage, chunk)
    with pytest.raises(StoreError, match="damaged") as caught:
        y[..., 1024:2048].values  # noqa: B018  # reads
    assert caught.value.code == "store-damaged"


def test_a_stream_goes_into_a_bucket(server, X):
    storage = storage_at(server, uuid.uuid4().hex)
    trees = [
        make_model().predict(batches(X), rng_key=3, progress=False, **to)
        for to in ({"output_dir": storage}, {"store": "memory"})
    ]
    one, two = (tree["posterior_predictive"]["y"].values for tree in trees)
    np.testing.assert_array_equal(one, two)


def test_an_address_finds_its_credentials_in_the_environment(server, X, expected, monkeypatch):
    settings = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    tree = make_model().predict(X, output_dir="s3://results/by/address", progress=False)
    place = tree.attrs["artifact_path"]
    assert place.startswith("s3://results/by/address/2")
    np.testing.assert_array_equal(aimz.open(place)["posterior_predictive"]["y"].values, expected)
    assert aimz.verify(place) == []


def test_credentials_are_in_nothing_that_is_kept(stored):
    storage, tree = stored
    texts = [str(group.attrs) for group in tree.subtree] + [
        repr(tree),
        repr(inside(storage, "")),
    ]
    kept = [bytes(obstore.get(storage, key).bytes()) for key in all_keys(storage)]
    for secret in (KEY, SECRET):
        assert not any(secret in text for text in texts)
        assert not any(secret.encode() in raw for raw in kept)


@pytest.mark.parametrize(
    "address",
    [
        f"s3://{KEY}:{SECRET}@bucket/x",
        f"s3://{SECRET}@bucket/x",
        f"az://place/x?sig={SECRET}",
        f"s3://bucket/x#{SECRET}",
        f"ftp://me:{SECRET}@host/x",
    ],
)
def test_an_address_with_credentials_is_refused_without_a_word_of_them(X, address):
    with pytest.raises(InputError) as caught:
        make_model().predict(X[:5], output_dir=address, progress=False)
    assert caught.value.code == "output-dir"
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_place_that_does_not_answer_is_named(X):
    storage = storage_at("http://127.0.0.1:9", "here", retries=0)
    with pytest.raises(StoreError, match="s3://results/here cannot be") as caught:
        make_model().predict(X[:5], output_dir=storage, progress=False)
    assert caught.value.code == "store-unreachable"
    assert SECRET not in str(caught.value)


def test_without_obstore_the_way_is_named(X, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "obstore" else real(n, *a)
    )
    with pytest.raises(InputError, match=r"aimz\[s3\]") as caught:
        make_model().predict(X[:5], output_dir="s3://bucket/x", progress=False)
    assert caught.value.code == "obstore-missing"


# ----------------------------------------------------------------------------- a bad network

FAULTS: dict[str, Any] = {
    "500": lambda number, *_: 500 if number % 5 == 0 else None,
    "503": lambda number, *_: 503 if number % 4 == 1 else None,
    "429": lambda number, *_: 429 if number % 7 == 0 else None,
    "reset": lambda number, *_: "reset" if number % 6 == 2 else None,
    "lost": lambda number, method, _: "lost" if method == "PUT" and number % 3 == 0 else None,
    "slow": lambda number, *_: 0.1 if number % 10 == 0 else None,
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_network_changes_nothing(server, X, expected, fault):
    prefix = uuid.uuid4().hex
    with Door(server, FAULTS[fault]) as door:
        storage = storage_at(door.address, prefix)
        tree = make_model().predict(X, output_dir=storage, progress=False)
        values = tree["posterior_predictive"]["y"].values
    np.testing.assert_array_equal(values, expected)
    assert door.faults > 3
    assert aimz.verify(tree.attrs["artifact_path"], storage=storage_at(server, prefix)) == []


def test_the_answer_to_the_last_request_may_be_lost(server, X, expected):
    """The root is there although nobody was told: that is no other writer."""

    def fault(_, method, path):
        is_root = method == "PUT" and path.partition("?")[0].endswith("_predict/zarr.json")
        lost.extend([path] * is_root)
        return "lost" if is_root and len(lost) == 1 else None

    lost: list[str] = []
    with Door(server, fault) as door:
        tree = make_model().predict(
            X, output_dir=storage_at(door.address, uuid.uuid4().hex), progress=False
        )
        np.testing.assert_array_equal(tree["posterior_predictive"]["y"].values, expected)
    assert len(lost) == 2


def test_a_server_that_stays_away_leaves_a_part_to_go_on_with(server, X, expected, monkeypatch):
    monkeypatch.setattr(object_sink, "RECORD_SECONDS", 0.0)
    prefix, down = uuid.uuid4().hex, threading.Event()

    def fault(_, method, path):
        if "/y/c/0/0/3" in path:
            down.set()
        return 500 if down.is_set() else None

    with (
        Door(server, fault) as door,
        pytest.raises(StoreError, match="cannot be written") as caught,
    ):
        make_model().predict(
            X, output_dir=storage_at(door.address, prefix, retries=1), progress=False
        )
    assert caught.value.code == "store-unreachable"
    storage = storage_at(server, prefix)
    written, real = [], ObjectSink.write

    def noted(sink, tile, values):
        written.append(tile.number)
        real(sink, tile, values)

    monkeypatch.setattr(ObjectSink, "write", noted)
    tree = make_model().predict(X, output_dir=storage, progress=False)
    np.testing.assert_array_equal(tree["posterior_predictive"]["y"].values, expected)
    assert 0 < len(written) < TILES


SCRIPT = """
import sys, time
from aimz.store import ObjectSink, object_sink
from tests.support.s3_servers import storage_at
from tests.support.store_worker import make_model, make_rows
object_sink.RECORD_SECONDS = 0.02
write = ObjectSink.write
def slowly(sink, tile, values):
    write(sink, tile, values)
    print("tile", flush=True)
    time.sleep(0.05)
ObjectSink.write = slowly
model, X = make_model(), make_rows()
print("ready", flush=True)
sys.stdin.readline()
model.predict(X, output_dir=storage_at(*sys.argv[1:]), progress=False)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(10))
def test_kills_change_nothing(seed, server, X, expected):
    prefix = uuid.uuid4().hex
    command = [sys.executable, "-c", SCRIPT, server, prefix]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()
    rng = random.Random(seed)
    for _ in itertools.repeat(None, rng.randrange(TILES)):
        process.stdout.readline()
    time.sleep(rng.uniform(0, 0.08))
    process.kill()
    process.communicate()
    storage = storage_at(server, prefix)
    tree = make_model().predict(X, output_dir=storage, progress=False)
    np.testing.assert_array_equal(tree["posterior_predictive"]["y"].values, expected)
    assert aimz.verify(tree.attrs["artifact_path"], storage=storage) == []
