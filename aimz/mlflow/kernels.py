"""How a stored model finds its kernel again: by import path, as a Python file, or pickled.

A kernel is code. By its import path (`module:qualname`) nothing of it is stored, unless the caller
gives `code_paths`; as a Python file it follows MLflow's models-from-code: the file hands the kernel
to `mlflow.models.set_model`. Only what was asked to be pickled is. Every name in a stored model
leads to a file below its own directory, or is refused.
"""

import functools
import hashlib
import importlib
import importlib.util
import shutil
import sys
import types
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from aimz import InputError, StoreError
from aimz.mlflow.environment import import_mlflow

__all__ = [
    "ARCHIVE",
    "FORMATS",
    "PICKLE",
    "check_inside",
    "import_path",
    "inside",
    "load_kernel",
    "write_kernel",
]

ARCHIVE, PICKLE = "archive", "cloudpickle"
FORMATS = (ARCHIVE, PICKLE)
_CODE_FILE, _PICKLE_FILE = "kernel.py", "kernel.pkl"


def write_kernel(
    kernel: Callable[..., Any], root: Path, kernel_code: Any, serialization_format: str
) -> dict[str, str]:
    """Write what is stored of a kernel, and say how it is found again.

    Raises
    ------
    InputError
        `kernel-path`: it has no import path; `kernel-code`: the file sets no kernel;
        `option-unknown`: there is no such format.
    """
    if serialization_format not in FORMATS:
        listed = " or ".join(repr(known) for known in FORMATS)
        msg = f"serialization_format must be {listed}, not {serialization_format!r:.40}."
        raise InputError(msg, code="option-unknown")
    if serialization_format == PICKLE:
        import cloudpickle  # type: ignore[import-untyped]  # MLflow's own dependency

        data = cloudpickle.dumps(kernel)
        (root / _PICKLE_FILE).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        return {"pickled_kernel": _PICKLE_FILE, "pickled_kernel_sha256": digest}
    if kernel_code is None:
        return {"kernel": import_path(kernel)}
    shutil.copyfile(kernel_code, root / _CODE_FILE)
    _kernel_of_file(root / _CODE_FILE)
    return {"kernel_code": _CODE_FILE}


def import_path(kernel: Callable[..., Any]) -> str:
    """Import path of a kernel, `module:qualname`.

    Raises
    ------
    InputError
        `kernel-path`: importing that path would not give this kernel.
    """
    module = getattr(kernel, "__module__", None) or ""
    name = getattr(kernel, "__qualname__", None) or type(kernel).__name__
    try:
        found = None if module in ("", "__main__") or "<" in name else _imported(module, name)
    except (ImportError, AttributeError):
        found = None
    if found is not kernel:
        msg = (
            f"The kernel '{module}.{name:.60}' cannot be imported by name elsewhere. Move it to a "
            "module, or pass kernel_code= a Python file, or serialization_format='cloudpickle'."
        )
        raise InputError(msg, code="kernel-path")
    return f"{module}:{name}"


def load_kernel(root: Path, stored: Mapping[str, Any]) -> Callable[..., Any]:
    """The kernel of a stored model; this runs code: its module, its file, or its pickle.

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
        return _kernel_of_file(inside(root, stored["kernel_code"]))
    return _kernel_of_path(root, stored.get("kernel"), code)


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


def _kernel_of_path(root: Path, path: Any, code: str | None) -> Callable[..., Any]:
    module, _, name = str(path).partition(":")
    if not name or module.split(".")[0] in {*sys.stdlib_module_names, *sys.builtin_module_names}:
        msg = f"The model names its kernel {path!r:.60}, which is no import path of a kernel."
        raise StoreError(msg, code="model-unsafe")
    try:
        kernel: Callable[..., Any] = _imported(module, name)
    except (ImportError, AttributeError) as error:
        msg = (
            f"The kernel {path!r:.60} cannot be imported here ({error!s:.80}). Install its "
            "package, log the model with code_paths=, or load it with kernel=."
        )
        raise StoreError(msg, code="kernel-missing") from error
    if (getattr(kernel, "__module__", ""), getattr(kernel, "__qualname__", "")) != (module, name):
        msg = f"{path!r:.60} is defined elsewhere: it is no import path of a kernel."
        raise StoreError(msg, code="model-unsafe")
    if code:
        _check_not_shadowed(inside(root, code), sys.modules[module])
    return kernel


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


def _imported(module: str, name: str) -> Any:
    found = importlib.import_module(module)
    return functools.reduce(getattr, name.split("."), found)
