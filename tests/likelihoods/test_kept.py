"""Simulations in a store: what was stopped goes on bit by bit, and nothing stale is taken."""

import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from aimz import InputError
from aimz.likelihoods import simulate

BOX = {"rate": (0.5, 2.0)}
N = 120_000  # three chunks, the last one smaller


class Simulator:
    """Exponential times; stops at a call, as by Ctrl-C."""

    def __init__(self, stop: int | None = None, unit: float = 1.0) -> None:
        self.stop, self.unit, self.calls = stop, unit, 0

    def __call__(self, key, rate):
        if self.calls == self.stop:
            raise KeyboardInterrupt
        self.calls += 1
        noise = np.random.default_rng(int(jax.random.bits(key)))
        return self.unit * noise.exponential(size=rate.shape) / rate, np.ones_like(rate)


@pytest.fixture(scope="module")
def truth():
    return simulate(Simulator(), BOX, N, progress=False)


def same(found, truth):
    np.testing.assert_array_equal(found.outcomes, truth.outcomes)
    np.testing.assert_array_equal(found.parameters["rate"], truth.parameters["rate"])
    assert found.bounds == truth.bounds


def test_what_was_stopped_goes_on_with_the_same_bits(tmp_path, truth):
    with pytest.raises(KeyboardInterrupt):
        simulate(Simulator(stop=2), BOX, N, store=tmp_path, progress=False)
    again = Simulator()
    same(simulate(again, BOX, N, store=tmp_path, progress=False), truth)
    assert again.calls == 2  # the first is checked, and the last was missing
    whole = Simulator()
    same(simulate(whole, BOX, N, store=str(tmp_path), progress=False), truth)
    assert whole.calls == 1


def damage(path: Path, chunk: int) -> None:
    file = path / "outcomes" / "c" / str(chunk) / "0"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(("chunk", "calls"), [(0, 3), (1, 2)])
def test_a_damaged_chunk_is_simulated_again(tmp_path, truth, chunk, calls):
    simulate(Simulator(), BOX, N, store=tmp_path, progress=False)
    damage(tmp_path, chunk)
    again = Simulator()
    same(simulate(again, BOX, N, store=tmp_path, progress=False), truth)
    assert again.calls == calls


def test_without_its_first_chunk_nothing_of_another_simulator_is_taken(tmp_path):
    simulate(Simulator(), BOX, N, store=tmp_path, progress=False)
    damage(tmp_path, 0)
    with pytest.raises(KeyboardInterrupt):
        simulate(Simulator(stop=1, unit=2.0), BOX, N, store=tmp_path, progress=False)
    found = simulate(Simulator(unit=2.0), BOX, N, store=tmp_path, progress=False)
    same(found, simulate(Simulator(unit=2.0), BOX, N, progress=False))


def loose(key, rate):
    return np.random.default_rng().exponential(size=rate.shape), np.ones_like(rate)


@pytest.mark.parametrize(
    ("simulator", "changed", "says"),
    [
        (Simulator(unit=1.001), {}, "has changed"),
        (loose, {}, "has changed"),
        (Simulator(), {"key": 1}, r"another key \(0\)"),
        (Simulator(), {"n": N + 1}, "another n"),
        (Simulator(), {"bounds": {"rate": (0.5, 2.1)}}, "another bounds"),
        (Simulator(), {"bounds": {"pace": (0.5, 2.0)}}, "another bounds"),
    ],
    ids=["simulator", "noise", "key", "n", "box", "name"],
)
def test_other_simulations_are_refused(kept, simulator, changed, says):
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=says) as error:
        simulate(simulator, **{"bounds": BOX, "n": N, **changed}, store=kept, progress=False)
    assert error.value.code == "simulations"
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("kept")
    simulate(Simulator(), BOX, N, store=path, progress=False)
    return path


def test_a_place_that_is_none_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for place, says in ((tmp_path, "something else"), ("s3://bucket/key", "directory")):
        with pytest.raises(InputError, match=says) as error:
            simulate(Simulator(), BOX, 10, store=place, progress=False)
        assert error.value.code == "simulations"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


_KILLED = """
import sys, time, json
import numpy as np, jax
from aimz.likelihoods import simulate
def simulator(key, rate):
    noise = np.random.default_rng(int(jax.random.bits(key)))
    time.sleep(0.3)
    return noise.exponential(size=rate.shape) / rate, np.ones_like(rate)
simulate(simulator, json.loads(sys.argv[1]), 1_000_000, store=sys.argv[2], progress=False)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_what_another_goes_on_with(tmp_path):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", _KILLED, json.dumps(BOX), str(tmp_path / "store")]
    process = subprocess.Popen(command, cwd=root)
    written = tmp_path / "store" / "outcomes" / "c"
    for _ in range(600):
        if written.exists() and len(list(written.iterdir())) >= 3:
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    again = Simulator()
    found = simulate(again, BOX, 1_000_000, store=tmp_path / "store", progress=False)
    assert again.calls <= 18
    same(found, simulate(Simulator(), BOX, 1_000_000, progress=False))
