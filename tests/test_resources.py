"""A hundred calls leave nothing behind: no memory, threads, files, temporary bytes or programs."""

import gc
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimz import programs
from tests.store_worker import make_model, make_rows

CALLS = 100
X = make_rows(1100)
#: Bytes that a hundred calls may add: allocators keep some, a trace left behind would be more.
LEAK = 15e6


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


MEASURES: dict[str, Callable[[], int]] = {
    "threads": threading.active_count,
    "open files": open_files,
    "temporary entries": lambda: len(list(Path(tempfile.gettempdir()).glob("aimz-*"))),
    "programs": programs.num_compiled,
}
KINDS = ["memory", "disk", "fresh models", "effects", "fits", "errors"]


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
        model.fit_on_batch(X[:50], X[:50, 0], t=0.0, num_steps=3, num_samples=4, progress=False)
    else:
        with pytest.raises(ValueError, match="not finite"):
            model.predict(np.where(X > 0, np.nan, X), progress=False)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_calls_leave_nothing_behind(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = make_model()
    for number in range(10):
        call(kind, model, number)
    gc.collect()
    before = {name: measure() for name, measure in MEASURES.items()}
    memory = resident()
    for number in range(CALLS):
        call(kind, model, number)
    gc.collect()
    after = {name: measure() for name, measure in MEASURES.items()}
    assert after == before
    assert resident() - memory < LEAK
