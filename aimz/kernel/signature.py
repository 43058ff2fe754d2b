"""The rules for a kernel's signature, checked when a model is made.

A kernel takes the rows by one argument without a default, the outcome by one that defaults to
None, and everything else by name, so that every call can be written down as keywords.
"""

import difflib
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from numpyro.primitives import Messenger

from aimz.choices import shown
from aimz.errors import InputError, KernelValidationError, nearest
from aimz.programs import Cache

__all__ = ["RESERVED", "Signature", "kernel_signature", "read_signature", "unknown_argument"]


_SEED = "rng_key= is the seed of everything random: an int, or a JAX key."
_CHAINS = "It is a setting of chains: pass it to fit, or to numpyro.infer.MCMC as inference=."
_SAMPLER = "It is a setting of a sampler: pass inference=numpyro.infer.NUTS(kernel, ...) with it."
_BARS = "progress= of a method shows its bar or not, and aimz.set_options(progress=False) none."
#: What other libraries call things that have another name here.
_ELSEWHERE = {
    **dict.fromkeys(("seed", "random_state", "random_seed", "key", "rng"), _SEED),
    **dict.fromkeys(("num_warmup", "warmup", "tune", "num_chains", "chains"), _CHAINS),
    **dict.fromkeys(("target_accept", "target_accept_prob", "max_tree_depth"), _SAMPLER),
    **dict.fromkeys(
        ("draws", "num_draws", "n_samples", "n_draws"), "num_samples= is the number of draws."
    ),
    **dict.fromkeys(("verbose", "progress_bar", "progressbar"), _BARS),
    **dict.fromkeys(("sample_weights", "weight"), "sample_weight= are weights of rows."),
    **dict.fromkeys(("steps", "n_steps", "n_iter", "max_iter"), "num_steps= are steps of SVI."),
}
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
        "num_chains",
        "num_prior_samples",
        "num_samples",
        "num_shards",
        "num_steps",
        "num_warmup",
        "on_bad_fit",
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


# Of plain functions, by their code and the defaults of their arguments.
_SIGNATURES: Cache[Any, tuple["Signature", Any, Any]] = Cache(limit=256)


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
    named: dict[str, Any] = {"param_input": param_input, "param_output": param_output}
    for option, name in named.items():
        if not isinstance(name, str):
            msg = f"{option}= is the name of an argument of the kernel, not {shown(name)}."
            raise InputError(msg, code="option-unknown")
    if type(kernel) is not FunctionType or vars(kernel):  # which may say what its signature is
        return _checked(kernel, param_input, param_output)
    code, defaults, named_ones = kernel.__code__, kernel.__defaults__, kernel.__kwdefaults__ or {}
    by_name = tuple((n, id(value)) for n, value in named_ones.items())
    key = (code, id(defaults), by_name, param_input, param_output)
    # What is told apart by address is kept beside the signature.
    known = _SIGNATURES.get_or_make(
        key, lambda: (_checked(kernel, param_input, param_output), defaults, dict(named_ones))
    )
    return known[0]


def _checked(kernel: Callable[..., Any], param_input: str, param_output: str) -> Signature:
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


def unknown_argument(
    name: str, method: str, arguments: Collection[str], options: Collection[str]
) -> InputError:
    """The error of a keyword that neither a method nor the kernel takes.

    `arguments` are the kernel's, none where the method passes it nothing.
    """
    problem = f"There is no argument '{name}' of the kernel, and no such option of {method}. "
    if not arguments:
        problem = f"{method} has no parameter '{name}'. "
    close = difflib.get_close_matches(name, [*arguments, *options], n=1, cutoff=0.75)
    hint = f"Did you mean '{close[0]}'?" if close else _ELSEWHERE.get(name)
    if hint is None:
        listed = f"Arguments: {', '.join(arguments):.60}; options" if arguments else "Parameters"
        hint = f"{listed}: {', '.join(options):.100}."
    return InputError(problem + hint, code="argument-unknown")


def kernel_signature(kernel: Callable[..., Any]) -> inspect.Signature:
    """A kernel's own signature, below the handlers that decorate it."""
    while isinstance(kernel, Messenger) and kernel.fn is not None:
        kernel = kernel.fn
    return inspect.signature(kernel)


def _parameters(kernel: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(kernel_signature(kernel).parameters)
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
