"""A fitted model as arrays and JSON: reading one back executes nothing.

A saved model is a directory of two files. `model.json` holds settings and records by name,
`arrays.npz` the arrays that it refers to, without pickled objects. The kernel is code and is not in
it: it is passed again. Rows of the data are not in it either. The state of an engine, from which a
fit goes on, is in it where it consists of arrays and of the records that are listed here.
"""

import hashlib
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from numpyro.infer.hmc import HMCState
from numpyro.infer.hmc_util import HMCAdaptState
from numpyro.infer.svi import SVIState

from aimz._version import __version__
from aimz.data import Known
from aimz.errors import InputError, StoreError
from aimz.inference import ChainRecord, Fit, SVIRecord
from aimz.requests import Fitted
from aimz.scores import Score
from aimz.spec import KernelSpec, SiteSpec
from aimz.support import Support

__all__ = ["read_archive", "write_archive"]

FORMAT_VERSION = 1

_JSON, _ARRAYS = "model.json", "arrays.npz"
# Records that an archive may name, and fields that stay out of it.
_FITS = (Fit, Fitted, KernelSpec, Known, Score, SiteSpec, Support)
_STATES = (
    *(SVIRecord, SVIState, ChainRecord, HMCState, HMCAdaptState),
    *(optax.InjectStatefulHyperparamsState, optax.ScaleByAdamState, optax.EmptyState),
)
_RECORDS: dict[str, Any] = {cls.__name__: cls for cls in (*_FITS, *_STATES)}
_LEFT_OUT = {"problem", "notes", "support", "lookups"}
_COLLECTIONS: dict[str, Any] = {"list": list, "tuple": tuple, "set": frozenset}
_KEY_KINDS = ("threefry2x32", "rbg", "unsafe_rbg")


def write_archive(path: Any, settings: Mapping[str, Any], fitted: Fitted) -> None:
    """Write the settings of a model and its fit into a new directory.

    Raises
    ------
    InputError
        `path-taken`: something is there; `not-plain`: a setting that is neither JSON nor an array.
    """
    final = Path(path)
    if final.exists() or final.is_symlink():
        msg = f"{str(final)!r:.120} exists. Pass the name of a new directory."
        raise InputError(msg, code="path-taken")
    final.parent.mkdir(parents=True, exist_ok=True)
    newborn = final.with_name(f".{uuid.uuid4().hex}")
    newborn.mkdir()
    try:
        arrays: dict[str, np.ndarray] = {}
        content = {"settings": _encoded(dict(settings), arrays), "fitted": _encoded(fitted, arrays)}
        np.savez(newborn / _ARRAYS, allow_pickle=False, **arrays)
        digest = hashlib.sha256((newborn / _ARRAYS).read_bytes()).hexdigest()
        head = {"format_version": FORMAT_VERSION, "aimz": __version__, "arrays_sha256": digest}
        (newborn / _JSON).write_text(json.dumps({**head, **content}))
        os.rename(newborn, final)  # noqa: PTH104  # fails where something has come in between
    except BaseException:  # rethrown as it is
        shutil.rmtree(newborn, ignore_errors=True)
        raise


def read_archive(path: Any) -> tuple[dict[str, Any], Fitted]:
    """Settings and fit of a saved model.

    Raises
    ------
    StoreError
        `store-missing`, `store-foreign`, `store-version`, `store-damaged`.
    """
    directory = Path(path)
    for name in (_JSON, _ARRAYS):
        file = directory / name
        if not file.is_file() or file.is_symlink():
            msg = f"{str(directory)!r:.120} holds no saved model: there is no file {name} in it."
            raise StoreError(msg, code="store-missing")
    try:
        content = json.loads((directory / _JSON).read_text())
        version = content["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{directory / _JSON} is not of a saved model. Save the model again."
        raise StoreError(msg, code="store-foreign") from error
    if version != FORMAT_VERSION:
        msg = f"The model was saved in format {version}; this version reads {FORMAT_VERSION}."
        raise StoreError(msg, code="store-version")
    data = (directory / _ARRAYS).read_bytes()
    if hashlib.sha256(data).hexdigest() != content.get("arrays_sha256"):
        msg = f"{directory / _ARRAYS} is not the file that was saved. Save the model again."
        raise StoreError(msg, code="store-damaged")
    try:
        with np.load(directory / _ARRAYS, allow_pickle=False) as stored:
            arrays = dict(stored)
        settings = _decoded(content["settings"], arrays)
        fitted = _decoded(content["fitted"], arrays)
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        msg = f"{directory} does not hold what a saved model does ({error!s:.80})."
        raise StoreError(msg, code="store-damaged") from error
    if not isinstance(settings, dict) or not isinstance(fitted, Fitted):
        msg = f"{directory} does not hold what a saved model does."
        raise StoreError(msg, code="store-damaged")
    return settings, fitted


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
    if type(value) in (*_FITS, *_STATES):
        return {"record": type(value).__name__, "fields": _encoded_fields(value, arrays)}
    for kind, make in _COLLECTIONS.items():
        if type(value) is make:
            items = sorted(value) if kind == "set" else value
            return {kind: [_encoded(item, arrays) for item in items]}
    return _encoded_array(value, arrays)


def _encoded_fields(value: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    fields = value._asdict() if type(value) in _STATES else dict(vars(value))
    state = {"state": _encoded_state(fields.pop("state"), arrays)} if "state" in fields else {}
    kept = {n: _encoded(v, arrays) for n, v in fields.items() if n not in _LEFT_OUT}
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
        return _RECORDS[content](**fields)
    msg = f"there is no '{kind}'"
    raise ValueError(msg)
