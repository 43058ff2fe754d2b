"""What a store gives back: equal values, their labels and dtypes, or an error; and for how long."""

import contextlib
import json
import os
import random
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
import zarr

import aimz
from aimz import ImpactModel, InputError, StoreError
from aimz.store import manifest, reading
from tests.support.store_worker import make_model, make_rows

ROWS = 1024 + 60  # two tiles
LABELS: dict[str, Any] = {
    "text": [f"row {number} é" for number in range(ROWS)],
    "dates": pd.date_range("2020-02-28", periods=ROWS, freq="6h"),
    "numbers": np.arange(ROWS) * 3 - 7,
}
#: Each outcome is drawn from the posterior draws of `a` and the rows.
OUTCOMES = {
    "normal": lambda mu: dist.Normal(mu, 1.0),
    "bernoulli": lambda mu: dist.Bernoulli(logits=mu),
    "binomial": lambda mu: dist.Binomial(total_count=10, logits=mu),
    "categorical": lambda mu: dist.Categorical(logits=jnp.stack([mu, 0 * mu, -mu], -1)),
    "poisson": lambda mu: dist.Poisson(jnp.exp(mu)),
}


def outcome_model(name: str, draws: int = 4) -> ImpactModel:
    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with numpyro.plate("person", X.shape[0]):
            numpyro.sample("y", OUTCOMES[name](a + X[:, 0]), obs=y)

    posterior = {"a": np.linspace(-1, 1, draws, dtype=np.float32)}
    return ImpactModel(kernel).set_posterior_sample(posterior)


def trials(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("person", X.shape[0]):
        m = numpyro.sample("m", dist.Binomial(total_count=10, logits=a))
        numpyro.sample("y", dist.Normal(m + X[:, 0], 1.0), obs=y)


def trials_by_row(X, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("person", X.shape[0]):
        numpyro.sample("y", dist.Binomial(X[:, 0].astype(int), logits=5.0 + a), obs=y)


def path_of(tree: xr.DataTree) -> Path:
    return Path(tree.attrs["artifact_path"])


def codec_names(store: Path, variable: str) -> list[str]:
    document = json.loads((store / variable / "zarr.json").read_text())
    return [codec["name"] for codec in document["codecs"]]


def data_type(store: Path, variable: str) -> str:
    return str(json.loads((store / variable / "zarr.json").read_text())["data_type"])


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return make_rows(ROWS)


@pytest.fixture(scope="module")
def model() -> ImpactModel:
    return make_model()


METHODS = {
    "predict": lambda m, X, **to: m.predict(X, progress=False, **to),
    "predictions": lambda m, X, **to: m.predict(X, in_sample=False, progress=False, **to),
    "log_likelihood": lambda m, X, **to: m.log_likelihood(X, X["a"], progress=False, **to),
    "prior": lambda m, X, **to: m.sample_prior_predictive(X, num_samples=4, progress=False, **to),
}


KINDS = [*(("predict", labels) for labels in LABELS), *((name, "text") for name in [*METHODS][1:])]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def results(request, model, X, tmp_path_factory) -> tuple[xr.DataTree, xr.DataTree]:
    """A result on disk, and the same one in memory."""
    method, labels = request.param
    call = METHODS[method]
    frame = pd.DataFrame(X, columns=["a", "b"], index=pd.Index(LABELS[labels], name="who"))
    stored = call(model, frame, output_dir=tmp_path_factory.mktemp("results"))
    return stored, call(model, frame, store="memory")


# ----------------------------------------------------------------------------- equal results


def test_an_opened_result_is_the_one_that_was_returned(results):
    stored, _ = results
    opened = aimz.open(path_of(stored))
    assert opened.load().identical(stored.load())
    assert dtypes(opened) == dtypes(stored)


def test_a_stored_result_equals_the_one_in_memory(results):
    stored, memory = results
    for name in memory.children:
        kept, plain = (tree[name].to_dataset().drop_attrs(deep=False) for tree in results)
        xr.testing.assert_identical(kept.load(), plain)
    assert dtypes(stored) == dtypes(memory)
    assert set(stored.children) == set(memory.children)


def test_a_stored_result_has_the_attributes_of_the_one_in_memory(results):
    stored, memory = results
    assert set(stored.attrs) == {*memory.attrs, "artifact_path"}
    changing = ("artifact_path", "created_at")
    for name, value in memory.attrs.items():
        assert name in changing or stored.attrs[name] == value


def test_a_stored_result_is_sound(results):
    assert aimz.verify(path_of(results[0])) == []


def test_plain_readers_see_the_same_tree(results):
    stored, _ = results
    with xr.open_datatree(path_of(stored), engine="zarr") as plain:
        for name, node in stored.children.items():
            assert_seen(plain[name].to_dataset(), node.to_dataset())
        assert plain.attrs["words"] == stored.attrs["words"]


def test_plain_readers_see_the_same_group(results):
    stored, _ = results
    for name, node in stored.children.items():
        with xr.open_zarr(path_of(stored), group=name) as plain:
            assert_seen(plain, node.to_dataset())


def dtypes(tree: xr.DataTree) -> dict[str, str]:
    return {
        f"{name}/{key}": str(variable.dtype)
        for name, node in tree.children.items()
        for key, variable in node.to_dataset().variables.items()
    }


def assert_seen(plain: xr.Dataset, ours: xr.Dataset) -> None:
    assert set(plain.variables) == set(ours.variables)
    assert plain.attrs == ours.attrs
    for name, variable in ours.variables.items():
        assert plain[name].dims == variable.dims
        assert plain[name].attrs.get("site") == variable.attrs.get("site")
        np.testing.assert_array_equal(plain[name].values, variable.values)


def test_a_result_above_the_budget_is_in_dask_chunks_of_equal_values(model, X, tmp_path):
    pytest.importorskip("dask")
    tree = model.predict(X, output_dir=tmp_path, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "RESULT_BYTES", 0)
        chunked = aimz.open(path_of(tree))
    assert chunked.posterior_predictive["y"].chunks[-1] == (1024, 60)
    assert chunked.load().identical(tree.load())


def test_a_part_of_a_result_can_be_read(model, X):
    y = model.predict(X, progress=False).posterior_predictive["y"]
    whole = y.values
    np.testing.assert_array_equal(y[:, 1, 1000:1050], whole[:, 1, 1000:1050])
    np.testing.assert_array_equal(y[0, ::-1, [5, 3, 1080]], whole[0, ::-1][:, [5, 3, 1080]])
    np.testing.assert_array_equal(y.sel(person=7), whole[..., 7])


# ----------------------------------------------------------------------------- encodings


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow if name in ("normal", "categorical") else ())
        for name in OUTCOMES
    ],
)
def outcome(request, X, tmp_path_factory):
    model = outcome_model(request.param)
    tree = model.predict(X, output_dir=tmp_path_factory.mktemp("outcome"), progress=False)
    return request.param, tree, model.predict_on_batch(X)


def test_outcomes_come_back_in_the_dtype_of_memory(outcome):
    _, tree, memory = outcome
    y = tree.posterior_predictive["y"].values
    np.testing.assert_array_equal(y, memory.posterior_predictive["y"].values, strict=True)


def test_outcomes_are_stored_in_the_narrowest_dtype_of_their_support(outcome):
    name, tree, _ = outcome
    expected = {
        "normal": ("float32",),
        "bernoulli": ("bool",),
        "binomial": ("uint8", "int8"),
        "categorical": ("uint8", "int8"),
        "poisson": ("int32",),
    }
    assert data_type(path_of(tree), "posterior_predictive/y") in expected[name]


def test_float_draws_are_not_compressed_but_checked(model, X):
    names = codec_names(path_of(model.predict(X, progress=False)), "posterior_predictive/mu")
    assert set(names) <= {"bytes", "crc32c", "transpose"}
    assert names[-1] == "crc32c"


def test_every_array_carries_a_checksum(outcome):
    store = path_of(outcome[1])
    arrays = [path.parent for path in store.rglob("zarr.json") if (path.parent / "c").exists()]
    assert arrays
    for path in arrays:
        assert codec_names(store, str(path.relative_to(store)))[-1] == "crc32c"


def test_truth_values_take_a_bit_each():
    tree = outcome_model("bernoulli", draws=64).predict(make_rows(2048), progress=False)
    array = path_of(tree) / "posterior_predictive/y"
    size = sum(path.stat().st_size for path in array.rglob("*") if path.is_file())
    assert size / (64 * 2048) <= 0.15
    assert "numcodecs.packbits" in codec_names(path_of(tree), "posterior_predictive/y")


@pytest.mark.parametrize("value", [300, -5, 70_000])
def test_a_site_that_a_function_sets_beyond_its_support_is_refused(value):
    model = ImpactModel(trials).set_posterior_sample({"a": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match=f"'m' gives {value} in row 0") as caught:
        model.predict(
            np.zeros((20, 1), np.float32),
            intervention={"m": lambda m: 0 * m + value},
            return_sites=["m", "y"],
            in_sample=False,
            progress=False,
        )
    assert caught.value.code == "site-support"


@pytest.mark.parametrize("how", ["condition", "intervention"])
def test_a_value_beyond_the_support_of_a_site_is_refused(how):
    model = ImpactModel(trials).set_posterior_sample({"a": np.zeros(3, np.float32)})
    settings: dict[str, Any] = {how: {"m": 300}, "in_sample": False, "progress": False}
    with pytest.raises(InputError, match="'m' is set to 300, which it cannot take"):
        model.predict(np.zeros((20, 1), np.float32), **settings)


def test_a_posterior_site_beyond_its_support_is_refused():
    posterior = {"a": np.zeros(3, np.float32), "m": np.full((3, 20), 300)}
    model = ImpactModel(trials).set_posterior_sample(posterior)
    X = np.zeros((20, 1), np.float32)
    with pytest.raises(InputError, match=r"'m' hold 300 .*outside its support"):
        model.predict(X, return_sites=["m", "y"], progress=False)


@pytest.mark.slow
def test_counts_whose_support_follows_the_rows_are_not_narrowed():
    model = ImpactModel(trials_by_row).set_posterior_sample({"a": np.zeros(3, np.float32)})
    X = np.full((ROWS, 1), 10, np.float32)
    X[1030:] = 1000  # beyond the first tile, and beyond one byte
    stored, memory = (
        model.predict(X, store=store, progress=False).posterior_predictive["y"].values
        for store in ("persistent", "memory")
    )
    assert stored.max() > 255
    np.testing.assert_array_equal(stored, memory, strict=True)


# ----------------------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A store with floats, truth values, text and observed outcomes."""
    frame = pd.DataFrame(make_rows(ROWS), index=LABELS["text"])
    model = outcome_model("bernoulli")
    tree = model.predict(
        frame,
        y=(frame[0] > 0).to_numpy(np.int32),
        output_dir=tmp_path_factory.mktemp("sound"),
        progress=False,
    )
    return path_of(tree)


def files_of(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


def problem_of(store: Path) -> str:
    """What is wrong with how a damaged store is taken; nothing if it is refused and listed."""
    problems = []
    try:
        aimz.open(store).load()
        problems.append("opens")
    except StoreError:
        pass
    except Exception as error:  # noqa: BLE001  # this is the finding
        problems.append(f"opening raises {type(error).__name__}")
    try:
        if not aimz.verify(store):
            problems.append("verify finds nothing")
    except StoreError:
        pass
    except Exception as error:  # noqa: BLE001  # this is the finding
        problems.append(f"verify raises {type(error).__name__}")
    return ", ".join(problems)


def test_a_sound_store_has_no_damage(sound):
    assert aimz.verify(sound) == []


def test_a_plate_with_a_slash_is_a_dimension_with_a_dot_and_guarded(tmp_path):
    def kernel(X, y=None):
        w = numpyro.sample("w", dist.Normal())
        with numpyro.plate("a/r", X.shape[0]):
            numpyro.sample("y", dist.Normal(w * X[:, 0], 1.0), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"w": np.zeros(4)})
    tree = im.predict(make_rows()[:20], output_dir=tmp_path, in_sample=False, progress=False)
    documents = sorted(path_of(tree).rglob("zarr.json"))
    assert tree.predictions["y"].dims[-1] == "a.r"
    assert "a.r" in aimz.open(path_of(tree)).predictions.coords
    for path in documents:
        raw = path.read_bytes()
        path.write_text("{}")
        assert not problem_of(path_of(tree)), path
        path.write_bytes(raw)


def test_every_flipped_byte_is_noticed(sound):
    rng = random.Random(0)
    files = files_of(sound)
    sizes = [path.stat().st_size for path in files]
    chosen = [*files, *rng.choices(files, sizes, k=100 - len(files))]
    wrong = {}
    for path in chosen:
        raw = path.read_bytes()
        place = rng.randrange(len(raw))
        flipped = bytearray(raw)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        if problem := problem_of(sound):
            wrong[f"{path.relative_to(sound)} byte {place}"] = problem
        path.write_bytes(raw)
    assert len(chosen) == 100
    assert wrong == {}
    assert aimz.verify(sound) == []


def test_every_deleted_file_is_noticed(sound, tmp_path):
    wrong = {}
    for path in files_of(sound):
        kept = shutil.move(path, tmp_path / "kept")
        if problem := problem_of(sound):
            wrong[str(path.relative_to(sound))] = problem
        shutil.move(kept, path)
    assert wrong == {}


def test_every_shortened_file_is_noticed(sound):
    wrong = {}
    for path in files_of(sound):
        raw = path.read_bytes()
        path.write_bytes(raw[:-1])
        if problem := problem_of(sound):
            wrong[str(path.relative_to(sound))] = problem
        path.write_bytes(raw)
    assert wrong == {}


def test_verify_names_the_damaged_chunk(sound):
    path = sound / "posterior_predictive/y/c/0/0/1"
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    found = aimz.verify(sound)
    path.write_bytes(raw)
    assert [damage.key for damage in found] == ["posterior_predictive/y/c/0/0/1"]


def test_a_damaged_chunk_leaves_the_others_readable(sound):
    path = sound / "posterior_predictive/y/c/0/0/1"
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    y = aimz.open(sound).posterior_predictive["y"]
    try:
        assert y[..., :1024].values.shape == (1, 4, 1024)
        with pytest.raises(StoreError, match=r"aimz\.verify") as caught:
            y[..., 1024:].values  # noqa: B018  # reads
    finally:
        path.write_bytes(raw)
    assert caught.value.code == "store-damaged"


# ----------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "code", "match"),
    [
        ({"output_dir": "ftp://host/place"}, "output-dir", "ftp://.*file://"),
        ({"output_dir": "hdfs://host"}, "output-dir", "no place that is known"),
        ({"output_dir": "here", "store": "memory"}, "option-unknown", "store='memory'"),
        ({"store": "disk"}, "option-unknown", "'persistent' or 'memory'.*'disk'"),
    ],
)
def test_what_cannot_be_written_is_refused(X, options, code, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=match) as caught:
        make_model().predict(X, progress=False, **options)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_output_dir(X, tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(InputError, match="is a file") as caught:
        make_model().predict(X, output_dir=path, progress=False)
    assert caught.value.code == "output-dir"
    assert path.read_text() == "mine"


@pytest.mark.parametrize("make", [str, Path, lambda p: p.as_uri()], ids=["str", "path", "url"])
def test_output_dir_is_a_path_or_a_file_url(X, tmp_path, make):
    directory = tmp_path / "new dir" / "below"
    tree = make_model().predict(X, output_dir=make(directory), progress=False)
    assert path_of(tree).parent == directory


def test_a_store_is_named_by_its_time_and_method(X, tmp_path):
    tree = make_model().predict(X, output_dir=tmp_path, progress=False)
    assert re.fullmatch(r"\d{8}T\d{6}\d*Z_predict", path_of(tree).name)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_directory_that_cannot_be_written_is_an_os_error(X, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match=re.escape(str(tmp_path))):
            make_model().predict(X, output_dir=tmp_path, progress=False)
    finally:
        tmp_path.chmod(0o700)


def with_format(store: Path, version: int) -> None:
    """Write another format's number into a store, soundly."""
    document = store / "zarr.json"
    raw = document.read_bytes().replace(
        rb"\"format_version\": 1", rb"\"format_version\": %d" % version
    )
    unsigned = re.sub(rb'\\"signature\\": \\"[0-9a-f]{32}\\"', rb'\\"signature\\": \\"\\"', raw)
    document.write_bytes(manifest.sealed(unsigned))


def nothing(path: Path) -> None:
    """No directory at all."""


def empty(path: Path) -> None:
    path.mkdir()


def foreign(path: Path) -> None:
    zarr.create_group(path, attributes={"title": "of somebody else"})


def newer(path: Path) -> None:
    shutil.copytree(path_of(make_model().predict(make_rows(20), progress=False)), path)
    with_format(path, 2)


def torn(path: Path) -> None:
    shutil.copytree(path_of(make_model().predict(make_rows(20), progress=False)), path)
    document = path / "zarr.json"
    document.write_bytes(document.read_bytes()[:-20])


def unfinished(path: Path) -> None:
    shutil.copytree(path_of(make_model().predict(make_rows(20), progress=False)), path)
    path.rename(path.with_name(f"{path.name}.incomplete"))


NOT_RESULTS: list[tuple[Any, str, str]] = [
    (nothing, "store-missing", "There is no result"),
    (empty, "store-missing", "There is no result"),
    (foreign, "store-foreign", r"xarray\.open_datatree"),
    (newer, "store-version", "format 2.*Upgrade"),
    (torn, "store-damaged", "root document"),
    (unfinished, "store-missing", "not finished.*same output_dir"),
]


@pytest.mark.parametrize("take", [aimz.open, aimz.verify], ids=["open", "verify"])
@pytest.mark.parametrize(("make", "code", "match"), NOT_RESULTS, ids=lambda v: "")
def test_what_is_no_result_is_refused(tmp_path, take, make, code, match):
    path = tmp_path / "store"
    make(path)
    with pytest.raises(StoreError, match=match) as caught:
        take(path)
    assert caught.value.code == code


def test_an_unfinished_store_is_refused_by_its_own_name(tmp_path):
    unfinished(tmp_path / "store")
    with pytest.raises(StoreError, match="same output_dir") as caught:
        aimz.open(tmp_path / "store.incomplete")
    assert caught.value.code == "store-incomplete"


def test_a_stored_error_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="There is no result"):
        aimz.open(tmp_path / "nothing")


def test_nothing_warns_while_a_store_is_written_and_read(X, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = pd.DataFrame(X, index=LABELS["text"])
        tree = outcome_model("bernoulli").predict(frame, output_dir=tmp_path, progress=False)
        aimz.open(path_of(tree)).load()
        aimz.verify(path_of(tree))
        with contextlib.closing(xr.open_datatree(path_of(tree), engine="zarr")) as plain:
            plain.load()
    assert [str(warning.message) for warning in caught] == []
