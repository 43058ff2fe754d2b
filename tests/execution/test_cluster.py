"""A cluster of processes gives the bits of one machine, whatever happens to its workers."""

import importlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import dask.array as da
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import zarr
from distributed import Client, LocalCluster
from numpyro.contrib.control_flow import scan

import aimz
from aimz import ImpactModel, InputError
from aimz.errors import ProcessError
from aimz.execution import cluster

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
def two_workers() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as made:
        yield made


@pytest.fixture
def client(two_workers, monkeypatch) -> Iterator[Client]:
    """An active client; tasks are small, so that there are many."""
    monkeypatch.setattr(cluster, "MOST_TILES", 2)
    with Client(two_workers) as active:
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


def effect_of(im, options) -> dict[str, np.ndarray]:
    y = {"y": T + X[:, 0]} if "rung" in options else {}
    effect = im.effect(X, {"t": 0.0}, {"t": 1.0}, t=T, **y, progress=False, rng_key=3, **options)
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


def lazily(kind: str, path) -> Any:
    if kind == "dask":
        return da.from_array(X, chunks=(1500, 2))
    array = zarr.create_array(str(path / "X"), shape=X.shape, chunks=(1000, 2), dtype="float32")
    array[:] = X
    return array


@pytest.mark.parametrize("kind", ["dask", pytest.param("zarr", marks=pytest.mark.slow)])
def test_rows_that_are_read_by_the_piece_give_the_same_bits(client, sent, kind, tmp_path):
    im = model_of(linear)
    expected = here(lambda: predicted(im))
    assert_same(predicted(im, {"X": lazily(kind, tmp_path), "t": T}), expected)
    assert len(sent) > 1


def test_a_store_on_disk_is_written_and_gone_on_with(client, tmp_path, monkeypatch):
    im = model_of(linear)
    expected = here(lambda: predicted(im))
    real = cluster.Cluster.results

    def lost(self, run):
        if run[0][1].number >= 4:
            raise ProcessError("The cluster has gone.", code="cluster-lost")
        return real(self, run)

    monkeypatch.setattr(cluster.Cluster, "results", lost)
    options = {"t": T, "rng_key": 7, "output_dir": tmp_path, "progress": False}
    with pytest.raises(ProcessError):
        im.predict(X, **options)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".incomplete")
    tree = here(lambda: im.predict(X, **options))  # on any machine
    np.testing.assert_array_equal(tree["posterior_predictive"]["y"].values, expected["y"])
    assert [path.name.endswith("predict") for path in tmp_path.iterdir()] == [True]


def test_a_client_may_be_chosen_that_is_not_the_active_one(two_workers, sent, monkeypatch):
    monkeypatch.setattr(cluster, "MOST_TILES", 2)
    im = model_of(linear)
    expected = here(lambda: predicted(im))
    with Client(two_workers, set_as_default=False) as chosen:
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
@pytest.mark.filterwarnings("ignore::aimz.PerformanceWarning", "ignore::aimz.OutputWarning")
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_answer_of_six_kernels_is_that_of_one_machine(client, kernel):
    im = model_of(kernel)
    if kernel is chained:
        im.set_posterior_sample({"w": np.tile(np.asarray(im.posterior["w"]), (60, 1))})
    latent = {row_latents: "z", mediated: "m"}.get(kernel)
    if latent is not None:  # one value per row, without which there is no likelihood
        of_rows = RNG.normal(size=(DRAWS, ROWS)).astype(np.float32)
        im.set_posterior_sample({"w": im.posterior["w"], latent: of_rows})
    outcomes = here(lambda: predicted(im))["y"][0, 0]

    def ask():
        found = predicted(im)
        tree = im.log_likelihood(X, outcomes, t=T, store="memory", progress=False)
        found["density"] = tree["log_likelihood"]["y"].to_numpy()
        prior = im.sample_prior_predictive(X, t=T, num_samples=DRAWS, **IN_MEMORY)
        found["prior"] = prior["prior_predictive"]["y"].to_numpy()
        for name in ("all", "weights", "groups", "expectation"):
            found[name] = effect_of(im, ASKED[name])["draws"]
        impact = im.impact(X, outcomes, t=T, intervention_time=ROWS // 4, progress=False)
        return found | {"impact": impact.pointwise.to_numpy()}

    expected = here(ask)
    assert_same(ask(), expected)
