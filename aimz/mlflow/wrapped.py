"""Pipelines and scikit-learn's estimators with a model inside, in MLflow's own `sklearn` flavor.

MLflow writes them with skops, which runs nothing that the model does not name as trusted. The types
of this library are no types of scikit-learn's, so that they have to be named; a kernel without an
import path is code, and is pickled.
"""

import logging
from collections.abc import Mapping
from typing import Any

from sklearn.base import BaseEstimator

from aimz.errors import InputError
from aimz.mlflow.environment import FilePath, get_default_pip_requirements, import_mlflow
from aimz.mlflow.kernels import PICKLE

__all__ = ["check_estimator", "log_estimator", "save_estimator", "trusted_types"]


_logger = logging.getLogger("mlflow.aimz")
_OWN = ("kernel_code", "serialization_format", "artifact_path", "mlflow_model")


def trusted_types(model: BaseEstimator) -> list[str]:
    """Types in an estimator that skops does not know, for `mlflow.sklearn.log_model`.

    Parameters
    ----------
    model : estimator
        A pipeline, an `ImpactRegressor`, or any estimator with a model inside.

    Returns
    -------
    list of str
        What to pass as `skops_trusted_types`.

    Raises
    ------
    InputError
        `skops`: the estimator holds what skops cannot, such as the kernel of a notebook.

    Examples
    --------
    >>> import numpy as np
    >>> from aimz.sklearn import ImpactRegressor
    >>> model = ImpactRegressor(num_samples=100).fit(np.arange(20.0)[:, None], np.arange(20.0))
    >>> "aimz.sklearn.ImpactRegressor" in trusted_types(model)
    True
    """
    try:
        import skops.io

        data = skops.io.dumps(model)
        found: list[str] = skops.io.get_untrusted_types(data=data)
        skops.io.loads(data, trusted=found)
    except Exception as error:  # objects raise what they like; rethrown by name
        msg = f"skops cannot hold this estimator ({error!s:.110}). Use format 'cloudpickle'."
        raise InputError(msg, code="skops") from error
    return found


def check_estimator(model: BaseEstimator) -> None:
    """Refuse what is neither a model nor an estimator.

    Raises
    ------
    InputError
        `model-kind`
    """
    if not isinstance(model, BaseEstimator):
        msg = (
            f"A {type(model).__name__} is no model. Pass an ImpactModel, or an estimator with one."
        )
        raise InputError(msg, code="model-kind")


def save_estimator(model: BaseEstimator, path: FilePath, options: Mapping[str, Any]) -> None:
    """Save an estimator as an MLflow model of the flavor `sklearn`."""
    own = _options(model, options)
    import_mlflow("mlflow.sklearn").save_model(
        model, str(path), mlflow_model=options.get("mlflow_model"), **own
    )


def log_estimator(model: BaseEstimator, options: Mapping[str, Any]) -> Any:
    """Log an estimator to the current run, in the flavor `sklearn`."""
    name = options.get("name") or options.get("artifact_path")
    own = {**_options(model, options), "name": name}
    return import_mlflow("mlflow.sklearn").log_model(model, **own)


def _options(model: BaseEstimator, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of MLflow's flavor: those that were given, the format, the requirements."""
    if options.get("kernel_code") is not None:
        msg = "kernel_code= is for an ImpactModel. Pass code_paths= with the kernel's module."
        raise InputError(msg, code="option-unknown")
    given = {n: v for n, v in options.items() if v is not None and n not in _OWN}
    chosen: dict[str, Any] = {"serialization_format": PICKLE}
    if options.get("serialization_format") != PICKLE:
        try:
            trusted = trusted_types(model)
            chosen = {"serialization_format": "skops", "skops_trusted_types": trusted}
        except InputError as error:
            _logger.warning("The estimator is pickled, and loading it runs its code: %s", error)
    if "conda_env" not in given and "pip_requirements" not in given:
        utils = import_mlflow("mlflow.utils.requirements_utils")
        pickled = chosen["serialization_format"] == PICKLE
        more = [] if pickled else [utils._get_pinned_requirement("skops")]  # noqa: SLF001  # as MLflow's own flavors
        needed = get_default_pip_requirements(include_cloudpickle=pickled)
        needed += [utils._get_pinned_requirement("scikit-learn", module="sklearn"), *more]  # noqa: SLF001
        given["pip_requirements"] = [*needed, *given.pop("extra_pip_requirements", ())]
    return {**given, **chosen}
