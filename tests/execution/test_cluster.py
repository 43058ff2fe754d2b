"""A cluster of processes gives the bits of one machine, whatever happens to its workers."""

import importlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dask.array as da
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import zarr
from distributed import Client, LocalCluster
from numpyro.contrib.control_flow import scan

import aimz
from aimz import ImpactModel, InputError
from aimz.data import RowTile
from aimz.errors import ProcessError
from aimz.execution import Plan, cluster, tiles
from aimz.store import SessionSink, Tile, ZarrSink, zarr_sink
from tests.support.engines import ByHand
from tests.support.tiers import Optimising

ROWS, DRAWS = 6000, 12
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 2)).astype(np.float32)
T = (RNG.uniform(size=ROWS) < 0.5).astype(np.float32)
GROUP = RNG.integers(0, 3, ROWS)
IN_MEMORY: dict[str, Any] = {"store": "memory", "progress": False, "rng_key": 7}


def linear(X, t, y=None):
    w = numpyro.sample("w", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        mu = numpyro.deterministic("mu", X @ w + t)
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def logistic(X, t, y=None):
    w = numpyro.sample("w", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=X @ w + t), obs=y)


def poisson(X, t, y=None):
    w = numpyro.sample("w", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Poisson(jnp.exp(0.1 * (X @ w) + t)), obs=y)


def row_latents(X, t, y=None):
    w = numpyro.sample("w", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(X @ w + t + z, 1.0), obs=y)


def mediated(X, t, y=None):
    w = numpyro.sample("w", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        m = numpyro.sample("m", dist.Normal(t + X[:, 0], 1.0))
        numpyro.sample("y", dist.Normal(m + X @ w, 1.0), obs=y)


def chained(X, t, y=None):
    w = numpyro.sample("w", dist.Normal().expand([2]).to_event(1))

    def step(level, now):
        level = 0.5 * level + now
        return level, numpyro.deterministic("level", level)

    _, level = scan(step, 0.0, X[:, 0])
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(level + w[0] + t, 1.0), obs=y)


KERNELS = (linear, logistic, poisson, row_latents, mediated, chained)


def model_of(kernel) -> ImpactModel:
    w = np.random.default_rng(1).normal(size=(DRAWS, 2)).astype(np.float32)
    return ImpactModel(kernel).set_posterior_sample({"w": w})


@pytest.fixture(scope="module")
def workers() -> Iterator[LocalCluster]:
    """Two, of a thread each; for the fast tests one of two threads, which compiles once."""
    number = 1 if Optimising.fast() else 2
    with LocalCluster(
        n_workers=number, threads_per_worker=2 // number, processes=True, dashboard_address=":0"
    ) as made:
        yield made


@pytest.fixture
def client(workers, monkeypatch) -> Iterator[Client]:
    """An active client; tasks are small, so that there are many."""
    monkeypatch.setattr(cluster, "MOST_TILES", 2)
    with Client(workers) as active:
        yield active


@pytest.fixture
def sent(monkeypatch) -> list[int]:
    """Numbers of the first tiles of what is sent."""
    numbers: list[int] = []
    real = cluster.Cluster.results

    def noted(self, run):
        numbers.append(run[0][1].number)
        return real(self, run)

    monkeypatch.setattr(cluster.Cluster, "results", noted)
    return numbers


def predicted(im, inputs=None) -> dict[str, np.ndarray]:
    tree = im.predict(**(inputs or {"X": X, "t": T}), **IN_MEMORY)
    return {name: v.to_numpy() for name, v in tree["posterior_predictive"].items()}


def here(ask) -> Any:
    """An answer that was computed in this process."""
    with aimz.set_options(cluster=False):
        return ask()


def assert_same(one, other) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name, strict=True)


# A kernel whose rows interact has tiles of draws, and is asked for more of them.
@pytest.mark.filterwarnings("ignore::aimz.PerformanceWarning")
@pytest.mark.parametrize(
    "kernel", [linear, logistic, pytest.param(chained, marks=pytest.mark.slow)]
)
def test_predictions_are_those_of_one_machine(client, sent, kernel):
    im = model_of(kernel)
    if kernel is chained:
        im.set_posterior_sample({"w": np.tile(np.asarray(im.posterior["w"]), (60, 1))})
    expected = here(lambda: predicted(im))
    assert not sent
    assert_same(predicted(im), expected)
    assert len(sent) > 1


ASKED: dict[str, dict[str, Any]] = {
    "all": {},
    "weights": {"weights": RNG.uniform(size=ROWS)},
    "groups": {"estimand": "cate", "by": GROUP},
    "population": {"population": "superpopulation"},
    "expectation": {"target": "expectation"},
    "rows": {"row_summary": True},
    "counterfactual": {"rung": "counterfactual"},
}


def effect_of(im, options, inputs=None) -> dict[str, np.ndarray]:
    given = dict(inputs or {"X": X, "t": T})
    if "rung" in options:
        given["y"] = T + X[:, 0]
    asked = {**given, **options, "progress": False, "rng_key": 3}
    effect = im.effect(baseline={"t": 0.0}, intervention={"t": 1.0}, **asked)
    found = {"draws": effect.draws.to_numpy()}
    if effect.row_summary is not None:
        found |= {str(name): v.to_numpy() for name, v in effect.row_summary.items()}
    return found


@pytest.mark.parametrize("options", ASKED.values(), ids=ASKED.keys())
def test_effects_are_those_of_one_machine(client, sent, options):
    im = model_of(linear)
    expected = here(lambda: effect_of(im, options))
    assert_same(effect_of(im, options), expected)
    assert len(sent) > 1


def test_densities_and_scores_are_those_of_one_machine(client, sent):
    im, y = model_of(linear), T + X[:, 0]

    def ask():
        tree = im.log_likelihood(X, y, t=T, store="memory", progress=False)
        values = {"density": tree["log_likelihood"]["y"].to_numpy()}
        return values | {"score": np.asarray(im.score(X, y, t=T))}

    expected = here(ask)
    assert_same(ask(), expected)
    assert len(sent) > 2


def lazily(kind: str, path, rows=X, t=T, **columns) -> dict[str, Any]:
    """Rows that are read by the piece, in files where they are not dask's."""
    if kind == "dask":
        return {"X": da.from_array(rows, chunks=(1500, 2)), "t": t}
    if kind == "parquet":
        frame = pd.DataFrame({"a": rows[:, 0], "b": rows[:, 1], "t": t, **columns})
        frame.to_parquet(path / "rows.parquet", row_group_size=700)
        return {"X": str(path / "rows.parquet"), "t": "t"}
    if kind == "memory map":
        rows.tofile(path / "rows")
        return {"X": np.memmap(path / "rows", np.float32, "r", shape=rows.shape), "t": t}
    array = zarr.create_array(str(path / "X"), shape=rows.shape, chunks=(1000, 2), dtype="float32")
    array[:] = rows
    return {"X": array, "t": t}


@pytest.fixture
def told(monkeypatch) -> list[bool]:
    """Whether each task was told where its rows are, and not given them."""
    noted: list[bool] = []
    real = cluster.Cluster._computed

    def computed(self, run, away):
        noted.append(away is not None and bool(away.parts or away.lazy))
        return real(self, run, away)

    monkeypatch.setattr(cluster.Cluster, "_computed", computed)
    return noted


@pytest.mark.parametrize("kind", ["dask", "zarr", "memory map", "parquet"])
def test_workers_read_rows_by_themselves_and_the_bits_are_the_same(client, told, kind, tmp_path):
    im, inputs = model_of(linear), lazily(kind, tmp_path)
    expected = here(lambda: predicted(im))
    assert_same(predicted(im, inputs), expected)
    assert len(told) > 1
    assert all(told)


def test_outcomes_and_overlap_of_rows_that_workers_read_are_those_of_one_machine(
    client, told, tmp_path
):
    y = T + X[:, 0]
    im = ImpactModel(linear, rng_key=0, inference=ByHand(w=np.ones((DRAWS, 2))))
    im.fit(X[:2000] / 2, y[:2000], t=T[:2000], progress=False)
    inputs = lazily("parquet", tmp_path, y=y) | {"y": "y", "in_sample": False}
    change: dict[str, Any] = {"baseline": {"t": 0.0}, "intervention": {"t": 1.0}, "rng_key": 3}

    def ask():
        tree = im.predict(**inputs, **IN_MEMORY)
        values = {group: tree[group]["y"].to_numpy() for group in ("predictions", "observed_data")}
        effect = im.effect(**inputs, **change, progress=False)
        assert effect.support is not None
        outside = effect.support["outside"].to_numpy()
        assert 0 < outside.sum() < outside.size
        return values | {"outside": outside, "effect": effect.draws.to_numpy()}

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Scenario", aimz.OutputWarning)
        expected = here(ask)
        assert_same(ask(), expected)
    assert all(told)
    assert told


@pytest.mark.parametrize("kind", ["zarr", "parquet"])
def test_rows_that_a_worker_does_not_see_are_sent_to_it_and_that_is_said_once(
    client, told, kind, tmp_path
):
    im, inputs = model_of(linear), lazily(kind, tmp_path)
    expected = here(lambda: predicted(im))

    def see(stamp: int) -> None:  # as of a file of another machine
        from aimz.data import elsewhere
        from aimz.model import files

        for module in (elsewhere, files):
            if not hasattr(module, "_real"):
                module._real = module._stamp_of
            module._stamp_of = (lambda *_: ((0, stamp),)) if stamp else module._real

    client.run(see, 1)
    try:
        with pytest.warns(aimz.OutputWarning, match=r"tcp://.* sends them") as caught:
            assert_same(predicted(im, inputs), expected)
    finally:
        client.run(see, 0)
    assert len(caught) == 1
    assert sorted(set(told)) == [False, True]


def test_rows_that_change_during_a_call_are_refused(client, tmp_path, monkeypatch):
    im, inputs = model_of(linear), lazily("parquet", tmp_path)
    real = cluster.Cluster.results

    def touched(self, run):
        os.utime(inputs["X"], ns=(1, 1))
        return real(self, run)

    monkeypatch.setattr(cluster.Cluster, "results", touched)
    with pytest.raises(InputError, match=r"rows\.parquet has changed") as caught:
        predicted(im, inputs)
    assert caught.value.code == "rows-changed"


def test_rows_that_are_others_for_other_draws_are_refused():
    """Two tiles of the same rows, whose digests differ: of a random array without a seed, say."""
    plan = Plan(rows=20, chains=1, draws=4, tile_rows=20, tile_draws=2, whole=False)
    rows = RowTile(slice(0, 20), {})
    answers = iter("ab")
    kept: list[str] = []
    made: Any = SimpleNamespace(
        source=object(), results=lambda run: [(next(answers), None)] * len(run)
    )
    work = tiles._sent_to(made, plan, lambda row, tile, values: kept.append(tile.digest), None)
    one, two = plan.tiles(rows)
    work([(rows, one)], 0)
    with pytest.raises(InputError, match="Rows 0 to 19 were read twice") as caught:
        work([(rows, two)], 0)
    assert caught.value.code == "rows-changed"
    assert kept == ["a"]


def test_a_value_that_is_not_finite_is_named_as_on_one_machine(client, told, tmp_path):
    rows = X.copy()
    rows[4500, 1] = np.nan
    im, inputs = model_of(linear), lazily("memory map", tmp_path, rows)
    messages = []
    for run in (predicted, lambda *given: here(lambda: predicted(*given))):
        with pytest.raises(InputError, match="in row 4500") as caught:
            run(im, inputs)
        messages.append((str(caught.value), caught.value.code))
    assert messages[0] == messages[1]
    assert all(told)


@pytest.mark.parametrize("kind", [pytest.param("zarr", marks=pytest.mark.slow), "parquet"])
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_large_numbers_that_differ_between_tiles_only_are_refused(
    client, told, tmp_path, monkeypatch, kind, dtype
):
    monkeypatch.setattr(importlib.import_module("aimz.data.source"), "READ_BYTES", 1)
    at = (np.arange(20_000) // 10_000 * 1.5 + 1_700_000_001).astype(dtype)
    rows = np.zeros((len(at), 2), np.float32)
    inputs = lazily("parquet", tmp_path, rows, at)
    if kind == "zarr":
        array = zarr.create_array(str(tmp_path / "X"), data=np.stack([at, at], 1), chunks=(1000, 2))
        inputs = {"X": array, "t": np.zeros(len(at), np.float32)}
    for ask in (predicted, lambda *given: here(lambda: predicted(*given))):
        with pytest.raises(InputError) as caught:
            ask(model_of(linear), inputs)
        assert caught.value.code == "cast-precision"
    assert len(told) > 1
    assert all(told)


def test_rows_of_latents_of_the_fit_are_read_in_order_and_compared(client, told, tmp_path):
    z = np.zeros((DRAWS, ROWS), np.float32)
    im = ImpactModel(row_latents, inference=ByHand(w=np.ones((DRAWS, 2)), z=z))
    im.fit(X, T + X[:, 0], t=T, progress=False)
    expected = here(lambda: predicted(im))
    assert_same(predicted(im, lazily("memory map", tmp_path)), expected)
    other = X.copy()
    other[4500] += 1
    with pytest.raises(InputError) as caught:
        predicted(im, lazily("memory map", tmp_path, other))
    assert caught.value.code == "rows-not-fitted"
    assert not any(told)


@pytest.mark.parametrize("kind", ["", "parquet"], ids=["memory", "parquet"])
def test_a_store_on_disk_is_written_and_gone_on_with(
    client, told, kind, tmp_path_factory, monkeypatch
):
    im, tmp_path = model_of(linear), tmp_path_factory.mktemp("results")
    inputs = lazily(kind, tmp_path_factory.mktemp("rows")) if kind else {"X": X, "t": T}
    expected = here(lambda: predicted(im))
    real = cluster.Cluster.results

    def lost(self, run):
        if run[0][1].number >= 4:
            raise ProcessError("The cluster has gone.", code="cluster-lost")
        return real(self, run)

    monkeypatch.setattr(cluster.Cluster, "results", lost)
    options = {**inputs, "rng_key": 7, "output_dir": tmp_path, "progress": False}
    with pytest.raises(ProcessError):
        im.predict(**options)
    assert set(told) == {bool(kind)}
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".incomplete")
    skipped: list[bool] = []
    has = ZarrSink.has

    def noted(self, tile):
        skipped.append(has(self, tile))
        return skipped[-1]

    monkeypatch.setattr(ZarrSink, "has", noted)
    tree = here(lambda: im.predict(**options))  # on any machine
    assert any(skipped)
    np.testing.assert_array_equal(tree["posterior_predictive"]["y"].values, expected["y"])
    assert [path.name.endswith("predict") for path in tmp_path.iterdir()] == [True]


@pytest.mark.parametrize("is_seen", [True, False], ids=["seen", "not seen"])
@pytest.mark.parametrize("kernel", [linear, pytest.param(poisson, marks=pytest.mark.slow)])
def test_workers_write_their_tiles_where_they_see_the_store(
    client, kernel, is_seen, tmp_path, monkeypatch
):
    im = model_of(kernel)
    expected = here(lambda: predicted(im))
    writes: list[int] = []
    write = ZarrSink.write

    def noted(self, tile, values):
        writes.append(tile.number)
        write(self, tile, values)

    def see(folder: str) -> None:
        from aimz.store import elsewhere

        seen: Any = elsewhere.FolderSeen
        seen.is_seen = lambda self: str(self.path).startswith(folder)

    monkeypatch.setattr(ZarrSink, "write", noted)
    client.run(see, str(tmp_path) if is_seen else "nowhere")
    tree = im.predict(X, t=T, rng_key=7, output_dir=tmp_path, progress=False)
    found = {name: v.to_numpy() for name, v in tree["posterior_predictive"].items()}
    assert_same(found, expected)
    assert len(writes) == (0 if is_seen else 6)
    assert aimz.verify(tree.attrs["artifact_path"]) == []


@pytest.mark.parametrize("is_seen", [True, False], ids=["seen", "not seen"])
def test_workers_write_into_forks_of_a_session_where_they_see_its_storage(
    client, is_seen, tmp_path, monkeypatch
):
    icechunk = pytest.importorskip("icechunk")
    storage = icechunk.local_filesystem_storage(str(tmp_path / "repository"))
    session = icechunk.Repository.create(storage).writable_session("main")
    im = model_of(poisson)
    expected = here(lambda: predicted(im))
    taken: list[int] = []
    written = SessionSink.written

    def noted(self, tile, receipt):
        taken.append(tile.number)
        written(self, tile, receipt)

    def see(is_seen) -> None:
        from aimz.store import sessions

        seen: Any = sessions.SessionSeen
        seen.is_seen = (lambda self: self.place.exists()) if is_seen else (lambda self: False)

    monkeypatch.setattr(SessionSink, "written", noted)
    client.run(see, is_seen)
    tree = im.predict(X, t=T, rng_key=7, output_dir=session, progress=False)
    found = {name: v.to_numpy() for name, v in tree["posterior_predictive"].items()}
    assert_same(found, expected)
    assert len(taken) == (6 if is_seen else 0)
    assert aimz.verify(tree.attrs["artifact_path"], storage=session) == []


def test_a_client_may_be_chosen_that_is_not_the_active_one(workers, sent, monkeypatch):
    monkeypatch.setattr(cluster, "MOST_TILES", 2)
    im = model_of(linear)
    expected = here(lambda: predicted(im))
    with Client(workers, set_as_default=False) as chosen:
        assert_same(predicted(im), expected)
        assert not sent
        with aimz.set_options(cluster=chosen):
            assert_same(predicted(im), expected)
            assert sent
            count = len(sent)
            assert_same(here(lambda: predicted(im)), expected)
        assert_same(predicted(im), expected)
        assert len(sent) == count


def test_a_cluster_that_is_none_is_refused():
    with pytest.raises(InputError, match="cluster= is True or False") as caught:
        aimz.set_options(cluster="tcp://scheduler:8786")
    assert caught.value.code == "option-unknown"


@pytest.mark.parametrize(
    ("status", "error"), [("connecting", ProcessError), ("running", AttributeError)]
)
def test_whatever_a_client_says_whose_scheduler_is_gone_the_cluster_is_lost(status, error):
    def scatter(*_: Any, **__: Any) -> None:
        raise AttributeError("'NoneType' object has no attribute 'scatter'")

    gone: Any = SimpleNamespace(
        status=status, scatter=scatter, scheduler_info=lambda **_: {"workers": {}}
    )
    made = cluster.Cluster(gone, lambda *_: None, "predict", 1)
    tile = Tile(4, slice(0, 1), slice(0, 1), slice(0, 1))
    with pytest.raises(error) as caught:
        made.results([(RowTile(slice(0, 1), {}), tile)])
    assert getattr(caught.value, "code", "") in ("cluster-lost", "")


def test_a_fault_in_a_tile_is_the_error_of_one_machine(client, sent):
    def scaled(X, t, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("row", X.shape[0]):
            numpyro.sample("y", dist.Normal(b, t), obs=y)

    im = ImpactModel(scaled).set_posterior_sample({"b": np.zeros(DRAWS, np.float32)})
    scale = np.ones(ROWS, np.float32)
    scale[4500] = -1.0
    messages = []
    for ask in (lambda: predicted(im, {"X": X, "t": scale}),):
        for run in (ask, lambda: here(ask)):  # noqa: B023  # called at once
            with pytest.raises(InputError, match="in row 4500") as caught:
                run()
            messages.append((str(caught.value), caught.value.code))
    assert messages[0] == messages[1]
    assert sent


def test_a_prediction_inside_a_worker_is_computed_there(client):
    def ask() -> tuple[bool, Any]:
        inside = importlib.import_module("aimz.execution.cluster").active_client() is None
        return inside, predicted(model_of(linear))["y"]

    expected = here(lambda: predicted(model_of(linear)))["y"]
    futures = [
        client.submit(ask, key=f"ask-{n}", pure=False) for n in range(4)
    ]  # more than threads
    for is_inside, values in client.gather(futures):
        assert is_inside
        np.testing.assert_array_equal(values, expected)


def test_what_cannot_be_sent_is_refused_by_name(client):
    lock = threading.Lock()

    def locked(X, t, y=None):
        with lock:
            linear(X, t, y)

    im = model_of(locked)
    with pytest.raises(InputError, match="cluster=False") as caught:
        predicted(im)
    assert caught.value.code == "cluster-kernel"
    assert here(lambda: predicted(im))["y"].shape == (1, DRAWS, ROWS)


def test_a_worker_of_other_versions_is_refused(client, monkeypatch):
    real = cluster._environment
    monkeypatch.setattr(cluster, "_environment", lambda: {**real(), "jax": "0.1"})
    with pytest.raises(ProcessError, match=r"jax .* and this process 0\.1") as caught:
        predicted(model_of(linear))
    assert caught.value.code == "cluster-versions"


def test_a_worker_takes_the_memory_of_its_next_tile_from_what_it_has_freed(client):
    """Dask tells its workers to give back what they free: each tile would fault its pages in."""

    def faults() -> int:
        import resource

        from aimz.execution.cluster import _keep_freed_memory

        _keep_freed_memory()
        sizes = [2**20] * 4
        [np.ones(size, np.uint8) for size in sizes]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            [np.ones(size, np.uint8) for size in sizes]
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages = 20 * 4 * 2**20 // 4096
    assert all(found < pages / 4 for found in client.run(faults).values())


def test_what_is_sent_does_not_grow_with_rows_that_are_read_by_the_piece(client, monkeypatch):
    sizes = []
    real = cluster.Cluster.__init__

    def noted(self, *arguments):
        real(self, *arguments)
        sizes.append(len(self._payload))

    monkeypatch.setattr(cluster.Cluster, "__init__", noted)
    for times in (1, 4):
        rows = da.from_array(np.tile(X, (times, 1)), chunks=(1500, 2))
        model_of(linear).effect(rows, {"t": 0.0}, {"t": 1.0}, t=0.0, progress=False, rng_key=3)
    assert sizes[1] < sizes[0] + 1000


def test_a_task_of_sums_is_larger_where_every_thread_has_tasks_ahead(client, sent, monkeypatch):
    monkeypatch.setattr(cluster, "TASK_VALUES", 1)
    monkeypatch.setattr(cluster, "MOST_TILES", 64)
    effect_of(model_of(linear), {})  # 6 tiles and 8 tasks ahead: one each
    assert sorted(sent) == [0, 1, 2, 3, 4, 5]
    sent.clear()
    monkeypatch.setattr(cluster, "_AHEAD", 1)
    effect_of(model_of(linear), {})
    assert sorted(sent) == [0, 3]
    sent.clear()
    effect_of(model_of(linear), {"row_summary": True})  # comes back as values
    assert sorted(sent) == [0, 1, 2, 3, 4, 5]


def test_a_task_of_sums_has_a_few_bytes_of_rows(client, sent, monkeypatch):
    monkeypatch.setattr(cluster, "MOST_TILES", 64)
    monkeypatch.setattr(cluster, "TASK_VALUES", 1)
    monkeypatch.setattr(cluster, "_AHEAD", 1)
    monkeypatch.setattr(cluster, "SUMS_BYTES", 2 * 1024 * 12)
    rows = {"X": da.from_array(np.tile(X, (2, 1)), chunks=(1500, 2)), "t": np.tile(T, 2)}
    effect_of(model_of(linear), {}, rows)  # 12 tiles of 1,024 rows, of 12 bytes each, and 2 threads
    assert sorted(sent) == [0, 2, 4, 6, 8, 10]


def test_a_kernel_that_travels_is_compiled_once_by_a_worker(client):
    def local(X, t, y=None):
        linear(X, 2 * t, y)

    def made() -> int:
        tracing = importlib.import_module("aimz.programs.tracing")
        return int(tracing.num_compiled())

    im = model_of(local)
    first = effect_of(im, {})
    before = client.run(made)
    assert_same(effect_of(im, {}), first)
    assert client.run(made) == before


def test_a_call_of_one_task_stays_here(client, sent, monkeypatch):
    monkeypatch.setattr(cluster, "MOST_TILES", 64)
    predicted(model_of(linear))
    assert not sent


def test_a_double_precision_process_gets_double_precision(client, sent):
    import jax

    wide = {"X": X.astype(np.float64), "t": T.astype(np.float64)}
    with jax.enable_x64(True):
        im = ImpactModel(linear).set_posterior_sample({"w": np.ones((DRAWS, 2))})
        expected = here(lambda: predicted(im, wide))
        assert expected["y"].dtype == np.float64
        assert_same(predicted(im, wide), expected)
    assert sent


# ----------------------------------------------------------------------------- accidents


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_killed_workers_and_late_ones_change_nothing(seed, threads, monkeypatch):
    monkeypatch.setattr(cluster, "MOST_TILES", 1)
    many = {"X": np.tile(X, (40, 1)), "t": np.tile(T, 40)}
    im = model_of(linear)
    expected = predicted(im, many)
    plain = effect_of(im, {})
    rng = np.random.default_rng(seed)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=threads, processes=True, dashboard_address=":0"
        ) as made,
        Client(made) as active,
    ):
        pids = list(active.run(os.getpid).values())
        late = threading.Timer(1.0, lambda: made.scale(3))
        kill = threading.Timer(rng.uniform(0.1, 3.0), lambda: os.kill(pids[0], signal.SIGKILL))
        for timer in (late, kill):
            timer.start()
        assert_same(predicted(im, many), expected)
        while kill.is_alive():
            assert_same(predicted(im, many), expected)
            time.sleep(0.05)
        assert_same(effect_of(im, {}), plain)
        for timer in (late, kill):
            timer.join()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["memory", "parquet"])
def test_a_scheduler_goes_and_another_one_goes_on(kind, tmp_path, monkeypatch):
    """What was finished is kept, and the call on a new cluster computes the others alone."""
    monkeypatch.setattr(cluster, "MOST_TILES", 1)
    monkeypatch.setattr(zarr_sink, "RECORD_SECONDS", 0.0)
    rows, t = np.tile(X, (20, 1)), np.tile(T, 20)
    inputs = {"X": rows, "t": t} if kind == "memory" else lazily(kind, tmp_path, rows, t)
    im = model_of(linear)
    expected = here(lambda: predicted(im, inputs))
    options = {**inputs, "rng_key": 7, "output_dir": tmp_path / "out", "progress": False}
    real, done = cluster.Cluster.results, []
    gone = threading.Event()

    def results(self, run):
        answers = real(self, run)
        done.append(run[0][1].number)
        if len(done) == 20 and not gone.is_set():
            gone.set()
            first.close()
        return answers

    monkeypatch.setattr(cluster.Cluster, "results", results)
    of_workers: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    first = LocalCluster(**of_workers, dashboard_address=":0")
    with Client(first), pytest.raises(ProcessError) as caught:
        im.predict(**options)
    assert caught.value.code == "cluster-lost"
    done.clear()
    with LocalCluster(**of_workers, dashboard_address=":0") as second, Client(second):
        tree = im.predict(**options)
    np.testing.assert_array_equal(tree["posterior_predictive"]["y"].values, expected["y"])
    assert 0 < len(done) < len(t) / 1024
    assert aimz.verify(tree.attrs["artifact_path"]) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::aimz.PerformanceWarning", "ignore::aimz.OutputWarning")
@pytest.mark.parametrize("kind", ["memory", "dask", "zarr", "parquet"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_answer_of_six_kernels_is_that_of_one_machine(client, kernel, kind, tmp_path):
    im = model_of(kernel)
    if kernel is chained:
        im.set_posterior_sample({"w": np.tile(np.asarray(im.posterior["w"]), (60, 1))})
    latent = {row_latents: "z", mediated: "m"}.get(kernel)
    if latent is not None:  # one value per row, without which there is no likelihood
        of_rows = RNG.normal(size=(DRAWS, ROWS)).astype(np.float32)
        im.set_posterior_sample({"w": im.posterior["w"], latent: of_rows})
    outcomes = here(lambda: predicted(im))["y"][0, 0]
    given, plain = ({"X": X, "t": T}, outcomes), ({"X": X, "t": T}, outcomes)
    if kind != "memory":
        inputs = lazily(kind, tmp_path)
        given = (inputs, outcomes)
    outcome_too = given
    if kind == "parquet":
        (tmp_path / "y").mkdir()
        outcome_too = (lazily(kind, tmp_path / "y", y=outcomes), "y")

    def ask(inputs, inputs_and_y):
        found = predicted(im, inputs[0])
        rows, y = inputs_and_y
        tree = im.log_likelihood(**rows, y=y, store="memory", progress=False)
        found["density"] = tree["log_likelihood"]["y"].to_numpy()
        prior = im.sample_prior_predictive(**inputs[0], num_samples=DRAWS, **IN_MEMORY)
        found["prior"] = prior["prior_predictive"]["y"].to_numpy()
        if kernel is mediated and inputs is given and kind != "memory":
            with pytest.raises(InputError) as caught:  # values of `m` belong to rows
                effect_of(im, {}, inputs[0])
            assert caught.value.code == "rows-lazy"
        is_told = kernel is mediated and kind != "memory"
        for name in () if is_told else ASKED.keys() - {"counterfactual"}:
            found |= {f"{name} {n}": v for n, v in effect_of(im, ASKED[name], inputs[0]).items()}
        if isinstance(y, str):  # `impact` takes no columns of files by name
            rows, y = {"X": X, "t": T}, outcomes
        asked: dict[str, Any] = {"intervention_time": ROWS // 4, "rng_key": 5, "progress": False}
        return found | {"impact": im.impact(**rows, y=y, **asked).pointwise.to_numpy()}

    expected = here(lambda: ask(plain, plain))
    assert_same(ask(given, outcome_too), expected)
