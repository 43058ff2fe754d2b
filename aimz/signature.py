"""The rules for a kernel's signature, checked when a model is made.

A kernel takes the rows by one argument without a default, the outcome by one that defaults to
None, and everything else by name, so that every call can be written down as keywords.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aimz.errors import KernelValidationError, nearest

__all__ = ["RESERVED", "Signature", "read_signature"]

#: Keywords of the fit and predict methods, which a kernel's argument cannot be called.
RESERVED = frozenset(
    {
        "batch_size",
        "condition",
        "epochs",
        "in_sample",
        "intervention",
        "missing",
        "new_groups",
        "num_samples",
        "num_steps",
        "output_dir",
        "progress",
        "return_datatree",
        "return_sites",
        "rng_key",
        "sample_weight",
        "shard_axis",
        "shuffle",
        "store",
    }
)


@dataclass(frozen=True)
class Signature:
    """Arguments of a kernel: all names, those without a default, the defaults of the others."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    defaults: dict[str, Any] = field(default_factory=dict)


def read_signature(kernel: Callable[..., Any], param_input: str, param_output: str) -> Signature:
    """Read and check a kernel's signature.

    Parameters
    ----------
    kernel : callable
        NumPyro model function.
    param_input, param_output : str
        Names of its arguments for the rows and for the outcome.

    Returns
    -------
    Signature
        Names and defaults of all arguments.

    Raises
    ------
    KernelValidationError
        "signature": the message says which part of the signature to change.

    Examples
    --------
    >>> def kernel(X, dose, y=None): ...
    >>> read_signature(kernel, "X", "y").required
    ('X', 'dose')
    """
    parameters = _parameters(kernel)
    names = tuple(parameters)
    for parameter in parameters.values():
        _check_kind(parameter)
    for role, name in (("input", param_input), ("output", param_output)):
        if name not in parameters:
            raise _refusal(
                f"The kernel has no argument '{name}' (param_{role}). {nearest(name, names)} "
                f"Add it to the signature, or pass param_{role}= to the model."
            )
    if parameters[param_input].default is not inspect.Parameter.empty:
        raise _refusal(
            f"Argument '{param_input}' is the input but has a default. A call without rows means "
            f"nothing. Write `{param_input}` without a default."
        )
    if param_input == param_output or parameters[param_output].default is not None:
        raise _refusal(
            f"Argument '{param_output}' is the output and must default to None: predictions call "
            f"the kernel without it. Write `{param_output}=None`."
        )
    taken = sorted(RESERVED & set(names))
    if taken:
        raise _refusal(
            f"Argument '{taken[0]}' of the kernel is a keyword of the fit and predict methods. A "
            f"call could not tell them apart. Rename it, for example `{taken[0]}_`."
        )
    return Signature(
        names=names,
        required=tuple(n for n, p in parameters.items() if p.default is inspect.Parameter.empty),
        defaults={
            n: p.default for n, p in parameters.items() if p.default is not inspect.Parameter.empty
        },
    )


def _parameters(kernel: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(kernel).parameters)
    except (TypeError, ValueError) as error:
        raise _refusal(
            f"The kernel is a {type(kernel).__name__}, which has no signature. A kernel is a "
            "function of its inputs. Write `def kernel(X, y=None): ...`."
        ) from error


def _check_kind(parameter: inspect.Parameter) -> None:
    fixes: dict[Any, str] = {
        inspect.Parameter.VAR_POSITIONAL: "Write its arguments out by name.",
        inspect.Parameter.VAR_KEYWORD: "Write its arguments out by name.",
        inspect.Parameter.POSITIONAL_ONLY: "Remove the `/` from the signature.",
    }
    fix = fixes.get(parameter.kind)
    if fix is not None:
        raise _refusal(
            f"The kernel takes `{parameter}`, which cannot be passed by name. Every argument of a "
            f"kernel has a name. {fix}"
        )


def _refusal(message: str) -> KernelValidationError:
    return KernelValidationError(message, code="signature")
