"""What a served model answers: frames of rows in, frames of numbers out.

A request holds rows, and parameters that ask about them. Rows are a frame, a dict of arrays or one
array. A column of a frame that is named like an argument of the kernel is passed by that name; the
outcome is left out; all others are `X`. The answer names its scenario in every row, because MLflow
drops a parameter that it does not know, such as a misspelled one, with no more than a line in its
log: then the scenario says "natural".
"""

import copy
import functools
import itertools
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from aimz.choices import check_choice, quantiles_of
from aimz.errors import InputError, nearest
from aimz.kernel import kernel_signature
from aimz.mlflow.environment import import_mlflow
from aimz.mlflow.kernels import inside
from aimz.model import ImpactModel

__all__ = ["Asked", "Scorer", "asked_of", "parameter_schema"]


_logger = logging.getLogger(__name__)

_STATISTICS = ("mean", "quantiles", "draws")
_SAMPLE = ("chain", "draw")
NATURAL = "natural"
_LATENT = {"kind": "latent"}


@dataclass(frozen=True)
class Asked:
    """Parameters of a request.

    Parameters
    ----------
    statistic : {"mean", "quantiles", "draws"}
        Posterior mean of each site, its quantiles, or its draws, one in a row.
    quantiles : sequence of float
        Probabilities of the quantiles.
    num_samples : int, optional
        Draws to return, evenly spaced; default all.
    return_sites : sequence of str
        Sites with a value per row; default the output.
    intervention : mapping or JSON text
        What to set: an argument of the kernel is replaced, a site is set as by `intervention=` of
        `predict`. Values are numbers, or one per row.
    in_sample : bool
        Whether the rows are those of the fit; see `ImpactModel.predict`.
    """

    statistic: str = "mean"
    quantiles: Sequence[float] = (0.055, 0.5, 0.945)
    num_samples: int | None = None
    return_sites: Sequence[str] = ()
    intervention: Mapping[str, Any] | str | None = None
    in_sample: bool = False

    def __post_init__(self) -> None:
        check_choice(self.statistic, "statistic", _STATISTICS)
        quantiles_of(self.quantiles, "quantiles")
        if self.num_samples is not None and self.num_samples < 1:
            msg = f"num_samples must be at least 1, not {self.num_samples}."
            raise InputError(msg, code="not-positive")

    @property
    def changes(self) -> dict[str, Any]:
        """The intervention as a dict."""
        asked = self.intervention or {}
        try:
            found = json.loads(asked) if isinstance(asked, str) else asked
        except ValueError:
            found = None
        if not isinstance(found, Mapping):
            msg = f"intervention must map names to values, not be {self.intervention!r:.60}."
            raise InputError(msg, code="option-unknown")
        return dict(found)


def asked_of(params: Mapping[str, Any] | None) -> Asked:
    """Parameters of a request; a name that is none of them is refused.

    Raises
    ------
    InputError
        `param-unknown`, `option-unknown`, `not-positive`.
    """
    valid = [field.name for field in fields(Asked)]
    for name in params or {}:
        if name not in valid:
            msg = f"There is no parameter '{name!s:.40}'. {nearest(str(name), valid)}"
            raise InputError(msg, code="param-unknown")
    return Asked(**(params or {}))


def parameter_schema(model: ImpactModel) -> Any:
    """The parameters as MLflow checks them; an intervention has the names that this model knows."""
    schema = import_mlflow("mlflow.types.schema")
    kind, default = schema.DataType, Asked()
    names = sorted({*_arguments(model), model.param_input, *_sites(model)})
    values = [schema.Property(name, schema.AnyType(), required=False) for name in names]
    quantiles = list(default.quantiles)
    return schema.ParamSchema(
        [
            schema.ParamSpec("statistic", kind.string, default.statistic),
            schema.ParamSpec("quantiles", kind.double, quantiles, (-1,)),
            schema.ParamSpec("num_samples", kind.long, None),
            schema.ParamSpec("return_sites", kind.string, [], (-1,)),
            schema.ParamSpec("intervention", schema.Object(values), {}),
            schema.ParamSpec("in_sample", kind.boolean, default.in_sample),
        ]
    )


class Scorer:
    """A model as MLflow's `pyfunc` asks it.

    Parameters
    ----------
    model : ImpactModel
        The model, which no request changes.
    """

    def __init__(self, model: ImpactModel) -> None:
        self.model = model

    def get_raw_model(self) -> ImpactModel:
        """Return the model itself."""
        return self.model

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Answer a request.

        Parameters
        ----------
        model_input : DataFrame, dict of arrays or array
            The rows.
        params : mapping, optional
            See `Asked`.

        Returns
        -------
        DataFrame
            For `"mean"` and `"quantiles"` a row for each row asked about, and a column for each
            site; for `"draws"` a row for each row, chain and draw. The last column is the scenario.

        Raises
        ------
        InputError
            `param-unknown`, `scenario-unknown`, `site-rows`, `not-finite`, and as in
            `ImpactModel.predict`. It is also an `MlflowException`, which a server answers as a bad
            request, in the words of the message and without a stack trace.
        """
        try:
            return self._answer(model_input, params)
        except InputError as error:
            raise _refused_request()(str(error), code=error.code) from error

    def warm_up(self, document: Any, root: Path) -> None:
        """Answer the example of a stored model, and one row, to load and compile what that needs.

        A request that cannot be answered here is answered, or refused, when it is made.
        """
        trial = Scorer(copy.copy(self.model))  # what is said once is then said to who asks
        makers: list[Callable[[], Any]] = [lambda: _example(document, root)]
        if not self.model.describe().get("coupled"):
            makers += [lambda: _one_row(document, root)]
        for make in makers:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    request = make()
                    if request is not None:
                        trial.predict(request)
                except Exception as error:  # noqa: BLE001  # whatever a kernel or a file may raise
                    _logger.debug("The model was not warmed up: %s", error)

    def _answer(self, model_input: Any, params: Mapping[str, Any] | None) -> pd.DataFrame:
        asked = asked_of(params)
        given = _given(self.model, model_input)
        replaced, sites_set = self._split(asked.changes)
        given |= replaced
        if self.model.param_input not in given:
            msg = f"The request has no '{self.model.param_input}'. Pass the rows to ask about."
            raise InputError(msg, code="argument-missing")
        wanted = list(asked.return_sites) or [self.model.param_output]
        tree: Any = self.model.predict_on_batch(
            given.pop(self.model.param_input),
            in_sample=asked.in_sample,
            return_sites=wanted,
            intervention=sites_set or None,
            **given,
        )
        group = tree["posterior_predictive" if asked.in_sample else "predictions"]
        columns = _by_row(group.to_dataset(), wanted, str(tree.attrs["row_dim"]))
        frame = _MAKE[asked.statistic](columns, asked, getattr(model_input, "index", None))
        frame["scenario"] = _scenario(asked.changes)
        return frame

    def _split(self, changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What replaces arguments, and what sets sites."""
        arguments = {self.model.param_input, *_arguments(self.model)}
        sites = _sites(self.model)
        for name in changes:
            if name not in arguments | sites:
                found = nearest(name, arguments | sites)
                msg = f"'{name:.40}' is no argument and no site of the kernel. {found}"
                raise InputError(msg, code="scenario-unknown")
        replaced = {n: _value(v) for n, v in changes.items() if n in arguments}
        return replaced, {n: _value(v) for n, v in changes.items() if n not in arguments}


def _example(document: Any, root: Path) -> Any:
    """The example that was stored with a model, if any; a file of the model's own directory."""
    about = document.saved_input_example_info
    if about:
        inside(root, about.get("artifact_path"))
    return document.load_input_example(str(root))


def _one_row(document: Any, root: Path) -> Any:
    """One row of a stored model's example, or of zeros as its signature describes them."""
    example = _example(document, root)
    if isinstance(example, Mapping):
        return {name: np.asarray(value)[:1] for name, value in example.items()}
    inputs = None if document.signature is None else document.signature.inputs
    if example is not None or inputs is None:
        return None if example is None else example[:1]
    if inputs.is_tensor_spec():
        arrays = {spec.name: np.zeros((1, *spec.shape[1:]), spec.type) for spec in inputs.inputs}
        return arrays if inputs.has_input_names() else arrays[None]
    kinds = zip(inputs.input_names(), inputs.pandas_types(), strict=True)
    return pd.DataFrame({name: np.zeros(1, kind) for name, kind in kinds})


@functools.cache
def _refused_request() -> type[InputError]:
    """An `InputError` that MLflow knows for one of its own."""
    exceptions = import_mlflow("mlflow.exceptions")
    bad_request = import_mlflow("mlflow.protos.databricks_pb2").INVALID_PARAMETER_VALUE

    class RefusedRequestError(InputError, exceptions.MlflowException):  # type: ignore[misc, name-defined]
        """A request that cannot be answered."""

        def __init__(self, message: str, *, code: str) -> None:
            exceptions.MlflowException.__init__(self, message, error_code=bad_request)
            self.code = code

    return RefusedRequestError


def _arguments(model: ImpactModel) -> list[str]:
    """Arguments of the kernel beside the rows and the outcome."""
    names = kernel_signature(model.kernel).parameters
    return [name for name in names if name not in (model.param_input, model.param_output)]


def _sites(model: ImpactModel) -> set[str]:
    account = model.describe()
    sites = account.get("sites") or dict.fromkeys(account["posterior"], _LATENT)
    return {n for n, site in sites.items() if site["kind"] in ("latent", "observed")}


def _given(model: ImpactModel, rows: Any) -> dict[str, Any]:
    """Arguments of the kernel that a request holds."""
    if isinstance(rows, pd.DataFrame):
        return _from_frame(model, rows)
    if isinstance(rows, Mapping):
        given = {str(name): _value(value) for name, value in rows.items()}
        given.pop(model.param_output, None)
        return given
    return {model.param_input: np.asarray(rows)}


def _from_frame(model: ImpactModel, frame: pd.DataFrame) -> dict[str, Any]:
    fitted = model.describe().get("inputs", {}).get(model.param_input, {})
    known = fitted.get("columns", [])
    primary, arguments = model.param_input, _arguments(model)
    given = {name: frame[name].to_numpy() for name in arguments if name in frame.columns}
    outcome = {model.param_output} - set(known)
    _check_nulls(frame[[c for c in frame.columns if c not in outcome]])
    if primary in frame.columns and primary not in known:
        return {primary: frame[primary].to_numpy(), **given}
    named = {*arguments, model.param_output}
    X: Any = frame[[c for c in frame.columns if c in known or c not in named]]
    if X.shape[1] == 1 and fitted.get("shape") == ():
        X = X.iloc[:, 0].to_numpy()
    if np.ndim(X) == 2 and X.shape[1] == 0:
        return given
    return {primary: X, **given}


def _check_nulls(frame: pd.DataFrame) -> None:
    """Refuse a missing value, by its column and row."""
    for name in frame.columns:
        lacking = frame[name].isna().to_numpy()
        if lacking.any():
            msg = (
                f"Column '{name!s:.60}' has no value in row {frame.index[int(lacking.argmax())]} "
                f"({int(lacking.sum())} in all). A prediction needs one: fill it, or leave the "
                "rows out."
            )
            raise InputError(msg, code="not-finite")


def _value(value: Any) -> Any:
    """Lists of JSON as arrays."""
    return np.asarray(value) if isinstance(value, list | tuple) else value


def _by_row(group: xr.Dataset, sites: Sequence[str], row_dim: str) -> dict[str, np.ndarray]:
    """Draws (chain, draw, row) by column: a site, or one cell of its further axes."""
    columns: dict[str, np.ndarray] = {}
    for site in sites:
        draws = group[site]
        if row_dim not in draws.dims:
            msg = f"Site '{site}' has no value per row, and an answer has rows. Leave it out."
            raise InputError(msg, code="site-rows")
        draws = draws.transpose(*_SAMPLE, row_dim, ...)
        values, further = draws.values, draws.dims[3:]
        labels = [draws[d].values if d in draws.coords else range(draws.sizes[d]) for d in further]
        flat = values.reshape(*values.shape[:3], -1)
        for place, cell in enumerate(itertools.product(*labels)):
            label = f"[{','.join(str(part) for part in cell)}]" if further else ""
            columns[f"{site}{label}"] = flat[..., place].astype(np.float64)
    return columns


def _means(columns: Mapping[str, np.ndarray], _: Asked, index: pd.Index | None) -> pd.DataFrame:
    return pd.DataFrame({n: draws.mean((0, 1)) for n, draws in columns.items()}, index=index)


def _quantiles(
    columns: Mapping[str, np.ndarray], asked: Asked, index: pd.Index | None
) -> pd.DataFrame:
    found = {
        f"{name}_q{float(q):g}": np.quantile(draws, float(q), axis=(0, 1))
        for name, draws in columns.items()
        for q in asked.quantiles
    }
    return pd.DataFrame(found, index=index)


def _draws(columns: Mapping[str, np.ndarray], asked: Asked, index: pd.Index | None) -> pd.DataFrame:
    chains, per_chain, rows = next(iter(columns.values())).shape
    count = min(asked.num_samples or chains * per_chain, chains * per_chain)
    kept = np.linspace(0, chains * per_chain - 1, count).round().astype(int)
    labels = np.arange(rows) if index is None else np.asarray(index)
    long = {
        "row": np.tile(labels, count),
        "chain": np.repeat(kept // per_chain, rows),
        "draw": np.repeat(kept % per_chain, rows),
    }
    flat = {n: draws.reshape(-1, rows)[kept].ravel() for n, draws in columns.items()}
    return pd.DataFrame(long | flat)


_MAKE = {"mean": _means, "quantiles": _quantiles, "draws": _draws}


def _scenario(changes: Mapping[str, Any]) -> str:
    if not changes:
        return NATURAL
    return json.dumps(changes, sort_keys=True, default=lambda value: np.asarray(value).tolist())
