"""A fitted model as files: arrays, JSON, and the code of a kernel that has no import path.

`model.json` holds settings and records by name, and a digest of every file and of itself;
`arrays.npz` the arrays that it refers to, without pickled objects. Reading them executes nothing.
`kernel.py` and `kernel.npz` are there where the kernel is kept as code (`aimz.capture`), which runs
only when somebody asks for it. Rows of the data are in no file, unless the kernel itself reads
them. The state of an engine, from which a fit goes on, is kept where it consists of arrays and of
the records that are listed here.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpyro.infer.hmc import HMCState
from numpyro.infer.hmc_util import HMCAdaptState
from numpyro.infer.svi import SVIState

from aimz._version import __version__
from aimz.capture import FILES, Kept
from aimz.data import Known
from aimz.errors import InputError, StoreError
from aimz.inference import RECORDS, Fit
from aimz.kernel import KernelSpec, SiteSpec
from aimz.libraries import optax
from aimz.model.setup import PathLike
from aimz.overlap import Score, Support
from aimz.prediction import Fitted
from aimz.store import local_path, writing

__all__ = ["Archive", "read_archive", "write_archive"]


FORMAT_VERSION = 2
_JSON, _ARRAYS = "model.json", "arrays.npz"
_SEAL = "sha256"  # digest of the document itself
# Records that an archive may name, and fields that stay out of it.
_FITS = (Fit, Fitted, KernelSpec, Known, Score, SiteSpec, Support)
_LEFT_OUT = {"problem", "course", "notes", "support", "lookups", "totals", "misfit"}
_COLLECTIONS: dict[str, Any] = {"list": list, "tuple": tuple, "set": frozenset}
_KEY_KINDS = ("threefry2x32", "rbg", "unsafe_rbg")


@dataclass(frozen=True)
class Archive:
    """A saved model, read and checked but not yet a model.

    Parameters
    ----------
    settings : dict
        Parameters of the constructor.
    fitted : Fitted
        What the fit left.
    kernel : mapping
        How the kernel is kept; see `aimz.capture.Kept`.
    files : mapping of bytes
        The kernel's files.
    double : bool or None
        Whether the model was saved where JAX computes in double precision; None if not known.
    """

    settings: dict[str, Any]
    fitted: Fitted
    kernel: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    double: bool | None = None


def write_archive(
    path: PathLike, settings: Mapping[str, Any], fitted: Fitted, kernel: Kept
) -> None:
    """Write the settings of a model, its fit and its kernel into a new directory.

    Raises
    ------
    InputError
        `path-taken`: something is there; `not-plain`: a setting that is neither JSON nor an array.
    StoreError
        `store-unwritable`: the place cannot be written to.
    """
    final = local_path(path, "path")
    if final.exists() or final.is_symlink():
        msg = f"{str(final)!r:.120} exists. Pass the name of a new directory."
        raise InputError(msg, code="path-taken")
    arrays: dict[str, np.ndarray] = {}
    content = {"settings": _encoded(dict(settings), arrays), "fitted": _encoded(fitted, arrays)}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    files = {_ARRAYS: buffer.getvalue(), **kernel.files}
    document = {
        "format_version": FORMAT_VERSION,
        "aimz": __version__,
        "jax_enable_x64": bool(jax.config.jax_enable_x64),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "kernel": dict(kernel.entry),
        **content,
    }
    files[_JSON] = json.dumps({**document, _SEAL: _digest(document)}).encode()
    with writing(final, "The model is not saved, and the fitted one is as it was."):
        _write_whole(final, files)


def _write_whole(final: Path, files: Mapping[str, bytes]) -> None:
    """Write a directory under another name, and give it its own when all is there."""
    final.parent.mkdir(parents=True, exist_ok=True)
    newborn = final.with_name(f".{uuid.uuid4().hex}")
    newborn.mkdir()
    try:
        for name, data in files.items():
            (newborn / name).write_bytes(data)
        os.rename(newborn, final)  # noqa: PTH104  # fails where something has come in between
    except BaseException:  # rethrown as it is
        shutil.rmtree(newborn, ignore_errors=True)
        raise


def read_archive(path: PathLike) -> Archive:
    """Read a saved model and check it; nothing of it runs.

    Raises
    ------
    StoreError
        `store-missing`, `store-foreign`, `store-version`, `store-damaged`.
    """
    directory = local_path(path, "path")
    content = _document(directory)
    if content["format_version"] == 1:  # before kernels were kept
        content["files"] = {_ARRAYS: content.get("arrays_sha256")}
    elif content.pop(_SEAL, None) != _digest(content):
        msg = f"{directory / _JSON} is not the file that was saved. Save the model again."
        raise StoreError(msg, code="store-damaged")
    files = {name: _file(directory, name, digest) for name, digest in content["files"].items()}
    try:
        with np.load(io.BytesIO(files.pop(_ARRAYS)), allow_pickle=False) as stored:
            arrays = dict(stored)
        settings = _decoded(content["settings"], arrays)
        fitted = _decoded(content["fitted"], arrays)
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        msg = f"{directory} does not hold what a saved model does ({error!s:.80})."
        raise StoreError(msg, code="store-damaged") from error
    if not isinstance(settings, dict) or not isinstance(fitted, Fitted):
        msg = f"{directory} does not hold what a saved model does."
        raise StoreError(msg, code="store-damaged")
    kernel = content.get("kernel", {})
    return Archive(settings, fitted, kernel, files, content.get("jax_enable_x64"))


def _document(directory: Path) -> dict[str, Any]:
    """The document of a saved model, of a format that is known."""
    for name in (_JSON, _ARRAYS):
        _check_there(directory, name)
    try:
        content: dict[str, Any] = json.loads((directory / _JSON).read_text())
        version = content["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{directory / _JSON} is not of a saved model. Save the model again."
        raise StoreError(msg, code="store-foreign") from error
    if version not in (1, FORMAT_VERSION):
        msg = f"The model was saved in format {version!r:.20}; this version reads {FORMAT_VERSION}."
        raise StoreError(msg, code="store-version")
    return content


def _file(directory: Path, name: str, digest: str | None) -> bytes:
    """A file of a saved model, if it is the one that was saved."""
    if name not in (_ARRAYS, *FILES):
        msg = f"{directory} names a file {name!r:.40}, which no saved model has."
        raise StoreError(msg, code="store-damaged")
    _check_there(directory, name)
    data = (directory / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        msg = f"{directory / name} is not the file that was saved. Save the model again."
        raise StoreError(msg, code="store-damaged")
    return data


def _check_there(directory: Path, name: str) -> None:
    file = directory / name
    if not file.is_file() or file.is_symlink():
        msg = f"{str(directory)!r:.120} holds no saved model: there is no file {name} in it."
        raise StoreError(msg, code="store-missing")


def _digest(document: Mapping[str, Any]) -> str:
    """Digest of a document as JSON, whatever white space it is written with."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _states() -> tuple[type, ...]:
    """States of engines that an archive may name."""
    states = (optax.InjectStatefulHyperparamsState, optax.ScaleByAdamState, optax.EmptyState)
    return (*RECORDS, SVIState, HMCState, HMCAdaptState, *states)


def _encoded(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A value as JSON; arrays go to `arrays` and leave their name."""
    if isinstance(value, str | bool | int | float) or value is None:
        return value
    if isinstance(value, np.bool_ | np.integer | np.floating) and value.dtype.itemsize <= 8:
        return value.item()
    if isinstance(value, np.dtype):
        return {"dtype": value.str}
    if isinstance(value, Mapping):
        return {"dict": [[_encoded(k, arrays), _encoded(v, arrays)] for k, v in value.items()]}
    if type(value) in (*_FITS, *_states()):
        return {"record": type(value).__name__, "fields": _encoded_fields(value, arrays)}
    for kind, make in _COLLECTIONS.items():
        if type(value) is make:
            items = sorted(value) if kind == "set" else value
            return {kind: [_encoded(item, arrays) for item in items]}
    return _encoded_array(value, arrays)


def _encoded_fields(value: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    if type(value) in _states():
        content = value._asdict()
    else:
        content = {one.name: getattr(value, one.name) for one in fields(value)}
    state = {"state": _encoded_state(content.pop("state"), arrays)} if "state" in content else {}
    kept = {n: _encoded(v, arrays) for n, v in content.items() if n not in _LEFT_OUT}
    return {**kept, **state}


def _encoded_state(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The state of an engine; None where it holds something of a user's own, or of code."""
    tried = dict(arrays)
    try:
        encoded = _encoded(value, tried)
    except InputError:
        return None
    arrays.update(tried)
    return encoded


def _encoded_array(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        kind = str(jax.random.key_impl(value))
        return {"key": kind, "words": _encoded(jax.random.key_data(value), arrays)}
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        array = np.asarray(value)
        if array.dtype.kind in "biufcUMm":
            name = f"a{len(arrays)}"
            arrays[name] = array
            return {"array": name}
    msg = (
        f"A {type(value).__name__} cannot be saved as arrays and JSON. Pickle the model instead, "
        "or leave the setting out."
    )
    raise InputError(msg, code="not-plain")


def _decoded(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    (kind, content), *more = value.items()
    if kind == "array":
        return arrays[content]
    if kind == "dtype":
        return np.dtype(str(content))
    if kind == "dict":
        return {_decoded(k, arrays): _decoded(v, arrays) for k, v in content}
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind](_decoded(item, arrays) for item in content)
    if kind == "key" and content in _KEY_KINDS:
        words = jax.numpy.asarray(_decoded(dict(more)["words"], arrays))
        return jax.random.wrap_key_data(words, impl=content)
    if kind == "record":
        fields = {n: _decoded(v, arrays) for n, v in dict(more)["fields"].items()}
        records: dict[str, Any] = {cls.__name__: cls for cls in (*_FITS, *_states())}
        return records[content](**fields)
    msg = f"there is no '{kind}'"
    raise ValueError(msg)
