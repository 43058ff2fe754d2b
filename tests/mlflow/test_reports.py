"""Reports on an effect in a real run: files, numbers, and names that are not given twice."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
import numpy as np
import pandas as pd
import pytest

import aimz.mlflow
from aimz import InputError
from aimz.decisions import Gains, decision_of
from aimz.identification import Assumptions, Graph
from aimz.refutation import Trial, refutation_of
from aimz.sensitivity import Evidence, Points, hidden_cause_report, sensitivity_of

RNG = np.random.default_rng(0)
DRAWS = RNG.normal(1.0, 0.2, size=200)
STRENGTHS = np.array([[0.0, 0.5], [1.0, 0.5], [2.0, 0.5]])
LEFT = DRAWS - STRENGTHS.prod(axis=1)[:, None]
AGE, TAKEN, GAIN = RNG.normal(size=(3, 50))
NOBODY: dict[str, frozenset[str]] = {"t": frozenset(), "y": frozenset({"t"})}
REPORTS: dict[str, Any] = {
    "sensitivity": sensitivity_of(
        Evidence(DRAWS, np.exp(DRAWS), "risk_ratio", AGE + TAKEN, AGE + GAIN, {"age": AGE}),
        benchmarks=["age"],
        multiples=[0.01],
    ),
    "hiddencause": hidden_cause_report(
        DRAWS, Points(STRENGTHS, LEFT, np.ones(3, bool), are_random=False), "binary", 0.0, 0.9
    ),
    "over/priors": hidden_cause_report(
        DRAWS, Points(STRENGTHS, LEFT, np.ones(3, bool), are_random=True), "normal", 0.0, 0.9
    ),
    "refutation": refutation_of(
        DRAWS, [Trial("placebo", "permuted", LEFT - LEFT.mean(), np.zeros(3))], 0.0, 0.9
    ),
    "decision": decision_of(Gains(np.stack([DRAWS, -DRAWS]), np.full(2, 0.5), ["a", "b"])),
    "assumptions": Assumptions(
        "t",
        "y",
        pd.DataFrame({"variable": ["t", "y"], "role": ["treatment", "outcome"]}),
        ("One warning.",),
        ("One.", "Two."),
        pd.DataFrame(),
        Graph(NOBODY, frozenset({"t", "y"})),
    ),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Path]:
    """A file of SQLite that MLflow tracks runs in."""
    directory: Path = tmp_path_factory.mktemp("store")
    before, place = mlflow.get_tracking_uri(), Path.cwd()
    mlflow.set_tracking_uri(f"sqlite:///{directory}/runs.db")
    os.chdir(directory)  # artifacts of the default experiment lie there
    yield directory
    os.chdir(place)
    mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="module")
def run(store):
    with mlflow.start_run() as active:
        for name, report in REPORTS.items():
            aimz.mlflow.log_report(report, None if name == type(report).__name__.lower() else name)
    return mlflow.get_run(active.info.run_id)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("sensitivity", {"summary.csv", "benchmarks.csv", "e_values.csv", "report.png"}),
        ("hiddencause", {"summary.csv", "table.csv", "tipping.csv", "report.png"}),
        ("over/priors", {"summary.csv", "table.csv", "report.png"}),
        ("refutation", {"table.csv", "report.png"}),
        ("decision", {"units.csv", "policies.csv", "report.png"}),
        ("assumptions", {"roles.csv", "graph.dot", "report.png"}),
    ],
)
def test_a_report_is_tables_words_and_a_picture(run, name, files, tmp_path):
    found = Path(
        mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, artifact_path=name, dst_path=str(tmp_path)
        )
    )
    assert {path.name for path in found.iterdir()} == files | {"report.txt"}
    report = REPORTS[name]
    assert report.to_text() in (found / "report.txt").read_text()
    assert run.data.params[f"{name}.report"] == type(report).__name__
    for table in ("table", "policies"):
        if f"{table}.csv" in files:
            pd.testing.assert_frame_equal(
                pd.read_csv(found / f"{table}.csv"), getattr(report, table)
            )


def test_the_numbers_of_reports_are_metrics(run):
    sensitivity, hidden, priors, refutation, decision, _ = REPORTS.values()
    expected = {
        "sensitivity/robustness_value": sensitivity.robustness_value,
        "sensitivity/age/k_0.01/adjusted": sensitivity.benchmarks["adjusted"][0],
        "sensitivity/e_value": sensitivity.e_values["e_value"][0],
        "hiddencause/on_treatment_2/on_outcome_0.5/mean": hidden.table["mean"][2],
        "hiddencause/on_outcome_0.5/tips": hidden.tipping["on_treatment"][0],
        "over/priors/with a normal cause/sd": priors.pooled.std(ddof=1),
        "refutation/placebo/mean": refutation.table["mean"][0],
        "refutation/placebo/passes": 1.0,
        "decision/rule/utility": decision.policies.set_index("policy")["utility"]["rule"],
        "decision/value_of_information": decision.value_of_information,
        "assumptions/warnings": 1.0,
        "assumptions/assumed": 2.0,
    }
    logged = run.data.metrics
    assert {name: logged[name] for name in expected} == pytest.approx(expected)


def test_a_run_does_not_mix_two_reports_under_one_name(store):
    with mlflow.start_run():
        aimz.mlflow.log_report(REPORTS["decision"], "one")
        aimz.mlflow.log_report(REPORTS["decision"], "one")  # the same again is harmless
        with pytest.raises(InputError, match="holds another") as error:
            aimz.mlflow.log_report(REPORTS["refutation"], "one")
    assert error.value.code == "effect-name"


@pytest.mark.parametrize(
    ("report", "name", "code"),
    [(DRAWS, None, "option-unknown"), (REPORTS["decision"], "../up", "effect-name")],
    ids=["array", "name"],
)
def test_what_cannot_be_logged_is_refused(report, name, code):
    with pytest.raises(InputError) as error:
        aimz.mlflow.log_report(report, name)
    assert error.value.code == code
