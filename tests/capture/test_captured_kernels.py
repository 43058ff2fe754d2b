"""Kernels of notebooks, scripts and functions are saved with all that they read, as code."""

import ast
import builtins
import copy
import functools
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel, OutputWarning, StoreError
from aimz.capture import kept
from aimz.capture.comparison import Comparison
from tests.support import captured_script
from tests.support.captured_script import KERNELS, outcome_of

ROOT = Path(__file__).resolve().parents[2]
DRAWS = {"b": np.linspace(0.5, 1.0, 5)}


def model_of(kernel: Any) -> ImpactModel:
    return ImpactModel(kernel, rng_key=7).set_posterior_sample(DRAWS)


def drawn(model: ImpactModel) -> np.ndarray:
    tree: Any = model.predict_on_batch(captured_script.X)
    values: np.ndarray = tree["posterior_predictive"]["y"].values
    return values


def run(*command: str, cwd: Path = ROOT) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Models of every kind of kernel, saved by a script in a process of its own."""
    directory: Path = tmp_path_factory.mktemp("saved")
    run("tests/support/captured_script.py", str(directory))
    return directory


@pytest.mark.parametrize("kind", KERNELS)
def test_a_kernel_of_another_process_is_the_same_bit_for_bit(kind, saved):
    number = list(KERNELS).index(kind)
    again = ImpactModel.load(saved / str(number))
    np.testing.assert_array_equal(outcome_of(again.kernel), np.load(saved / f"{number}.npy"))
    assert again.kernel is not KERNELS[kind]


def test_a_model_of_a_script_predicts_bit_for_bit(saved):
    again = ImpactModel.load(saved / "1")
    np.testing.assert_array_equal(drawn(again), np.load(saved / "drawn.npy"))
    assert again.describe()["kernel"] == "__main__.plain"


def test_a_loaded_model_is_saved_again(saved, tmp_path):
    for number in range(0, len(KERNELS), 3):
        ImpactModel.load(saved / str(number)).save(tmp_path / str(number))
        again = ImpactModel.load(tmp_path / str(number))
        np.testing.assert_array_equal(outcome_of(again.kernel), np.load(saved / f"{number}.npy"))


def test_what_was_captured_is_shown(saved):
    account = ImpactModel.load(saved / "0").describe()["kernel_kept"]["captured"]
    assert {"reads_much", "helper", "Config", "odd", "even"} <= set(account["definitions"])
    assert account["constants"]["TABLE"] == "float32[2, 3]"
    assert account["constants"]["SCALE"] == "2.5"
    assert {"numpyro", "jax", "jax.scipy.stats"} <= set(account["imports"])
    assert account["local_imports"] == []
    assert ImpactModel(captured_script.plain).describe()["kernel_kept"] == {
        "import": "tests.support.captured_script:plain"
    }


def test_the_code_is_a_plain_python_file(saved, tmp_path):
    files = sorted(path.name for path in (saved / "1").iterdir())
    assert files == ["arrays.npz", "kernel.py", "model.json"]
    source = (saved / "0" / "kernel.py").read_text()
    assert '"""A helper of the script\'s."""' in source
    ast.parse(source)
    run("kernel.py", cwd=saved / "0")  # it finds its arrays by itself


# ------------------------------------------------------------------ modules of the user's


@pytest.fixture
def helpers(tmp_path, monkeypatch) -> Iterator[Any]:
    (tmp_path / "own_helpers.py").write_text(
        "import numpy as np\nTABLE = np.arange(3.0)\ndef shifted(x):\n    return x + TABLE.sum()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("own_helpers")
    sys.modules.pop("own_helpers", None)


def test_functions_of_a_module_beside_the_notebook_are_captured(helpers, tmp_path):
    shifted = helpers.shifted

    def kernel(X, y=None):
        numpyro.sample("y", dist.Normal(shifted(X[:, 0]), 1.0), obs=y)

    model_of(kernel).save(tmp_path / "model")
    assert "own_helpers" not in kept(kernel).entry["captured"]["imports"]
    np.testing.assert_array_equal(
        outcome_of(ImpactModel.load(tmp_path / "model").kernel), outcome_of(kernel)
    )


def test_an_import_inside_a_kernel_counts(helpers, tmp_path):
    def kernel(X, y=None):
        import own_helpers  # type: ignore[import-not-found]  # of this test

        numpyro.sample("y", dist.Normal(own_helpers.shifted(X[:, 0]), 1.0), obs=y)

    assert kept(kernel).entry["captured"]["local_imports"] == ["own_helpers"]

    def relative(X, y=None):
        from .own_helpers import shifted  # type: ignore[import-untyped]  # nowhere

        numpyro.sample("y", dist.Normal(shifted(X[:, 0]), 1.0), obs=y)

    assert "it imports '.own_helpers' relatively" in kept(relative).absent


def test_a_module_beside_the_notebook_is_named_where_it_is_missing(helpers, tmp_path):
    def kernel(X, y=None):
        numpyro.sample("y", dist.Normal(helpers.shifted(X[:, 0]), 1.0), obs=y)

    model_of(kernel).save(tmp_path / "model")
    assert kept(kernel).entry["captured"]["local_imports"] == ["own_helpers"]
    sys.path.remove(str(tmp_path))
    sys.modules.pop("own_helpers")
    importlib.invalidate_caches()
    with pytest.raises(StoreError, match="No module named 'own_helpers'") as caught:
        ImpactModel.load(tmp_path / "model")
    assert caught.value.code == "kernel-missing"
    assert ImpactModel.load(tmp_path / "model", kernel).is_fitted()


# ------------------------------------------------------------------ what cannot be captured


LOCK = threading.Lock()


def of_a_lock() -> Any:
    lock = LOCK

    def kernel(X, y=None):
        with lock:
            numpyro.sample("y", dist.Normal(X[:, 0], 1.0), obs=y)

    return kernel


def of_a_file() -> Any:
    with Path(__file__).open() as file:

        def kernel(X, y=None):
            numpyro.sample("y", dist.Normal(X[:, 0] + len(file.name), 1.0), obs=y)

    return kernel


def without_source() -> Any:
    scope: dict[str, Any] = {"numpyro": numpyro, "dist": dist}
    exec("def kernel(X, y=None):\n    numpyro.sample('y', dist.Normal(X[:, 0], 1.0), obs=y)", scope)
    return scope["kernel"]


def of_a_list_of_itself() -> Any:
    around: list[Any] = [1.0]
    around.append(around)

    def kernel(X, y=None):
        numpyro.sample("y", dist.Normal(X[:, 0] + around[0], 1.0), obs=y)

    return kernel


def renamed() -> Any:
    def kernel(X, y=None):
        numpyro.sample("y", dist.Normal(X[:, 0] + 1.0, 1.0), obs=y)

    code = kernel.__code__
    kernel.__code__ = code.replace(co_consts=tuple(2.0 if c == 1.0 else c for c in code.co_consts))
    return kernel


UNKEPT: dict[str, tuple[Any, str]] = {
    "lock": (of_a_lock, "'lock' of 'kernel': cannot pickle '_thread.lock'"),
    "file": (of_a_file, "'file' of 'kernel': cannot pickle"),
    "no source": (without_source, "'kernel': it has no source"),
    "a list of itself": (of_a_list_of_itself, "'around' of 'kernel': it holds itself"),
    "an edited function": (renamed, "'kernel': its source has changed since it was run"),
}


@pytest.mark.parametrize("kind", UNKEPT)
def test_what_cannot_be_captured_is_named(kind, tmp_path):
    make, reason = UNKEPT[kind]
    kernel = make()
    with pytest.warns(OutputWarning, match=reason) as caught:
        model_of(kernel).save(tmp_path / "model")
    assert caught[0].message.code == "kernel-not-kept"
    with pytest.raises(StoreError, match=r"Pass it: ImpactModel\.load") as e:
        ImpactModel.load(tmp_path / "model")
    assert e.value.code == "kernel-missing"
    assert ImpactModel.load(tmp_path / "model", kernel).is_fitted()


def test_an_edited_script_is_not_taken_for_the_one_that_ran(tmp_path, monkeypatch):
    path = tmp_path / "edited_script.py"
    path.write_text(
        "import numpyro, numpyro.distributions as dist\n\ndef make():\n    def kernel(X, y=None):\n"
        "        numpyro.sample('y', dist.Normal(X[:, 0] + 1.0, 1.0), obs=y)\n    return kernel\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    kernel = importlib.import_module("edited_script").make()
    moved = path.read_text().replace("def make", "# moved\n\n\ndef make")
    path.write_text(moved)
    os.utime(path, (0, 0))
    assert "code" in kept(kernel).entry  # the same code, elsewhere in the file
    path.write_text(moved.replace("1.0, 1.0", "2.0, 1.0"))
    os.utime(path, (1, 1))
    assert "its source has changed" in kept(kernel).absent


# ------------------------------------------------------------------ what is written is compared


def with_variable(value: Any) -> Any:
    return lambda: value


def with_default(value: Any) -> Any:
    def function(x=value):
        return x

    return function


def with_global(value: Any) -> Any:
    scope: dict[str, Any] = {"value": value}
    exec("def function():\n    return value", scope)
    return scope["function"]


def with_attribute(value: Any) -> Any:
    return type("Own", (), {"value": value, "__module__": "nowhere"})


def with_static(value: Any) -> Any:
    return type("Own", (), {"f": staticmethod(with_variable(value)), "__module__": "nowhere"})


def with_property(value: Any) -> Any:
    return type("Own", (), {"f": property(with_default(value)), "__module__": "nowhere"})


def with_state(value: Any) -> Any:
    made = captured_script.Kernel(1.0)
    made.parts = [value]
    return made


HOLDERS: dict[str, Any] = {
    "variable": with_variable,
    "default": with_default,
    "global": with_global,
    "attribute of a class": with_attribute,
    "static method": with_static,
    "property": with_property,
    "state": with_state,
    "partial": lambda value: functools.partial(print, 1, end=value),
    "dict": lambda value: {"a": {1: value}},
    "jit": lambda value: jax.jit(with_variable(value)),
    "options of jit": lambda value: jax.jit(lambda a, b: (a, b), static_argnames=str(value)),
    "cached": lambda value: functools.lru_cache(maxsize=None)(with_variable(value)),
    "bound": lambda value: with_state(value).method,
}
VALUES: list[tuple[Any, Any]] = [
    (1.0, 2.0),
    (1, 1.0),
    (np.arange(3), np.arange(3.0)),
    (np.zeros(3), -np.zeros(3)),
    (jax.random.key(0), jax.random.key(1)),
    ((1, 2), (1, 2, 3)),
    ({"a"}, {"b"}),
    (dist.Normal(0.0, 1.0), dist.Normal(0.0, 2.0)),
]


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_piece_that_differs_is_found_wherever_it_is(holder):
    hold = HOLDERS[holder]
    for one, other in VALUES if "options" not in holder else [("a", "b")]:
        assert Comparison().difference(hold(one), hold(other), ("kernel",)), (one, other)
        again = copy.deepcopy(one)
        assert Comparison().difference(hold(one), hold(again), ("kernel",)) == (), one


# ------------------------------------------------------------------ what is loaded runs once asked


def test_nothing_runs_where_the_kernel_is_passed(saved, monkeypatch):
    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(builtins, "exec", refuse)
    assert ImpactModel.load(saved / "0", captured_script.plain).is_fitted()
    with pytest.raises(StoreError, match="does not run here"):
        ImpactModel.load(saved / "0")


def resealed(path: Path, **change: Any) -> None:
    """Change a document, and seal it as an attacker would."""
    import hashlib

    content = json.loads((path / "model.json").read_text())
    content.pop("sha256")
    content.update(change)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (path / "model.json").write_text(json.dumps({**content, "sha256": digest}))


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"import": "os:system"}, "model-unsafe"),
        ({"import": "posix:system"}, "model-unsafe"),
        ({"import": "builtins:exec"}, "model-unsafe"),
        ({"import": "numpy.f2py:os.system"}, "model-unsafe"),
        ({"import": "aimz.model:ImpactModel"}, "model-unsafe"),
        ({"import": "nowhere_at_all:kernel"}, "kernel-missing"),
        ({"code": "../../own.py", "name": "kernel", "origin": ["a", "b"]}, "kernel-missing"),
        ({"code": "kernel.py", "name": "nowhere", "origin": ["a", "b"]}, "kernel-missing"),
        ({}, "kernel-missing"),
    ],
)
def test_a_kernel_that_is_none_is_refused(entry, code, tmp_path):
    model_of(captured_script.plain).save(tmp_path / "model")
    resealed(tmp_path / "model", kernel=entry)
    with pytest.raises(StoreError) as caught:
        ImpactModel.load(tmp_path / "model")
    assert caught.value.code == code


def test_code_that_is_not_the_saved_one_never_runs(saved, tmp_path):
    import shutil

    shutil.copytree(saved / "1", tmp_path / "model")
    code = tmp_path / "model" / "kernel.py"
    code.write_text(code.read_text() + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(StoreError, match="is not the file that was saved") as caught:
        ImpactModel.load(tmp_path / "model")
    assert caught.value.code == "store-damaged"
    assert not (tmp_path / "ran").exists()


def test_a_captured_kernel_is_copied_and_pickled(saved):
    import pickle

    model = ImpactModel.load(saved / "2")
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(outcome_of(again.kernel), outcome_of(model.kernel))


def test_another_precision_is_said(saved):
    with jax.enable_x64(True), pytest.warns(OutputWarning, match="jax_enable_x64=False") as caught:
        ImpactModel.load(saved / "1")
    assert caught[0].message.code == "precision-differs"
