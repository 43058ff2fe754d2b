"""Results in a session of Icechunk: there when the last tile is, and committed by the user."""

import importlib
import os
import pickle
from typing import Any

import numpy as np
import pytest
import xarray as xr

import aimz
from aimz import InputError, StoreError
from aimz.store import SessionSink
from aimz.testing import SinkContract
from tests.store.test_sink import assert_equal, labels, serial, tile_of, values_of, variables
from tests.support.store_worker import batches, make_model, make_rows

os.environ.setdefault("ICECHUNK_LOG", "error")  # that a folder is no bucket is said on stderr
icechunk: Any = pytest.importorskip("icechunk")


def made(path) -> Any:
    """A repository in a folder, which other processes see."""
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))


@pytest.fixture
def repository(tmp_path):
    return made(tmp_path)


@pytest.fixture
def session(repository):
    return repository.writable_session("main")


def names(session) -> set[str]:
    """Everything that a session holds."""
    sync = importlib.import_module("zarr.core.sync")

    async def keys() -> set[str]:
        return {key async for key in session.store.list()}

    found: set[str] = sync.sync(keys())
    return found


class TestSessions(SinkContract):
    @pytest.fixture(autouse=True)
    def _session(self, session):
        self.session = session

    def make_sink(self):
        return SessionSink(self.session, "predict")


@pytest.mark.parametrize("grows", [False, True])
def test_tiles_that_others_write_come_back_with_their_forks(session, grows):
    """Each is written twice, as where a worker is lost after it has written."""
    sink = SessionSink(session, "predict")
    sink.begin(variables(grows=grows))
    writer = pickle.loads(pickle.dumps(sink.writer()))
    assert (writer is None) == grows  # of rows whose number is not known
    for number in (3, 1, 0, 2):
        tile, values = tile_of(number, 0), values_of(number, 0)
        if writer is None:
            sink.write(tile, values)
            continue
        writer.write(tile, values_of(number, 1))
        sink.written(tile, pickle.loads(pickle.dumps(writer.write(tile, values))))
    assert not session.has_uncommitted_changes
    tree = sink.commit(labels(14), {}, 14)
    found = {name: tree["g"].to_dataset()[name].to_numpy() for name in "fbn"}
    assert_equal(found, serial(dict.fromkeys(range(4), 0), 4))


def test_a_call_that_ends_before_leaves_the_session_as_it_was(session, monkeypatch):
    im, X = make_model(), make_rows()
    im.predict(X[:50], output_dir=session, progress=False)
    before = names(session)
    assert before
    with monkeypatch.context() as patched:

        def stopped(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(SessionSink, "commit", stopped)
        with pytest.raises(KeyboardInterrupt) as caught:
            im.predict(X, output_dir=session, progress=False)
    assert names(session) == before
    assert not getattr(caught.value, "__notes__", ())  # nothing is kept to go on with


def test_every_method_has_the_bits_of_memory_and_the_user_commits(repository, session):
    im, X = make_model(), make_rows()
    y = np.zeros(len(X), np.float32)
    calls = {
        "predict": lambda **to: im.predict(X, rng_key=1, progress=False, **to),
        "streamed": lambda **to: im.predict(batches(X), rng_key=1, progress=False, **to),
        "prior": lambda **to: im.sample_prior_predictive(
            X, num_samples=3, rng_key=1, progress=False, **to
        ),
        "density": lambda **to: im.log_likelihood(X, y, progress=False, **to),
    }
    paths = {}
    for name, call in calls.items():
        tree, expected = call(output_dir=session), call(store="memory")
        assert_same(tree, expected)
        paths[name] = tree.attrs["artifact_path"], expected
        assert tree.attrs["artifact_path"].startswith("icechunk://")
    assert names(repository.readonly_session("main")) == set()
    session.commit("four results")
    seen = repository.readonly_session("main")
    for path, expected in paths.values():
        assert_same(aimz.open(path, storage=seen), expected)
        assert_same(aimz.open(path, storage=session.store), expected)
        assert aimz.verify(path, storage=seen) == []
    path, expected = paths["predict"]
    group = f"{path.removeprefix('icechunk://')}/posterior_predictive"
    plain = xr.open_zarr(seen.store, group=group, chunks=None, consolidated=False)
    np.testing.assert_array_equal(plain["y"], expected["posterior_predictive"]["y"])


def assert_same(tree, expected) -> None:
    assert {*tree.children} == {*expected.children}
    for name, group in expected.children.items():
        for key in group.data_vars:
            np.testing.assert_array_equal(tree[name][key].values, group[key].values, strict=True)


def test_results_of_one_session_stand_side_by_side_and_go_with_its_changes(session):
    im, X = make_model(), make_rows()
    one, other = (im.predict(X, output_dir=session, progress=False) for _ in range(2))
    assert one.attrs["artifact_path"] != other.attrs["artifact_path"]
    session.discard_changes()
    with pytest.raises(StoreError) as caught:
        other["posterior_predictive"]["y"].to_numpy()
    assert caught.value.code == "store-missing"
    with pytest.raises(StoreError) as caught:
        aimz.open(one.attrs["artifact_path"], storage=session)
    assert caught.value.code == "store-missing"


def test_what_is_no_writable_session_is_refused(repository):
    im, X = make_model(), make_rows()
    for given in (repository, repository.readonly_session("main")):
        with pytest.raises(InputError, match=r"writable_session\('main'\)") as caught:
            im.predict(X, output_dir=given, progress=False)
        assert caught.value.code == "output-dir"


def test_a_session_that_is_committed_meanwhile_takes_nothing(session, monkeypatch):
    im, X = make_model(), make_rows()
    im.predict(X[:50], output_dir=session, progress=False)
    begin = SessionSink.begin

    def committed(self, *given):
        begin(self, *given)
        session.commit("too early")

    monkeypatch.setattr(SessionSink, "begin", committed)
    with pytest.raises(StoreError, match="must be writable") as caught:
        im.predict(X, output_dir=session, progress=False)
    assert caught.value.code == "store-unreachable"
