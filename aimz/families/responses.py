"""Choices and their times: a uniform behind the choice, and the place of the time in its law."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from aimz.arrays import Array
from aimz.families.law import Law, wide_parameters
from aimz.likelihoods import DriftDiffusion, MixtureResponse, Response

__all__ = ["DRIFT_DIFFUSION", "MIXTURE", "Responses"]


@dataclass(frozen=True)
class Responses:
    """Noise of a response: which choice, by order of the codes, and how soon, given the choice.

    The distribution itself computes, in double precision.
    """

    rebuilt: Callable[[dict[str, Any]], Response]
    coupling = "quantile"

    def kind(self, _: Law) -> str:
        """Places among choices and times belong to all families of responses."""
        return "response"

    def noise(
        self, law: Law, value: np.ndarray, uniform: np.ndarray
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """A place among the choices, log probabilities of less and of more, and soundness."""
        with jax.enable_x64(True):
            parts = _noise_of(self.rebuilt, wide_parameters(law), value, uniform[..., 0])
            place, less, more = (np.asarray(part) for part in parts)
        is_sound = np.isfinite(less) & np.isfinite(more) & (place > 0) & (place < 1)
        return (place, less, more), np.broadcast_to(is_sound[..., None], value.shape)

    def value(self, law: Law, parts: tuple[np.ndarray, ...]) -> np.ndarray:
        """The response at this place under a law."""
        with jax.enable_x64(True):
            return np.asarray(_value_of(self.rebuilt, wide_parameters(law), parts))


@partial(jax.jit, static_argnums=0)
def _noise_of(
    rebuilt: Callable[..., Response], parameters: dict[str, Any], value: Array, uniform: Array
) -> Any:
    return rebuilt(parameters).noise_of(value, uniform)


@partial(jax.jit, static_argnums=0)
def _value_of(
    rebuilt: Callable[..., Response], parameters: dict[str, Any], noise: tuple[Any, ...]
) -> Any:
    return rebuilt(parameters).value_of(noise)


def _drift_diffusion(parameters: dict[str, Any]) -> Response:
    """Parameters of a pair are in its first element, as in the other one."""
    together = parameters["parameters"][..., 0, :]
    return DriftDiffusion(*(together[..., i] for i in range(together.shape[-1])))


DRIFT_DIFFUSION = Responses(_drift_diffusion)
MIXTURE = Responses(MixtureResponse.of_law)
