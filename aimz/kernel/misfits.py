"""What does not fit, in words: arguments of another length than the rows, by name.

JAX says "incompatible shapes" from deep inside a kernel, or says nothing and broadcasts. Here the
arguments are looked at by name, so that the message tells which one, and what to pass.
"""

import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aimz.data import Arguments
from aimz.errors import AimzError, InputError, KernelValidationError
from aimz.kernel.spec import KernelSpec
from aimz.kernel.statements import Inputs

__all__ = ["check_rows", "column_hint", "in_words", "is_of_arrays", "outcome_misfit"]


_OF_FRAMES = ("columns", "iloc", "loc", "to_numpy", "values")
_NOT_OF_USERS = {"aimz", "jax", "jaxlib", "numpyro", "numpy", "scipy", *sys.stdlib_module_names}
_ABOUT_SHAPES = ("shape", "broadcast", "dimension", "size", "axis")


def outcome_misfit(spec: KernelSpec, inputs: Inputs) -> tuple[str, str] | None:
    """Why the outcomes of a kernel are none of rows, and the code of that error; None if they are.

    They have rows along two axes, or are as many as the values of another argument.
    """
    primary, output, arrays = inputs.always_rows[0], spec.output, inputs.arrays
    if output not in spec:
        return None
    site, rows = spec[output], spec.rows
    twice = [axis for axis, size in enumerate(site.shape) if size == rows > 1]
    whole = {n for n in site.inputs - spec.row_inputs if n in arrays}
    lines = {n for n in whole if np.shape(arrays[n]) in ((rows,), (rows, 1))}
    is_square = len(twice) > 1 and (site.rows == "sized" or lines)
    if is_square and not all(site.dims[axis] for axis in twice):
        msg = (
            f"Two axes of site '{output}' are rows: it has shape {site.shape}, because a column "
            f"met a line. {column_hint(arrays, rows, primary)}"
        )
        return msg, "shape"
    if site.rows != "none" or not site.shape or site.shape[0] == rows:
        return None
    for name, value in arrays.items():
        if name in site.inputs and np.shape(value)[:1] == site.shape[:1]:
            msg = (
                f"Site '{output}' has {site.shape[0]} values, as many as '{name}', but '{primary}' "
                f"has {rows} rows. Pass '{primary}' and '{name}' with the same rows."
            )
            return msg, "rows-mismatch"
    return None


def in_words(
    error: Exception, arguments: Arguments, inputs: Inputs, names: tuple[str, str]
) -> AimzError | None:
    """What a kernel's error means: how it takes its arguments, what these are, or its own line."""
    meant = _misread(error, arguments, names) if is_of_arrays(error) else None
    if meant is not None or isinstance(error, AimzError):
        return meant
    meant = _misfit(error, inputs, names) if is_of_arrays(error) else None
    return meant or _raised_at(error)


def is_of_arrays(error: Exception) -> bool:
    """Whether arrays that do not fit raise such errors."""
    return isinstance(error, AttributeError | IndexError | TypeError | ValueError)


def _misfit(error: Exception, inputs: Inputs, names: tuple[str, str]) -> AimzError | None:
    """What an error means, by the arguments that the kernel was called with; None if unknown."""
    arrays, rows, (primary, output) = inputs.arrays, inputs.rows, names
    text = " ".join(str(error).split())
    absent = [name for name, value in inputs.static.items() if value is None]
    if absent and "NoneType" in text:
        listed = "', '".join(absent)
        msg = f"The kernel computes with '{listed}', which is None ({text:.60}). Pass a value, or "
        msg += "leave None to sites that observe it: obs=None is drawn."
        return InputError(msg, code="argument-missing")
    if output not in arrays and "NoneType" in text:
        return KernelValidationError(
            f"The kernel computes with '{output}', which is None in a prediction ({text:.60}). "
            f"Take sizes from the input, as by {primary}.shape[0]; '{output}' belongs in obs=.",
            code="output-read",
        )
    if "integer" in text and any(word in text for word in ("ndexer", "ndices", "typed")):
        return _float_index({n: v for n, v in arrays.items() if n != output}, primary)
    if not isinstance(error, TypeError | ValueError | IndexError):
        return None
    if "Too many indices" in text:
        return _without_columns(text, arrays, primary)
    if not any(word in text.lower() for word in _ABOUT_SHAPES):
        return None
    lengths = _other_lengths(arrays, primary, rows)
    if not lengths:
        return None
    name, length = max(lengths.items(), key=lambda item: item[1])
    return InputError(
        f"The kernel does not run ({text:.70}): '{primary}' has {rows} rows and '{name}' has "
        f"{length} values along its first axis. Pass as many as the kernel joins.",
        code="rows-mismatch",
    )


def _other_lengths(arrays: Mapping[str, Any], primary: str, rows: int) -> dict[str, int]:
    """Lengths of the arguments that are not as long as the rows."""
    others = {n: len(value) for n, value in arrays.items() if n != primary and np.ndim(value)}
    return {name: length for name, length in others.items() if length != rows}


def _without_columns(text: str, arrays: Mapping[str, Any], primary: str) -> InputError | None:
    """What is said where columns are taken of an input that has none."""
    shape = np.shape(arrays.get(primary, 0))
    if len(shape) != 1:
        return None
    return InputError(
        f"The kernel does not run ({text:.70}): '{primary}' has shape {shape}, without columns. "
        f"Pass a table with one column, as by {primary}.reshape(-1, 1).",
        code="shape",
    )


def _misread(error: Exception, arguments: Arguments, names: tuple[str, str]) -> AimzError | None:
    """What a kernel's error says of how it takes its arguments; None where it is another."""
    indexed = re.search(r"string indexing; got idx='(.*)'", str(error))
    of_tracer = isinstance(getattr(error, "obj", None), jax.core.Tracer)
    asked = indexed[1] if indexed else getattr(error, "name", None) if of_tracer else None
    places = [
        (n, columns.index(asked)) for n, columns in arguments.columns.items() if asked in columns
    ]
    if asked is not None and (indexed or places or asked in _OF_FRAMES):
        argument, place = places[0] if places else (names[0], 0)
        what = f"['{asked}']" if indexed else f".{asked}"
        msg = (
            f"The kernel takes {argument}{what}, but its arguments are arrays, which have no names "
            f"of columns. Write {argument}[:, {place}]"
        )
        msg += f" for column '{asked}'." if places else ", with the number of the column."
        return KernelValidationError(msg, code="column-by-name")
    ranks = [np.ndim(arguments.arrays.get(name, 0)) for name in names]
    if ranks == [1, 2] and not (isinstance(error, AimzError) and error.code != "shape"):
        shapes = [np.shape(arguments.arrays[name]) for name in names]
        msg = (
            f"The kernel fails where '{names[0]}' has shape {shapes[0]} and '{names[1]}' "
            f"{shapes[1]}. If they are swapped, the rows come first: fit({names[0]}, {names[1]})."
        )
        return InputError(msg, code="shape")
    return None


def _raised_at(error: Exception) -> KernelValidationError | None:
    """What a kernel raised, with its own line; None where no line of a user's raised it."""
    if isinstance(error, Warning | MemoryError):
        return None
    lines = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _NOT_OF_USERS
    ]
    if not lines:
        return None
    code, line = lines[-1]
    text = " ".join(str(error).split()).rstrip(".")
    of = getattr(error, "obj", None)
    if isinstance(of, jax.core.Tracer):
        text = text.replace(type(of).__name__, "a JAX array")
    refusal = KernelValidationError(
        f"The kernel raised {type(error).__name__} at {Path(code.co_filename).name}:{line}: "
        f"{text:.120}. It gets arrays of JAX. Correct that line.",
        code="kernel-raised",
    )
    refusal.add_note(f'File "{code.co_filename}", line {line}, in {code.co_name}')
    return refusal


def column_hint(arrays: Mapping[str, Any], rows: int, primary: str) -> str:
    """Which argument is a column, and how to make it a line."""
    columns = [n for n, v in arrays.items() if np.shape(v) == (rows, 1)]
    name = next((n for n in columns if n != primary), primary)
    if name == primary:
        return f"Take {name}[:, 0] in the kernel where one value per row is meant."
    return f"'{name}' has shape ({rows}, 1): pass it with shape ({rows},)."


def _float_index(arrays: Mapping[str, Any], primary: str) -> InputError:
    """An index that is made of numbers with a point."""
    floats = {n: np.asarray(v) for n, v in arrays.items() if not isinstance(v, dict)}
    whole = [n for n, v in floats.items() if v.dtype.kind == "f" and np.all(v == np.round(v))]
    name = next((n for n in whole if n != primary), primary)
    how = f"a column of '{primary}'" if name == primary else f"'{name}'"
    fix = "Write .astype(int) in the kernel." if name == primary else f"Pass {name}.astype(int)."
    return InputError(
        f"The kernel takes {how} for an index, and it holds floating-point numbers. An index is a "
        f"whole number. {fix}",
        code="index-float",
    )


def check_rows(inputs: Inputs) -> None:
    """Refuse an input or outcome whose leading axis is not the rows."""
    for name in inputs.always_rows:
        for leaf in jax.tree.leaves(inputs.arrays.get(name)):
            shape = tuple(np.shape(leaf))
            if shape[:1] != (inputs.rows,):
                raise InputError(
                    f"Argument '{name}' has shape {shape} but there are {inputs.rows} rows. Its "
                    "first axis must be the rows. Pass one value, or one line, per row.",
                    code="shape",
                )
