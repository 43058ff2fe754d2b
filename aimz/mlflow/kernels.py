"""How a stored model finds its kernel again: by import path, as a Python file, or pickled.

A kernel is code. By its import path (`module:qualname`) nothing of it is stored, unless the caller
gives `code_paths`; without one, such as in a notebook, `ImpactModel.save` writes it down with what
it reads. A file of the caller's follows MLflow's models-from-code: it hands the kernel to
`mlflow.models.set_model`. Only what was asked to be pickled is. Every name in a stored model leads
to a file below its own directory, or is refused.
"""

import hashlib
import importlib.util
import shutil
import sys
import types
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from aimz.capture import imported
from aimz.errors import InputError, StoreError
from aimz.mlflow.environment import FilePath, import_mlflow
from aimz.model import ImpactModel

__all__ = [
    "ARCHIVE",
    "FORMATS",
    "PICKLE",
    "check_inside",
    "check_kept",
    "inside",
    "load_kernel",
    "write_kernel",
]


ARCHIVE, PICKLE = "archive", "cloudpickle"
FORMATS = (ARCHIVE, PICKLE)
_CODE_FILE, _PICKLE_FILE = "kernel.py", "kernel.pkl"


def write_kernel(
    model: ImpactModel, root: Path, kernel_code: FilePath | None, serialization_format: str
) -> dict[str, str]:
    """Write what is stored of a kernel beside what `save` keeps of it, and say how it is found.

    Raises
    ------
    InputError
        `kernel-capture`: no file can hold it; `kernel-code`: the file sets no kernel;
        `option-unknown`: there is no such format.
    """
    if serialization_format not in FORMATS:
        listed = " or ".join(repr(known) for known in FORMATS)
        msg = f"serialization_format must be {listed}, not {serialization_format!r:.40}."
        raise InputError(msg, code="option-unknown")
    if serialization_format == PICKLE:
        import cloudpickle  # type: ignore[import-untyped]  # MLflow's own dependency

        data = cloudpickle.dumps(model.kernel)
        (root / _PICKLE_FILE).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        return {"pickled_kernel": _PICKLE_FILE, "pickled_kernel_sha256": digest}
    if kernel_code is None:
        check_kept(model)
        path = model.describe()["kernel_kept"].get("import")
        return {} if path is None else {"kernel": path}
    shutil.copyfile(kernel_code, root / _CODE_FILE)
    _kernel_of_file(root / _CODE_FILE)
    digest = hashlib.sha256((root / _CODE_FILE).read_bytes()).hexdigest()
    return {"kernel_code": _CODE_FILE, "kernel_code_sha256": digest}


def check_kept(model: ImpactModel) -> None:
    """Refuse a model whose kernel is neither importable nor can be written down.

    Raises
    ------
    InputError
        `kernel-capture`
    """
    reason = model.describe()["kernel_kept"].get("absent")
    if reason is not None:
        msg = (
            f"The kernel cannot be kept, because of {reason:.120}. Move it to a module, or pass "
            "kernel_code= a Python file, or serialization_format='cloudpickle'."
        )
        raise InputError(msg, code="kernel-capture")


def load_kernel(root: Path, stored: Mapping[str, Any]) -> Callable[..., Any] | None:
    """The kernel of a stored model; this runs code: its module, its file, or its pickle.

    None where it is among the files of `ImpactModel.save`.

    Raises
    ------
    StoreError
        `model-unsafe`, `kernel-missing`, `kernel-shadowed`, `pickle-refused`, `store-damaged`.
    """
    if stored.get("serialization_format") == PICKLE:
        return _unpickled(root, stored)
    code = stored.get("code")
    if code:
        directory = str(inside(root, code))
        if directory not in sys.path:
            sys.path.insert(0, directory)  # as MLflow does for the pyfunc flavor
    if "kernel_code" in stored:
        return _kernel_of_file(_checked(root, stored))
    if "kernel" not in stored:
        return None
    kernel = imported(stored["kernel"])
    if code:
        _check_not_shadowed(inside(root, code), sys.modules[kernel.__module__])
    return kernel


def _checked(root: Path, stored: Mapping[str, Any]) -> Path:
    """The file of a kernel, if it is the one that was saved."""
    path = inside(root, stored["kernel_code"])
    digest = stored.get("kernel_code_sha256")  # older models have none
    if digest is not None and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        msg = "The model's kernel is not the file that was saved. Log the model again."
        raise StoreError(msg, code="store-damaged")
    return path


def inside(root: Path, name: Any) -> Path:
    """A file below a directory, by a name from a stored document.

    Raises
    ------
    StoreError
        `model-unsafe`: the name leads outside, or through a link; `store-missing`: nothing there.
    """
    pure = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    if not pure.parts or pure.is_absolute() or {"..", "~"} & set(pure.parts) or "\\" in str(name):
        msg = f"The model names the file {name!r:.60}, which is not below its own directory."
        raise StoreError(msg, code="model-unsafe")
    path = root
    for part in pure.parts:
        path = path / part
        if path.is_symlink():
            msg = f"The model's {name!r:.60} is a link. A model holds its own files."
            raise StoreError(msg, code="model-unsafe")
    if not path.exists():
        msg = f"The model names the file {name!r:.60}, which is not there. Log the model again."
        raise StoreError(msg, code="store-missing")
    return path


def check_inside(root: Path) -> None:
    """Refuse a directory in which anything is a link.

    Raises
    ------
    StoreError
        `model-unsafe`.
    """
    for path in root.rglob("*"):
        if path.is_symlink():
            name = path.relative_to(root).as_posix()
            msg = f"The model's {name!r:.60} is a link. A model holds its own files."
            raise StoreError(msg, code="model-unsafe")


def _check_not_shadowed(code: Path, module: types.ModuleType) -> None:
    """Refuse another module of the same name that was imported before."""
    parts = module.__name__.split(".")
    own = code.joinpath(*parts).with_suffix(".py")
    if not own.exists():
        own = code.joinpath(*parts, "__init__.py")
    used = Path(module.__file__ or "")
    if own.exists() and used.is_file() and used.read_bytes() != own.read_bytes():
        msg = (
            f"The module '{module.__name__}' of the model differs from the one that is imported "
            "already. Load the model in a new process, or pass kernel=."
        )
        raise StoreError(msg, code="kernel-shadowed")


def _kernel_of_file(path: Path) -> Callable[..., Any]:
    """What a Python file hands to `mlflow.models.set_model`."""
    models = import_mlflow("mlflow.models.model")
    name = f"aimz_kernel_{uuid.uuid4().hex}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        msg = f"{path.name!r:.60} is not a Python file. Pass kernel_code= a file named *.py."
        raise InputError(msg, code="kernel-code")
    module = importlib.util.module_from_spec(spec)
    before, models.__mlflow_model__ = models.__mlflow_model__, None
    sys.modules[name] = module  # so that its functions can be pickled and inspected
    try:
        spec.loader.exec_module(module)
        kernel = models.__mlflow_model__
    finally:
        models.__mlflow_model__ = before
    if not callable(kernel):
        msg = f"{path.name} sets no kernel. End it with mlflow.models.set_model(kernel)."
        raise InputError(msg, code="kernel-code")
    return kernel  # type: ignore[no-any-return]  # callable, by the line above


def _unpickled(root: Path, stored: Mapping[str, Any]) -> Callable[..., Any]:
    allowed = import_mlflow("mlflow.environment_variables").MLFLOW_ALLOW_PICKLE_DESERIALIZATION
    if not allowed.get():
        msg = (
            "The model's kernel is pickled, which MLFLOW_ALLOW_PICKLE_DESERIALIZATION forbids to "
            "read. Pass kernel=, or log the model by import path."
        )
        raise StoreError(msg, code="pickle-refused")
    import cloudpickle

    data = inside(root, stored.get("pickled_kernel")).read_bytes()
    if hashlib.sha256(data).hexdigest() != stored.get("pickled_kernel_sha256"):
        msg = "The model's kernel is not the file that was saved. Log the model again."
        raise StoreError(msg, code="store-damaged")
    kernel: Callable[..., Any] = cloudpickle.loads(data)
    return kernel
