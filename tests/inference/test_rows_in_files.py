"""A fit of rows that memory should not hold: the same bits whatever the rows are read from."""

import copy
import gc
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pyarrow.dataset as ds
import pytest
import zarr
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoLaplaceApproximation, AutoNormal

from aimz import ImpactModel, InputError, arrays
from aimz.arrays import give_back, is_mapped, pieces
from aimz.data import spool
from aimz.inference.svi import engine as svi_engine
from aimz.inference.svi import windows
from aimz.inference.svi.course import Plan
from aimz.kernels import Linear

ROWS, BATCH = 5000, 256
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 3)).astype(np.float32)
T = (RNG.random(ROWS) < 0.5).astype(np.float32)
Y = (X @ [1.0, -1.0, 0.5] + 2.0 * T + RNG.normal(size=ROWS)).astype(np.float32)


def kernel(X, t, y=None):
    w = numpyro.sample("w", dist.Normal().expand([3]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0.0, 2.0))
    s = numpyro.sample("s", dist.HalfNormal(2.0))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ w + b * t, s), obs=y)


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch):
    """More than 3,000 rows are too many to be held, and no step is taken on all rows."""
    monkeypatch.setattr(arrays, "HELD_ROWS", 3000)
    monkeypatch.setattr(windows, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(windows, "WINDOW_BLOCKS", 8)
    monkeypatch.setattr(svi_engine, "_REFINED_ROWS", 1000)
    monkeypatch.setattr(svi_engine.health, "GLANCE_ROWS", 1000)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("rows")
    np.save(place / "X.npy", X)
    frame = pd.DataFrame(X, columns=list("abc")).assign(t=T, y=Y)
    frame.to_parquet(place / "rows.parquet", row_group_size=700)
    stored = zarr.create_array(place / "X.zarr", shape=X.shape, chunks=(900, 3), dtype=X.dtype)
    stored[:] = X
    return place


def batches():
    for first in range(0, ROWS, 1100):
        part = slice(first, first + 1100)
        yield {"X": X[part], "t": T[part], "y": Y[part]}


WAYS = {
    "memory map": lambda place: (np.load(place / "X.npy", mmap_mode="r"), Y, T),
    "dask": lambda _: (da.from_array(X, chunks=(1300, 3)), Y, T),
    "dask, doubles": lambda _: (da.from_array(X.astype(float), chunks=(700, 3)), 1.0 * Y, T),
    "zarr": lambda place: (zarr.open_array(place / "X.zarr", mode="r"), Y, T),
    "Parquet": lambda place: (str(place / "rows.parquet"), "y", "t"),
    "data set": lambda place: (ds.dataset(place / "rows.parquet"), "y", "t"),
    "batches": lambda _: (list(batches()), None, None),
    "batches that are read once": lambda _: (batches(), None, None),
}


def fitted(X, y, t, **options):
    named = {n: v for n, v in (("y", y), ("t", t)) if v is not None}
    model = ImpactModel(options.pop("kernel", kernel), rng_key=0, num_samples=20)
    return model.fit(X, **named, **{"batch_size": BATCH, "progress": False, "epochs": 2, **options})


def draws(im):
    return {name: np.asarray(values) for name, values in im.posterior.items()}


@pytest.fixture(scope="module")
def in_order():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svi_engine, "_REFINED_ROWS", 1000)
        patch.setattr(svi_engine.health, "GLANCE_ROWS", 1000)
        return draws(fitted(X, Y, T, shuffle=False, on_bad_fit="ignore"))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_in_their_order_the_bits_are_those_of_the_array(way, place, in_order):
    im = fitted(*way(place), shuffle=False, on_bad_fit="ignore")
    for name, values in draws(im).items():
        np.testing.assert_array_equal(values, in_order[name])
    notes = " ".join(im._fitted.fit.attrs["notes"])
    assert "read from a file, in their order" in notes


def test_mixed_the_bits_are_those_of_any_other_container(place):
    every = [draws(fitted(*way(place), on_bad_fit="ignore")) for way in WAYS.values()]
    for other in every[1:]:
        for name, values in other.items():
            np.testing.assert_array_equal(values, every[0][name])
    assert not np.array_equal(every[0]["b"], draws(fitted(X, Y, T, on_bad_fit="ignore"))["b"])


def test_a_fit_until_the_plateau_finds_the_coefficients_of_least_squares(place):
    im = fitted(str(place / "rows.parquet"), "y", "t", epochs=None)
    expected = np.linalg.lstsq(np.c_[X, T], Y, rcond=None)[0]
    assert abs(float(im.posterior["b"].mean()) - expected[3]) < 0.03
    np.testing.assert_allclose(draws(im)["w"].reshape(-1, 3).mean(axis=0), expected[:3], atol=0.03)


@pytest.mark.slow
def test_weights_go_with_their_rows(place):
    """Half of the rows do not count: they say that the effect is another one."""
    counts = np.arange(ROWS) % 2.0
    odd = np.where(counts == 0, Y + 50.0 * T, Y).astype(np.float32)
    X_mapped = np.load(place / "X.npy", mmap_mode="r")
    im = fitted(X_mapped, odd, T, sample_weight=counts, epochs=None, on_bad_fit="ignore")
    assert abs(float(im.posterior["b"].mean()) - 2.0) < 0.2


def test_a_fit_in_a_file_is_known_as_that_of_the_array(place):
    """Its rows are recognised, draws can be added, and it is saved."""
    im, plain = fitted(*WAYS["Parquet"](place)), fitted(X, Y, T)
    for name, number in plain._fitted.hashes.items():
        np.testing.assert_array_equal(im._fitted.hashes[name], number)
    assert im._fitted.fingerprint == plain._fitted.fingerprint
    assert im.sample(num_samples=3)["posterior"]["b"].shape == (1, 3)
    im.save(place / "model")
    again = ImpactModel.load(place / "model", kernel)
    pickled = pickle.dumps(im)
    assert len(pickled) < X.nbytes  # no rows are in it
    copies = again, copy.deepcopy(im), pickle.loads(pickled)
    asked: Any = {"rng_key": 1, "progress": False}
    frame = pd.DataFrame(X, columns=list("abc"))
    one, *others = (
        model.effect(frame, {"t": 0.0}, {"t": 1.0}, t=T, **asked).draws.values
        for model in (im, *copies)
    )
    for other in others:
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_ready_made_kernel_finds_its_units_in_one_pass(place, monkeypatch):
    """Its rows are never all in memory, and what it finds is that of the array, to the bit."""
    standard_units = sys.modules["aimz.kernels.standard"]
    monkeypatch.setattr(standard_units, "PIECE_ROWS", 1024)
    how: Any = {"kernel": Linear(treatment="t"), "shuffle": False, "on_bad_fit": "ignore"}
    plain = fitted(X, Y, T, **how)
    seen: list[int] = []
    of_columns = standard_units._moments

    def moments(columns, mean):
        seen.append(len(columns[0]))
        return of_columns(columns, mean)

    monkeypatch.setattr(standard_units, "_moments", moments)
    im = fitted(*WAYS["Parquet"](place), **how)
    assert max(seen) == 1024
    assert im.kernel_ == plain.kernel_
    for name, values in draws(im).items():
        np.testing.assert_array_equal(values, draws(plain)[name])


@pytest.mark.slow
def test_copies_of_a_fit_in_a_file_need_no_file_but_their_own(place):
    """A shared file stays until the last model that has it is gone."""
    im = fitted(*WAYS["Parquet"](place), on_bad_fit="ignore")
    assert is_mapped(im._fitted.problem.inputs.arrays["X"])
    shared, travelled = copy.deepcopy(im), pickle.loads(pickle.dumps(im))
    asked: Any = {"rng_key": 1, "store": "memory", "progress": False}

    def values_of(model):
        frame = pd.DataFrame(X[:5], columns=list("abc"))
        return model.predict(frame, t=T[:5], **asked)["posterior_predictive"]["y"].values

    expected = values_of(im)
    more = im.sample(num_samples=3)["posterior"]["b"].values
    im.fit(X[:300], Y[:300], t=T[:300], num_steps=5, progress=False, on_bad_fit="ignore")
    assert not np.array_equal(values_of(im), expected)
    with ThreadPoolExecutor(2) as pool:
        for values in pool.map(values_of, [shared, travelled]):
            np.testing.assert_array_equal(values, expected)
    gc.collect()
    np.testing.assert_array_equal(shared.sample(num_samples=3)["posterior"]["b"].values, more)


@pytest.mark.slow
def test_a_guide_that_reads_rows_when_it_draws_gets_all_of_them(place):
    """The curvature of a Laplace guide is found on the rows that its draws are asked with."""
    for guide, is_by_window in ((AutoNormal, True), (AutoLaplaceApproximation, False)):
        made = SVI(kernel, guide(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
        im = ImpactModel(kernel, inference=made, rng_key=0, num_samples=10)
        X_mapped = np.load(place / "X.npy", mmap_mode="r")
        im.fit(X_mapped, Y, t=T, batch_size=BATCH, epochs=1, progress=False, on_bad_fit="ignore")
        told = "read from a file" in " ".join(im._fitted.fit.attrs["notes"])
        assert told == is_by_window


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"a": np.nan}, "not-finite", "row 4000, column 'a'"),
        ({"y": np.nan}, "not-finite", "'y' holds 1 values"),
        ({"t": np.inf}, "not-finite", "'t' holds 1 values that are not finite (the first in row"),
    ],
)
def test_what_the_kernel_cannot_see_is_named(change, code, words, tmp_path):
    frame = pd.DataFrame(X, columns=list("abc")).assign(t=T, y=Y)
    ((column, value),) = change.items()
    frame.loc[4000, column] = value
    frame.to_parquet(tmp_path / "rows.parquet", row_group_size=700)
    with pytest.raises(InputError) as caught:
        fitted(str(tmp_path / "rows.parquet"), "y", "t")
    assert caught.value.code == code
    assert words in str(caught.value)


def test_a_full_disk_is_said(place, monkeypatch):
    full = Path("/dev/full")  # no byte of which is free
    monkeypatch.setattr(spool.tempfile, "TemporaryFile", lambda **_: full.open("wb", buffering=0))
    with pytest.raises(InputError, match="Set TMPDIR") as caught:
        fitted(*WAYS["dask"](place))
    assert caught.value.code == "no-room"


@pytest.mark.parametrize("rows", [40, 3000])
def test_a_disk_that_fills_at_any_byte_is_said(rows):
    """Also with the last few, which a buffer would hold until the file is shut."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(InputError, match="Set TMPDIR") as caught:
            spool.spooled({"X": np.ones((rows, 1), np.float32)} for _ in range(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.code == "no-room"


def test_every_row_is_used_equally_often(monkeypatch):
    """Over three passes whose batches do not divide the rows, by blocks and in the end of each."""
    numbers = np.arange(ROWS, dtype=np.float32)
    problem: Any = SimpleNamespace(weights=None, inputs=SimpleNamespace(rows=ROWS))
    monkeypatch.setattr(windows, "rows_in_order", lambda _: {"X": numbers})
    source = windows.Windows(Plan(ROWS, 300, None, shuffle=True), jax.random.key(1), problem)
    seen: Any = []
    for count in (47, 3, 1):
        rows = source.chunk(count)
        seen += [rows.arrays["X"][index] for index in rows.numbers[:count]]
    seen = np.concatenate(seen)
    passes = len(seen) // ROWS
    for number in range(passes):
        np.testing.assert_array_equal(np.sort(seen[number * ROWS : (number + 1) * ROWS]), numbers)
    assert not np.array_equal(seen[:ROWS], seen[ROWS : 2 * ROWS])


@pytest.mark.parametrize(
    "rows",
    [pytest.param(ROWS, id="by blocks"), pytest.param(2000, id="at hand", marks=pytest.mark.slow)],
)
def test_a_memory_map_that_is_written_during_the_fit_is_refused(tmp_path, monkeypatch, rows):
    """Steps would have seen some rows as they were and some as they are."""
    np.save(tmp_path / "X.npy", X[:rows])
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")

    run_phases = svi_engine.run_phases

    def fit_while(happens):
        def steps(*args: Any, **options: Any) -> Any:
            happens()
            return run_phases(*args, **options)

        monkeypatch.setattr(svi_engine, "run_phases", steps)
        fitted(mapped, Y[:rows], T[:rows], on_bad_fit="ignore", epochs=1)

    def is_written():
        np.load(tmp_path / "X.npy", mmap_mode="r+")[:] = 0.0

    def is_replaced():  # which leaves what is mapped as it was
        np.save(tmp_path / "new.npy", X[:rows])
        (tmp_path / "new.npy").rename(tmp_path / "X.npy")

    with pytest.raises(InputError) as caught:
        fit_while(is_written)
    assert caught.value.code == "rows-changed"
    fit_while(is_replaced)


def test_pages_of_a_file_are_given_back(place):
    mapped = np.load(place / "X.npy", mmap_mode="r")
    assert is_mapped(np.asarray(mapped)[10:20])
    assert not is_mapped(X)
    np.testing.assert_array_equal(np.concatenate(list(pieces(mapped, 999))), X)
    private = np.load(place / "X.npy", mmap_mode="c")
    private[0, 0] = 7.0  # is in no file
    give_back(private)
    assert private[0, 0] == 7.0
