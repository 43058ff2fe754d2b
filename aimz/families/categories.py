"""Categories without an order: the largest of logits plus Gumbel noise."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from aimz.families.law import Law, wide_parameters

__all__ = ["Categories"]


@dataclass(frozen=True)
class Categories:
    """Gumbel noise of each category, given which of them is the largest."""

    coupling = "gumbel-max"

    def kind(self, law: Law) -> str:
        """Noise of categories belongs to them."""
        return law.family

    def noise(
        self, law: Law, value: np.ndarray, uniform: np.ndarray
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """A Gumbel for each category, and where the value is one of them."""
        logits = _logits(law)
        chosen = np.clip(value, 0, logits.shape[-1] - 1).astype(np.intp)[..., None]
        free = -np.log(-np.log(uniform))
        total = special.logsumexp(logits, axis=-1, keepdims=True)
        top = total + np.take_along_axis(free, chosen, -1)
        under = -np.logaddexp(-top, -(logits + free)) - logits
        noise = np.where(np.isfinite(logits), under, free)
        of_chosen = np.take_along_axis(logits, chosen, -1)
        np.put_along_axis(noise, chosen, top - of_chosen, -1)
        is_sound = np.isfinite(of_chosen[..., 0]) & (value == chosen[..., 0])
        return (noise,), is_sound

    def value(self, law: Law, parts: tuple[np.ndarray, ...]) -> np.ndarray:
        """The category that is largest under a law."""
        return np.argmax(_logits(law) + parts[0], axis=-1).astype(np.float64)


def _logits(law: Law) -> np.ndarray:
    wide = wide_parameters(law)
    return wide["logits"] if "logits" in wide else np.log(wide["probs"])
