"""MLflow itself, imported on first use, and the packages that a logged model needs."""

import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aimz.errors import InputError
from aimz.model import ImpactModel

__all__ = [
    "CONDA",
    "PYTHON",
    "FilePath",
    "get_default_conda_env",
    "get_default_pip_requirements",
    "import_mlflow",
    "imported_requirements",
    "write_environment",
]


type FilePath = str | os.PathLike[str]

# Predictions are equal bit for bit where these are equal.
_PACKAGES = ("aimz", "jax", "jaxlib", "numpyro")
_THEIRS = ("numpy", "pandas", "xarray", "zarr", "sklearn", "arviz", "optax", "joblib")
CONDA, PYTHON, REQUIREMENTS = "conda.yaml", "python_env.yaml", "requirements.txt"
_CONSTRAINTS = "constraints.txt"


def import_mlflow(name: str = "mlflow") -> Any:
    """MLflow, or one of its modules.

    Raises
    ------
    InputError
        `mlflow-missing`: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "mlflow":
            raise
        msg = "MLflow is not installed. Install it: pip install mlflow-skinny"
        raise InputError(msg, code="mlflow-missing") from error


def get_default_pip_requirements(*, include_cloudpickle: bool = False) -> list[str]:
    """Packages that a logged model needs, at the versions that are installed.

    What the kernel itself imports beyond them is the caller's to add, as
    `extra_pip_requirements`.

    Parameters
    ----------
    include_cloudpickle : bool
        Add cloudpickle.

    Returns
    -------
    list of str
        Requirements as pip reads them.

    Examples
    --------
    >>> [line.split("==")[0] for line in get_default_pip_requirements()]
    ['aimz', 'jax', 'jaxlib', 'numpyro']
    """
    pinned = import_mlflow("mlflow.utils.requirements_utils")._get_pinned_requirement  # noqa: SLF001  # as MLflow's own flavors
    names = (*_PACKAGES, "cloudpickle") if include_cloudpickle else _PACKAGES
    return [pinned(name) for name in names]


def imported_requirements(model: ImpactModel) -> list[str]:
    """Packages that a captured kernel imports beyond the default ones."""
    captured = model.describe()["kernel_kept"].get("captured", {})
    tops = {name.split(".", maxsplit=1)[0] for name in captured.get("imports", ())}
    tops -= {*_PACKAGES, *_THEIRS, *sys.stdlib_module_names}
    if not tops:
        return []
    found = importlib.metadata.packages_distributions()
    pinned = import_mlflow("mlflow.utils.requirements_utils")._get_pinned_requirement  # noqa: SLF001  # as MLflow's own flavors
    return sorted({pinned(found[top][0]) for top in tops if top in found})


def get_default_conda_env(*, include_cloudpickle: bool = False) -> dict[str, Any]:
    """Conda environment of a logged model.

    Parameters
    ----------
    include_cloudpickle : bool
        Add cloudpickle.

    Returns
    -------
    dict
        The environment as MLflow writes it to `conda.yaml`.
    """
    make = import_mlflow("mlflow.utils.environment")._mlflow_conda_env  # noqa: SLF001  # as MLflow's own flavors
    needed = get_default_pip_requirements(include_cloudpickle=include_cloudpickle)
    env: dict[str, Any] = make(additional_pip_deps=needed)
    return env


def write_environment(
    root: Path,
    conda_env: Mapping[str, Any] | FilePath | None,
    requirements: Sequence[str] | str | None,
    extra: Sequence[str] | str | None,
    defaults: list[str],
) -> None:
    """Write the files by which MLflow rebuilds a model's environment."""
    import yaml  # type: ignore[import-untyped]  # MLflow's own dependency

    environment = import_mlflow("mlflow.utils.environment")
    if conda_env is None:
        found = environment._process_pip_requirements(  # noqa: SLF001  # as MLflow's own flavors
            None if requirements is not None else defaults, requirements, extra
        )
    else:
        found = environment._process_conda_env(conda_env)  # noqa: SLF001
    conda, lines, constraints = found
    (root / CONDA).write_text(yaml.safe_dump(conda, default_flow_style=False))
    (root / REQUIREMENTS).write_text("\n".join(lines))
    if constraints:
        (root / _CONSTRAINTS).write_text("\n".join(constraints))
    environment._PythonEnv.current().to_yaml(str(root / PYTHON))  # noqa: SLF001
