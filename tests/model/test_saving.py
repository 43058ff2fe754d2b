"""A model that is saved, copied or sent to another process predicts what it did, bit for bit."""

import copy
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import jax
import joblib
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import Adam
from sklearn.base import clone

from aimz import ImpactModel, InputError, NotFittedError, StoreError
from aimz.model import archive
from tests.support.saved_kernel import kernel, local, read, rows

pytestmark = pytest.mark.filterwarnings("ignore::aimz.FitWarning")  # fits are short

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return rows()


@pytest.fixture(scope="module")
def model(X) -> ImpactModel:
    im = ImpactModel(kernel, rng_key=3, num_samples=20, dims={"b": ["column"]})
    return im.fit_on_batch(X[:50], X[:50, 0], num_steps=10, progress=False)


def drawn(model: ImpactModel, X: Any, **options: Any) -> np.ndarray:
    tree: Any = model.predict(X, store="memory", progress=False, **options)
    values: np.ndarray = tree.posterior_predictive["y"].values
    return values


def write(how: str, model: ImpactModel, path: Path) -> None:
    if how == "archive":
        model.save(path)
    elif how == "joblib":
        joblib.dump(model, path)
    else:
        path.write_bytes({"pickle": pickle, "cloudpickle": cloudpickle}[how].dumps(model))


WAYS = ["pickle", "cloudpickle", "joblib", "archive"]


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.slow) if how == "pickle" else how for how in WAYS]
)
def test_a_saved_model_predicts_bit_for_bit(how, model, X, tmp_path):
    write(how, model, tmp_path / "model")
    again = read(how, str(tmp_path / "model"))
    np.testing.assert_array_equal(drawn(again, X), drawn(model, X))


# Fast ones: test_captured_kernels.py for another process, test_effects_by_layout.py for devices.
@pytest.mark.slow
@pytest.mark.parametrize("how", ["archive", *WAYS[:3]])
def test_another_process_with_more_devices_predicts_bit_for_bit(how, model, X, tmp_path):
    write(how, model, tmp_path / "model")
    command = [sys.executable, "-m", "tests.support.saved_kernel", how, str(tmp_path / "model")]
    command += [str(tmp_path / "draws.npy"), "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_array_equal(np.load(tmp_path / "draws.npy"), drawn(model, X))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_predicts_bit_for_bit(duplicate, model, X):
    np.testing.assert_array_equal(drawn(duplicate(model), X), drawn(model, X))


def test_a_clone_is_not_fitted_and_fits_alike(model, X):
    again = clone(model)
    with pytest.raises(NotFittedError, match="no posterior"):
        again.predict(X)
    again.fit_on_batch(X[:50], X[:50, 0], num_steps=10, progress=False)
    np.testing.assert_array_equal(drawn(again, X), drawn(model, X))


@pytest.mark.parametrize("how", WAYS)
def test_a_saved_model_holds_no_rows(how, X, tmp_path):
    marked = X[:50].copy()
    marked[:, 1] = np.float32(0.123456)
    im = ImpactModel(kernel, num_samples=20)
    im.fit_on_batch(marked, marked[:, 1], num_steps=10, progress=False)
    im.predict(marked, progress=False)
    write(how, im, tmp_path / "model")
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 100_000
    contents = [p.read_bytes() for p in files]
    for file in files:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as parts:
                contents += [parts.read(name) for name in parts.namelist()]
    mark = np.float32(0.123456).tobytes()
    assert not any(mark * 2 in content or mark in content for content in contents)


@pytest.mark.slow
def test_labels_of_rows_are_saved_only_where_latents_belong_to_rows(tmp_path):
    labels = [f"name-{number}" for number in range(30)]
    frame = pd.DataFrame(rows(30), columns=["u", "v"], index=labels)
    kernels: list[tuple[Any, bool]] = [(kernel, False), (local, True)]
    for number, (own, secret) in enumerate(kernels):
        im = ImpactModel(own, num_samples=5)
        im.fit_on_batch(frame, np.ones(30), num_steps=5, progress=False)
        assert ("name-7".encode("utf-32-le") in pickle.dumps(im)) is secret, number


# ------------------------------------------------------------------ the archive


def skewed(X, y=None):
    rate = numpyro.sample("rate", dist.Exponential(1.0))
    numpyro.sample("y", dist.Normal(0.0 * rate + X[:, 0], 1.0), obs=y)


def without_place(content: Any) -> None:
    """As records of chains were before they could start where a guide had been."""
    record = content["fitted"]["fields"]["fit"]["fields"]["state"]
    assert record["record"] == "ChainRecord"
    del record["fields"]["place"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "change"),
    [("auto", None), ("nuts", None), ("nuts", without_place)],
    ids=["from a guide", "chains", "an old archive of chains"],
)
def test_chains_go_on_when_they_are_loaded(how, change, tmp_path):
    im = ImpactModel(skewed, inference=how, num_samples=200)
    im.fit(X=rows(30), y=np.zeros(30), progress=False)
    assert ("guide_k_hat" in im.diagnostics_) is (how == "auto")
    im.save(tmp_path / "model")
    if change is not None:
        edited(change)(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model", skewed)
    seen = [im.posterior["rate"]]
    for _ in range(2):
        own: Any = im.sample(return_datatree=False)["rate"]
        loaded = again.sample(X=rows(30), y=np.zeros(30), return_datatree=False)["rate"]
        np.testing.assert_array_equal(loaded, own)
        assert not any(np.isin(own, old).any() for old in seen)
        assert abs(own.mean() - 1.0) < 0.2
        seen.append(own)


def test_an_archive_keeps_settings_posterior_and_health(model, tmp_path):
    model.save(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model", kernel)
    assert again.get_params() == model.get_params()
    assert again.posterior_tree.posterior.equals(model.posterior_tree.posterior)
    assert again.describe() == model.describe()
    assert again.kernel_spec == model.kernel_spec
    assert again.diagnostics_ == model.diagnostics_


def test_an_archive_keeps_a_typed_key(X, tmp_path):
    im = ImpactModel(kernel, rng_key=jax.random.key(7, impl="rbg"))
    im.set_posterior_sample({"b": np.ones((4, 2)), "sigma": np.ones(4)})
    im.save(tmp_path / "model")
    np.testing.assert_array_equal(
        drawn(ImpactModel.load(tmp_path / "model", kernel), X), drawn(im, X)
    )


@pytest.mark.slow
def test_an_archive_keeps_the_columns_and_latents_of_rows(tmp_path):
    labels = [f"name-{number}" for number in range(30)]
    frame = pd.DataFrame(rows(30), columns=["u", "v"], index=labels)
    im = ImpactModel(local, num_samples=5)
    im.fit_on_batch(frame, np.ones(30), num_steps=5, progress=False)
    im.save(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model", local)
    part = frame.iloc[[4, 2]]
    np.testing.assert_array_equal(drawn(again, part[["v", "u"]]), drawn(im, part))
    with pytest.raises(InputError, match="has no column 'v'"):
        again.predict(frame[["u"]], progress=False)


@pytest.mark.slow
def test_a_loaded_model_goes_on_where_the_saved_one_stopped(model, X, tmp_path):
    model.save(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model", kernel)
    data: dict[str, Any] = {"X": X[:50], "y": X[:50, 0]}
    expected = copy.deepcopy(model).sample(num_samples=20, return_datatree=False)
    got = again.sample(num_samples=20, return_datatree=False, **data)
    for name, draws in expected.items():
        np.testing.assert_array_equal(got[name], draws, err_msg=name)
    settings: dict[str, Any] = {"num_steps": 10, "progress": False}
    fits = [
        im.set_params(warm_start=True).fit_on_batch(**data, **settings)
        for im in (ImpactModel.load(tmp_path / "model", kernel), copy.deepcopy(model))
    ]
    assert fits[0].posterior_tree.posterior.equals(fits[1].posterior_tree.posterior)
    assert not fits[0].posterior_tree.posterior.equals(model.posterior_tree.posterior)


@pytest.mark.slow
def test_a_model_of_chains_is_archived(X, tmp_path):
    im = ImpactModel(kernel, inference="nuts", num_samples=10).fit(
        X[:50], X[:50, 0], progress=False
    )
    im.save(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model", kernel)
    np.testing.assert_array_equal(drawn(again, X), drawn(im, X))
    got = again.sample(num_samples=5, return_datatree=False, X=X[:50], y=X[:50, 0])
    expected = im.sample(num_samples=5, return_datatree=False)
    for name, draws in expected.items():
        np.testing.assert_array_equal(got[name], draws, err_msg=name)


def own_svi() -> SVI:
    return SVI(kernel, AutoNormal(kernel), Adam(0.01), Trace_ELBO())


@pytest.fixture(scope="module")
def custom(X, tmp_path_factory) -> tuple[ImpactModel, Path]:
    path = tmp_path_factory.mktemp("custom") / "model"
    im = ImpactModel(kernel, inference=own_svi(), num_samples=8)
    im.fit_on_batch(X[:50], X[:50, 0], num_steps=10, progress=False)
    im.save(path)
    return im, path


def test_a_model_of_an_inference_object_predicts_without_it(custom, X):
    im, path = custom
    np.testing.assert_array_equal(drawn(ImpactModel.load(path, kernel), X), drawn(im, X))


def test_a_model_without_its_inference_object_is_not_fitted_again_by_another(custom, X):
    again = ImpactModel.load(custom[1], kernel)
    with pytest.raises(InputError, match=r"saved with SVI\(AutoNormal\).* inference= such an obj"):
        again.fit(X, X[:, 0], progress=False)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"y": np.ones(50, np.float32)}, "y"),
        ({"X": np.ones((50, 2), np.float32)}, "X"),
        ({"sample_weight": np.full(50, 2.0)}, "sample_weight"),
        ({"X": None}, "X"),
    ],
)
def test_a_loaded_fit_does_not_go_on_with_other_data(other, name, model, X, tmp_path):
    model.save(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model", kernel)
    data: dict[str, Any] = {"X": X[:50], "y": X[:50, 0], **other}
    with pytest.raises(InputError, match=rf"'{name}' is (not what the model was fitted with|None)"):
        again.sample(**data)


def test_a_fit_of_an_inference_object_is_not_continued_after_loading(custom, X):
    again = ImpactModel.load(custom[1], kernel, inference=own_svi())
    with pytest.raises(InputError, match="There is no fit to continue"):
        again.sample(X=X[:50], y=X[:50, 0])


def test_an_inference_object_is_passed_again(custom, X):
    again = ImpactModel.load(custom[1], kernel, inference=own_svi())
    again.fit_on_batch(X[:50], X[:50, 0], num_steps=10, progress=False)
    np.testing.assert_array_equal(drawn(again, X), drawn(custom[0], X))


def test_a_loaded_model_is_checked_against_the_kernel(model, X, tmp_path):
    def renamed(X, y=None):
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(X @ slope, sigma), obs=y)

    model.save(tmp_path / "model")
    with pytest.raises(InputError, match=r"draws of 'b', which is no site .* none of 'slope'"):
        ImpactModel.load(tmp_path / "model", renamed).predict(X, progress=False)


def test_a_model_is_not_saved_over_something(model, tmp_path):
    with pytest.raises(InputError, match=r"exists\. Pass the name of a new directory"):
        model.save(tmp_path)


def test_a_model_that_cannot_be_saved_leaves_nothing(X, tmp_path):
    im = ImpactModel(kernel, coords={"b": [object()]})
    im.set_posterior_sample({"b": np.ones((4, 2)), "sigma": np.ones(4)})
    with pytest.raises(InputError, match="A object cannot be saved as arrays and JSON"):
        im.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_fitted_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError, match="no posterior"):
        ImpactModel(kernel).save(tmp_path / "model")


# ------------------------------------------------------------------ what is not an archive


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("trapped",))


def with_pickle(path: Path) -> None:
    """Put an array of pickled objects where numbers should be, with the right digest."""
    with np.load(path / "arrays.npz") as stored:
        arrays = dict(stored)
    arrays["a0"] = np.array([Trap()], dtype=object)
    np.savez(path / "arrays.npz", **arrays)
    seal(path)


def seal(path: Path) -> None:
    """Make the digests those of the files as they are, as an attacker would."""
    content = json.loads((path / "model.json").read_text())
    content.pop("sha256", None)
    files = {name: (path / name).read_bytes() for name in content["files"]}
    content["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (path / "model.json").write_text(json.dumps({**content, "sha256": digest}))


def changed(change: Any) -> Any:
    """A document with another value somewhere."""

    def edit(path: Path) -> None:
        content = json.loads((path / "model.json").read_text())
        change(content)
        (path / "model.json").write_text(json.dumps(content))

    return edit


def edited(change: Any) -> Any:
    """A document with another value somewhere, and the digest of it."""

    def edit(path: Path) -> None:
        changed(change)(path)
        seal(path)

    return edit


def in_first_format(path: Path) -> None:
    """What version 1 wrote: no digest of the document, no kernel."""
    content = json.loads((path / "model.json").read_text())
    digest = content.pop("files")["arrays.npz"]
    for name in ("sha256", "kernel", "jax_enable_x64"):
        del content[name]
    content |= {"format_version": 1, "arrays_sha256": digest}
    (path / "model.json").write_text(json.dumps(content))


def setting(name: str, value: Any) -> Any:
    """Change a setting in the document."""

    def change(content: Any) -> None:
        pairs = content["settings"]["dict"]
        (pair,) = [pair for pair in pairs if pair[0] == name]
        pair[:] = value if isinstance(value, list) else [name, value]

    return change


def linked(path: Path) -> None:
    """An arrays file that is a link to somewhere else."""
    outside = path.with_name("outside.npz")
    shutil.move(path / "arrays.npz", outside)
    (path / "arrays.npz").symlink_to(outside)


def flipped(path: Path) -> None:
    data = bytearray((path / "arrays.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "arrays.npz").write_bytes(bytes(data))


HARM: dict[str, tuple[Any, str, str]] = {
    "no arrays": (lambda p: (p / "arrays.npz").unlink(), "store-missing", "no file arrays.npz"),
    "no document": (lambda p: (p / "model.json").unlink(), "store-missing", "no file model.json"),
    "nothing": (shutil.rmtree, "store-missing", "holds no saved model"),
    "a link": (linked, "store-missing", "no file arrays.npz"),
    "a flipped byte": (flipped, "store-damaged", "is not the file that was saved"),
    "a pickled object": (with_pickle, "store-damaged", "allow_pickle"),
    "another document": (
        lambda p: (p / "model.json").write_text("[1, 2]"),
        "store-foreign",
        "is not of a saved model",
    ),
    "no JSON": (
        lambda p: (p / "model.json").write_text("import os"),
        "store-foreign",
        "is not of a saved model",
    ),
    "a newer format": (
        changed(lambda content: content.update(format_version=99)),
        "store-version",
        "saved in format 99",
    ),
    "a record that there is not": (
        edited(lambda content: content["fitted"].update(record="Popen")),
        "store-damaged",
        "Popen",
    ),
    "a value that there is not": (
        edited(lambda content: content["fitted"]["fields"].update(rows={"eval": "1"})),
        "store-damaged",
        "there is no 'eval'",
    ),
    "an array that there is not": (
        edited(lambda content: content["fitted"]["fields"].update(rows={"array": "../a0"})),
        "store-damaged",
        "a0",
    ),
    "another key": (changed(setting("rng_key", 4)), "store-damaged", "is not the file that was"),
    "another setting": (
        changed(setting("num_samples", 21)),
        "store-damaged",
        "model.json is not the file that was saved",
    ),
    "a changed name of a setting": (
        changed(setting("num_samples", ["num_sampled", 20])),
        "store-damaged",
        "is not the file that was saved",
    ),
    "a setting that there is not": (
        edited(setting("num_samples", ["num_sampled", 20])),
        "store-damaged",
        "does not hold the settings",
    ),
    "another version": (
        changed(lambda content: content.update(aimz="9.9")),
        "store-damaged",
        "is not the file that was saved",
    ),
    "another kernel": (
        changed(
            lambda content: content.update(kernel={"import": "tests.support.saved_kernel:local"})
        ),
        "store-damaged",
        "is not the file that was saved",
    ),
    "a file more": (
        edited(lambda content: content["files"].update({"model.json": ""})),
        "store-damaged",
        "which no saved model has",
    ),
    "an older version of the format": (
        changed(lambda content: content.update(format_version=1)),
        "store-damaged",
        "arrays.npz is not the file that was saved",
    ),
    "no fit": (
        edited(lambda content: content.update(fitted=None)),
        "store-damaged",
        "does not hold what a saved model does",
    ),
}


@pytest.mark.parametrize("kind", HARM)
def test_what_is_not_a_sound_archive_is_refused(kind, model, tmp_path, monkeypatch):
    harm, code, match = HARM[kind]
    model.save(tmp_path / "model")
    harm(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=match) as caught:
        ImpactModel.load(tmp_path / "model", kernel)
    assert caught.value.code == code
    assert not (tmp_path / "trapped").exists()


def test_every_digit_of_the_document_counts(model, tmp_path):
    model.save(tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    text = file.read_text()
    numbers = [place for place, letter in enumerate(text) if letter.isdigit()]
    rng = np.random.default_rng(0)
    for place in rng.choice(numbers, 60, replace=False):
        changed = text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]
        if json.loads(changed) == json.loads(text):
            continue  # the last digit of many, which names the same number
        file.write_text(changed)
        with pytest.raises(StoreError) as caught:
            ImpactModel.load(tmp_path / "model", kernel)
        assert caught.value.code in ("store-damaged", "store-version", "store-foreign")


def test_the_first_format_is_still_read(model, X, tmp_path):
    model.save(tmp_path / "model")
    in_first_format(tmp_path / "model")
    np.testing.assert_array_equal(
        drawn(ImpactModel.load(tmp_path / "model", kernel), X), drawn(model, X)
    )
    with pytest.raises(StoreError, match="saved without its kernel") as caught:
        ImpactModel.load(tmp_path / "model")
    assert caught.value.code == "kernel-missing"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (setting("num_samples", ["num_sampled", 20]), "store-damaged"),
        (lambda content: content.pop("settings"), "store-damaged"),
        (lambda content: content["fitted"].update(record="Popen"), "store-damaged"),
        (lambda content: content.update(settings=[1]), "store-damaged"),
    ],
)
def test_a_damaged_model_of_the_first_format_is_an_error_of_ours(change, code, model, tmp_path):
    model.save(tmp_path / "model")
    in_first_format(tmp_path / "model")
    changed(change)(tmp_path / "model")
    with pytest.raises(StoreError) as caught:
        ImpactModel.load(tmp_path / "model", kernel)
    assert caught.value.code == code


def test_a_setting_that_came_later_has_its_default(model, tmp_path):
    def older(content: Any) -> None:
        pairs = content["settings"]["dict"]
        content["settings"]["dict"] = [pair for pair in pairs if pair[0] != "warm_start"]

    model.save(tmp_path / "model")
    edited(older)(tmp_path / "model")
    assert ImpactModel.load(tmp_path / "model", kernel).get_params() == model.get_params()


def test_a_kernel_with_an_import_path_needs_not_be_passed(model, X, tmp_path):
    model.save(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model")
    assert again.kernel is kernel
    np.testing.assert_array_equal(drawn(again, X), drawn(model, X))


def test_an_archive_holds_two_plain_files(model, tmp_path):
    model.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["arrays.npz", "model.json"]
    assert json.loads((tmp_path / "model" / "model.json").read_text())["format_version"] == (
        archive.FORMAT_VERSION
    )
