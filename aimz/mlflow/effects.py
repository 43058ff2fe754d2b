"""An effect in a run: its table, its draws, its picture, and the numbers to compare runs by."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from aimz.effects import Effect, Impact
from aimz.errors import InputError
from aimz.mlflow.environment import import_mlflow

__all__ = ["check_name", "dataset_of", "log_effect", "log_parameters", "metrics_of"]


# So many rows of the table become metrics; all of them are in the table.
MAX_ROWS = 25
_LENGTH = 500  # of a parameter, as the server takes it
_QUESTION = ("estimand", "comparison", "target", "population", "rung", "site")
_UNSAFE = re.compile(r"[^\w./ -]+")


def log_effect(
    effect: Effect | Impact,
    name: str = "effect",
    *,
    ci_prob: float | None = None,
    ci_kind: str | None = None,
) -> None:
    """Log an effect to the current run.

    Artifacts below `name`: `summary.csv` and `summary.txt`, the table and the account in words;
    `draws.nc`, draws of the effect and averages of the scenarios, which `xarray.open_dataset` opens
    and nothing executes; `effect.png`, where Matplotlib is installed. Metrics `name/mean`,
    `name/sd` and so on are the table's first 25 rows. Parameters and tags say what the
    effect is of: the question, what each scenario sets (`name.scenarios` is `t=1 against t=0`), and
    the fit behind it.

    Parameters
    ----------
    effect : Effect or Impact
        Result of `ImpactModel.effect`, or of `ImpactModel.impact`.
    name : str
        Name in the run, so that a run can hold several.
    ci_prob, ci_kind : optional
        As in `Effect.summary`.

    Raises
    ------
    InputError
        `mlflow-missing`; `effect-name`: a name that cannot name artifacts and metrics, or that the
        run has given to another effect.

    Examples
    --------
    >>> import mlflow
    >>> import aimz.mlflow
    >>> effect = im.effect(X, {"t": 0}, {"t": 1}, t=t)  # doctest: +SKIP
    >>> with mlflow.start_run():  # doctest: +SKIP
    ...     aimz.mlflow.log_effect(effect)
    """
    mlflow = import_mlflow()
    check_name(name)
    question, fit = _question(effect), _fit(effect)
    log_parameters(question, fit, name)
    data = _of_impact(effect) if isinstance(effect, Impact) else dataset_of(effect)
    table = effect.summary(ci_prob=ci_prob, ci_kind=ci_kind)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        table.to_csv(directory / "summary.csv", index=False)
        words = effect.to_text(ci_prob=ci_prob, ci_kind=ci_kind)
        (directory / "summary.txt").write_text(f"{words}\n\n{effect!r}\n")
        data.to_netcdf(directory / "draws.nc", engine="scipy")
        _draw(effect, directory / "effect.png", {"ci_prob": ci_prob, "ci_kind": ci_kind})
        mlflow.log_artifacts(scratch, artifact_path=name)
    mlflow.set_tags({f"{name}.{key}": value for key, value in (question | fit).items()})
    mlflow.log_metrics(metrics_of(table, name))


def check_name(name: str) -> None:
    """Refuse a name that cannot name artifacts and metrics.

    Raises
    ------
    InputError
        `effect-name`
    """
    if not name or _UNSAFE.search(name) or {"", ".", ".."} & set(name.split("/")):
        msg = f"An effect cannot be logged as {name!r:.60}. Use letters, digits, _, - and '.'."
        raise InputError(msg, code="effect-name")


def _of_impact(impact: Impact) -> xr.Dataset:
    """The series and draws of what it would have been, in types that netCDF 3 has."""
    time = impact.observed.dims[0]
    after = impact.predicted.rename({time: f"{time}_after"})
    data = xr.Dataset({"observed": impact.observed, "predicted": after})
    plain = {str(name): _plain(variable) for name, variable in data.variables.items()}
    data = xr.Dataset(
        {name: plain[str(name)] for name in data.data_vars},
        {name: plain[str(name)] for name in data.coords},
    )
    return data.assign_attrs(_question(impact), account=repr(impact).splitlines()[1])


def _question(effect: Effect | Impact) -> dict[str, str]:
    """What was asked, in words: the estimand and its terms, and what each scenario sets."""
    if isinstance(effect, Impact):
        return {"estimand": "impact", "target": effect.target, "site": effect.site}
    words = {key: str(getattr(effect.question, key)) for key in _QUESTION}
    compared = effect.scenarios
    each = {f"scenario.{name}": compared.of(name) for name in compared.settings}
    return {**words, "scenarios": str(compared), **each} if each else words


def _fit(effect: Effect | Impact) -> dict[str, str]:
    """Rows that were asked about, and the account of the fit behind the effect."""
    found = {n: v for n, v in effect.diagnostics.items() if isinstance(v, str | bool | int | float)}
    rows = effect.observed.shape[0] if isinstance(effect, Impact) else effect.rows
    return {"rows": str(rows), **{f"fit.{n}": str(value) for n, value in found.items()}}


def log_parameters(question: Mapping[str, str], fit: Mapping[str, str], name: str) -> None:
    """Log parameters below a name. MLflow keeps the first value of each: tags have the last.

    Raises
    ------
    InputError
        `effect-name`
    """
    mlflow = import_mlflow()
    run = mlflow.active_run() or mlflow.start_run()  # as MLflow's own functions do
    there = mlflow.MlflowClient().get_run(run.info.run_id).data.params
    made, more = (
        {_UNSAFE.sub("_", f"{name}.{key}"): text[:_LENGTH] for key, text in values.items()}
        for values in (question, fit)
    )
    differs = [key for key, text in made.items() if there.get(key, text) != text]
    if differs:
        msg = (
            f"The run holds another effect as {name!r:.40} ({differs[0]:.60} differs). Pass "
            "another name, so that each keeps its question."
        )
        raise InputError(msg, code="effect-name")
    mlflow.log_params(made | {key: text for key, text in more.items() if key not in there})


def dataset_of(effect: Effect) -> xr.Dataset:
    """Draws and averages of an effect, in types that netCDF 3 has."""
    draws, averages = effect.draws, effect.averages
    shared = [d for d in averages.dims if d in draws.dims and averages.sizes[d] != draws.sizes[d]]
    averages = averages.rename({dim: f"{dim}_averaged" for dim in shared})
    data = xr.Dataset({"effect": draws, "averages": averages})
    plain = {str(name): _plain(variable) for name, variable in data.variables.items()}
    data = xr.Dataset(
        {name: plain[str(name)] for name in data.data_vars},
        {name: plain[str(name)] for name in data.coords},
    )
    return data.assign_attrs(
        _question(effect), rows=effect.rows, account=repr(effect).splitlines()[1]
    )


def _plain(variable: xr.Variable) -> xr.Variable:
    """Labels as text where they are neither text nor numbers, and whole numbers in 32 bits."""
    values = np.asarray(variable.values)
    if values.dtype.kind in "iu" and np.abs(values).max(initial=0) < 2**31:
        values = values.astype(np.int32)
    elif values.dtype.kind != "f":
        values = np.array([str(value) for value in values.ravel()]).reshape(values.shape)
    return xr.Variable(variable.dims, values)


def metrics_of(table: pd.DataFrame, name: str) -> dict[str, float]:
    """Numbers of a summary under names that MLflow takes."""
    numbers = [c for c in table.columns if table[c].dtype.kind == "f"]
    said = ("estimand", "comparison", "rows", "fit")
    labels = [c for c in table.columns if c not in (*numbers, *said)]
    if "contrast" in labels and table["contrast"].nunique() == 1:
        labels.remove("contrast")
    found: dict[str, float] = {}
    for _, row in table.head(MAX_ROWS).iterrows():
        where = "".join(f"/{row[label]}" for label in labels)
        cells: Mapping[str, float] = {n: float(row[n]) for n in numbers}
        found |= {
            _UNSAFE.sub("_", f"{name}{where}/{_metric(n)}"): value
            for n, value in cells.items()
            if np.isfinite(value)
        }
    return found


def _metric(column: str) -> str:
    """`P(effect > 0)` as `p_above_0`."""
    match = re.fullmatch(r"P\(effect ([<>]) (\S+)\)", column)
    if match is None:
        return column.replace(" ", "_")
    return f"p_{'above' if match[1] == '>' else 'below'}_{match[2]}"


def _draw(effect: Effect | Impact, path: Path, interval: Mapping[str, Any]) -> None:
    try:
        drawn: Any = effect.plot(**interval)
        figure = drawn if isinstance(effect, Impact) else drawn.figure
    except InputError as error:
        if error.code in ("plots-missing", "series-several"):
            return
        raise
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=120)
    plt.close(figure)
