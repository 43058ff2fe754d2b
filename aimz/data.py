"""What the user gave, as arrays: inputs of a call, row labels, a fingerprint of the rows.

Every container becomes an array by the same road, or is refused with a sentence that says what to
write instead. Nothing is broadcast into rows by accident.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from aimz.errors import InputError, nearest

__all__ = [
    "Arguments",
    "as_array",
    "as_jax_sees",
    "bind",
    "check_finite",
    "check_names",
    "check_positive",
    "check_row_shape",
    "check_weights",
    "draw_count",
    "row_fingerprint",
    "row_labels",
]

_STATIC = (bool, int, str, type(None))


@dataclass(frozen=True)
class Arguments:
    """Kernel arguments of one call: traced values, static values, rows and their labels."""

    arrays: Mapping[str, Any]
    static: Mapping[str, Any]
    rows: int
    labels: np.ndarray | None


def bind(
    given: Mapping[str, Any],
    *,
    names: tuple[str, ...],
    required: tuple[str, ...],
    row_inputs: frozenset[str],
    always_rows: tuple[str, ...],
) -> Arguments:
    """Check the arguments of a call against the kernel's signature and turn them into arrays.

    Parameters
    ----------
    given : mapping
        Argument values by name, the primary input and (where given) the outcome included.
    names, required : tuple of str
        All the kernel's arguments and those without a default.
    row_inputs : frozenset of str
        Arguments known to hold one value per row; a scalar given for one is broadcast over rows.
    always_rows : tuple of str
        The primary input and the outcome; the first sets the number of rows.

    Raises
    ------
    InputError
        `argument-unknown`, `argument-missing`, `rows-mismatch`, `not-numeric`, `no-rows`.
    """
    check_names(given, names, what="argument")
    missing = [name for name in required if name not in given]
    if missing:
        listed = "', '".join(missing)
        msg = f"The kernel needs the argument '{listed}'. Pass it by name, e.g. {missing[0]}=..."
        raise InputError(msg, code="argument-missing")
    primary = as_array(given[always_rows[0]], always_rows[0])
    if primary.ndim == 0 or len(primary) == 0:
        msg = f"'{always_rows[0]}' has shape {primary.shape}: there are no rows. Pass at least one."
        raise InputError(msg, code="no-rows")
    rows = len(primary)
    arrays: dict[str, Any] = {always_rows[0]: primary}
    static: dict[str, Any] = {}
    for name, value in given.items():
        if name == always_rows[0]:
            continue
        if name in row_inputs or name in always_rows:
            arrays[name] = _per_row(value, name, rows, scalar_ok=name not in always_rows)
        elif isinstance(value, _STATIC):
            static[name] = value
        elif isinstance(value, dict):
            arrays[name] = jax.tree.map(lambda leaf, name=name: as_array(leaf, name), value)
        else:
            arrays[name] = as_array(value, name)
    arrays = {n: jax.tree.map(lambda leaf, n=n: as_jax_sees(leaf, n), v) for n, v in arrays.items()}
    return Arguments(arrays, static, rows, row_labels(given[always_rows[0]]))


def as_array(value: Any, name: str) -> np.ndarray | jax.Array:
    """Numeric array from an array, list, frame, series or xarray object.

    Raises
    ------
    InputError
        `not-numeric`: strings, objects, masked or sparse values.
    """
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, np.ma.MaskedArray):
        _refuse(name, "is a masked array", "Fill it first, e.g. value.filled(0).")
    if hasattr(value, "tocsr") or type(value).__module__.startswith("scipy.sparse"):
        _refuse(name, "is a sparse matrix", "Pass value.toarray().")
    array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    if array.dtype == object:
        array = _from_objects(array, name)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        kind = "text" if array.dtype.kind in "US" else str(array.dtype)
        _refuse(name, f"holds {kind}", "Encode it as numbers before you pass it.")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check_names(given: Mapping[str, Any], valid: tuple[str, ...], *, what: str) -> None:
    """Refuse a name that is not valid, with the nearest one that is."""
    for name in given:
        if name not in valid:
            msg = f"There is no {what} '{name}'. {nearest(name, valid)}"
            raise InputError(msg, code=f"{what}-unknown")


def check_positive(value: Any, name: str) -> None:
    """Refuse a count that is not a positive whole number; None is no count."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        msg = f"{name} must be a whole number of at least 1, not {value!r:.40}."
        raise InputError(msg, code="not-positive")


def check_row_shape(name: str, array: Any, fitted: tuple[int, ...] | None) -> None:
    """Refuse rows of another shape than the fitted ones."""
    if fitted is not None and tuple(array.shape[1:]) != fitted:
        msg = (
            f"'{name}' has rows of shape {tuple(array.shape[1:])}, but the model was fitted on "
            f"rows of shape {fitted}. Pass the same columns."
        )
        raise InputError(msg, code="columns-mismatch")


def check_finite(arguments: Arguments, missing: str, output: str) -> None:
    """Refuse data that are not finite, naming the argument and how many values."""
    if missing != "raise":
        msg = f"missing must be 'raise', not {missing!r:.40}. Leave incomplete rows out."
        raise InputError(msg, code="option-unknown")
    for name, value in arguments.arrays.items():
        for leaf in jax.tree.leaves(value):
            bad = int(np.sum(~np.isfinite(np.asarray(leaf, dtype=float))))
            if bad:
                fix = "Leave those rows out." if name == output else "Fill or drop them."
                msg = f"'{name}' holds {bad} values that are not finite. {fix}"
                raise InputError(msg, code="not-finite")


def check_weights(weights: Any, rows: int) -> np.ndarray:
    """Row weights as an array (row,); refused where negative, not finite or of another length."""
    array = np.asarray(as_array(weights, "sample_weight"), dtype=np.float32)
    if array.shape != (rows,):
        msg = f"sample_weight has shape {array.shape} but there are {rows} rows. Pass one per row."
        raise InputError(msg, code="rows-mismatch")
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        msg = "sample_weight holds values that are negative or not finite. Pass weights >= 0."
        raise InputError(msg, code="not-finite")
    return array


def row_labels(value: Any) -> np.ndarray | None:
    """Labels of the rows of a pandas or xarray object; None where rows are only counted."""
    index = getattr(value, "index", None)
    if index is not None and not callable(index) and hasattr(index, "to_numpy"):
        if getattr(index, "nlevels", 1) > 1:
            return np.asarray([str(label) for label in index])
        labels = np.asarray(index.to_numpy())
        return labels if labels.dtype != object else np.asarray([str(label) for label in labels])
    dims = getattr(value, "dims", ())
    if dims and hasattr(value, "coords") and dims[0] in value.coords:
        return np.asarray(value.coords[dims[0]].values)
    return None


def row_fingerprint(array: Any) -> int:
    """Number that stands for the values of the rows, whatever container or dtype held them."""
    canonical = np.ascontiguousarray(np.asarray(array, dtype=np.float32))
    canonical = canonical + np.float32(0)  # -0.0 and 0.0 are one value
    digest = hashlib.blake2b(canonical.tobytes(), digest_size=4)
    digest.update(str(canonical.shape).encode())
    return int.from_bytes(digest.digest(), "little")


def draw_count(draws: Mapping[str, Any]) -> tuple[int, int]:
    """Chains and draws per chain of a posterior."""
    chains, draws_per_chain = next(iter(draws.values())).shape[:2]
    return int(chains), int(draws_per_chain)


def as_jax_sees(value: Any, name: str) -> np.ndarray:
    """The array in the dtype that JAX computes with: 32 bits unless jax_enable_x64."""
    array = np.asarray(value)
    seen = array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
    if seen.dtype.kind in "iu" and not np.array_equal(seen, array):
        msg = (
            f"'{name}' holds whole numbers that {seen.dtype} cannot hold. Set "
            "jax.config.update('jax_enable_x64', True), or rescale them."
        )
        raise InputError(msg, code="cast-overflow")
    return seen


def _per_row(value: Any, name: str, rows: int, *, scalar_ok: bool) -> np.ndarray | jax.Array:
    array = as_array(value, name)
    if array.ndim == 0 and scalar_ok:
        return np.broadcast_to(np.asarray(array), (rows,))
    if array.ndim == 0 or len(array) != rows:
        msg = (
            f"'{name}' has shape {array.shape} but there are {rows} rows. "
            f"Its leading axis must be the rows: pass {rows} values."
        )
        raise InputError(msg, code="rows-mismatch")
    return array


def _from_objects(array: np.ndarray, name: str) -> np.ndarray:
    try:
        numeric = array.astype(float)
    except (TypeError, ValueError):
        _refuse(name, "holds objects or text", "Encode it as numbers before you pass it.")
    if any(isinstance(item, str) for item in array.ravel()):
        _refuse(name, "holds text", "Encode it as numbers before you pass it.")
    return numeric


def _refuse(name: str, problem: str, fix: str) -> None:
    msg = f"'{name}' {problem}, which a kernel cannot compute with. {fix}"
    raise InputError(msg, code="not-numeric")
