"""MLflow: track fits, log models, effects and reports, and serve what-if questions.

The flavor `aimz` holds a model as `ImpactModel.save` writes it, arrays and JSON, beside an MLmodel
file; the kernel is code, and is named by its import path or kept as a Python file. Reading the data
executes nothing. The same directory is a `pyfunc` model, which `mlflow models serve` serves:
frames in, frames out, and interventions as parameters of the request. `docs/service.md` walks
through it.

MLflow is imported on first use: `pip install mlflow-skinny`.
"""

from aimz.mlflow.autologging import autolog
from aimz.mlflow.effects import log_effect
from aimz.mlflow.environment import get_default_conda_env, get_default_pip_requirements
from aimz.mlflow.flavor import load_model, load_pyfunc, log_model, save_model
from aimz.mlflow.reports import log_report
from aimz.mlflow.wrapped import trusted_types

__all__ = [
    "autolog",
    "get_default_conda_env",
    "get_default_pip_requirements",
    "load_model",
    "log_effect",
    "log_model",
    "log_report",
    "save_model",
    "trusted_types",
]

_load_pyfunc = load_pyfunc  # the name that MLflow calls
