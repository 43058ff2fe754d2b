"""A likelihood that a net has learned from a simulator."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.errors import InputError
from aimz.likelihoods.box import check_box, check_names
from aimz.likelihoods.mixture import Head, MixtureResponse
from aimz.likelihoods.nets import Course, Examples, Training, head_of, learned
from aimz.likelihoods.simulations import check_responses
from aimz.likelihoods.validation import Validation, validated

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from jax.typing import ArrayLike

    from aimz.arrays import Array
    from aimz.likelihoods.simulations import Simulations

__all__ = ["NeuralLikelihood"]


_FORMAT = 1


class NeuralLikelihood:
    """The distribution of responses given parameters, learned from simulations by a net.

    The net gives probabilities of choices, and for each of them a mixture of logistic variables
    for the logarithm of the time since `shift`: a normalised density, whatever the net says.
    Called with parameters it is a NumPyro distribution of pairs `(time, choice)`, with a density
    and draws, for any kernel. Nothing is extrapolated: parameters outside of the box that the net
    was trained in are refused, or, where a kernel computes them, have no density and no draws.

    Made by `NeuralLikelihood.train` or `NeuralLikelihood.load`.

    Examples
    --------
    >>> import jax
    >>> from aimz.likelihoods import Training, simulate
    >>> def exponential(key, rate):
    ...     return jax.random.exponential(key, rate.shape) / rate, jax.numpy.ones_like(rate)
    >>> simulations = simulate(exponential, {"rate": (0.5, 2.0)}, n=4096)
    >>> brief = Training(width=8, depth=1, components=2, epochs=2, batch_size=512)
    >>> lik = NeuralLikelihood.train(simulations, choices=(1,), training=brief)
    >>> lik(rate=1.0).event_shape, lik.bounds
    ((2,), {'rate': (0.5, 2.0)})
    >>> validation = lik.validate(simulate(exponential, lik.bounds, n=500, key=1))
    >>> validation.table[["parameter", "n"]].head(2).values.tolist()
    [['', 500], ['rate', ...]]

    See Also
    --------
    DriftDiffusion : A family with a closed form.
    """

    def __init__(
        self,
        weights: dict[str, np.ndarray],
        *,
        bounds: dict[str, tuple[float, float]],
        shift: str | None,
        choices: Sequence[float],
        units: tuple[float, float],
        first: tuple[float, ...] | None = None,
    ) -> None:
        self.weights = weights
        self.bounds = bounds
        self.shift = shift
        self.choices = tuple(float(code) for code in choices)
        self.units = units
        self.course: Course | None = None
        self.first = first  # parameters of the first simulation: held-out ones must not have them

    @classmethod
    def train(
        cls,
        simulations: Simulations,
        *,
        shift: str | None = None,
        choices: Sequence[float] = (-1, 1),
        training: Training | None = None,
        key: int = 0,
    ) -> NeuralLikelihood:
        """Learn from simulations, by maximum likelihood.

        Parameters
        ----------
        simulations : Simulations
            Of `simulate`; their box becomes that of the likelihood.
        shift : str, optional
            The parameter that is added to all times and does nothing else.
        choices : sequence of numbers
            Codes of the choices; 0 is kept for no response.
        training : Training, optional
            Sizes of the net, and how long it learns.
        key : int
            Seed.

        Returns
        -------
        NeuralLikelihood

        Raises
        ------
        InputError
            `simulations`: choices without a code, too few simulations, or times before the shift.
        """
        training = training or Training()
        codes = np.array(choices, np.float32)
        least = max(100, 2 * training.batch_size)
        elapsed = check_responses(simulations, shift, codes, least)
        places = np.log(np.maximum(elapsed, 1e-6))
        units = float(places.mean()), float(places.std())
        names = [name for name in simulations.bounds if name != shift]
        inputs = [_scaled(simulations.parameters[n], simulations.bounds[n]) for n in names]
        order = np.random.default_rng(key).permutation(len(places))
        examples = Examples(
            np.stack(inputs, -1).astype(np.float32)[order],
            ((places - units[0]) / units[1]).astype(np.float32)[order],
            np.argmax(simulations.outcomes[:, 1, None] == codes, -1).astype(np.int32)[order],
        )
        weights, course = learned(jax.random.key(key), examples, len(codes), training)
        bounds = dict(simulations.bounds)
        first = tuple(float(simulations.parameters[name][0]) for name in bounds)
        made = cls(weights, bounds=bounds, shift=shift, choices=choices, units=units, first=first)
        made.course = course
        return made

    def __call__(self, **parameters: ArrayLike) -> MixtureResponse:
        """The distribution of responses for some parameters, each by its name.

        Raises
        ------
        InputError
            `likelihood-parameters`: other names than those trained on; `outside-box`: numbers that
            lie outside of the box.
        """
        check_names(parameters, self.bounds)
        check_box(parameters, self.bounds)
        values = {name: jnp.asarray(parameters[name], float) for name in self.bounds}
        names = [name for name in self.bounds if name != self.shift]
        shape = jnp.broadcast_shapes(*(value.shape for value in values.values()))
        inner = jnp.broadcast_shapes(*(values[name].shape for name in names))
        inputs = [jnp.broadcast_to(_scaled(values[n], self.bounds[n]), inner) for n in names]
        head = head_of(self.weights, jnp.stack(inputs, -1), len(self.choices))
        middle, unit = self.units
        head = Head(*head[:2], middle + unit * head.locs, unit * head.scales)
        head = Head(*(jnp.broadcast_to(v, (*shape, *v.shape[len(inner) :])) for v in head))
        values = {name: jnp.broadcast_to(value, shape) for name, value in values.items()}
        shift = values[self.shift] if self.shift is not None else jnp.zeros(shape)
        return MixtureResponse(head, shift, self.choices, values, tuple(self.bounds.items()))

    def validate(self, held_out: Simulations) -> Validation:
        """Compare what the net says with simulations that it has not learned from.

        If the net is right, distribution functions of times given their choices are even (PIT;
        Dawid, 1984), and choices are as frequent as they are probable, in each region of the box.

        Parameters
        ----------
        held_out : Simulations
            Of `simulate` with another key, in the same box or in a part of it.

        Returns
        -------
        Validation
            With `table`, `to_text()` and `plot()`.

        Raises
        ------
        InputError
            `simulations`: fewer than 100, among them some that the net has learned from, or
            responses that it cannot give; `outside-box`, `likelihood-parameters`.

        Examples
        --------
        See the class.
        """
        return validated(self, held_out)

    def __repr__(self) -> str:
        names = ", ".join(self.bounds)
        return f"NeuralLikelihood({names}; shift={self.shift!r}, choices={self.choices})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, box and codes to one file of safetensors, whose header is JSON."""
        about = {
            "format": _FORMAT,
            "bounds": list(self.bounds.items()),
            "shift": self.shift,
            "choices": self.choices,
            "units": self.units,
            "first": self.first,
        }
        save = _library("safetensors.numpy").save_file
        save(self.weights, Path(path), {"aimz": json.dumps(about)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NeuralLikelihood:
        """Read what `save` has written.

        Raises
        ------
        InputError
            `likelihood-file`: another file.
        """
        with _library("safetensors").safe_open(Path(path), "numpy") as file:
            about = json.loads((file.metadata() or {}).get("aimz", "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.get("format") != _FORMAT:
            msg = f"'{path}' does not hold a likelihood that this version of aimz has written."
            raise InputError(msg, code="likelihood-file")
        bounds = {name: (low, high) for name, (low, high) in about["bounds"]}
        low, high = about["units"]
        return cls(
            weights,
            bounds=bounds,
            shift=about["shift"],
            choices=about["choices"],
            units=(low, high),
            first=None if about.get("first") is None else tuple(about["first"]),
        )


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = f"Likelihoods are kept in files of {name}. Run: pip install 'aimz[neural]'"
        raise InputError(msg, code="likelihood-file") from error


def _scaled(value: Array, bounds: tuple[float, float]) -> Any:
    low, high = bounds
    return (value - low) * (2 / (high - low)) - 1
