"""The page on performance says what was measured, and nothing else."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "docs" / "performance.json"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module("performance_page"), importlib.import_module("workloads")


def test_the_page_is_that_of_the_measurements(bench):
    page, _ = bench
    committed = MEASURED.with_suffix(".md").read_text()
    assert committed == page.page_of(json.loads(MEASURED.read_text())), "make bench BENCH=--page"


def test_workloads_are_told_apart_and_can_run(bench):
    _, workloads = bench
    names = [workload.name for workload in workloads.WORKLOADS]
    assert len(set(names)) == len(names)
    for workload in workloads.WORKLOADS:
        assert workload.kind in workloads.KINDS
        assert workload.quick.keys() <= workload.sizes.keys()
        assert workload.measure != "warm" or workload.calls > 1, "no call is warm"
        assert not workload.of or workload.of in names
        assert workload.faster is None or workload.rival in workload.entrants


def run_of(workload: str, library: str, turn: int, *seconds: float) -> dict[str, object]:
    measures = {"cpu": 0.0, "memory": 7.0, "disk": 0.0, "compilations": 3, "others": 0.25}
    calls = [{"seconds": value, **measures} for value in seconds]
    return {
        "workload": workload,
        "library": library,
        "turn": turn,
        "calls": calls,
        "process": {"seconds": 9.0, "cpu": 1.0, "others": 0.25},
        "versions": {"jax": "1.2.3"},
    }


def test_numbers_are_medians_of_the_calls_that_count(bench):
    page, _ = bench
    runs = [
        run
        for turn, (theirs, ours) in enumerate([(0.020, 0.001), (0.012, 0.002), (0.016, 0.009)])
        for run in (
            run_of("small", "published", turn, 5.0, theirs, theirs),
            run_of("small", "here", turn, 4.0, 8 * ours, ours, ours),
        )
    ]
    runs.append({"workload": "left out", "library": "arviz", "turn": 0, "error": "no memory"})
    machine = {"processor": "a processor", "processors": 2, "memory": 8}
    text = page.page_of({"machine": machine, "runs": runs})
    (row,) = [line for line in text.splitlines() if "the same size again | warm" in line]
    assert row.endswith("| warm | 16 ms |  | 2 ms | 8 | 3 ms: yes |")
    (row,) = [line for line in text.splitlines() if "first such request" in line]
    assert row.endswith("| cold | 5 s |  | 4 s | 1.25 | 1 times: yes |")
    assert "left out, arviz, round 1: no memory" in text
    assert "Rounds: 3. Others took 25%" in text


def test_a_goal_that_is_missed_says_what_bounds_it(bench):
    page, workloads = bench
    fast, slow = (run_of("small", "here", 0, 1.0, seconds) for seconds in (0.002, 0.009))
    assert list(page.bounds([fast])) == []
    *_, told = page.bounds([slow])
    assert (
        told == f"- request of 100 rows x 1,000 draws, the same size again: {page.BOUNDS['small']}"
    )
    assert page.BOUNDS.keys() <= {w.name for w in workloads.WORKLOADS if w.most or w.faster}
    (*_, unknown) = page.bounds([run_of("served", "here", 0, 1.0)])
    assert unknown.endswith("that MLflow has loaded: not known.")


def test_the_effect_of_a_cache_is_told_of_each_that_was_measured_with_and_without(bench):
    page, _ = bench
    runs = [run_of("small", "here", 0, 0.5), run_of("cache", "here", 0, 0.25)]
    assert page.cache_effect(runs).count("250 ms with a filled cache, and 500 ms without") == 1
    runs += [run_of("sites", "here", 0, 8.0), run_of("cached sites", "here", 0, 2.0)]
    assert page.cache_effect(runs).count("2 s with a filled cache, and 8 s without") == 1
    assert page.cache_effect(runs[1:2]) == ""


def test_short_requests_follow_one_another(bench, monkeypatch, tmp_path):
    _, workloads = bench
    tidied = []
    monkeypatch.setattr(workloads.gc, "collect", lambda: tidied.append(1))
    meter = workloads.Meter(tmp_path)
    meter.measure(lambda: None)
    meter.measure(lambda: None)
    assert len(tidied) == 1
    monkeypatch.setattr(workloads, "SHORT", 0.0)
    meter.measure(lambda: None)
    assert len(tidied) == 2
