"""The flavor: a model as MLflow keeps it, and back.

A directory holds the archive of `ImpactModel.save`, an MLmodel file, the files of the environment,
and of the kernel its import path, its file or its pickle (`aimz.mlflow.kernels`).
"""

import importlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator

from aimz._version import __version__
from aimz.errors import OutputWarning, StoreError
from aimz.mlflow.environment import (
    CONDA,
    PYTHON,
    FilePath,
    get_default_pip_requirements,
    import_mlflow,
    imported_requirements,
    write_environment,
)
from aimz.mlflow.kernels import (
    ARCHIVE,
    PICKLE,
    check_inside,
    check_kept,
    inside,
    load_kernel,
    write_kernel,
)
from aimz.mlflow.scoring import Scorer, parameter_schema
from aimz.mlflow.wrapped import check_estimator, log_estimator, save_estimator
from aimz.model import ImpactModel, Inference, Kernel

__all__ = ["FLAVOR_NAME", "load_model", "load_pyfunc", "log_model", "save_model"]


FLAVOR_NAME = "aimz"
_MODULE = "aimz.mlflow"
_DATA = "model"
_AWAIT_SECONDS = 300  # MLflow's own default


def save_model(
    model: BaseEstimator,
    path: FilePath,
    conda_env: Mapping[str, Any] | FilePath | None = None,
    code_paths: list[str] | None = None,
    mlflow_model: Any = None,
    signature: Any = None,
    input_example: Any = None,
    pip_requirements: Sequence[str] | str | None = None,
    extra_pip_requirements: Sequence[str] | str | None = None,
    metadata: Mapping[str, Any] | None = None,
    extra_files: list[str] | None = None,
    kernel_code: FilePath | None = None,
    serialization_format: str = ARCHIVE,
) -> None:
    """Save a fitted model as an MLflow model.

    Parameters
    ----------
    model : ImpactModel or estimator
        The model. A pipeline, an `ImpactRegressor` or another estimator of scikit-learn's with a
        model inside is written in MLflow's flavor `sklearn`, by skops where it can be. A kernel
        that has an import path is kept by it; any other is kept as code, with what it reads, or
        comes by `kernel_code`, or is pickled.
    path : path
        A directory that does not exist yet, or is empty.
    conda_env, pip_requirements, extra_pip_requirements : optional
        The environment, as in MLflow's own flavors; default `get_default_pip_requirements`.
    code_paths : list of str, optional
        Python files and packages to keep with the model, such as the module of the kernel.
    mlflow_model : mlflow.models.Model, optional
        The model that this flavor is added to.
    signature : mlflow.models.ModelSignature or False, optional
        Default that of `input_example`. The parameters that `predict` takes are added to it; False
        leaves it out, and then MLflow drops all parameters.
    input_example : DataFrame, ndarray, dict of arrays, or (example, parameters), optional
        Some rows to ask about.
    metadata : mapping, optional
        Kept in the MLmodel file.
    extra_files : list of str, optional
        Further files to keep with the model.
    kernel_code : path, optional
        A Python file that passes the kernel to `mlflow.models.set_model`: code, which loading runs.
    serialization_format : {"archive", "cloudpickle"}
        The second pickles the kernel, and loading runs what the pickle says.

    Raises
    ------
    InputError
        `kernel-capture`, `kernel-code`, `not-plain`, `mlflow-missing`, `option-unknown`.
    NotFittedError
        `not-fitted`.

    Examples
    --------
    >>> import tempfile, numpy as np, numpyro, numpyro.distributions as dist
    >>> from aimz import ImpactModel, mlflow as aimz_mlflow
    >>> def kernel(X, y=None):
    ...     b = numpyro.sample("b", dist.Normal())
    ...     numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)
    >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.ones(10)})
    >>> path = tempfile.mkdtemp()
    >>> aimz_mlflow.save_model(im, path)
    >>> again = aimz_mlflow.load_model(path)
    >>> again.posterior_tree.posterior.equals(im.posterior_tree.posterior)
    True

    See Also
    --------
    log_model : The same, into a run.
    load_model : Back.
    """
    if not isinstance(model, ImpactModel):
        check_estimator(model)
        given = {n: v for n, v in locals().items() if n not in ("model", "path")}
        save_estimator(model, path, given)
        return
    utils = import_mlflow("mlflow.utils.model_utils")
    environment = import_mlflow("mlflow.utils.environment")
    environment._validate_env_arguments(conda_env, pip_requirements, extra_pip_requirements)  # noqa: SLF001  # as MLflow's own flavors
    root = Path(path).resolve()
    utils._validate_and_prepare_target_save_path(str(root))  # noqa: SLF001
    stored = write_kernel(model, root, kernel_code, serialization_format)
    with warnings.catch_warnings():  # where no file of `save` holds the kernel, another one does
        warnings.filterwarnings(
            "ignore", category=OutputWarning, message=".*load\\(path, kernel\\)"
        )
        model.save(root / _DATA)
    if kernel_code is not None:  # its file may not fit the model
        ImpactModel.load(root / _DATA, load_kernel(root, stored))
    stored["serialization_format"] = serialization_format
    code = utils._validate_and_copy_code_paths(code_paths, str(root))  # noqa: SLF001
    extra = utils._copy_extra_files(extra_files, str(root)) if extra_files else {}  # noqa: SLF001
    document = mlflow_model or import_mlflow("mlflow.models").Model()
    document.signature = _signature_of(model, document, root, signature, input_example)
    if metadata is not None:
        document.metadata = dict(metadata)
    _add_flavors(document, {**stored, **extra}, code)
    document.model_size_bytes = sum(p.stat().st_size for p in root.rglob("*") if p.is_file())
    document.save(str(root / "MLmodel"))
    needed = get_default_pip_requirements(include_cloudpickle=serialization_format == PICKLE)
    needed += imported_requirements(model)
    write_environment(root, conda_env, pip_requirements, extra_pip_requirements, needed)


def log_model(
    model: BaseEstimator,
    artifact_path: str | None = None,
    conda_env: Mapping[str, Any] | FilePath | None = None,
    code_paths: list[str] | None = None,
    registered_model_name: str | None = None,
    signature: Any = None,
    input_example: Any = None,
    await_registration_for: int | None = _AWAIT_SECONDS,
    pip_requirements: Sequence[str] | str | None = None,
    extra_pip_requirements: Sequence[str] | str | None = None,
    metadata: Mapping[str, Any] | None = None,
    extra_files: list[str] | None = None,
    name: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    model_type: str | None = None,
    step: int = 0,
    model_id: str | None = None,
    kernel_code: FilePath | None = None,
    serialization_format: str = ARCHIVE,
    **kwargs: Any,
) -> Any:
    """Log a fitted model to the current run.

    Parameters
    ----------
    model, conda_env, code_paths, signature, input_example, pip_requirements, extra_pip_requirements
        As in `save_model`.
    metadata, extra_files, kernel_code, serialization_format
        As in `save_model`.
    artifact_path : str, optional
        MLflow's former word for `name`.
    registered_model_name : str, optional
        Make a version of this registered model.
    await_registration_for : int, optional
        Seconds to wait for that version.
    name : str, optional
        Name of the model.
    params, tags, model_type, step, model_id, **kwargs
        As in `mlflow.models.Model.log`.

    Returns
    -------
    mlflow.models.model.ModelInfo
        Where the model is: `model_uri`, `model_id`, ....

    Raises
    ------
    InputError
        As `save_model`.
    """
    if not isinstance(model, ImpactModel):
        check_estimator(model)
        given = {n: v for n, v in locals().items() if n not in ("model", "kwargs")}
        return log_estimator(model, {**given, **kwargs})
    if kernel_code is None and serialization_format == ARCHIVE:
        check_kept(model)  # before MLflow makes a model that would stay empty
    optional = {"params": params, "tags": tags, "model_type": model_type, "model_id": model_id}
    return import_mlflow("mlflow.models").Model.log(
        artifact_path=artifact_path,
        name=name,
        flavor=importlib.import_module(_MODULE),
        registered_model_name=registered_model_name,
        await_registration_for=await_registration_for,
        model=model,
        conda_env=conda_env,
        code_paths=code_paths,
        signature=signature,
        input_example=input_example,
        pip_requirements=pip_requirements,
        extra_pip_requirements=extra_pip_requirements,
        metadata=metadata,
        extra_files=extra_files,
        step=step,
        kernel_code=kernel_code,
        serialization_format=serialization_format,
        **optional,
        **kwargs,
    )


def load_model(
    model_uri: FilePath,
    dst_path: str | None = None,
    *,
    kernel: Kernel | None = None,
    inference: Inference | None = None,
) -> Any:
    """Load a model that `save_model` or `log_model` wrote.

    Arrays and JSON execute nothing. The kernel is code: loading imports its module, or runs its
    file, captured or the caller's, or its pickle. With `kernel=` nothing of the directory is run.

    Parameters
    ----------
    model_uri : str or path
        `models:/<name>/<version>`, `runs:/<run>/<name>`, or a directory.
    dst_path : str, optional
        Existing directory to download to.
    kernel : callable, optional
        The kernel, instead of the one that the model names.
    inference : SVI, MCMC, engine or str, optional
        As in `ImpactModel.load`.

    Returns
    -------
    ImpactModel or estimator
        It predicts bit for bit what the saved one did. See `save_model` for an example.

    Raises
    ------
    StoreError
        `store-foreign`, `store-missing`, `store-damaged`, `store-version`: no such model;
        `model-unsafe`: names or links that lead out of it; `kernel-missing`, `kernel-shadowed`,
        `pickle-refused`: no kernel.
    """
    artifacts = import_mlflow("mlflow.artifacts")
    local = Path(artifacts.download_artifacts(artifact_uri=str(model_uri), dst_path=dst_path))
    flavors = _flavors(local)
    if kernel is None and FLAVOR_NAME not in flavors and "sklearn" in flavors:
        return import_mlflow("mlflow.sklearn").load_model(str(local))
    return _load(local, kernel, inference)


def load_pyfunc(path: str) -> Scorer:
    """Load the model that answers requests, and warm it up; MLflow calls it."""
    root = Path(path)
    scorer = Scorer(_load(root))
    scorer.warm_up(import_mlflow("mlflow.models").Model.load(str(root)), root)
    return scorer


def _load(
    root: Path, kernel: Kernel | None = None, inference: Inference | None = None
) -> ImpactModel:
    flavors = _flavors(root)
    stored = flavors.get(FLAVOR_NAME)
    if not isinstance(stored, dict):
        msg = f"{root.name!r:.60} is no MLflow model of the flavor 'aimz'."
        raise StoreError(msg, code="store-foreign")
    pyfunc = flavors.get("python_function", {})
    for name in (stored.get("data"), stored.get("code"), pyfunc.get("code"), pyfunc.get("data")):
        if name is not None:
            inside(root, name)
    found = kernel if kernel is not None else load_kernel(root, stored)
    return ImpactModel.load(inside(root, stored.get("data")), found, inference=inference)


def _flavors(root: Path) -> Mapping[str, Any]:
    """What the MLmodel file says of each flavor."""
    check_inside(root)
    flavors: Mapping[str, Any] = import_mlflow("mlflow.models").Model.load(str(root)).flavors
    return flavors


def _signature_of(
    model: ImpactModel, document: Any, root: Path, signature: Any, input_example: Any
) -> Any:
    """The signature to store, with the parameters of `predict`; writes the example."""
    models = import_mlflow("mlflow.models")
    save_example = import_mlflow("mlflow.models.utils")._save_example  # noqa: SLF001  # as MLflow's own flavors
    example = save_example(document, input_example, str(root))
    if signature is False:
        return None
    parts: dict[str, Any] = {}
    if signature is not None:
        parts = {"inputs": signature.inputs, "outputs": signature.outputs}
    elif example is not None:
        rows = example.inference_data
        found = models.infer_signature(rows, Scorer(model).predict(rows, example.inference_params))
        parts = {"inputs": found.inputs, "outputs": found.outputs}
    own = getattr(signature, "params", None)
    return models.ModelSignature(**parts, params=own or parameter_schema(model))


def _add_flavors(document: Any, stored: Mapping[str, Any], code: str | None) -> None:
    import_mlflow("mlflow.pyfunc").add_to_model(
        document, loader_module=_MODULE, conda_env=CONDA, python_env=PYTHON, code=code
    )
    document.add_flavor(FLAVOR_NAME, aimz_version=__version__, data=_DATA, code=code, **stored)
