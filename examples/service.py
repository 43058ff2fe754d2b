"""From notebook to service: fit, track, compare runs, log an effect, serve, ask what if over HTTP.

The data and the question are those of `quickstart.py`. It needs `causaldata`, Matplotlib and the
full `mlflow`; run it with `python examples/service.py`. Everything is written below
`examples/mlruns`: look at the runs with
`mlflow server --backend-store-uri sqlite:///examples/mlruns/runs.db`.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import pandas as pd
from causaldata import nhefs_complete

import aimz.mlflow
import weight_kernels
from aimz import ImpactModel

HERE = Path(__file__).resolve().parent
RUNS = HERE / "mlruns"
COVARIATES = ["sex", "race", "age", "smokeintensity", "smokeyrs", "wt71"]


def load():
    """Standardised covariates with who quit and what they smoked, and the weight gained in kg."""
    people = nhefs_complete.load_pandas().data.astype(float)
    raw = people[COVARIATES]
    frame = (raw - raw.mean()) / raw.std()
    frame["age^2"] = frame["age"] ** 2
    frame["wt71^2"] = frame["wt71"] ** 2
    return frame.assign(stopped=people["qsmk"], intensity=raw["smokeintensity"]), people["wt82_71"]


def arguments(frame):
    """The kernels' arguments: what is not named is X."""
    named = ["stopped", "intensity"]
    return {"X": frame.drop(columns=named), **{name: frame[name] for name in named}}


def track(frame, gained):
    """Fit two kernels, each in a run of its own, and keep how well each predicts other people."""
    aimz.mlflow.autolog(save_model_kwargs={"code_paths": [str(HERE / "weight_kernels.py")]})
    train, rest = frame.index % 5 != 0, frame.index % 5 == 0
    for kernel in (weight_kernels.same_for_all, weight_kernels.by_intensity):
        with mlflow.start_run(run_name=kernel.__name__):
            im = ImpactModel(kernel).fit(**arguments(frame[train]), y=gained[train], progress=False)
            score = im.score(**arguments(frame[rest]), y=gained[rest])
            mlflow.log_metric("score", score)
            effect = im.effect(
                **arguments(frame),
                baseline={"stopped": 0},
                intervention={"stopped": 1},
                progress=False,
            )
            aimz.mlflow.log_effect(effect)


def compare():
    """Table of the runs, the best first."""
    columns = ["tags.mlflow.runName", "metrics.score", "metrics.effect/mean", "metrics.effect/sd"]
    runs = mlflow.search_runs(filter_string="metrics.score > -1e9", order_by=["metrics.score DESC"])
    table = runs[columns].rename(columns=lambda name: name.split(".")[-1])
    return table, runs["run_id"].iloc[0]


def best_model(run_id):
    """Directory of the model that was fitted below a run."""
    (fit,) = mlflow.search_runs(
        filter_string=f"tags.mlflow.parentRunId = '{run_id}'", output_format="list"
    )
    (model,) = fit.outputs.model_outputs
    return mlflow.artifacts.download_artifacts(f"models:/{model.model_id}")


@contextlib.contextmanager
def served(model):
    """URL of a server of the model, until the block is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with (RUNS / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--model-uri", model, "--port", port, "--workers", "1"],
            env={**os.environ, "PATH": path},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def wait_for(url, server):
    """Return when somebody answers."""
    while server.poll() is None:
        try:
            return urllib.request.urlopen(url)
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"The server ended; see {RUNS / 'serve.log'}")


def ask(url, frame, **params):
    """Post rows and a question, and return the answer as a frame."""
    rows = frame.to_dict(orient="split", index=False)
    body = json.dumps({"dataframe_split": rows, "params": params}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return pd.DataFrame(json.load(answer)["predictions"])


def main():
    RUNS.mkdir(exist_ok=True)
    mlflow.set_tracking_uri(f"sqlite:///{RUNS / 'runs.db'}")
    if mlflow.get_experiment_by_name("weight") is None:
        mlflow.create_experiment("weight", artifact_location=(RUNS / "artifacts").as_uri())
    mlflow.set_experiment("weight")
    frame, gained = load()
    track(frame, gained)
    table, best = compare()
    print(table.round(3).to_string(index=False))
    somebody = frame.iloc[[7]]
    with served(best_model(best)) as url:
        answers = [
            ask(url, somebody, intervention={"stopped": stopped}, statistic="quantiles")
            for stopped in (0.0, 1.0)
        ]
    print("\nWhat would one person gain, in kg?")
    print(pd.concat(answers).round(1).to_string(index=False))


if __name__ == "__main__":
    main()
