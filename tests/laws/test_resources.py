"""A hundred calls leave nothing behind: no memory, threads, files, temporary bytes or programs."""

import gc
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimz.programs import tracing
from tests.support.selection import some_fast
from tests.support.store_worker import make_model, make_rows

CALLS = 100
X = make_rows(40)
#: Bytes that a hundred calls may add: allocators keep some.
LEAK = 3e6


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


MEASURES: dict[str, Callable[[], int]] = {
    "threads": threading.active_count,
    "open files": open_files,
    "temporary entries": lambda: len(list(Path(tempfile.gettempdir()).glob("aimz-*"))),
    "programs": tracing.num_compiled,
}
KINDS = ["memory", "errors", "disk", "fresh models", "effects", "fits"]


def call(kind: str, model: Any, number: int) -> None:
    if kind == "memory":
        model.predict(X, store="memory", progress=False)
    elif kind == "disk":
        model.predict(X, progress=False).posterior_predictive["y"].load()
    elif kind == "fresh models":
        make_model(number / CALLS).predict(X, progress=False)
    elif kind == "effects":
        scenarios = [{"X": X, "t": t, "store": "memory", "progress": False} for t in (0.0, 1.0)]
        model.estimate_effect(args_baseline=scenarios[0], args_intervention=scenarios[1])
    elif kind == "fits":
        model.fit_on_batch(X, X[:, 0], t=0.0, num_steps=3, num_samples=4, progress=False)
    else:
        with pytest.raises(ValueError, match="not finite"):
            model.predict(np.where(X > 0, np.nan, X), progress=False)


@pytest.mark.filterwarnings("ignore:The loss was still falling")
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", some_fast(KINDS, len(KINDS)))
@pytest.mark.slow
def test_a_hundred_calls_leave_nothing_behind(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = make_model()
    for number in range(3):
        call(kind, model, number)
    gc.collect()
    before = {name: measure() for name, measure in MEASURES.items()}
    for number in range(CALLS):
        call(kind, model, number)
    gc.collect()
    after = {name: measure() for name, measure in MEASURES.items()}
    assert after == before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_a_hundred_calls_leave_no_memory_behind(kind):
    model = make_model()
    for number in range(2 * tracing._MAX_TRACES):  # JAX fills its caches first
        call(kind, model, number)
    memory = resident()
    for number in range(2 * tracing._MAX_TRACES):
        call(kind, model, number)
    assert resident() - memory < LEAK


FREED = """
import gc, sys, weakref
sys.modules["jinja2"] = None  # not installed: Dask keeps the exception, and its frames
from tests.support.store_worker import make_model, make_rows

def first() -> "weakref.ref":
    tree = make_model().predict(make_rows(40), store="memory", progress=False)
    return weakref.ref(tree.posterior_predictive["y"].values.base)

kept = first()
gc.collect()
print("freed" if kept() is None else "kept")
"""


def test_the_first_result_of_a_process_is_freed():
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", FREED]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "freed"
