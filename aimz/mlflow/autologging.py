"""Autologging: each fit is a run of its own, below the run that is active.

MLflow's own machinery guards it: what goes wrong while logging is a line in its log and never an
error of the fit, and a fit that fails is a run that failed.
"""

import functools
import inspect
import logging
import re
import time
from collections.abc import Callable, Mapping
from itertools import batched
from typing import Any

import numpy as np

from aimz.errors import AimzError, InputError
from aimz.mlflow.environment import import_mlflow
from aimz.mlflow.flavor import FLAVOR_NAME, log_model
from aimz.mlflow.scoring import Scorer
from aimz.model import ImpactModel

__all__ = ["autolog"]


_logger = logging.getLogger("mlflow.aimz")  # MLflow's own shows it, and silent=True mutes it
# What the MLflow server takes in one request.
_METRICS, _PARAMETERS, _LENGTH = 1000, 100, 500
_EXAMPLE_ROWS = 5
_COUNTS = ("steps", "batch_size")  # of a fit's health: settings that it found, not results
_UNSAFE = re.compile(r"[^\w./ -]+")
_LEAST, _BELOW = (3, 10), (4, 0)  # versions of MLflow


def autolog(
    log_models: bool = True,  # noqa: FBT001, FBT002  # MLflow's own order of arguments
    log_datasets: bool = True,  # noqa: FBT001, FBT002
    disable: bool = False,  # noqa: FBT001, FBT002
    exclusive: bool = False,  # noqa: FBT001, FBT002
    disable_for_unsupported_versions: bool = False,  # noqa: FBT001, FBT002
    silent: bool = False,  # noqa: FBT001, FBT002
    registered_model_name: str | None = None,
    extra_tags: Mapping[str, str] | None = None,
    *,
    log_input_examples: bool = False,
    log_model_signatures: bool = True,
    log_every_n_steps: int = 1,
    save_model_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Log every `fit` and `fit_on_batch` from now on, each as a run.

    A run holds parameters (settings of model and fit, engine and guide, what the kernel's sites
    are drawn from), the loss of each step as the metric `elbo_loss`, the health of the fit, the
    data set's schema and digest, and the model. Inside an active run it is a child of that run.

    Parameters
    ----------
    log_models : bool
        Log the fitted model, the kernel included, also one of a notebook. Where the kernel reads
        what no file can hold, the model is left out, and the log says so.
    log_datasets : bool
        Log schema, size and digest of the data; never the rows.
    disable : bool
        Stop autologging.
    exclusive : bool
        Log nothing while a run of the user's is active.
    disable_for_unsupported_versions : bool
        Do nothing under an MLflow older than 3.10, or newer than 3.
    silent : bool
        Keep MLflow's log quiet.
    registered_model_name : str, optional
        Make a version of this registered model of each fit.
    extra_tags : mapping, optional
        Tags of each run.
    log_input_examples : bool
        Keep five rows of the data with the model.
    log_model_signatures : bool
        Infer the model's signature from five rows.
    log_every_n_steps : int
        Log the loss of each n-th step.
    save_model_kwargs : mapping, optional
        Further arguments of `log_model`, such as `code_paths` or `kernel_code`.

    Examples
    --------
    >>> import mlflow
    >>> import aimz.mlflow
    >>> mlflow.set_tracking_uri("sqlite:///runs.db")  # doctest: +SKIP
    >>> aimz.mlflow.autolog()  # doctest: +SKIP
    >>> ImpactModel(kernel).fit(X, y)  # doctest: +SKIP

    See Also
    --------
    log_effect : What autologging cannot know: the question.
    """
    options = dict(locals())
    version = import_mlflow().__version__
    if disable_for_unsupported_versions and not _is_supported(version):
        _logger.warning("aimz autologging is off: MLflow %s is not a version it knows.", version)
        options["disable"] = True
    _integration()(**options)


def _is_supported(version: str) -> bool:
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return _LEAST <= found < _BELOW


@functools.cache
def _integration() -> Callable[..., None]:
    """Autologging as MLflow knows it: configured, switched and guarded by its own rules."""
    utils = import_mlflow("mlflow.utils.autologging_utils")

    def enable(**options: Any) -> None:
        for name in ("fit", "fit_on_batch"):
            owner = next(cls for cls in ImpactModel.__mro__ if name in vars(cls))
            utils.safe_patch(FLAVOR_NAME, owner, name, functools.partial(_logged_fit, options))

    enable.__signature__ = inspect.signature(autolog)  # type: ignore[attr-defined]  # MLflow reads the options here
    integration: Callable[..., None] = utils.autologging_integration(FLAVOR_NAME)(enable)
    return integration


def _logged_fit(
    options: Mapping[str, Any],
    original: Callable[..., Any],
    model: ImpactModel,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Fit within a run."""
    mlflow = import_mlflow()
    call = inspect.signature(original).bind(model, *args, **kwargs)
    call.apply_defaults()
    data = {model.param_input: call.arguments["X"], model.param_output: call.arguments["y"]}
    data |= call.arguments["kwargs"]
    tags = {**(options["extra_tags"] or {}), "mlflow.autologging": FLAVOR_NAME}
    parent = mlflow.active_run()
    name = original.__name__ if parent else None
    with mlflow.start_run(nested=parent is not None, run_name=name, tags=tags) as run:
        _log_parameters(run.info.run_id, _settings(model, call.arguments))
        fitted = original(model, *args, **kwargs)
        account = model.describe()
        _log_parameters(run.info.run_id, _account(account))
        if options["log_datasets"]:
            _log_data(model, data)
        model_id = _log_model(model, data, options) if options["log_models"] else None
        _log_health(account["health"], model_id)
        _log_losses(run.info.run_id, _losses(model), options["log_every_n_steps"])
    return fitted


def _settings(model: ImpactModel, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the model and the call were given."""
    given = {"kernel": model.describe()["kernel"], "inference": model.describe()["inference"]}
    given |= {n: v for n, v in model.get_params().items() if n not in ("kernel", "inference")}
    call = {n: v for n, v in arguments.items() if n not in ("self", "X", "y", "kwargs", "progress")}
    weights = call.pop("sample_weight", None)
    call["sample_weight"] = None if weights is None else "given"
    given |= {n: v for n, v in call.items() if v is not None}
    static = {n: v for n, v in arguments["kwargs"].items() if np.ndim(v) == 0}
    given |= {f"argument.{n}": v for n, v in static.items()}
    return {n: v for n, v in given.items() if v is not None}


def _account(account: Mapping[str, Any]) -> dict[str, Any]:
    """What the fit found the kernel and the engine to be."""
    health = account["health"]
    words = {n: v for n, v in health.items() if isinstance(v, str) or n in _COUNTS}
    words |= {"rows": account["rows"], "rows_coupled": account.get("coupled") or False}
    laws = {f"law.{n}": site["law"] for n, site in account.get("sites", {}).items() if site["law"]}
    return {"batch_rows" if n == "batch_size" else n: v for n, v in (words | laws).items()}


def _log_parameters(run_id: str, values: Mapping[str, Any]) -> None:
    """Log parameters, as many in a request as the server takes."""
    entities = import_mlflow("mlflow.entities")
    client = import_mlflow("mlflow").MlflowClient()
    made = [
        entities.Param(_UNSAFE.sub("_", name), str(value)[:_LENGTH])
        for name, value in values.items()
    ]
    for some in batched(made, _PARAMETERS):
        client.log_batch(run_id, params=some)


def _log_health(health: Mapping[str, Any], model_id: str | None) -> None:
    numbers = {
        name: float(value)
        for name, value in health.items()
        if isinstance(value, bool | int | float) and name not in _COUNTS and np.isfinite(value)
    }
    import_mlflow().log_metrics(numbers, model_id=model_id)


def _losses(model: ImpactModel) -> np.ndarray:
    """Loss of each step; empty for engines without."""
    try:
        return np.asarray(model.vi_result.losses, np.float64)
    except InputError:
        return np.empty(0)


def _log_losses(run_id: str, losses: np.ndarray, every: int) -> None:
    """Log a loss curve, a thousand points in a request."""
    entities = import_mlflow("mlflow.entities")
    client = import_mlflow("mlflow").MlflowClient()
    now = int(time.time() * 1000)
    points = (
        entities.Metric("elbo_loss", float(losses[step]), now, step)
        for step in range(0, len(losses), every)
    )
    for some in batched(points, _METRICS):
        client.log_batch(run_id, metrics=some)


def _log_data(model: ImpactModel, data: Mapping[str, Any]) -> None:
    """Log what the data are; what is read by the piece is left out."""
    mlflow = import_mlflow()
    rows, outcome = data[model.param_input], data[model.param_output]
    if outcome is None or not _is_in_memory(rows):
        return
    features = {n: np.asarray(v) for n, v in _of_rows(model, data).items()}
    given = features if len(features) > 1 else features[model.param_input]
    dataset = mlflow.data.from_numpy(given, targets=np.asarray(outcome))
    mlflow.log_input(dataset, context="train")


def _log_model(
    model: ImpactModel, data: Mapping[str, Any], options: Mapping[str, Any]
) -> str | None:
    """Log the model; one that cannot be stored is a line in the log."""
    failure = import_mlflow("mlflow.exceptions").MlflowException
    registered = options["registered_model_name"]
    try:
        more = _model_options(model, data, options)
        info = log_model(model, registered_model_name=registered, **more)
    except (AimzError, failure, OSError) as error:
        _logger.warning("The model is not logged: %s", error)
        return None
    model_id: str | None = info.model_id
    return model_id


def _model_options(
    model: ImpactModel, data: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of `log_model`: those that were given, the example, the signature."""
    more = {"name": "model", **(options["save_model_kwargs"] or {})}
    wants_signature = options["log_model_signatures"] and "signature" not in more
    if "input_example" in more or not (wants_signature or options["log_input_examples"]):
        return more
    if not _is_in_memory(data[model.param_input]):
        return more
    example = _example(model, data)
    if wants_signature:
        answer = Scorer(model).predict(example)
        more["signature"] = import_mlflow("mlflow.models").infer_signature(example, answer)
    if options["log_input_examples"]:
        more["input_example"] = example
    return more


def _example(model: ImpactModel, data: Mapping[str, Any]) -> Any:
    """The first rows of the data, as a request holds them."""
    some = {n: v[:_EXAMPLE_ROWS] for n, v in _of_rows(model, data).items()}
    rows = some.pop(model.param_input)
    if hasattr(rows, "assign") and all(np.ndim(value) == 1 for value in some.values()):
        return rows.assign(**{n: np.asarray(v) for n, v in some.items()})
    if not some:
        return rows if hasattr(rows, "columns") else np.asarray(rows)
    return {n: np.asarray(v) for n, v in {model.param_input: rows, **some}.items()}


def _of_rows(model: ImpactModel, data: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with a value per row, without the outcome."""
    names = {model.param_input, *model.describe().get("inputs", {})} - {model.param_output}
    return {n: v for n, v in data.items() if n in names and np.ndim(v) > 0}


def _is_in_memory(rows: Any) -> bool:
    """Whether the first rows can be had without reading a file or a loader."""
    kinds = ("numpy", "pandas", "polars", "jax", "jaxlib")
    return type(rows).__module__.split(".")[0] in kinds and not isinstance(rows, np.memmap)
