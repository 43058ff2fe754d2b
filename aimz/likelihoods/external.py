"""Likelihoods that were made elsewhere: a function, or a net in an ONNX file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from aimz.errors import InputError
from aimz.likelihoods.box import InBox, check_box, check_names, is_in_box
from aimz.likelihoods.responses import NO_RESPONSE, TimeAndChoice

if TYPE_CHECKING:
    import os

    from jax.typing import ArrayLike

    from aimz.arrays import Array

__all__ = ["ExternalLikelihood", "ExternalResponse", "from_callable", "from_onnx"]


class ExternalResponse(dist.Distribution):  # type: ignore[misc]  # NumPyro has no stubs
    """A choice and its time, with the log density of somebody else's program."""

    arg_constraints: Any = {}  # noqa: RUF012  # those of an instance are its own
    pytree_data_fields = ("parameters",)
    pytree_aux_fields = ("source",)

    def __init__(self, source: ExternalLikelihood, parameters: dict[str, Any]) -> None:
        self.source, self.parameters = source, parameters
        self._show_parameters()
        shape = jnp.broadcast_shapes(*(jnp.shape(value) for value in parameters.values()))
        super().__init__(shape, (2,), validate_args=False)

    @classmethod
    def tree_unflatten(cls, aux_data: tuple[Any, ...], params: tuple[Any, ...]) -> Any:
        self = super().tree_unflatten(aux_data, params)
        self._show_parameters()  # it is our own
        return self

    def _show_parameters(self) -> None:
        limits = self.source.bounds.items()
        self.arg_constraints = {name: InBox(*pair) for name, pair in limits}
        self.__dict__.update(self.parameters)

    @property
    def support(self) -> TimeAndChoice:
        deadline = None if self.source.log_hidden is None else jnp.asarray(jnp.inf)
        return TimeAndChoice(jnp.zeros(()), self.source.choices, deadline)

    def log_prob(self, value: Array) -> Any:
        """Log density by pair; -inf outside of the support and of the box."""
        value = jnp.asarray(value, jnp.result_type(float))
        inside = is_in_box(self.parameters, self.source.bounds) & self.support(value)
        is_shown = inside & (value[..., 1] != NO_RESPONSE)
        pair = jnp.where(is_shown[..., None], value, jnp.asarray([1.0, self.source.choices[0]]))
        density = self.source.logp(self.parameters, pair[..., 0], pair[..., 1])
        if self.source.log_hidden is not None:
            density = jnp.where(is_shown, density, self.source.log_hidden(self.parameters))
        return jnp.where(inside & ~jnp.isnan(density), density, -jnp.inf)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """Pairs by the sampler that was given; NaN outside of the box."""
        if self.source.sampler is None:
            msg = (
                "This likelihood was made without a sampler, so that nothing can be drawn from it. "
                "Pass sampler= where it is made, or ask for scores."
            )
            raise InputError(msg, code="no-sampler")
        shape = (*sample_shape, *self.batch_shape)
        wide = {name: jnp.broadcast_to(v, shape) for name, v in self.parameters.items()}
        time, choice = self.source.sampler(key, **wide)
        inside = is_in_box(wide, self.source.bounds)
        return jnp.where(inside[..., None], jnp.stack([time, choice], -1), jnp.nan)


class ExternalLikelihood:
    """A likelihood by a function of others; made by `from_callable` and `from_onnx`."""

    def __init__(
        self,
        logp: Callable[..., Any],
        bounds: Mapping[str, tuple[float, float]],
        choices: tuple[float, ...],
        sampler: Callable[..., Any] | None,
        log_hidden: Callable[..., Any] | None = None,
    ) -> None:
        self.logp, self.sampler, self.log_hidden = logp, sampler, log_hidden
        self.bounds = {name: (float(low), float(high)) for name, (low, high) in bounds.items()}
        self.choices = tuple(float(code) for code in choices)
        if NO_RESPONSE in self.choices:
            msg = "The code 0 is kept for no response. Name the choices by other numbers."
            raise InputError(msg, code="response-choice")

    def __call__(self, **parameters: ArrayLike) -> ExternalResponse:
        """The distribution of responses for some parameters, each by its name.

        Raises
        ------
        InputError
            `likelihood-parameters`: other names; `outside-box`: numbers outside of the bounds.
        """
        check_names(parameters, self.bounds)
        check_box(parameters, self.bounds)
        return ExternalResponse(self, {n: jnp.asarray(parameters[n], float) for n in self.bounds})


def from_callable(
    logp: Callable[..., Any],
    bounds: Mapping[str, tuple[float, float]],
    *,
    choices: tuple[float, ...] = (-1, 1),
    sampler: Callable[..., Any] | None = None,
    log_hidden: Callable[..., Any] | None = None,
) -> ExternalLikelihood:
    """A likelihood by a function that somebody has.

    Parameters
    ----------
    logp : callable
        `logp(parameters, time, choice)`, written in JAX: log density of arrays, given a dict of
        arrays that broadcast against them.
    bounds : mapping of pairs
        Where it may be asked.
    choices : tuple of numbers
        Codes of the choices.
    sampler : callable, optional
        `sampler(key, **parameters)`, which returns times and choices of the parameters' shape.
        Without it the likelihood can be fitted and scored, and predictions say that it cannot be
        drawn from.
    log_hidden : callable, optional
        `log_hidden(parameters)`: log probability that no response is seen, as of "no-go" trials.
        Such a response has the value `(0, 0)`, and `choices` are those that are seen.

    Returns
    -------
    ExternalLikelihood

    Examples
    --------
    >>> def logp(parameters, time, choice):
    ...     return jnp.log(parameters["rate"]) - parameters["rate"] * time
    >>> lik = from_callable(logp, {"rate": (0.1, 9.0)}, choices=(1,))
    >>> lik(rate=2.0).log_prob(jnp.array([[1.0, 1.0], [-1.0, 1.0]])).round(3).tolist()
    [-1.307..., -inf]
    """
    return ExternalLikelihood(logp, bounds, choices, sampler, log_hidden)


class _Layer(NamedTuple):
    kind: str
    weights: tuple[np.ndarray, ...]


class _Chain:
    """Dense layers one after another, of parameters, and of time and choice, in this order."""

    def __init__(self, layers: tuple[_Layer, ...], names: tuple[str, ...]) -> None:
        self.layers, self.names = layers, names

    def __call__(self, parameters: dict[str, Any], *response: Array) -> Any:
        columns = [*(parameters[name] for name in self.names), *response]
        hidden: Any = jnp.stack(jnp.broadcast_arrays(*columns), -1)
        for kind, weights in self.layers:
            hidden = _STEPS[kind](hidden, *weights)
        return hidden[..., 0]


_STEPS: dict[str, Callable[..., Any]] = {
    "Gemm": lambda x, weight, bias: x @ weight + bias,
    "MatMul": lambda x, weight: x @ weight,
    "Add": lambda x, bias: x + bias,
    "Tanh": jnp.tanh,
    "Relu": jax.nn.relu,
    "Sigmoid": jax.nn.sigmoid,
}


def from_onnx(
    path: str | os.PathLike[str],
    bounds: Mapping[str, tuple[float, float]],
    *,
    choices: tuple[float, ...] = (-1, 1),
    sampler: Callable[..., Any] | None = None,
    hidden: str | os.PathLike[str] | None = None,
) -> ExternalLikelihood:
    """A likelihood approximation network of the HSSM ecosystem, from its ONNX file.

    Such a net gives the log density of one response from a row of parameters, time and choice. It
    is read as a chain of dense layers; it is not normalised, and has no draws of its own.

    Parameters
    ----------
    path : path
        The file.
    bounds : mapping of pairs
        Parameters **in the order of the net's input**, and the box that it was trained in.
    choices, sampler :
        As of `from_callable`.
    hidden : path, optional
        A choice probability network beside it: from the parameters alone, in the same order, the
        log probability that no response is seen, which is then the outcome `(0, 0)`.

    Returns
    -------
    ExternalLikelihood

    Raises
    ------
    InputError
        `likelihood-file`: onnx is not installed, or a net that is no such chain, or that takes
        another number of inputs or gives several numbers.
    """
    names = tuple(bounds)
    return ExternalLikelihood(
        _chain_of(path, names, ("time", "choice")),
        bounds,
        choices,
        sampler,
        None if hidden is None else _chain_of(hidden, names, ()),
    )


def _chain_of(
    path: str | os.PathLike[str], names: tuple[str, ...], response: tuple[str, ...]
) -> _Chain:
    """The net of a file, whose steps follow one after another from its inputs to one number."""
    try:
        onnx = importlib.import_module("onnx")
    except ImportError as error:
        msg = "Nets in ONNX files are read by onnx. Run: pip install 'aimz[ssm]'"
        raise InputError(msg, code="likelihood-file") from error
    graph = onnx.load(Path(path)).graph
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    layers = []
    before = next((one.name for one in graph.input if one.name not in arrays), "")
    for node in graph.node:
        layers.append(_layer(node, arrays, before, onnx.helper.get_attribute_value))
        before = node.output[0]
    dense = [layer.weights[0] for layer in layers if layer.kind in ("Gemm", "MatMul")]
    taken, given = (dense[0].shape[0], dense[-1].shape[1]) if dense else (0, 0)
    needed = [*names, *response]
    if taken != len(needed) or given != 1 or before != graph.output[0].name:
        msg = (
            f"The net takes {taken} inputs and gives {given}, and must take {len(needed)} and give "
            f"1: {', '.join(needed):.80}. Name the parameters that it was trained on, in their "
            "order."
        )
        raise InputError(msg, code="likelihood-file")
    return _Chain(tuple(layers), names)


def _layer(
    node: Any, arrays: Mapping[str, np.ndarray], before: str, value_of: Callable[[Any], Any]
) -> _Layer:
    kind, settings = node.op_type, {one.name: value_of(one) for one in node.attribute}
    weights = [arrays[name] for name in node.input if name in arrays]
    others = [name for name in node.input if name not in arrays]
    is_turned = kind in ("Gemm", "MatMul") and node.input[0] != before  # weights from the left
    if kind not in _STEPS or settings.get("transA") or others != [before] or is_turned:
        msg = (
            f"The net has a step '{kind}' that is no part of a chain of dense layers. Export it as "
            f"one of {', '.join(_STEPS)}, or pass a function to from_callable."
        )
        raise InputError(msg, code="likelihood-file")
    if kind == "Gemm":
        weight = weights[0].T if settings.get("transB") else weights[0]
        bias = weights[1] if len(weights) > 1 else np.zeros(weight.shape[1], weight.dtype)
        weights = [settings.get("alpha", 1.0) * weight, settings.get("beta", 1.0) * bias]
    return _Layer(kind, tuple(np.asarray(weight, np.float32) for weight in weights))
