"""MLflow: runs, models and effects over HTTP against its own server; what is served; what is not.

One tracking server and one scoring server are started for the module; the rest is directories.
"""

import copy
import importlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import Adam

import aimz.mlflow
from aimz import ImpactModel, InputError, StoreError
from aimz.mlflow.effects import dataset_of
from aimz.mlflow.scoring import Scorer
from aimz.programs.tracing import clear_programs, program_stats
from tests.laws.test_compilation import XlaCompiles
from tests.model.test_saving import seal
from tests.support import saved_kernel
from tests.support.mlflow_servers import QUIET, ROOT, Server, scoring, served_here, tracking

pytestmark = [
    pytest.mark.filterwarnings("ignore::aimz.FitWarning"),  # fits are short
    pytest.mark.filterwarnings("ignore:.* outside the data:aimz.OutputWarning"),
]

KERNEL = """
import numpyro
import numpyro.distributions as dist


def kernel(X, t, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 10.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("person", X.shape[0]):
        m = numpyro.deterministic("m", a + X @ b)
        numpyro.sample("y", dist.Normal(m + t, 1.0), obs=y)
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> Iterator[Path]:
    """A module of the user's that holds a kernel."""
    path = tmp_path_factory.mktemp("project") / "growth.py"
    path.write_text(KERNEL)
    sys.path.insert(0, str(path.parent))
    yield path
    sys.path.remove(str(path.parent))
    sys.modules.pop("growth", None)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=40) for name in ("u", "v", "t")}
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def model(module, frame) -> ImpactModel:
    kernel = importlib.import_module("growth").kernel
    im = ImpactModel(kernel, 5, simple(kernel), num_samples=30)
    return im.fit_on_batch(
        frame[["u", "v"]], frame["u"] + frame["t"], t=frame["t"], num_steps=50, progress=False
    )


@pytest.fixture(scope="module")
def saved(model, module, frame, tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("saved") / "model"
    aimz.mlflow.save_model(model, path, code_paths=[str(module)], input_example=frame.head(3))
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    import mlflow

    with tracking(tmp_path_factory.mktemp("server")) as running:
        before = os.environ.get("MLFLOW_TRACKING_URI"), mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(running.url)
        yield running
        mlflow.set_tracking_uri(before[1])
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if before[0] is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before[0]


@pytest.fixture
def autologging(server):
    yield aimz.mlflow.autolog
    aimz.mlflow.autolog(disable=True)


def linear(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)


def with_draws(kernel: Any = linear) -> ImpactModel:
    return ImpactModel(kernel).set_posterior_sample({"b": np.linspace(0.0, 1.0, 10)})


def simple(kernel: Any) -> SVI:
    """Inference that compiles quickly."""
    return SVI(kernel, AutoNormal(kernel), Adam(0.01), Trace_ELBO())


def drawn(model: ImpactModel, frame: pd.DataFrame, **options: Any) -> np.ndarray:
    options = {"t": frame["t"], "in_sample": False, **options}
    tree: Any = model.predict_on_batch(frame[["u", "v"]], **options)
    values: np.ndarray = tree.predictions["y"].values
    return values


# ------------------------------------------------------------------ over HTTP


@pytest.fixture(scope="module")
def logged(server) -> tuple[Any, ImpactModel, np.ndarray]:
    import mlflow

    X, rng = saved_kernel.rows(), np.random.default_rng(1)
    draws = {"b": rng.normal(size=(20, 2)), "sigma": rng.uniform(1, 2, 20)}
    im = ImpactModel(saved_kernel.kernel, rng_key=3).set_posterior_sample(draws)
    with mlflow.start_run():
        info = aimz.mlflow.log_model(im, name="model", registered_model_name="growth")
    tree: Any = im.predict(X, progress=False)
    return info, im, tree.posterior_predictive["y"].values


def test_a_registered_model_predicts_bit_for_bit(logged):
    _, im, expected = logged
    again = aimz.mlflow.load_model("models:/growth/1")
    tree: Any = again.predict(saved_kernel.rows(), progress=False)
    np.testing.assert_array_equal(tree.posterior_predictive["y"].values, expected)
    assert again.get_params() == im.get_params()


@pytest.mark.slow
def test_another_process_with_more_devices_predicts_bit_for_bit(logged, server, tmp_path):
    info, _, expected = logged
    command = [sys.executable, "-m", "tests.support.mlflow_servers", info.model_uri]
    done = subprocess.run(
        [*command, str(tmp_path / "draws.npy"), "3"],
        cwd=ROOT,
        env={**os.environ, **QUIET, "MLFLOW_TRACKING_URI": server.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_array_equal(np.load(tmp_path / "draws.npy"), expected)


def test_an_effect_is_logged_with_its_draws_its_picture_and_its_numbers(
    model, frame, server, tmp_path
):
    import mlflow

    effect = model.effect(
        frame[["u", "v"]], {"t": 0}, {"t": 1}, t=frame["t"], in_sample=False, progress=False
    )
    with mlflow.start_run() as run:
        aimz.mlflow.log_effect(effect, "effects/all")
    files = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="effects/all", dst_path=str(tmp_path)
    )
    assert sorted(path.name for path in Path(files).iterdir()) == [
        "draws.nc",
        "effect.png",
        "summary.csv",
        "summary.txt",
    ]
    draws = xr.load_dataset(Path(files) / "draws.nc", engine="scipy")
    np.testing.assert_array_equal(draws["effect"].values, effect.draws.values)
    kept = mlflow.get_run(run.info.run_id).data
    table = effect.summary()
    assert kept.metrics["effects/all/mean"] == pytest.approx(float(table["mean"].iloc[0]))
    assert kept.metrics["effects/all/p_above_0"] == 1.0
    assert kept.tags["effects/all.estimand"] == "ate"
    assert kept.params["effects/all.scenarios"] == "t=1 against t=0"
    assert kept.params["effects/all.scenario.baseline"] == "t=0"
    assert kept.params["effects/all.rows"] == "40"
    assert kept.params["effects/all.fit.engine"] == "svi"
    assert draws.attrs["scenarios"] == "t=1 against t=0"
    assert "t=1 against t=0" in (Path(files) / "summary.txt").read_text()


def test_a_run_does_not_mix_two_questions_under_one_name(model, frame, server):
    import mlflow

    asked = {"t": frame["t"], "in_sample": False, "progress": False}
    one, other = (
        model.effect(frame[["u", "v"]], {"t": 0}, {"t": dose}, **asked) for dose in (1, 2)
    )
    with mlflow.start_run() as run:
        aimz.mlflow.log_effect(one)
        aimz.mlflow.log_effect(one)  # the same again is harmless
        with pytest.raises(InputError, match="holds another effect as 'effect'") as caught:
            aimz.mlflow.log_effect(other)
        aimz.mlflow.log_effect(other, "two")
    assert caught.value.code == "effect-name"
    kept = mlflow.get_run(run.info.run_id).data
    assert kept.metrics["effect/mean"] == pytest.approx(1.0)
    assert kept.metrics["two/mean"] == pytest.approx(2.0)
    assert kept.params["two.scenarios"] == "t=2 against t=0"


def test_an_effect_of_groups_keeps_their_labels(model, frame):
    effect = model.effect(
        frame[["u", "v"]],
        scenarios={"none": {"t": 0}, "one": {"t": 1}, "two": {"t": 2}},
        t=frame["t"],
        estimand="cate",
        by=np.where(frame["u"] > 0, "high", "low"),
        in_sample=False,
        progress=False,
    )
    data = dataset_of(effect)
    assert list(data["group"].values) == ["high", "low"]
    names = aimz.mlflow.effects.metrics_of(effect.summary(), "effect")
    assert "effect/two vs none/low/mean" in names


@pytest.mark.parametrize("name", ["", "../effect", "a//b", "what?", "effect/"])
def test_an_effect_has_a_name_that_can_name_files(name):
    nothing: Any = None
    with pytest.raises(InputError, match="cannot be logged as") as caught:
        aimz.mlflow.log_effect(nothing, name)
    assert caught.value.code == "effect-name"


# ------------------------------------------------------------------ autologging


def runs_of(name: str) -> list[Any]:
    import mlflow

    return list(mlflow.search_runs(experiment_names=[name], output_format="list"))


@pytest.fixture
def experiment(server, request) -> Iterator[str]:
    import mlflow

    name = request.node.name
    mlflow.set_experiment(name)
    yield name
    mlflow.set_experiment("Default")


def test_a_fit_is_a_run(autologging, experiment, module, frame, model):
    import mlflow

    autologging(
        save_model_kwargs={"code_paths": [str(module)]}, extra_tags={"who": "me"}, silent=True
    )
    im = ImpactModel(model.kernel, inference=simple(model.kernel), num_samples=10)
    im.fit_on_batch(
        frame[["u", "v"]], frame["u"] + frame["t"], t=frame["t"], num_steps=25, progress=False
    )
    (run,) = runs_of(experiment)
    assert run.info.status == "FINISHED"
    assert run.data.params["kernel"] == "growth.kernel"
    assert run.data.params["engine"] == "svi"
    assert (run.data.params["num_steps"], run.data.params["steps"]) == ("25", "25")
    assert run.data.params["law.a"] == "Normal(0, 10)"
    assert run.data.params["rows"] == "40"
    assert run.data.metrics["plateau"] in (0.0, 1.0)
    assert run.data.tags["who"] == "me"
    assert len(run.inputs.dataset_inputs) == 1
    curve = mlflow.MlflowClient().get_metric_history(run.info.run_id, "elbo_loss")
    np.testing.assert_allclose([point.value for point in curve], im.vi_result.losses, rtol=1e-6)
    (found,) = run.outputs.model_outputs
    info = mlflow.models.get_model_info(f"models:/{found.model_id}")
    assert info.signature.inputs.input_names() == ["u", "v", "t"]
    again = aimz.mlflow.load_model(f"models:/{found.model_id}")
    np.testing.assert_array_equal(drawn(again, frame), drawn(im, frame))


@pytest.mark.slow
def test_ten_thousand_losses_take_less_than_twenty_requests(autologging, experiment, server):
    autologging(log_models=False, log_datasets=False)
    before = server.requests()
    im = ImpactModel(linear).fit_on_batch(
        np.ones((5, 1)), np.ones(5), num_steps=10_000, progress=False
    )
    asked = server.requests() - before
    print(f"{asked} requests")
    assert 10 <= asked < 20
    (run,) = runs_of(experiment)
    assert run.data.metrics["elbo_loss"] == pytest.approx(float(im.vi_result.losses[-1]))


def test_fits_inside_a_run_are_its_children(autologging, experiment):
    import mlflow

    autologging(log_models=False, log_datasets=False, log_every_n_steps=5)
    with mlflow.start_run() as parent:
        for steps in (5, 10):
            ImpactModel(linear, inference=simple(linear)).fit_on_batch(
                np.ones((5, 1)), np.ones(5), num_steps=steps, num_samples=5, progress=False
            )
        assert mlflow.active_run().info.run_id == parent.info.run_id
    found = [run.data.tags.get("mlflow.parentRunId") for run in runs_of(experiment)]
    assert found.count(parent.info.run_id) == 2
    assert "elbo_loss" not in mlflow.get_run(parent.info.run_id).data.metrics


def test_exclusive_leaves_the_runs_of_the_user_alone(autologging, experiment):
    import mlflow

    autologging(exclusive=True)
    with mlflow.start_run():
        fit_shortly()
    assert len(runs_of(experiment)) == 1
    autologging(disable=True)
    fit_shortly()
    assert len(runs_of(experiment)) == 1


def fit_shortly(**options: Any) -> ImpactModel:
    settings = {"num_steps": 5, "num_samples": 5, "progress": False, **options}
    return with_draws().fit_on_batch(np.ones((5, 1)), np.ones(5), **settings)


def test_a_version_that_is_not_known_is_left_alone(autologging, experiment, monkeypatch, caplog):
    import mlflow

    monkeypatch.setattr(mlflow, "__version__", "9.0.0")
    monkeypatch.setattr(logging.getLogger("mlflow"), "propagate", True)
    autologging(disable_for_unsupported_versions=True)
    fit_shortly()
    assert runs_of(experiment) == []
    assert "MLflow 9.0.0 is not a version it knows" in caplog.text


def test_a_fit_that_fails_is_a_run_that_failed(autologging, experiment):
    autologging()
    with pytest.raises(InputError, match="not finite"):
        with_draws().fit_on_batch(np.full((5, 1), np.nan), np.ones(5), progress=False)
    (run,) = runs_of(experiment)
    assert run.info.status == "FAILED"


def test_a_kernel_that_cannot_be_kept_costs_the_model_and_not_the_run(
    autologging, experiment, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("mlflow"), "propagate", True)
    autologging(log_datasets=False)
    ImpactModel(unkeepable(), num_samples=5).fit_on_batch(
        np.ones((5, 1)), np.ones(5), num_steps=5, progress=False
    )
    (run,) = runs_of(experiment)
    assert (run.info.status, run.outputs.model_outputs) == ("FINISHED", [])
    assert run.data.metrics["elbo_loss"] > 0
    assert "The model is not logged: The kernel" in caplog.text


def test_a_server_that_is_gone_does_not_stop_a_fit(autologging, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        autologging(silent=True)
        assert fit_shortly().is_fitted()
    finally:
        mlflow.set_tracking_uri(before)


# ------------------------------------------------------------------ from a notebook

CELLS = (
    """
import dataclasses, jax, mlflow, numpy as np, numpyro, numpyro.distributions as dist, optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
import aimz.mlflow
from aimz import ImpactModel

mlflow.set_tracking_uri({url!r})
mlflow.set_experiment({name!r})
aimz.mlflow.autolog(log_datasets=False)
SHIFT = np.array([0.5, -0.5], np.float32)
""",
    """
@dataclasses.dataclass
class Prior:
    scale: float


PRIOR = Prior(10.0)


@jax.jit
def centred(X):
    return X - SHIFT


def kernel(X, t, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, PRIOR.scale))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("person", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + centred(X) @ b + t, 1.0), obs=y)
""",
    """
rng = np.random.default_rng(0)
X, t = rng.normal(size=(40, 2)).astype(np.float32), np.arange(40.0) % 2
svi = SVI(kernel, AutoNormal(kernel), optax.adam(0.01), Trace_ELBO())
with mlflow.start_run() as run:
    im = ImpactModel(kernel, inference=svi, num_samples=10)
    im.fit_on_batch(X, X[:, 0] + t, t=t, num_steps=20, progress=False)
    effect = im.effect(X, {{"t": 0}}, {{"t": 1}}, t=t, progress=False)
    aimz.mlflow.log_effect(effect)
tree = im.predict_on_batch(X, t=t, in_sample=False)
np.savez({file!r}, X=X, t=t, y=tree.predictions["y"].values, run=run.info.run_id)
""",
)


@pytest.mark.slow
def test_a_notebook_logs_its_model_and_another_process_predicts_the_same(server, tmp_path):
    import mlflow
    import nbformat
    from nbclient import NotebookClient

    names = {"url": server.url, "name": "notebook", "file": str(tmp_path / "done.npz")}
    cells = [nbformat.v4.new_code_cell(cell.format(**names)) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    done = np.load(tmp_path / "done.npz")
    (run,) = [run for run in runs_of("notebook") if run.outputs.model_outputs]
    again = aimz.mlflow.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    tree: Any = again.predict_on_batch(done["X"], t=done["t"], in_sample=False)
    np.testing.assert_array_equal(tree.predictions["y"].values, done["y"])
    captured = again.describe()["kernel_kept"]["captured"]
    assert {"kernel", "Prior"} < set(captured["definitions"])
    assert captured["constants"]["SHIFT"] == "float32[2]"
    assert mlflow.get_run(str(done["run"])).data.metrics["effect/mean"] == pytest.approx(1.0)


# ------------------------------------------------------------------ what a request may ask


def test_the_mean_of_a_request_is_that_of_the_draws(model, saved, frame):
    import mlflow

    answer = mlflow.pyfunc.load_model(str(saved)).predict(frame)
    np.testing.assert_allclose(answer["y"], drawn(model, frame).mean((0, 1), np.float64))
    assert set(answer["scenario"]) == {"natural"}


def test_draws_and_quantiles_of_a_request_are_those_of_the_model(model, frame):
    expected = drawn(model, frame)
    answer = Scorer(model).predict(frame, {"statistic": "draws", "return_sites": ["y", "m"]})
    np.testing.assert_array_equal(answer["y"].to_numpy().reshape(30, 40), expected[0])
    assert list(answer.columns) == ["row", "chain", "draw", "y", "m", "scenario"]
    few = Scorer(model).predict(frame, {"statistic": "draws", "num_samples": 3})
    assert sorted(set(few["draw"])) == [0, 14, 29]
    bounds = Scorer(model).predict(frame, {"statistic": "quantiles", "quantiles": [0.25, 0.75]})
    np.testing.assert_allclose(
        bounds[["y_q0.25", "y_q0.75"]].to_numpy().T,
        np.quantile(expected.astype(np.float64), [0.25, 0.75], axis=(0, 1)),
    )


def test_a_request_replaces_an_argument_and_sets_a_site(model, frame):
    scorer = Scorer(model)
    answer = scorer.predict(frame, {"intervention": {"t": 2.0, "a": 1.5}})
    expected = drawn(model, frame, t=2.0, intervention={"a": 1.5})
    np.testing.assert_allclose(answer["y"], expected.mean((0, 1), np.float64))
    as_text = scorer.predict(frame, {"intervention": '{"a": 1.5, "t": 2.0}'})
    pd.testing.assert_frame_equal(as_text, answer)
    assert answer["scenario"][0] == '{"a": 1.5, "t": 2.0}'
    by_row = scorer.predict(frame, {"intervention": {"t": [2.0] * 40, "a": 1.5}})
    np.testing.assert_array_equal(by_row["y"], answer["y"])


def test_rows_come_as_a_frame_a_dict_or_an_array(model, frame):
    expected = Scorer(model).predict(frame)["y"]
    shuffled = Scorer(model).predict(frame[["t", "v", "u"]].assign(y=0.0))["y"]
    np.testing.assert_array_equal(shuffled, expected)
    X = frame[["u", "v"]].to_numpy()
    with pytest.warns(aimz.OutputWarning, match="columns"):
        as_dict = Scorer(model).predict({"X": X.tolist(), "t": frame["t"].to_numpy()})["y"]
    np.testing.assert_array_equal(as_dict, expected)
    array = Scorer(with_draws()).predict(np.ones((3, 1)))
    assert list(array.columns) == ["y", "scenario"]


def one(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.deterministic("both", X[:, None] * b)
    numpyro.sample("y", dist.Normal(b[0] * X, 1.0), obs=y)


@pytest.mark.slow
def test_one_column_serves_a_kernel_of_a_vector():
    im = ImpactModel(one, inference=simple(one), num_samples=5).fit_on_batch(
        np.arange(5.0), np.arange(5.0), num_steps=5, progress=False
    )
    answer = Scorer(im).predict(pd.DataFrame({"dose": [1.0, 2.0]}), {"return_sites": ["both"]})
    assert list(answer.columns) == ["both[0]", "both[1]", "scenario"]


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "parameter": ({"intervention_": {}}, "param-unknown", "mean 'intervention'"),
    "statistic": ({"statistic": "median"}, "option-unknown", "'mean', 'quantiles' or 'draws'"),
    "quantile": ({"quantiles": [5]}, "option-unknown", "between 0 and 1"),
    "count": ({"num_samples": 0}, "not-positive", "at least 1"),
    "name": ({"intervention": {"tt": 1}}, "scenario-unknown", "mean 't'"),
    "text": ({"intervention": "t=1"}, "option-unknown", "must map names to values"),
    "site": ({"return_sites": ["z"]}, "site-unknown", "no site 'z'"),
    "set": ({"return_sites": ["b"]}, "site-rows", "no value per row"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_request_that_makes_no_sense_is_refused(kind, model, frame):
    params, code, match = WRONG[kind]
    with pytest.raises(InputError, match=match) as caught:
        Scorer(model).predict(frame, params)
    assert caught.value.code == code


def test_an_intervention_on_nothing_is_refused_by_the_signature(saved, frame):
    import mlflow

    served = mlflow.pyfunc.load_model(str(saved))
    with pytest.raises(mlflow.MlflowException, match="not defined in the schema"):
        served.predict(frame, params={"intervention": {"tt": 1.0}})
    answer = served.predict(frame, params={"intervene": {"t": 1.0}})  # MLflow drops it
    assert set(answer["scenario"]) == {"natural"}


def test_saving_with_an_example_changes_nothing_of_the_model(model, frame, tmp_path):
    before = copy.deepcopy(model)
    aimz.mlflow.save_model(model, tmp_path / "model", input_example=frame.head(3))
    assert model.describe() == before.describe()
    np.testing.assert_array_equal(drawn(model, frame), drawn(before, frame))
    draws = [im.sample(num_samples=5, return_datatree=False)["a"] for im in (model, before)]
    np.testing.assert_array_equal(*draws)


def test_a_signature_of_the_caller_gains_the_parameters(model, frame, tmp_path):
    from mlflow.models import Model, infer_signature

    aimz.mlflow.save_model(model, tmp_path / "own", signature=infer_signature(frame))
    found = Model.load(str(tmp_path / "own")).signature
    assert found.inputs.input_names() == ["u", "v", "t"]
    assert "intervention" in [param.name for param in found.params]
    aimz.mlflow.save_model(model, tmp_path / "none", signature=False)
    assert Model.load(str(tmp_path / "none")).signature is None


# ------------------------------------------------------------------ kernels


def closure() -> Any:
    def kernel(X, y=None):
        linear(X, y)

    return kernel


def unkeepable() -> Any:
    """A kernel that reads what no file holds."""
    lock = threading.Lock()

    def kernel(X, y=None):
        with lock:
            linear(X, y)

    return kernel


@pytest.mark.parametrize("kernel", [closure(), lambda X, y=None: linear(X, y)])
def test_a_kernel_that_cannot_be_imported_is_kept_as_code(kernel, tmp_path):
    im, X = with_draws(kernel), np.ones((3, 1))
    aimz.mlflow.save_model(im, tmp_path / "model")
    again: Any = aimz.mlflow.load_model(tmp_path / "model").predict_on_batch(X)
    expected: Any = im.predict_on_batch(X)
    np.testing.assert_array_equal(
        again.posterior_predictive["y"].values, expected.posterior_predictive["y"].values
    )
    assert "numpyro.sample" in (tmp_path / "model" / "model" / "kernel.py").read_text()


def test_a_kernel_that_no_file_holds_is_refused(tmp_path):
    with pytest.raises(InputError, match="because of 'lock' of 'kernel': cannot pickle") as caught:
        aimz.mlflow.save_model(with_draws(unkeepable()), tmp_path / "model")
    assert caught.value.code == "kernel-capture"


def test_packages_of_a_captured_kernel_are_required(tmp_path):
    import scipy.stats

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(b * X[:, 0], float(scipy.stats.norm.ppf(0.9))), obs=y)

    aimz.mlflow.save_model(with_draws(kernel), tmp_path / "model")
    assert "scipy==" in (tmp_path / "model" / "requirements.txt").read_text()


CODE = """
import mlflow, numpyro, numpyro.distributions as dist

def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

mlflow.models.set_model(kernel)
"""


def test_a_kernel_comes_from_a_file_or_a_pickle_that_was_asked_for(tmp_path):
    import mlflow

    (tmp_path / "own.py").write_text(CODE)
    im, X = with_draws(closure()), np.ones((3, 1))
    expected = im.predict_on_batch(X).posterior_predictive["y"].values
    options = {"code": {"kernel_code": tmp_path / "own.py"}}
    options["pickle"] = {"serialization_format": "cloudpickle"}
    for kind, more in options.items():
        aimz.mlflow.save_model(im, tmp_path / kind, **more)
        again: Any = aimz.mlflow.load_model(tmp_path / kind).predict_on_batch(X)
        np.testing.assert_array_equal(again.posterior_predictive["y"].values, expected)
        served = mlflow.pyfunc.load_model(str(tmp_path / kind)).predict(X)
        np.testing.assert_allclose(served["y"], expected.mean((0, 1), np.float64))
    assert "cloudpickle" in (tmp_path / "pickle" / "requirements.txt").read_text()


def test_a_file_that_sets_no_kernel_is_refused(tmp_path):
    (tmp_path / "own.py").write_text(CODE.replace("mlflow.models.set_model(kernel)", ""))
    with pytest.raises(InputError, match=r"set_model\(kernel\)") as caught:
        aimz.mlflow.save_model(
            with_draws(closure()), tmp_path / "model", kernel_code=tmp_path / "own.py"
        )
    assert caught.value.code == "kernel-code"


def test_a_pickle_is_not_read_where_mlflow_forbids_it(tmp_path, monkeypatch):
    aimz.mlflow.save_model(with_draws(), tmp_path / "model", serialization_format="cloudpickle")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with pytest.raises(StoreError, match="pickled") as caught:
        aimz.mlflow.load_model(tmp_path / "model")
    assert caught.value.code == "pickle-refused"
    assert aimz.mlflow.load_model(tmp_path / "model", kernel=linear).is_fitted()


def test_another_version_of_the_module_is_not_taken_for_the_models_own(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "model")
    code = tmp_path / "model" / "code" / "growth.py"
    code.write_text(code.read_text().replace("a + X @ b", "a - X @ b"))
    with pytest.raises(StoreError, match="differs from the one that is imported") as caught:
        aimz.mlflow.load_model(tmp_path / "model")
    assert caught.value.code == "kernel-shadowed"


# ------------------------------------------------------------------ what is no model


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("trapped",))


def flavor(**change: Any) -> Any:
    """An MLmodel file whose flavor says something else."""
    import yaml  # type: ignore[import-untyped]

    def edit(path: Path) -> None:
        document = yaml.safe_load((path / "MLmodel").read_text())
        document["flavors"]["aimz"].update(change)
        (path / "MLmodel").write_text(yaml.safe_dump(document))

    return edit


def outside(path: Path) -> None:
    """A code directory that is a link to somewhere else."""
    shutil.move(path / "code", path.with_name("elsewhere"))
    (path / "code").symlink_to(path.with_name("elsewhere"))


def linked_file(path: Path) -> None:
    shutil.move(path / "code" / "growth.py", path.with_name("growth.py"))
    (path / "code" / "growth.py").symlink_to(path.with_name("growth.py"))


def with_pickle(path: Path) -> None:
    """An array of pickled objects where numbers should be, with the right digest."""
    file = path / "model" / "arrays.npz"
    with np.load(file) as stored:
        arrays = dict(stored)
    arrays["a0"] = np.array([Trap()], dtype=object)
    np.savez(file, **arrays)
    seal(path / "model")


def another_code(path: Path) -> None:
    """A kernel file that is not the one that was saved."""
    (path / "kernel.py").write_text(CODE)
    flavor(kernel_code="kernel.py", kernel_code_sha256="0" * 64)(path)


def unnamed_pickle(path: Path) -> None:
    """A pickle whose digest the MLmodel file does not have."""
    import cloudpickle  # type: ignore[import-untyped]

    (path / "kernel.pkl").write_bytes(cloudpickle.dumps(Trap()))
    flavor(serialization_format="cloudpickle", pickled_kernel="kernel.pkl")(path)


HARM: dict[str, tuple[Any, str]] = {
    "data above": (flavor(data="../model"), "model-unsafe"),
    "data elsewhere": (flavor(data="/etc"), "model-unsafe"),
    "code above": (flavor(code="code/../../project"), "model-unsafe"),
    "code elsewhere": (flavor(code="/"), "model-unsafe"),
    "a kernel file above": (flavor(kernel_code="../own.py"), "model-unsafe"),
    "a kernel file that is not there": (flavor(kernel_code="own.py"), "store-missing"),
    "a linked directory": (outside, "model-unsafe"),
    "a linked file": (linked_file, "model-unsafe"),
    "a command for a kernel": (flavor(kernel="os:system"), "model-unsafe"),
    "a builtin for a kernel": (flavor(kernel="builtins:exec"), "model-unsafe"),
    "an alias for a kernel": (flavor(kernel="numpy.f2py:os.system"), "model-unsafe"),
    "no kernel": (flavor(kernel="nowhere_at_all:kernel"), "kernel-missing"),
    "no name": (flavor(kernel=None), "model-unsafe"),
    "another kernel file": (another_code, "store-damaged"),
    "a pickle above": (
        flavor(serialization_format="cloudpickle", pickled_kernel="../x.pkl"),
        "model-unsafe",
    ),
    "a pickle of another": (unnamed_pickle, "store-damaged"),
    "a pickle among arrays": (with_pickle, "store-damaged"),
    "another flavor": (
        lambda p: (p / "MLmodel").write_text((p / "MLmodel").read_text().replace("aimz:", "x:", 1)),
        "store-foreign",
    ),
}


@pytest.mark.parametrize("kind", HARM)
def test_what_is_not_a_sound_model_is_refused(kind, saved, tmp_path, monkeypatch):
    harm, code = HARM[kind]
    shutil.copytree(saved, tmp_path / "model")
    harm(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError) as caught:
        aimz.mlflow.load_model(tmp_path / "model")
    assert caught.value.code == code
    assert not (tmp_path / "trapped").exists()


def test_a_missing_mlflow_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"MLflow is not installed\. Install it: pip") as caught:
        aimz.mlflow.autolog()
    assert caught.value.code == "mlflow-missing"


# ------------------------------------------------------------------ warmed up


@pytest.fixture
def cold() -> None:
    """A process that has compiled nothing."""
    clear_programs()
    jax.clear_caches()


@pytest.mark.parametrize("described_by", ["example", "signature"])
def test_a_first_request_finds_its_program_compiled(
    described_by, cold, saved, model, frame, tmp_path
):
    import mlflow

    path = saved
    if described_by == "signature":
        path = tmp_path / "model"
        columns = mlflow.models.infer_signature(frame)
        aimz.mlflow.save_model(model, path, signature=columns)
    clear_programs()
    served = mlflow.pyfunc.load_model(path)
    before = program_stats()
    assert before["kept"] > 0
    with XlaCompiles() as compiles:
        answers = [served.predict(frame.head(count)) for count in (1, 3)]
    assert compiles.count == program_stats()["made"] - before["made"] == 0
    assert [len(answer) for answer in answers] == [1, 3]


def unreadable(root: Path) -> None:
    (root / "input_example.json").write_text("{")


def elsewhere(root: Path) -> None:
    document = (root / "MLmodel").read_text()
    assert "artifact_path: input_example.json" in document
    document = document.replace("artifact_path: input_example.json", "artifact_path: ../own.json")
    (root / "MLmodel").write_text(document)


@pytest.mark.parametrize("harm", [unreadable, elsewhere])
def test_an_example_that_cannot_be_read_is_no_reason_not_to_serve(harm, saved, frame, tmp_path):
    import mlflow

    shutil.copytree(saved, tmp_path / "model")
    harm(tmp_path / "model")
    served = mlflow.pyfunc.load_model(tmp_path / "model")
    assert len(served.predict(frame.head(2))) == 2


def test_what_is_said_once_is_not_said_to_an_example(saved):
    import mlflow

    served = mlflow.pyfunc.load_model(saved).get_raw_model()
    assert served._told == (None, frozenset())


# ------------------------------------------------------------------ served


@pytest.fixture(
    scope="module",
    params=[served_here, pytest.param(scoring, marks=pytest.mark.slow)],
    ids=["here", "mlflow models serve"],
)
def service(saved, request, tmp_path_factory) -> Iterator[Server]:
    with request.param(saved, tmp_path_factory.mktemp("service")) as running:
        yield running


def ask(service: Server, **body: Any) -> Any:
    request = urllib.request.Request(
        f"{service.url}/invocations",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["predictions"]


def test_a_served_model_answers_what_the_model_does(service, model, frame):
    rows = frame.to_dict(orient="split", index=False)
    answer = pd.DataFrame(ask(service, dataframe_split=rows))
    np.testing.assert_array_equal(answer["y"], Scorer(model).predict(frame)["y"])
    asked = {"intervention": {"t": 2.0}, "statistic": "quantiles"}
    what_if = pd.DataFrame(ask(service, dataframe_split=rows, params=asked))
    pd.testing.assert_frame_equal(what_if, Scorer(model).predict(frame, asked), check_exact=True)


def test_a_served_model_refuses_what_it_does_not_know(service, frame):
    rows = frame.to_dict(orient="split", index=False)
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(service, dataframe_split=rows, params={"intervention": {"tt": 2.0}})
    assert caught.value.code == 400
    assert "tt" in caught.value.read().decode()


def test_a_null_in_a_served_row_names_its_column(service, frame):
    rows = frame.head(3).to_dict(orient="split", index=False)
    column = next(i for i, name in enumerate(rows["columns"]) if name != "t")
    rows["data"][1][column] = None
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(service, dataframe_split=rows)
    answer = caught.value.read().decode()
    assert caught.value.code == 400
    assert f"Column '{rows['columns'][column]}' has no value in row 1" in answer
    assert "Traceback" not in answer


@pytest.mark.parametrize("column", ["t", None])
def test_a_null_in_a_row_is_refused_as_mlflow_does(model, frame, column):
    from mlflow.exceptions import MlflowException

    asked = frame.head(4).astype(float)
    name = column or next(c for c in asked.columns if c != "t")
    asked.loc[asked.index[2], name] = np.nan
    with pytest.raises(MlflowException, match=f"Column '{name}' has no value in row") as caught:
        Scorer(model).predict(asked)
    assert isinstance(caught.value, InputError)
    assert caught.value.get_http_status_code() == 400


@pytest.mark.slow
def test_an_impact_is_logged_with_its_draws_its_picture_and_its_numbers(
    module, frame, server, tmp_path
):
    import mlflow

    kernel = importlib.import_module(module.stem).kernel
    draws = {"a": np.zeros(50), "b": np.full((50, 2), 2.0)}
    im = ImpactModel(kernel).set_posterior_sample(draws)
    t, y = np.zeros(40), np.arange(40) % 3.0
    impact = im.impact(frame[["u", "v"]].to_numpy(), y, intervention_time=30, t=t, progress=False)
    with mlflow.start_run() as run:
        aimz.mlflow.log_effect(impact, "impact")
    files = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="impact", dst_path=str(tmp_path)
    )
    assert (Path(files) / "effect.png").exists()
    kept = mlflow.get_run(run.info.run_id).data
    table = impact.summary().set_index("effect")
    for effect in ("average", "cumulative"):
        metric = kept.metrics[f"impact/{effect}/absolute"]
        assert metric == pytest.approx(table.loc[effect, "absolute"])
    with xr.load_dataset(Path(files) / "draws.nc", engine="scipy") as data:
        np.testing.assert_allclose(data["predicted"].values, impact.predicted.values)
