"""Threads, worker processes and forks: right answers, or a sentence, never a hang."""

import multiprocessing
import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import joblib
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel
from aimz.errors import ProcessError
from tests.support.store_worker import make_model, make_rows

THREADS = 8
ROWS = 200


def make(slope: float) -> ImpactModel:
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(slope * b * X[:, 0], 1.0), obs=y)

    return ImpactModel(kernel).set_posterior_sample({"b": np.ones(20, np.float32)})


def drawn(model: ImpactModel, X: np.ndarray, **options: Any) -> np.ndarray:
    tree: Any = model.predict(X, progress=False, **options)
    values: np.ndarray = tree.posterior_predictive["y"].values
    return values


def predicted(number: int) -> np.ndarray:
    """What a worker process computes."""
    values: np.ndarray = (
        (make_model().predict(make_rows(ROWS + number), progress=False))
        .posterior_predictive["y"]
        .values
    )
    return values


def at_once(work: Any) -> list[Any]:
    """Results of `work(0)`, `work(1)`, ..., all begun at one moment."""
    barrier = threading.Barrier(THREADS)

    def begin(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begin, range(THREADS)))


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)


@pytest.mark.parametrize("store", ["memory", "persistent"])
def test_eight_threads_predict_on_one_fresh_model_at_once(store, X):
    expected = drawn(make(3.0), X)
    model = make(3.0)
    for values in at_once(lambda _: drawn(model, X, store=store)):
        np.testing.assert_array_equal(values, expected)


@pytest.mark.slow
def test_eight_threads_get_the_draws_of_their_own_rows(X):
    expected = [drawn(make(1.0), X[number:]) for number in range(THREADS)]
    model = make(1.0)
    for number, values in enumerate(at_once(lambda number: drawn(model, X[number:]))):
        np.testing.assert_array_equal(values, expected[number])


@pytest.mark.slow
def test_eight_threads_of_different_kernels_are_not_interleaved(X):
    models = [make(float(number)) for number in range(THREADS)]
    for number, values in enumerate(at_once(lambda number: drawn(models[number], X))):
        np.testing.assert_array_equal(values, drawn(make(float(number)), X))


@pytest.mark.slow
def test_eight_threads_fit_at_once(X):
    y = X[:, 0]

    def fitted(number: int) -> np.ndarray:
        im = make(1.0 + number).fit_on_batch(X, y, num_steps=30, num_samples=20, progress=False)
        values: np.ndarray = im.posterior["b"]
        return values

    for number, values in enumerate(at_once(fitted)):
        np.testing.assert_array_equal(values, fitted(number))


def test_eight_threads_write_into_one_directory(X, tmp_path):
    expected, model = drawn(make(2.0), X), make(2.0)
    for values in at_once(lambda _: drawn(model, X, output_dir=tmp_path)):
        np.testing.assert_array_equal(values, expected)
    assert len(list(tmp_path.iterdir())) == THREADS


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_spawned_workers_compute_what_this_process_does(processes):
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        results = pool.map(predicted, [0, 1], chunksize=1)
    for number, values in enumerate(results):
        np.testing.assert_array_equal(values, predicted(number))


@pytest.mark.slow
def test_workers_of_joblib_compute_what_this_process_does():
    results = joblib.Parallel(n_jobs=2)(joblib.delayed(predicted)(number) for number in (0, 1))
    for number, values in enumerate(results):
        np.testing.assert_array_equal(values, predicted(number))


CALLS = {
    "predict": lambda model, X: drawn(model, X),
    "fit": lambda model, X: model.fit(X, X[:, 0], progress=False),
    "log_likelihood": lambda model, X: model.log_likelihood(X, X[:, 0], progress=False),
    "prior": lambda model, X: model.sample_prior_predictive(X, progress=False),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("call", CALLS)
def test_a_forked_child_is_refused_with_a_sentence(call, X):
    model = make(1.0)
    drawn(model, X)
    context: Any = multiprocessing.get_context("fork")
    answers: Any = context.Queue()

    def child() -> None:
        try:
            CALLS[call](model, X)
            answers.put("no error")
        except ProcessError as error:
            answers.put(str(error))

    process = context.Process(target=child)
    process.start()
    try:
        answer = answers.get(timeout=60)
    except queue.Empty:
        answer = "it hung"
    process.kill()
    process.join()
    assert "forked from one in which JAX had started" in answer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_fork_does_not_harm_the_parent(X):
    model = make(1.0)
    expected = drawn(model, X)
    process: Any = multiprocessing.get_context("fork").Process(target=os.getpid)
    process.start()
    process.join()
    np.testing.assert_array_equal(drawn(model, X), expected)
