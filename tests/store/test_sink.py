"""The Zarr sink alone: any order of writes, crashes and resumed runs equals a serial write."""

import contextlib
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

import aimz
from aimz import StoreError
from aimz.store import Tile, Variable, ZarrSink, chunks, zarr_sink

SIZE, CHAINS, DRAWS = 4, 1, 2
ROWS = 14  # three whole tiles and a part of one
NUMBERS, VERSIONS = range(4), range(2)
IDENTITY = {"kernel": "linear", "posterior": "one"}


def variables(*, grows: bool = False) -> tuple[Variable, ...]:
    """A float and a truth value for each draw and row, and a count for each draw."""
    rows = 0 if grows else ROWS
    by_row = {"f": ("float32", "float32"), "b": ("int32", "bool")}
    made = [
        Variable(
            group="g",
            name=name,
            site=name,
            dims=("chain", "draw", "obs"),
            shape=(CHAINS, DRAWS, rows),
            chunks=(CHAINS, DRAWS, SIZE),
            dtype=np.dtype(dtype),
            stored=np.dtype(stored),
            row_axis=2,
        )
        for name, (dtype, stored) in by_row.items()
    ]
    shape, whole = (CHAINS, DRAWS), np.dtype("int32")
    made.append(Variable("g", "n", "n", ("chain", "draw"), shape, shape, whole, whole, None))
    return tuple(made)


def tile_of(number: int, version: int) -> Tile:
    rows = slice(number * SIZE, min((number + 1) * SIZE, ROWS))
    return Tile(number, rows, slice(0, CHAINS), slice(0, DRAWS), f"version {version}")


def values_of(number: int, version: int) -> dict[tuple[str, str], np.ndarray]:
    tile = tile_of(number, version)
    rng = np.random.default_rng([number, version])
    shape = (CHAINS, DRAWS, tile.rows.stop - tile.rows.start)
    return {
        ("g", "f"): rng.normal(size=shape).astype(np.float32),
        ("g", "b"): rng.integers(0, 2, shape).astype(np.int32),
        ("g", "n"): np.full((CHAINS, DRAWS), 7, np.int32),
    }


def serial(versions: dict[int, int], count: int) -> dict[str, np.ndarray]:
    """What a run without any accident holds."""
    parts = [values_of(number, versions[number]) for number in range(count)]
    whole = {name: np.concatenate([part["g", name] for part in parts], axis=2) for name in "fb"}
    return whole | {"n": parts[0]["g", "n"]}


def labels(rows: int) -> dict[str, xr.Dataset]:
    sizes = {"chain": CHAINS, "draw": DRAWS, "obs": rows}
    return {"g": xr.Dataset(coords={name: np.arange(size) for name, size in sizes.items()})}


def rows_of(count: int) -> int:
    return min(count * SIZE, ROWS)


class Torn(dict[tuple[str, str], np.ndarray]):
    """Values whose first array can be written and whose others cannot."""

    def items(self):
        yield next(iter(super().items()))
        raise OSError(28, "No space left on device")


class TornGroups(dict[str, xr.Dataset]):
    """Labels that cannot be written."""

    def items(self):
        raise OSError(28, "No space left on device")


def crash(sink: ZarrSink) -> None:
    """End as a killed process does: the lock goes, and nothing else happens."""
    sink._release()


def begun(directory: Path, *, grows: bool = False, identity: Any = None) -> ZarrSink:
    sink = ZarrSink(directory, "predict", IDENTITY if identity is None else identity)
    sink.begin(variables(grows=grows))
    return sink


def write(sink: ZarrSink, number: int, version: int = 0) -> None:
    sink.write(tile_of(number, version), values_of(number, version))


def finish(sink: ZarrSink, versions: dict[int, int], count: int) -> dict[str, np.ndarray]:
    """Write what the sink does not have, commit, and read the result."""
    for number in range(count):
        if not sink.has(tile_of(number, versions[number])):
            write(sink, number, versions[number])
    tree = sink.commit(labels(rows_of(count)), {}, rows_of(count))
    assert aimz.verify(tree.attrs["artifact_path"]) == []
    return {name: tree["g"].to_dataset()[name].to_numpy() for name in "fbn"}


def assert_equal(actual: dict[str, np.ndarray], desired: dict[str, np.ndarray]) -> None:
    for name, values in desired.items():
        np.testing.assert_array_equal(actual[name], values, err_msg=name, strict=True)


ENDS = st.sampled_from([crash, ZarrSink.abort])


class StoreMachine(RuleBasedStateMachine):
    """One call after another in one directory; `truth` knows what each tile's chunks hold."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="aimz-test-"))
        self.truth: dict[int, int | None] = {}
        self.results: dict[Path, dict[str, np.ndarray]] = {}
        self.harmed: set[Path] = set()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(zarr_sink, "RECORD_SECONDS", 1e9)
        self.patch.setattr(chunks, "FIRST_TILES", 1)

    @initialize(grows=st.booleans())
    def begin(self, grows):
        self.grows = grows
        self.sink = begun(self.directory, grows=grows)

    @rule(number=st.sampled_from(NUMBERS), version=st.sampled_from(VERSIONS))
    def write(self, number, version):
        write(self.sink, number, version)
        self.truth[number] = version

    @rule(number=st.sampled_from(NUMBERS), version=st.sampled_from(VERSIONS), end=ENDS)
    def tear(self, number, version, end):
        with pytest.raises(OSError, match="No space"):
            self.sink.write(tile_of(number, version), Torn(values_of(number, version)))
        if self.truth.get(number) != version:
            self.truth[number] = None
        self.stop(end)

    @rule()
    def flush(self):
        self.sink._record()

    @rule(end=ENDS)
    def stop(self, end):
        end(self.sink)
        self.sink = begun(self.directory, grows=self.grows)

    @rule(count=st.sampled_from([1, 2, 4]), end=ENDS)
    def stop_in_commit(self, count, end):
        rows = rows_of(count if self.grows else 4)
        with pytest.raises(OSError, match="No space"):
            self.sink.commit(TornGroups(), {}, rows)
        for number in NUMBERS:
            if number * SIZE >= rows:
                self.truth[number] = None  # cut off
        self.stop(end)

    @rule(number=st.sampled_from(NUMBERS), name=st.sampled_from("fb"), flip=st.booleans())
    def harm(self, number, name, flip):
        for path in self.directory.glob(f"*.incomplete/g/{name}/c/0/0/{number}"):
            if flip:
                path.write_bytes(b"\xff" * path.stat().st_size)
            else:
                path.unlink()
            self.truth[number] = None

    @rule(
        versions=st.lists(st.sampled_from(VERSIONS), min_size=4, max_size=4),
        count=st.sampled_from([1, 2, 4]),
    )
    def commit(self, versions, count):
        self.finish(self.sink, versions, count)
        assert not list(self.directory.glob("*.incomplete"))
        self.truth = {}
        self.sink = begun(self.directory, grows=self.grows)

    @rule(
        versions=st.lists(st.sampled_from(VERSIONS), min_size=4, max_size=4),
        count=st.sampled_from([1, 2, 4]),
    )
    def another_writer_commits(self, versions, count):
        other = begun(self.directory, grows=self.grows)
        assert not other.resumed
        assert other._path != self.sink._path
        self.finish(other, versions, count)

    @rule(number=st.sampled_from(NUMBERS), name=st.sampled_from("fb"), flip=st.booleans())
    def harm_a_result(self, number, name, flip):
        for result in self.results:
            for path in result.glob(f"g/{name}/c/0/0/{number}"):
                if flip:
                    path.write_bytes(b"\xff" * path.stat().st_size)
                else:
                    path.unlink()
                self.harmed.add(result)

    @rule()
    def open_again(self):
        for path, expected in self.results.items():
            if path not in self.harmed:
                assert aimz.verify(path) == []
                tree = aimz.open(path)["g"].to_dataset()
                assert_equal({name: tree[name].to_numpy() for name in "fbn"}, expected)
                continue
            assert aimz.verify(path)
            with pytest.raises(StoreError):
                aimz.open(path)["g"].to_dataset().load()

    def finish(self, sink, versions, count):
        count = count if self.grows else 4
        chosen = dict(enumerate(versions))
        expected = serial(chosen, count)
        assert_equal(finish(sink, chosen, count), expected)
        self.results[sink._final] = expected

    @invariant()
    def no_tile_is_there_that_was_not_written(self):
        for number in NUMBERS:
            for version in VERSIONS:
                if self.sink.has(tile_of(number, version)):
                    assert self.truth.get(number) == version

    def teardown(self):
        if hasattr(self, "sink"):
            crash(self.sink)
        self.patch.undo()
        shutil.rmtree(self.directory)


FAST = settings(
    max_examples=12,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = FAST


class LongStoreMachine(StoreMachine):
    """The same, for longer."""


TestLongStoreMachine = pytest.mark.slow(LongStoreMachine.TestCase)
TestLongStoreMachine.settings = settings(
    FAST, max_examples=150, stateful_step_count=25, derandomize=False, phases=list(Phase)
)


def test_a_tile_written_over_and_not_recorded_is_not_taken_for_the_earlier_one(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(zarr_sink, "RECORD_SECONDS", 1e9)
    first = begun(tmp_path)
    write(first, 0, version=0)
    first.abort()  # records tile 0 of version 0
    second = begun(tmp_path)
    write(second, 0, version=1)
    crash(second)  # before it records that
    assert not begun(tmp_path).has(tile_of(0, 0))


def test_a_tile_that_is_half_written_over_is_not_taken_for_the_earlier_one(tmp_path):
    sink = begun(tmp_path)
    write(sink, 0, version=0)
    with pytest.raises(OSError, match="No space"):
        sink.write(tile_of(0, 1), Torn(values_of(0, 1)))
    sink.abort()
    assert not begun(tmp_path).has(tile_of(0, 0))


def test_a_tile_that_a_shorter_run_has_cut_off_is_not_there(tmp_path):
    sink = begun(tmp_path, grows=True)
    for number in NUMBERS:
        write(sink, number)
    with pytest.raises(OSError, match="No space"):
        sink.commit(TornGroups(), {}, rows_of(2))
    sink.abort()
    assert not begun(tmp_path, grows=True).has(tile_of(2, 0))


def test_tiles_survive_that_they_are_written_in_any_order(tmp_path):
    sink = begun(tmp_path, grows=True)
    for number in (3, 1, 0, 2, 1):
        write(sink, number)
    versions = dict.fromkeys(NUMBERS, 0)
    assert_equal(finish(sink, versions, 4), serial(versions, 4))


def test_more_tiles_than_were_foreseen_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "FIRST_TILES", 1)
    sink = begun(tmp_path, grows=True)
    lanes = [threading.Thread(target=write, args=(sink, number)) for number in NUMBERS]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    versions = dict.fromkeys(NUMBERS, 0)
    assert_equal(finish(sink, versions, 4), serial(versions, 4))


def test_a_store_that_is_written_is_not_taken_over(tmp_path):
    first = begun(tmp_path)
    write(first, 0)
    first._record()
    second = begun(tmp_path)
    assert not second.resumed
    assert second._path != first._path
    for sink in (first, second):
        sink.abort()


def test_a_store_without_an_identity_is_never_resumed(tmp_path):
    first = begun(tmp_path, identity={})
    write(first, 0)
    first._record()
    crash(first)
    second = begun(tmp_path, identity={})
    assert not second.resumed
    second.abort()


def test_the_newest_unfinished_store_is_taken_up(tmp_path):
    paths = []
    for number in (0, 1):
        other = begun(tmp_path, identity={"kernel": str(number)})
        write(other, number)
        crash_path = other._path
        other.identity = IDENTITY
        other._record()
        crash(other)
        paths.append(crash_path)
    sink = begun(tmp_path)
    assert sink._path == max(paths)
    sink.abort()


def test_a_newborn_store_of_another_writer_is_no_unfinished_result(tmp_path, monkeypatch):
    """Another writer may look into a directory between its making and its locking."""
    hold, others = zarr_sink.hold, []

    def late(path):
        if not others:
            others.append(None)
            others[0] = begun(tmp_path)
        return hold(path)

    monkeypatch.setattr(zarr_sink, "hold", late)
    sink = begun(tmp_path)
    assert [note.code for each in (sink, others[0]) for note in each.notes] == []
    for each in (sink, others[0]):
        each.abort()


def test_looking_into_a_newborn_store_does_not_stop_its_writer(tmp_path, monkeypatch):
    """Another writer may hold a directory for a moment, to see what it is."""
    hold, look = zarr_sink.hold, zarr_sink.manifest_of
    made, seen = threading.Event(), threading.Event()

    def hold_late(path):
        if threading.current_thread() is not threading.main_thread() and not made.is_set():
            made.set()  # the newborn directory is there
            seen.wait(5)  # and another writer holds it
        return hold(path)

    def look_slowly(path):
        seen.set()
        lane.join(0.5)  # the writer goes on while this one is looking
        return look(path)

    failures, sinks = [], []

    def begin_in_lane():
        try:
            sinks.append(begun(tmp_path))
        except aimz.StoreError as error:
            failures.append(error)

    monkeypatch.setattr(zarr_sink, "hold", hold_late)
    monkeypatch.setattr(zarr_sink, "manifest_of", look_slowly)
    lane = threading.Thread(target=begin_in_lane)
    lane.start()
    made.wait(5)
    sinks.append(begun(tmp_path))
    seen.set()
    lane.join()
    assert failures == []
    for sink in sinks:
        sink.abort()


@pytest.mark.slow
def test_many_writers_that_begin_at_once_get_stores_of_their_own(tmp_path):
    start, failures, sinks = threading.Barrier(8), [], []

    def begin():
        start.wait()
        try:
            sinks.append(begun(tmp_path))
        except BaseException as error:  # noqa: BLE001  # shown below
            failures.append(error)

    for _ in range(10):
        lanes = [threading.Thread(target=begin) for _ in range(8)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
    assert failures == []
    assert len({sink._path for sink in sinks}) == 80
    assert [note.code for sink in sinks for note in sink.notes] == []
    for sink in sinks:
        with contextlib.suppress(OSError):
            sink.abort()
