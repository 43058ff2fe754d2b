"""A report on an effect in a run: its tables, words and picture, and numbers to compare runs by."""

import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from aimz.decisions import Decision
from aimz.errors import InputError
from aimz.identification import Assumptions
from aimz.mlflow.effects import check_name, log_parameters, metrics_of
from aimz.mlflow.environment import import_mlflow
from aimz.refutation import Refutation
from aimz.sensitivity import HiddenCause, Sensitivity

__all__ = ["Report", "log_report"]


Report = Assumptions | Decision | HiddenCause | Refutation | Sensitivity


def log_report(report: Report, name: str | None = None) -> None:
    """Log a report on an effect to the current run.

    Artifacts below `name`: a CSV of each table, `report.txt`, the account in words, and
    `report.png`, where Matplotlib is installed; `graph.dot` of assumptions. Metrics are the numbers
    by which runs are compared: of a test its mean, interval, what should have come and whether it
    passes (1 or 0), of a rule its utility and regret, robustness values, tipping points, counts of
    warnings. The parameter `name.report` says which report it is.

    Parameters
    ----------
    report : Sensitivity, HiddenCause, Refutation, Decision or Assumptions
        Result of `Effect.sensitivity`, `hidden_cause`, `refute` or `decide`, or of
        `ImpactModel.assumptions`.
    name : str, optional
        Name in the run; default the kind of the report in small letters.

    Raises
    ------
    InputError
        `mlflow-missing`; `option-unknown`: no such report; `effect-name`: a name that cannot name
        artifacts and metrics, or that the run has given to another report.

    Examples
    --------
    >>> import mlflow
    >>> import aimz.mlflow
    >>> with mlflow.start_run():  # doctest: +SKIP
    ...     aimz.mlflow.log_report(effect.refute("placebo"))
    """
    mlflow = import_mlflow()
    passed: object = report
    if not isinstance(passed, Report):
        msg = (
            f"A {type(passed).__name__} is no report. Pass what sensitivity, hidden_cause, refute, "
            "decide or assumptions gave, or an effect to log_effect."
        )
        raise InputError(msg, code="option-unknown")
    kind = type(report).__name__
    named = kind.lower() if name is None else name
    check_name(named)
    words = report.to_text()
    log_parameters({"report": kind, "account": words}, {}, named)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        for table, frame in _tables(report):
            frame.to_csv(directory / f"{table}.csv", index=False)
        (directory / "report.txt").write_text(f"{words}\n\n{report!r}\n")
        _draw(report, directory)
        mlflow.log_artifacts(scratch, artifact_path=named)
    mlflow.set_tags({f"{named}.report": kind})
    mlflow.log_metrics(_numbers(report, named))


def _tables(report: Report) -> Iterator[tuple[str, pd.DataFrame]]:
    """Tables that a report holds, and its summary."""
    if isinstance(report, HiddenCause | Sensitivity):
        yield "summary", report.summary()
    for attribute in fields(report):
        frame = getattr(report, attribute.name)
        if isinstance(frame, pd.DataFrame) and len(frame):
            yield attribute.name, frame


def _numbers(report: Report, name: str) -> dict[str, float]:
    """Numbers of a report under names that MLflow takes."""
    if isinstance(report, Sensitivity):
        numbers = metrics_of(report.summary(), name)
        numbers |= metrics_of(_labelled(report.benchmarks, "covariate", "k"), name)
        return numbers | ({} if report.e_values is None else metrics_of(report.e_values, name))
    if isinstance(report, HiddenCause):
        summary = report.summary().drop(columns="healthy", errors="ignore")
        points = _labelled(summary, "on_treatment", "on_outcome")
        tipping = _labelled(report.tipping, "on_outcome").rename(columns={"on_treatment": "tips"})
        return metrics_of(points, name) | metrics_of(tipping, name)
    if isinstance(report, Refutation):
        shown = report.table.drop(columns=["asks", "covers", "verdict", "sentence"])
        passes = (report.table["verdict"] == "passes").astype(float)
        return metrics_of(shown.assign(passes=passes), name)
    if isinstance(report, Decision):
        worth = {f"{name}/value_of_information": report.value_of_information}
        return metrics_of(report.policies, name) | worth
    broken = 0 if report.implied.empty else int((~report.implied["holds"]).sum())
    counts = {"warnings": len(report.warnings), "assumed": len(report.assumed), "broken": broken}
    return {f"{name}/{what}": float(count) for what, count in counts.items()}


def _labelled(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """A table whose numbers of some columns are labels of its rows, as `on_outcome_0.5`."""
    labels = {
        column: [v if isinstance(v, str) else f"{column}_{v:.12g}" for v in table[column]]
        for column in columns
        if column in table
    }
    return table.assign(**labels)


def _draw(report: Report, directory: Path) -> None:
    if isinstance(report, Assumptions):
        (directory / "graph.dot").write_text(report.to_dot())
    try:
        drawn: Any = report.plot()
    except InputError as error:
        if error.code == "plots-missing":
            return
        raise
    from matplotlib import pyplot as plt

    drawn.figure.savefig(directory / "report.png", dpi=120)
    plt.close(drawn.figure)
