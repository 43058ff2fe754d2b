"""A prediction is a function of its arguments: the layout never shows in the bits.

Every comparison is of arrays and dtypes, bit for bit, unless a test says why it cannot be. Layouts
on several devices are computed in processes of their own; see `tests.support.layouts`.
"""

import functools
import gc
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
import zarr

from aimz import ImpactModel, InputError, PerformanceWarning
from aimz.execution import plan
from aimz.execution import tiles as tile_runs
from aimz.execution.plan import MAX_ROWS
from aimz.store import MemorySink
from aimz.utils.data import ArrayDataset, ArrayLoader
from tests.support.layouts import (
    CASES,
    COUPLED,
    KEY,
    REFERENCE,
    ROWS,
    TABLES,
    answer,
    as_container,
    case_of,
    compute,
    inputs_of,
    model_of,
    predict,
)
from tests.support.tolerance import assert_close

# The first test waits for processes that compile every kernel anew.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
BY_NAME = [pytest.param(case, id=case.name) for case in CASES]
COUPLED_BY_NAME = [pytest.param(case, id=case.name) for case in COUPLED]
LINEAR, GROUPED, LOCAL = map(case_of, ("linear", "group_indexed", "local_latent"))
SOME = [pytest.param(case, id=case.name) for case in (GROUPED, LOCAL)]
prior_is_used = pytest.mark.filterwarnings("ignore:The posterior holds no draws of sigma")


@functools.cache
def _model(name):
    return model_of(case_of(name))


@functools.cache
def _whole(name):
    case = case_of(name)
    return predict(_model(name), case, inputs_of(case))


def _predict(case, given, **options):
    return predict(_model(case.name), case, given, **options)


def _assert_same(actual, desired, context=""):
    wrong = [
        name
        for name in actual.keys() | desired.keys()
        if not _is_same(actual.get(name), desired.get(name))
    ]
    assert not wrong, f"{context} changed {wrong}"


def _is_same(first, second):
    if first is None or second is None or first.dtype != second.dtype:
        return False
    return np.array_equal(first, second)


def _assert_close(actual, desired):
    """Equal up to rounding; discrete draws equal."""
    assert actual.keys() == desired.keys()
    for name, value in desired.items():
        assert actual[name].dtype == value.dtype
        assert_close(actual[name], value)


def _leading(arrays, rows):
    """Leading rows of arrays (chain, draw, row, ...); what no row owns stays."""
    return {n: v[:, :, :rows] if v.ndim > 2 else v for n, v in arrays.items()}


def _batches(arrays, size=300):
    rows = len(arrays["X"])
    return ({n: v[i : i + size] for n, v in arrays.items()} for i in range(0, rows, size))


# ------------------------------------------------------------------ devices, batches, stores


def _layouts(table, folder):
    """Arrays by case, layout and site: other processes take several devices, this one takes one."""
    workers = {}
    asked = {layout.devices for _, layouts in TABLES[table] for layout in layouts}
    for devices in sorted(asked - {1}):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
        command = [
            sys.executable,
            "-m",
            "tests.support.layouts",
            table,
            str(folder / f"{devices}.npz"),
        ]
        workers[devices] = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    arrays = dict(compute(table, 1))
    for devices, worker in workers.items():
        output, _ = worker.communicate(timeout=900)
        assert not worker.returncode, output.decode()
        with np.load(folder / f"{devices}.npz") as saved:
            arrays |= saved
    return arrays


def _assert_layouts_agree(arrays, case, layouts):
    def of(layout):
        start = f"{case.name}|{layout.name}|"
        return {key.removeprefix(start): v for key, v in arrays.items() if key.startswith(start)}

    reference = of(REFERENCE)
    assert reference["warnings"].tolist() == list(case.codes)
    for layout in layouts:
        _assert_same(of(layout), reference, layout.name)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return _layouts("pairs", tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def other_pairs(tmp_path_factory):
    return _layouts("pairs of the others", tmp_path_factory.mktemp("others"))


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    return _layouts("product", tmp_path_factory.mktemp("product"))


def _entries(table):
    return [pytest.param(case, layouts, id=case.name) for case, layouts in TABLES[table]]


@pytest.mark.parametrize(("case", "layouts"), _entries("pairs"))
def test_draws_do_not_change_with_any_pair_of_choices_of_layout(pairs, case, layouts):
    _assert_layouts_agree(pairs, case, layouts)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "layouts"), _entries("pairs of the others"))
def test_draws_of_other_kernels_do_not_change_with_any_pair(other_pairs, case, layouts):
    _assert_layouts_agree(other_pairs, case, layouts)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("case", "layouts"), _entries("product"))
def test_draws_do_not_change_with_any_combination_of_choices_of_layout(product, case, layouts):
    _assert_layouts_agree(product, case, layouts)


# ------------------------------------------------------------------ which rows, sites, threads


@prior_is_used
@pytest.mark.parametrize("rows", [1_500, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", BY_NAME)
def test_draws_of_leading_rows_do_not_change_with_the_rows_after_them(case, rows):
    arrays = inputs_of(case)
    options = {"in_sample": False} if case is LOCAL else {}
    whole = _predict(case, arrays, **options) if options else _whole(case.name)
    part = _predict(case, {n: v[:rows] for n, v in arrays.items()}, **options)
    # Few rows run in a smaller program, in which sums may round in another order.
    compare = _assert_same if rows > MAX_ROWS else _assert_close
    compare(part, _leading(whole, rows))


@prior_is_used
@pytest.mark.parametrize("store", ["memory", "persistent"])
@pytest.mark.parametrize("case", BY_NAME)
def test_draws_do_not_change_when_the_number_of_rows_is_not_known(case, store):
    given = {"X": _batches(inputs_of(case))}
    _assert_same(_predict(case, given, store=store), _whole(case.name))


@pytest.mark.parametrize("case", COUPLED_BY_NAME)
def test_draws_of_interacting_rows_do_not_change_when_their_number_is_not_known(case):
    with pytest.warns(PerformanceWarning, match="together"):
        whole = _whole(case.name)
    with pytest.warns(PerformanceWarning, match="together"):
        streamed = _predict(case, {"X": _batches(inputs_of(case))})
    _assert_same(streamed, whole)


@pytest.mark.parametrize(
    ("name", "sites"),
    [("linear", "y"), ("linear", "mu"), ("linear", ("y", "b")), ("network", "y")],
)
def test_draws_do_not_change_with_the_sites_that_are_returned(name, sites):
    case = case_of(name)
    some = _predict(case, inputs_of(case), return_sites=sites)
    every = _predict(case, inputs_of(case), return_sites=("b", "mu", "y")[name != "linear" :])
    _assert_same(some, {site: every[site] for site in some})


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("store", ["memory", "persistent"])
@pytest.mark.parametrize("case", SOME[1:])
def test_draws_do_not_change_with_the_number_of_threads(case, store, threads, monkeypatch):
    monkeypatch.setattr(tile_runs, "num_threads", lambda devices: threads)
    _assert_same(_predict(case, inputs_of(case), store=store), _whole(case.name))


# ------------------------------------------------------------------ tiles that are parts of chains


@functools.cache
def _in_blocks(name):
    """A small case of two chains by 30 draws: case, model, inputs, and its draws in one block."""
    case = replace(case_of(name), rows=300, draws=60)
    case = replace(
        case, latents={n: (300,) if s == (ROWS,) else s for n, s in case.latents.items()}
    )
    model, arrays = model_of(case), inputs_of(case)
    return case, model, arrays, predict(model, case, arrays)


@pytest.fixture
def small_tiles(monkeypatch):
    # Two float32 sites by 16 rows by 8 draws.
    monkeypatch.setattr(plan, "TILE_BYTES", 2 * 4 * 16 * 8)


@pytest.mark.parametrize("name", ["linear", "local_latent"])
def test_small_tiles_are_parts_of_chains(name, small_tiles):
    case, model, arrays, _ = _in_blocks(name)
    options = {"rng_key": KEY, "return_sites": case.sites, "progress": False}
    tree = model.predict(**arrays, **options)
    assert tree.posterior_predictive["y"].encoding["chunks"] == (1, 8, 16)


@pytest.mark.parametrize("name", ["linear", "local_latent"])
def test_draws_in_several_blocks_do_not_change_with_store_or_container(name, small_tiles):
    case, model, arrays, _ = _in_blocks(name)
    memory = predict(model, case, arrays)
    _assert_same(predict(model, case, arrays, store="persistent"), memory, "disk")
    for store in ("memory", "persistent"):
        stream = predict(model, case, {"X": _batches(arrays, 70)}, store=store)
        _assert_same(stream, memory, f"a stream in {store}")


@pytest.mark.parametrize("name", ["linear", "local_latent"])
def test_draws_do_not_change_when_tiles_are_parts_of_chains(name, request):
    # Another program: sums may round in another order.
    case, model, arrays, one_block = _in_blocks(name)
    request.getfixturevalue("small_tiles")
    _assert_close(predict(model, case, arrays), one_block)


# ------------------------------------------------------------------ containers


def _memmaps(arrays, folder):
    for name, value in arrays.items():
        np.save(folder / f"{name}.npy", value)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in arrays}


def _zarrs(arrays, folder):
    root = zarr.open_group(folder / "arrays", mode="w")
    for name, value in arrays.items():
        root.create_array(name, data=value, chunks=(500, *value.shape[1:]))
    return dict(root.arrays())


def _labelled(arrays):
    dims = {n: ("row", "column")[: v.ndim] for n, v in arrays.items()}
    return xr.Dataset({n: (dims[n], v) for n, v in arrays.items()})


def _chunked_xarrays(arrays, folder):
    return dict(_labelled(arrays).chunk(row=700).data_vars)


def _stored_xarrays(arrays, folder):
    _labelled(arrays).to_zarr(folder / "data", zarr_format=3, consolidated=False)
    opened = xr.open_dataset(folder / "data", engine="zarr", chunks=None, consolidated=False)
    return dict(opened.data_vars)


def _list_of_batches(arrays, folder):
    empty = {n: v[:0] for n, v in arrays.items()}
    return {"X": [empty, *_batches(arrays, 450), empty]}


def _loader_of_jax_arrays(arrays, folder):
    return {"X": ArrayLoader(ArrayDataset(to_jax=True, **arrays), 0, batch_size=450)}


def _reused_buffers(arrays, folder):
    """Batches in buffers that the loader fills anew each time."""
    buffers = {n: np.empty((300, *v.shape[1:]), v.dtype) for n, v in arrays.items()}

    def batches():
        for batch in _batches(arrays, 300):
            for name, value in batch.items():
                buffers[name][:] = value
            yield dict(buffers)

    return {"X": batches()}


def _lazy_rows_beside_arrays(arrays, folder):
    return {**arrays, **as_container("dask", {"X": arrays["X"]}, None)}


CONTAINERS = [
    _memmaps,
    _zarrs,
    _chunked_xarrays,
    _stored_xarrays,
    _list_of_batches,
    _loader_of_jax_arrays,
    _reused_buffers,
    _lazy_rows_beside_arrays,
]


@pytest.mark.parametrize("contain", CONTAINERS)
@pytest.mark.parametrize("case", SOME)
def test_draws_do_not_change_with_the_container(case, contain, tmp_path):
    given = contain(inputs_of(case), tmp_path)
    _assert_same(_predict(case, given), _whole(case.name))


def test_draws_do_not_change_when_dask_does_not_know_the_number_of_rows():
    X = as_container("dask", inputs_of(LINEAR), None)["X"]
    given = {"X": X[X[:, 0] < np.inf]}
    assert np.isnan(given["X"].shape[0])
    _assert_same(_predict(LINEAR, given), _whole("linear"))


@pytest.mark.parametrize("rows", [ROWS, 500])
def test_row_argument_beside_rows_of_unknown_number_is_used_or_refused(rows):
    arrays = {n: v[:rows] for n, v in inputs_of(GROUPED).items()}
    whole = _predict(GROUPED, arrays)
    given = {"X": _batches({"X": arrays["X"]}), "group": arrays["group"]}
    try:
        streamed = _predict(GROUPED, given)
    except InputError:
        return
    _assert_close(streamed, whole)


def test_argument_beside_batches_that_name_it_is_refused():
    arrays = inputs_of(GROUPED)
    with pytest.raises(InputError):
        _predict(GROUPED, {"X": _batches(arrays), "group": arrays["group"][::-1]})


def test_table_as_long_as_the_rows_goes_whole():
    def kernel(X, group, table, y=None):
        numpyro.sample("y", dist.Normal(table[group] + X[:, 0], 1.0), obs=y)

    arrays: dict[str, Any] = inputs_of(GROUPED)
    arrays |= {"group": arrays["group"] + ROWS - 4, "table": np.arange(ROWS, dtype=np.float32)}
    model = ImpactModel(kernel, num_samples=5)
    options: dict[str, Any] = {"num_samples": 5, "rng_key": KEY, "return_datatree": False}
    whole = model.sample_prior_predictive_on_batch(**arrays, **options)
    lazy = {n: da.from_array(v, chunks=600) for n, v in arrays.items() if n != "table"}
    streamed = model.sample_prior_predictive_on_batch(**{**arrays, **lazy}, **options)
    _assert_same(streamed, whole)


def test_rows_that_the_posterior_lacks_are_refused():
    longer = replace(LOCAL, rows=ROWS + 1)
    with pytest.raises(InputError) as caught:
        _predict(LOCAL, {"X": _batches(inputs_of(longer))})
    assert caught.value.code == "rows-mismatch"


def test_fewer_rows_than_those_of_the_posterior_are_refused():
    fewer = replace(LOCAL, rows=ROWS - 1)
    with pytest.raises(InputError):
        _predict(LOCAL, {"X": _batches(inputs_of(fewer))})


def test_effect_of_streams_equals_that_of_arrays():
    arrays = inputs_of(LINEAR)

    def effect(make):
        options = {"rng_key": KEY, "store": "memory", "progress": False}
        scenarios = ({**make(value), **options} for value in (arrays, {"X": arrays["X"] + 1}))
        baseline, intervention = scenarios
        return answer(
            _model("linear").estimate_effect(args_baseline=baseline, args_intervention=intervention)
        )

    streamed = effect(lambda value: {"X": _batches(value)})
    _assert_same(streamed, effect(dict))


# ------------------------------------------------------------------ outcomes and interventions


def _outcomes(rows=ROWS):
    return np.random.default_rng(3).normal(size=rows).astype(np.float32)


@pytest.mark.parametrize("container", ["array", "dask", "loader"])
@pytest.mark.parametrize("store", ["memory", "persistent"])
def test_outcomes_come_back_and_do_not_change_the_draws(container, store):
    given = as_container(container, inputs_of(LINEAR) | {"y": _outcomes()}, None)
    tree = _model("linear").predict(**given, rng_key=KEY, store=store, progress=False)
    _assert_same({"y": tree.observed_data["y"].values}, {"y": _outcomes()})
    _assert_same(answer(tree), _whole("linear"))


@pytest.mark.parametrize("container", ["array", "dask"])
def test_outcomes_of_another_shape_are_refused(container):
    given = as_container(container, inputs_of(LINEAR) | {"y": _outcomes()[:, None]}, None)
    with pytest.raises(InputError) as caught:
        _predict(LINEAR, given)
    assert caught.value.code == "shape"


@pytest.mark.parametrize("container", ["dask", "loader"])
@pytest.mark.parametrize("how", ["intervention", "condition"])
def test_values_set_row_by_row_do_not_change_with_the_container(container, how):
    values = {how: {"z": _outcomes()}, "in_sample": False}
    lazy = as_container(container, inputs_of(LOCAL), None)
    streamed = _predict(LOCAL, lazy, **values)
    _assert_same(streamed, _predict(LOCAL, inputs_of(LOCAL), **values))


@pytest.mark.parametrize("rows", [ROWS, 500])
def test_values_set_row_by_row_need_not_know_the_number_of_rows(rows):
    values = {"intervention": {"z": _outcomes(rows)}, "in_sample": False}
    arrays = {"X": inputs_of(LOCAL)["X"][:rows]}
    streamed = _predict(LOCAL, {"X": _batches(arrays)}, **values)
    _assert_close(streamed, _predict(LOCAL, arrays, **values))


# ------------------------------------------------------------------ loaders that are refused


class Announcing:
    """A loader whose data set says how many rows there are."""

    def __init__(self, arrays, rows):
        self.batches, self.dataset = list(_batches(arrays)), range(rows)

    def __iter__(self):
        return iter(self.batches)


def _second_batch(change):
    first, second, *others = _batches(inputs_of(LINEAR), 1_200)
    return [first, change(second), *others]


REFUSED = {
    "another order": (
        "loader-shuffled",
        lambda: ArrayLoader(ArrayDataset(**inputs_of(LINEAR)), 0, shuffle=True),
    ),
    "another name": ("batch-names", lambda: _second_batch(lambda b: {"Z": b["X"]})),
    "one name more": ("batch-names", lambda: _second_batch(lambda b: {**b, "t": b["X"]})),
    "no names": ("batch-names", lambda: _second_batch(lambda b: b["X"])),
    "a name the kernel lacks": (
        "argument-unknown",
        lambda: ({**batch, "t": batch["X"]} for batch in _batches(inputs_of(LINEAR))),
    ),
    "another dtype": (
        "columns-mismatch",
        lambda: _second_batch(lambda b: {"X": b["X"].astype(np.int32)}),
    ),
    "another column": (
        "columns-mismatch",
        lambda: _second_batch(lambda b: {"X": b["X"][:, :2]}),
    ),
    "text": ("not-numeric", lambda: _second_batch(lambda b: {"X": b["X"].astype(str)})),
    "no batches": ("no-rows", lambda: iter(())),
    "only empty batches": ("no-rows", lambda: iter([{"X": np.zeros((0, 3), np.float32)}])),
    "fewer rows": ("rows-mismatch", lambda: Announcing(inputs_of(LINEAR), ROWS + 1)),
    "more rows": ("rows-mismatch", lambda: Announcing(inputs_of(LINEAR), ROWS - 1)),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_loader_is_refused_that_gives(mistake):
    code, make = REFUSED[mistake]
    with pytest.raises(InputError) as caught:
        _predict(LINEAR, {"X": make()})
    assert caught.value.code == code


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS + 1])
def test_loader_of_interacting_rows_is_refused_that_announces_another_number(rows):
    with pytest.raises(InputError) as caught:
        _predict(COUPLED[0], {"X": Announcing(inputs_of(COUPLED[0]), rows)})
    assert caught.value.code == "rows-mismatch"


# ------------------------------------------------------------------ failures on the way


class DiskGoneError(Exception):
    """What a user's own loader may raise."""


def _failing_loader(error, rows):
    for start, batch in zip(range(0, ROWS, 100), _batches(inputs_of(LINEAR), 100), strict=True):
        if start >= rows:
            raise error
        yield batch


def _failing_dask(error, rows):
    def check(block, block_info=None):
        if block_info[0]["array-location"][0][0] >= rows:
            raise error
        return block

    X = as_container("dask", inputs_of(LINEAR), None)["X"]
    return X.map_blocks(check, meta=np.zeros((0, 0), np.float32))


FAILURES = [(_failing_loader, 0), (_failing_loader, 500), (_failing_loader, 1_900)]
FAILURES += [(_failing_dask, 0), (_failing_dask, 1_800)]


@pytest.mark.parametrize("store", ["memory", "persistent"])
@pytest.mark.parametrize(("make", "rows"), FAILURES)
def test_failure_of_the_input_reaches_the_caller_as_itself(make, rows, store):
    error = DiskGoneError("gone")
    with pytest.raises(DiskGoneError) as caught:
        _predict(LINEAR, {"X": make(error, rows)}, store=store, batch_size=100)
    assert caught.value is error


@pytest.mark.parametrize(("make", "rows"), FAILURES[::2])
def test_failure_of_the_input_leaves_nothing_behind(make, rows):
    model = model_of(LINEAR)
    with pytest.raises(DiskGoneError):
        predict(
            model, LINEAR, {"X": make(DiskGoneError(), rows)}, store="persistent", batch_size=100
        )
    gc.collect()
    assert model.temp_dir is None or not list(model.temp_dir.rglob("*"))


@pytest.mark.parametrize(("make", "rows"), [FAILURES[2], FAILURES[4]])
def test_model_predicts_after_a_failure_of_the_input(make, rows):
    with pytest.raises(DiskGoneError):
        _predict(LINEAR, {"X": make(DiskGoneError(), rows)}, batch_size=100)
    _assert_same(_predict(LINEAR, inputs_of(LINEAR)), _whole("linear"))


# ------------------------------------------------------------------ memory


@pytest.mark.parametrize("threads", [1, 3])
def test_stream_is_read_only_a_few_tiles_ahead_of_what_is_written(threads, monkeypatch):
    batch, tiles, lock = 256, 16, threading.Lock()
    read, written, ahead = [0], [0], []
    write = MemorySink.write

    def slow_write(sink, tile, values):
        time.sleep(0.02)
        write(sink, tile, values)
        with lock:
            written[0] += tile.rows.stop - tile.rows.start

    def batches():
        for _ in range(tiles * MAX_ROWS // batch):
            read[0] += batch
            ahead.append(read[0] - written[0])
            yield {"X": np.zeros((batch, 3), np.float32)}

    monkeypatch.setattr(tile_runs, "num_threads", lambda devices: threads)
    monkeypatch.setattr(MemorySink, "write", slow_write)
    _predict(LINEAR, {"X": batches()})
    assert max(ahead) <= (threads + 2) * MAX_ROWS
