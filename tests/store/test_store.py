"""Nothing exists until it is committed: faults, kills, resumed calls and writers side by side."""

import contextlib
import hashlib
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import zarr

import aimz
from aimz import FitWarning, ImpactModel, OutputWarning, StoreError
from aimz.store import ZarrSink, manifest, zarr_sink
from aimz.utils.data import ArrayDataset, ArrayLoader
from tests.support.store_worker import DRAWS, TILES, batches, linear, make_model, make_rows

ROOT = Path(__file__).resolve().parents[2]
ALL = list(range(TILES))
SUFFIX = ".incomplete"


class FaultError(RuntimeError):
    """What the tests make a sink raise."""


class Torn(dict[tuple[str, str], np.ndarray]):
    """Values of a tile whose first array can be written and whose second cannot."""

    def items(self):
        yield next(iter(super().items()))
        raise FaultError


def bits(tree) -> dict[str, str]:
    """Digests of all values and labels of a result, with dtypes, dimensions and shapes."""
    found = {}
    for group, node in tree.children.items():
        for name, variable in node.to_dataset().variables.items():
            values = variable.to_numpy()
            digest = hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()
            found[f"{group}/{name}"] = f"{values.dtype} {variable.sizes} {digest}"
    return found


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def unfinished_in(directory: Path) -> Path:
    (name,) = (name for name in names_in(directory) if name.endswith(SUFFIX))
    return directory / name


def code_of(path: Path) -> str:
    """Code of the error with which a path does not open."""
    with pytest.raises(StoreError) as caught:
        aimz.open(path)
    return str(caught.value.code)


def manifest_of(path: Path) -> dict[str, Any]:
    """What a store says of itself to any reader of Zarr."""
    attrs = zarr.open_group(path, mode="r", use_consolidated=False).attrs
    manifest: dict[str, Any] = json.loads(str(attrs["aimz_store"]))
    return manifest


def say_is_incomplete(path: Path) -> bool:
    """Whether a store's name and, where it opens, its attributes say that it is not complete."""
    return path.name.endswith(SUFFIX) and manifest_of(path)["complete"] is False


@contextlib.contextmanager
def watched(
    fault: str = "", number: int = 0, error: type[BaseException] = FaultError
) -> Iterator[list[int]]:
    """List the tiles that are written, and raise at one point; `number` counts from 1."""
    finished: list[int] = []
    count, write = itertools.count(1), ZarrSink.write

    def counted(sink, tile, values):
        hit = next(count) == number
        if hit and fault == "write":
            raise error
        write(sink, tile, Torn(values) if hit and fault == "torn" else values)
        finished.append(tile.number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ZarrSink, "write", counted)
        if fault in ("labels", "seal", "sealed", "rename"):
            _break_commit(patch, fault, number)
        yield finished


def _break_commit(patch: pytest.MonkeyPatch, fault: str, number: int) -> None:
    owner, name = {
        "labels": (zarr_sink, "_write_group"),
        "seal": (zarr_sink, "seal"),
        "sealed": (zarr_sink, "seal"),
        "rename": (Path, "rename"),
    }[fault]
    count, real = itertools.count(1), getattr(owner, name)

    def broken(*args, **kwargs):
        if fault == "sealed":
            real(*args, **kwargs)
        if next(count) == number:
            raise FaultError
        return real(*args, **kwargs)

    patch.setattr(owner, name, broken)


def crash(call, *args: Any, error: type[BaseException] = FaultError) -> list[int]:
    """Make a call that fails at some point and return the tiles that it finished."""
    fault, number = args
    with watched(fault, number, error) as finished, pytest.raises(error):
        call()
    return list(finished)


@pytest.fixture(scope="module")
def model() -> ImpactModel:
    return make_model()


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return make_rows()


@pytest.fixture(scope="module")
def undisturbed(model, X) -> dict[str, str]:
    return bits(model.predict_on_batch(X))


@pytest.fixture(scope="module")
def half(model, X, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an unfinished store of three tiles or four."""
    path = tmp_path_factory.mktemp("half")
    crash(lambda: model.predict(X, output_dir=path, progress=False), "write", 4)
    return path


@pytest.fixture
def unfinished(half: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    shutil.copytree(half, tmp_path / "half")
    return tmp_path / "half"


# ----------------------------------------------------------------------------- faults


@dataclass(frozen=True)
class Crash:
    """A call that failed, what it left, and the same call again."""

    error: BaseException
    finished: list[int]
    left: list[Path]
    final_codes: list[str]
    codes: list[str]
    incomplete: list[bool]
    again: dict[str, str]
    rewritten: list[int]
    after: list[str]
    damage: list[manifest.Damage]


FAULTS = [
    *(("write", number) for number in range(1, TILES + 1)),
    *(("torn", number) for number in (1, 4, TILES)),
    *(("labels", 1), ("labels", 2), ("seal", 1), ("sealed", 1), ("rename", 1)),
]


@pytest.fixture(scope="module", params=FAULTS, ids=lambda fault: f"{fault[0]}-{fault[1]}")
def crashed(request, model, X, tmp_path_factory) -> Crash:
    path = tmp_path_factory.mktemp("crash")
    with watched(*request.param) as finished, pytest.raises(FaultError) as caught:
        model.predict(X, output_dir=path, progress=False)
    left = list(path.iterdir())
    codes = [code_of(store) for store in left]
    final = [code_of(store.with_name(store.name.removesuffix(SUFFIX))) for store in left]
    incomplete = [say_is_incomplete(store) for store in left]
    with watched() as rewritten:
        tree = model.predict(X, output_dir=path, progress=False)
    store = Path(tree.attrs["artifact_path"])
    return Crash(
        caught.value,
        finished,
        left,
        final,
        codes,
        incomplete,
        bits(tree),
        sorted(rewritten),
        names_in(path),
        aimz.verify(store),
    )


def test_a_fault_leaves_no_store_that_opens(crashed):
    assert crashed.codes == ["store-incomplete"] * len(crashed.left)
    assert crashed.final_codes == ["store-missing"] * len(crashed.left)


def test_what_a_fault_leaves_says_that_it_is_not_complete(crashed):
    assert all(crashed.incomplete)


def test_a_fault_keeps_a_store_if_a_tile_was_finished(crashed):
    assert len(crashed.left) == bool(crashed.finished)


def test_a_fault_is_raised_as_it_was_and_names_what_is_kept(crashed):
    notes = "".join(getattr(crashed.error, "__notes__", ()))
    assert all(str(path) in notes for path in crashed.left)


def test_the_same_call_after_a_fault_leaves_one_complete_store(crashed):
    assert len(crashed.after) == 1
    assert crashed.after[0].endswith("_predict")
    assert crashed.damage == []


def test_the_same_call_after_a_fault_equals_an_undisturbed_run(crashed, undisturbed):
    assert crashed.again == undisturbed


def test_finished_tiles_are_not_computed_again_after_a_fault(crashed):
    assert sorted(crashed.finished + crashed.rewritten) == ALL


def test_ctrl_c_keeps_the_finished_part(model, X, tmp_path, undisturbed):
    call = lambda: model.predict(X, output_dir=tmp_path, progress=False)
    finished = crash(call, "write", 4, error=KeyboardInterrupt)
    with watched() as rewritten:
        tree = call()
    assert sorted(finished + rewritten) == ALL
    assert bits(tree) == undisturbed


def test_a_disk_that_is_full_at_the_end_too_leaves_an_unfinished_store(
    model, X, tmp_path, undisturbed, monkeypatch
):
    record = ZarrSink._record

    def full(sink, *path):
        if sink.finished:
            raise OSError(28, "No space left on device")
        record(sink, *path)

    monkeypatch.setattr(ZarrSink, "_record", full)
    crash(lambda: model.predict(X, output_dir=tmp_path, progress=False), "write", 4)
    assert say_is_incomplete(unfinished_in(tmp_path))
    monkeypatch.undo()
    assert bits(model.predict(X, output_dir=tmp_path, progress=False)) == undisturbed
    assert len(names_in(tmp_path)) == 1


def test_a_fault_in_a_temporary_store_leaves_nothing(X):
    model = make_model()
    crash(lambda: model.predict(X, progress=False), "write", 4)
    assert [path for path in model.temp_dir.rglob("*") if path.is_file()] == []


def test_a_fault_leaves_other_stores_of_the_directory_alone(model, X, tmp_path, undisturbed):
    first = model.predict(X, output_dir=tmp_path, progress=False)
    crash(lambda: model.predict(X, output_dir=tmp_path, progress=False), "write", 4)
    assert bits(first) == undisturbed


# ----------------------------------------------------------------------------- resuming


def test_another_batch_size_resumes(model, X, unfinished, undisturbed):
    with watched() as rewritten:
        tree = model.predict(X, output_dir=unfinished, batch_size=100, progress=False)
    assert len(rewritten) < TILES
    assert bits(tree) == undisturbed


def test_another_model_object_resumes(X, unfinished, undisturbed):
    with watched() as rewritten:
        tree = make_model().predict(X, output_dir=unfinished, progress=False)
    assert len(rewritten) < TILES
    assert bits(tree) == undisturbed


def test_a_finished_store_is_never_taken_up_again(model, X, tmp_path):
    first, second = (model.predict(X, output_dir=tmp_path, progress=False) for _ in range(2))
    assert first.attrs["artifact_path"] != second.attrs["artifact_path"]
    assert bits(first) == bits(second)


def test_row_labels_are_those_of_the_call_that_finishes(model, X, tmp_path):
    import pandas as pd

    first = pd.DataFrame(X, index=[f"a{row}" for row in range(len(X))])
    second = pd.DataFrame(X, index=pd.date_range("2020-01-01", periods=len(X), freq="h"))
    crash(lambda: model.predict(first, output_dir=tmp_path, progress=False), "seal", 1)
    tree = model.predict(second, output_dir=tmp_path, progress=False)
    assert tree.identical(aimz.open(tree.attrs["artifact_path"]))
    assert np.array_equal(tree.posterior_predictive["person"], second.index)


CONSTANT = 1.0


def with_constant(X, y=None):
    return linear(X, t=CONSTANT, y=y)


def _other_posterior(X, **to):
    return make_model(shift=0.5).predict(X, **to)


def _other_rows(X, **to):
    changed = X.copy()
    changed[-1, 0] += 1
    return make_model().predict(changed, rng_key=5, **to)


def _other_constant(X, **to):
    model = ImpactModel(with_constant).set_posterior_sample(make_model().posterior)
    return model.predict(X, **to)


OTHERS = {
    "posterior": (_other_posterior, "posterior"),
    "rows": (_other_rows, "inputs"),
    "key": (lambda X, **to: make_model().predict(X, rng_key=7, **to), "key"),
    "intervention": (
        lambda X, **to: make_model().predict(X, intervention={"b": 0.5}, **to),
        "interventions or conditions",
    ),
    "constant": (_other_constant, "kernel"),
    "argument": (lambda X, **to: make_model().predict(X, t=2.0, **to), "inputs"),
    "sites": (lambda X, **to: make_model().predict(X, return_sites=["y"], **to), "kernel"),
}


@pytest.fixture(scope="module", params=list(OTHERS.values()), ids=list(OTHERS))
def other(request, half, X, tmp_path_factory):
    """A call that differs in one thing, made where the unfinished store of the first lies."""
    call, word = request.param
    path = tmp_path_factory.mktemp("other") / "half"
    shutil.copytree(half, path)
    before = snapshot(unfinished_in(path))
    with warnings.catch_warnings(record=True) as caught, watched() as rewritten:
        warnings.simplefilter("always")
        tree = call(X, output_dir=path, progress=False)
    alone = bits(call(X, store="memory", progress=False))
    kept = snapshot(unfinished_in(path)) == before
    return word, [warning.message for warning in caught], rewritten, bits(tree), alone, kept


def test_another_call_begins_afresh_and_names_the_difference(other):
    word, (note,), *_ = other
    assert isinstance(note, OutputWarning)
    assert note.code == "not-resumed"
    listed = re.search(r"\((.*)\)", str(note))
    assert listed is not None
    assert word in listed.group(1)


def test_another_call_computes_every_tile(other):
    _, _, rewritten, *_ = other
    assert sorted(rewritten) == ALL


def test_another_call_equals_itself_without_the_unfinished_store(other):
    *_, result, alone, _ = other
    assert result == alone


def test_another_call_leaves_the_unfinished_store_alone(other):
    *_, kept = other
    assert kept


def test_only_what_differs_is_named(X, unfinished):
    with pytest.warns(OutputWarning, match=r"made from other things \(posterior\)"):
        _other_posterior(X, output_dir=unfinished, progress=False)


def test_an_unreadable_unfinished_store_is_left_alone(model, X, unfinished, undisturbed):
    document = unfinished_in(unfinished) / "zarr.json"
    document.write_bytes(document.read_bytes()[:-20])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutputWarning)
        tree = model.predict(X, output_dir=unfinished, progress=False)
    assert bits(tree) == undisturbed
    assert len(list(unfinished.glob(f"*{SUFFIX}"))) == 1


# ----------------------------------------------------------------------------- streams


def changed_in_tile(X: np.ndarray, number: int) -> np.ndarray:
    changed = X.copy()
    changed[number * 1024 + 10] += 1
    return changed


def test_a_stream_resumes(model, X, tmp_path, undisturbed):
    call = lambda: model.predict(batches(X), output_dir=tmp_path, rng_key=1, progress=False)
    finished = crash(call, "write", 5)
    with watched() as rewritten:
        tree = call()
    assert sorted(finished + rewritten) == ALL
    assert bits(tree) == bits(model.predict_on_batch(X, rng_key=1))


def test_changed_rows_of_a_stream_are_computed_anew(model, X, tmp_path):
    call = lambda rows: model.predict(batches(rows), output_dir=tmp_path, progress=False)
    finished = crash(lambda: call(X), "write", 6)
    changed = changed_in_tile(X, 2)
    with watched() as rewritten:
        tree = call(changed)
    assert 2 in finished
    assert 2 in rewritten
    assert len(rewritten) < TILES
    assert bits(tree) == bits(model.predict(batches(changed), store="memory", progress=False))


@pytest.mark.parametrize("rows", [2048, 2500, 3072])
def test_a_stream_may_be_shorter_when_it_resumes(model, X, tmp_path, rows):
    call = lambda rows: model.predict(batches(rows), output_dir=tmp_path, progress=False)
    crash(lambda: call(X), "write", 6)
    tree = call(X[:rows])
    assert aimz.verify(tree.attrs["artifact_path"]) == []
    assert bits(tree) == bits(model.predict(batches(X[:rows]), store="memory", progress=False))


def test_a_stream_may_be_shorter_and_long_again(model, X, tmp_path):
    call = lambda rows: model.predict(batches(rows), output_dir=tmp_path, progress=False)
    crash(lambda: call(X), "write", 6)
    crash(lambda: call(X[:2048]), "labels", 1)
    tree = call(X)
    assert aimz.verify(tree.attrs["artifact_path"]) == []
    assert bits(tree) == bits(model.predict(batches(X), store="memory", progress=False))


def test_tiles_of_other_rows_that_a_kill_left_unrecorded_are_computed_anew(
    model, X, tmp_path, monkeypatch
):
    """The record is older than the chunks: it must not vouch for them."""
    call = lambda rows: model.predict(batches(rows), output_dir=tmp_path, progress=False)
    crash(lambda: call(X), "write", 6)
    monkeypatch.setattr(zarr_sink, "RECORD_SECONDS", 1e9)
    monkeypatch.setattr(ZarrSink, "abort", ZarrSink._release)  # as a kill does
    crash(lambda: call(changed_in_tile(X, 2)), "labels", 1)
    monkeypatch.undo()
    expected = bits(model.predict(batches(X), store="memory", progress=False))
    assert bits(call(X)) == expected


# ----------------------------------------------------------------------------- damage in between


def chunks_in(store: Path) -> list[Path]:
    return sorted(path for path in store.glob("posterior_predictive/*/c/**/*") if path.is_file())


def _delete(path: Path) -> None:
    path.unlink()


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "which"),
    [
        (_delete, 0),
        (_delete, slice(None)),
        (_flip, -1),
        (_flip, slice(None)),
        (_truncate, 0),
        (_empty, -1),
    ],
)
def test_harmed_tiles_of_an_unfinished_store_are_computed_anew(
    model, X, unfinished, undisturbed, harm, which
):
    chunks = chunks_in(unfinished_in(unfinished))
    for path in chunks[which] if isinstance(which, slice) else [chunks[which]]:
        harm(path)
    tree = model.predict(X, output_dir=unfinished, progress=False)
    assert bits(tree) == undisturbed


def test_array_documents_that_are_gone_do_no_harm(model, X, unfinished, undisturbed):
    (unfinished_in(unfinished) / "posterior_predictive/mu/zarr.json").unlink()
    assert bits(model.predict(X, output_dir=unfinished, progress=False)) == undisturbed


def test_files_that_a_kill_left_half_written_do_no_harm(model, X, unfinished, undisturbed):
    store = unfinished_in(unfinished)
    for place in (".", "posterior_predictive", "posterior_predictive/mu/c/0/0"):
        (store / place / "zarr.0123456789abcdef0123456789abcdef.partial").write_bytes(b"half")
    (store / ".zarr.json.partial").write_bytes(b"half")
    tree = model.predict(X, output_dir=unfinished, progress=False)
    assert bits(tree) == undisturbed


# ----------------------------------------------------------------------------- processes


class Worker:
    """A prediction in a process of its own."""

    def __init__(self, output_dir: Path, **settings: Any) -> None:
        text = json.dumps({"output_dir": str(output_dir), **settings})
        self.output_dir = output_dir
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.store_worker", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )

    def wait_for(self, start: str, times: int = 1) -> str:
        """The line with which something has happened so many times."""
        while line := str(self.process.stdout.readline()):
            self.lines.append(line.strip())
            times -= line.startswith(start)
            if not times:
                return line.strip()
        raise AssertionError("\n".join(["The process ended:", *self.lines]))

    def go(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.lines += self.process.stdout.read().splitlines()
        self.close()

    def close(self) -> None:
        self.process.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    @property
    def finished(self) -> list[int]:
        return [int(line.split()[1]) for line in self.lines if line.startswith("tile ")]


@contextlib.contextmanager
def workers(*made: Worker) -> Iterator[tuple[Worker, ...]]:
    """Processes that are ready to predict; none outlives the block."""
    try:
        for worker in made:
            worker.wait_for("ready")
        yield made
    finally:
        for worker in made:
            worker.close()


@dataclass(frozen=True)
class Killed:
    """What a kill left, and the same call again in this process."""

    point: str
    finished: list[int]
    left: list[str]
    codes: list[str]
    incomplete: bool
    said: list[str]
    again: dict[str, str]
    rewritten: list[int]
    after: list[str]


KILLS = {
    "first tile": ("tile", 1, 0.0),
    "inside a tile": ("tile", 3, 0.1),
    "commit": ("rename", 1, 0.1),
}


# The fast tests kill one process; `FAULTS` has the other points, in this one.
@pytest.fixture(
    scope="module",
    params=[["inside a tile"], pytest.param(["first tile", "commit"], marks=pytest.mark.slow)],
    ids=" and ".join,
)
def killed(request, model, X, tmp_path_factory) -> list[Killed]:
    made = [
        Worker(tmp_path_factory.mktemp("killed"), seconds=0.1, before_rename=60.0)
        for _ in request.param
    ]
    found = []
    with workers(*made):
        for worker, point in zip(made, request.param, strict=True):
            line, times, after = KILLS[point]
            worker.go()
            worker.wait_for(line, times)
            time.sleep(after)
            worker.kill()
            path = worker.output_dir
            left = names_in(path)
            codes = [code_of(path / name) for name in left]
            incomplete = say_is_incomplete(path / left[0])
            with watched() as rewritten, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                tree = model.predict(X, output_dir=path, progress=False)
            said = [str(warning.message) for warning in caught]
            facts = left, codes, incomplete, said, bits(tree), rewritten, names_in(path)
            found.append(Killed(point, worker.finished, *facts))
    return found


def test_a_kill_leaves_no_store_that_opens(killed):
    assert [kill.codes for kill in killed] == [["store-incomplete"]] * len(killed)


def test_what_a_kill_leaves_says_that_it_is_not_complete(killed):
    # Sealed and not yet renamed, a store has everything but its name.
    points = {kill.point for kill in killed if not kill.incomplete}
    assert points <= {"commit"}


def test_the_same_call_after_a_kill_resumes_without_a_word(killed):
    assert [kill.said for kill in killed] == [[]] * len(killed)


def test_the_same_call_after_a_kill_equals_an_undisturbed_run(killed, undisturbed):
    assert [kill.again for kill in killed] == [undisturbed] * len(killed)


def test_the_same_call_after_a_kill_leaves_one_complete_store(killed):
    assert all(kill.after == [kill.left[0].removesuffix(SUFFIX)] for kill in killed)


def test_recorded_tiles_are_not_computed_again_after_a_kill(killed):
    twice = {kill.point: sorted(set(kill.finished) & set(kill.rewritten)) for kill in killed}
    assert twice == {kill.point: [] for kill in killed}


@pytest.mark.slow
def test_two_live_writers_of_one_call_leave_two_equal_stores(tmp_path, undisturbed):
    with workers(*(Worker(tmp_path, seconds=0.05) for _ in range(2))) as pair:
        for worker in pair:
            worker.go()
        stores = {worker.wait_for("done").removeprefix("done ") for worker in pair}
        assert [sorted(worker.finished) for worker in pair] == [ALL] * 2
    assert stores == {str(tmp_path / name) for name in names_in(tmp_path)}
    assert len(stores) == 2
    assert [bits(aimz.open(store)) for store in stores] == [undisturbed] * 2


def test_only_one_of_two_live_writers_takes_up_an_unfinished_store(
    model, X, unfinished, undisturbed
):
    """The other of the two, here, writes all of its own while the first is at work."""
    with workers(Worker(unfinished, seconds=0.05, before_rename=1.0)) as (other,):
        other.go()
        other.wait_for("tile")
        with watched() as written:
            tree = model.predict(X, output_dir=unfinished, progress=False)
        stores = {other.wait_for("done").removeprefix("done "), tree.attrs["artifact_path"]}
        assert len(other.finished) < TILES == len(written)
    assert len(stores) == len(names_in(unfinished)) == 2
    assert [bits(aimz.open(store)) for store in stores] == [undisturbed] * 2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(20))
def test_kills_at_random_times_change_nothing(seed, model, X, tmp_path, undisturbed):
    rng = random.Random(seed)
    loader = seed % 3 == 0
    kills = 1 + (seed % 4 == 0)  # of the process that resumes, too
    for _ in range(kills):
        worker = Worker(
            tmp_path,
            seconds=0.05,
            before_rename=0.1,
            loader=loader,
            record_seconds=rng.choice([0.0, 0.2]),
        )
        with workers(worker):
            worker.go()
            time.sleep(rng.uniform(0.0, 1.2))
            worker.kill()
        for path in tmp_path.glob(f"*{SUFFIX}"):
            assert code_of(path) in ("store-incomplete", "store-missing")
    done = [path for path in tmp_path.iterdir() if path.suffix != SUFFIX]
    tree = model.predict(batches(X) if loader else X, output_dir=tmp_path, progress=False)
    expected = undisturbed
    if loader:
        expected = bits(model.predict(batches(X), store="memory", progress=False))
    assert [bits(aimz.open(path)) for path in done] == [expected] * len(done)
    assert bits(tree) == expected
    assert all(path.suffix != SUFFIX for path in tmp_path.iterdir())


@pytest.mark.slow
def test_a_stream_with_another_value_of_all_rows_does_not_resume(X, tmp_path):
    def dosed(X, d, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.sample("y", dist.Normal(b * d + X[:, 0], 1.0), obs=y)

    some = {"X": X[:20], "y": X[:20, 1], "d": np.arange(20.0)}
    model = ImpactModel(dosed, num_samples=2)
    with pytest.warns(FitWarning, match="still falling"):
        model.fit(**some, num_steps=2, progress=False)

    def call(dose: float, **to: Any) -> Any:
        return model.predict(batches(X), d=dose, rng_key=1, progress=False, **to)

    assert crash(lambda: call(0.0, output_dir=tmp_path), "write", 4)
    with pytest.warns(OutputWarning, match="inputs"):
        tree = call(5.0, output_dir=tmp_path)
    assert bits(tree) == bits(call(5.0, store="memory"))


def test_a_loader_resumes(model, X, tmp_path):
    def call(**to):
        loader = ArrayLoader(ArrayDataset(X=X), 0, batch_size=500)
        return model.predict(loader, progress=False, **to)

    finished = crash(lambda: call(output_dir=tmp_path), "torn", 4)
    with watched() as rewritten:
        tree = call(output_dir=tmp_path)
    assert sorted(finished + rewritten) == ALL
    assert bits(tree) == bits(call(store="memory"))


def test_log_likelihoods_resume(model, X, tmp_path):
    y = X[:, 1]
    finished = crash(
        lambda: model.log_likelihood(X, y, output_dir=tmp_path, progress=False), "write", 4
    )
    with watched() as rewritten:
        tree = model.log_likelihood(X, y, output_dir=tmp_path, progress=False)
    assert sorted(finished + rewritten) == ALL
    assert bits(tree) == bits(model.log_likelihood(X, y, store="memory", progress=False))


def test_other_outcomes_do_not_resume_a_log_likelihood(model, X, tmp_path):
    y = X[:, 1]
    crash(lambda: model.log_likelihood(X, y, output_dir=tmp_path, progress=False), "write", 4)
    with pytest.warns(OutputWarning, match="inputs"):
        tree = model.log_likelihood(X, y + 1, output_dir=tmp_path, progress=False)
    assert bits(tree) == bits(model.log_likelihood(X, y + 1, store="memory", progress=False))


def test_prior_draws_resume(model, X, tmp_path):
    call = lambda **to: model.sample_prior_predictive(X, num_samples=DRAWS, progress=False, **to)
    finished = crash(lambda: call(output_dir=tmp_path), "write", 4)
    with watched() as rewritten:
        tree = call(output_dir=tmp_path)
    assert sorted(finished + rewritten) == ALL
    assert bits(tree) == bits(call(store="memory"))


def test_an_unfinished_store_of_another_method_is_not_looked_at(model, X, unfinished):
    tree = model.sample_prior_predictive(
        X, num_samples=DRAWS, output_dir=unfinished, progress=False
    )
    assert tree.attrs["artifact_path"].endswith("_sample_prior_predictive")
    assert len(list(unfinished.glob(f"*_predict{SUFFIX}"))) == 1
