"""What a model is told once: kernel, key, engine, labels; and the types of what users pass."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike
from numpyro.infer import MCMC, SVI

from aimz.choices import shown
from aimz.data import Source
from aimz.errors import InputError
from aimz.inference import NUTS, Engine, Fit, as_engine
from aimz.kernel import read_signature, unknown_argument
from aimz.model.copying import Portable
from aimz.model.files import in_columns_of_files
from aimz.model.metadata_routing import keywords_of
from aimz.prediction import Fitted, Request, Use
from aimz.programs import as_key, call_words
from aimz.results import Schema

__all__ = [
    "Inference",
    "Kernel",
    "KeyLike",
    "PathLike",
    "RowsLike",
    "Setup",
    "check_parameters",
    "kernel_name",
]


type Kernel = Callable[..., Any]
type Inference = str | NUTS | SVI | MCMC | Engine
type KeyLike = int | np.integer | jax.Array
type PathLike = str | bytes | os.PathLike[str]
# A container of rows, or what gives batches of named arrays.
type RowsLike = ArrayLike | Iterable[Mapping[str, ArrayLike]] | Source


class _UnknownError(InputError, TypeError):
    """A parameter that there is not; a TypeError too, as Python's own."""


def check_parameters(unknown: Iterable[str], model: type[Portable]) -> None:
    """Refuse parameters that the constructor of a model does not have."""
    for name in unknown:
        valid = model._get_param_names()  # noqa: SLF001  # as scikit-learn's own
        error = unknown_argument(name, model.__name__, (), valid)
        raise _UnknownError(str(error), code=error.code)


@dataclass(frozen=True)
class Setup:
    """What holds for all calls of a model; `names` are those of the rows and of the outcome."""

    kernel: Kernel
    names: tuple[str, str]
    inference: Inference
    rng_key: KeyLike
    num_samples: int | None
    coords: Mapping[str, Sequence[Any]] | None
    dims: Mapping[str, Sequence[str]] | None

    @property
    def engine(self) -> Engine:
        """What turns the kernel and data into draws."""
        return as_engine(self.inference, self.kernel)

    def key(self, rng_key: KeyLike | None, use: Use, *numbers: int) -> jax.Array:
        """A key of one use; an explicit key replaces the model's, use and numbers."""
        if rng_key is not None:
            return as_key(rng_key)
        return as_key(self.rng_key, use, *numbers)

    def words(self, rng_key: KeyLike | None, use: Use, *numbers: int) -> np.ndarray:
        """The words of a call with the key of one use."""
        if rng_key is not None:
            return call_words(rng_key)
        return call_words(self.rng_key, use, *numbers)

    def arguments(
        self, method: Callable[..., Any], named: Mapping[str, Any], *positional: Any
    ) -> dict[str, Any]:
        """Arguments of the kernel: rows and outcomes by position, and what was passed by name."""
        arguments = dict(zip(self.names, positional, strict=False))
        valid = read_signature(self.kernel, *self.names).names
        for name, value in named.items():
            if name not in valid:
                raise unknown_argument(name, method.__name__, valid, keywords_of(method))
            if arguments.get(name) is not None:
                msg = f"{method.__name__} has got '{name}' by position and by name. Pass it once."
                raise InputError(msg, code="argument-twice")
            arguments[name] = value
        rows = arguments.get(self.names[0])
        if isinstance(rows, str | os.PathLike) or type(rows).__module__ == "pyarrow._dataset":
            return in_columns_of_files(arguments, *self.names)
        return arguments

    def counts(self, fit: Fit) -> tuple[int, int]:
        """Chains and draws; a kernel with no latent site has as many as were asked for."""
        if not fit.draws:
            return 1, self.num_samples or 1000
        chains, draws = next(iter(fit.draws.values())).shape[:2]
        return int(chains), int(draws)

    def request(self, fitted: Fitted, **options: Any) -> Request:
        """A request to the posterior of a fit."""
        chains, draws = self.counts(fitted.fit)
        asked: dict[str, Any] = {"chains": chains, "draws": draws, "use": Use.PREDICT, **options}
        return Request(self.kernel, self.names, fitted, fit=fitted.fit, **asked)

    def schema(self, chains: int, draws: int, labels: np.ndarray | None = None) -> Schema:
        """How results become labelled."""
        named: dict[str, Any] = {"coords": self.coords, "dims": self.dims}
        for option, given in named.items():
            if given is not None and not isinstance(given, Mapping):
                msg = f"{option}= is a dict of names, as in ArviZ, not {shown(given)}."
                raise InputError(msg, code="labels-unknown")
        return Schema(chains, draws, labels, self.coords or {}, self.dims or {})


def kernel_name(kernel: Kernel) -> str:
    """Module and qualified name of a kernel."""
    module = getattr(kernel, "__module__", "")
    return f"{module}.{getattr(kernel, '__qualname__', type(kernel).__name__)}"
