"""An engine that learns nothing, for fits whose rows and arguments count and whose draws do not."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aimz.inference import Fit, Problem, Settings

__all__ = ["ByHand"]


class ByHand:
    """Gives the draws that it was made with, repeated as often as draws are asked for.

    Parameters
    ----------
    **draws : array-like
        Draws of each latent site, (draw, ...).
    """

    name = "by hand"

    def __init__(self, **draws: Any) -> None:
        self.draws = {site: np.asarray(values, np.float32) for site, values in draws.items()}

    def fit(self, rng_key: Any, problem: Problem, settings: Settings, *, state: Any = None) -> Fit:
        """Take the rows, and give all draws."""
        return Fit({site: values[None] for site, values in self.draws.items()})

    def draw(self, rng_key: Any, problem: Problem, fit: Fit, num_samples: int) -> Mapping[str, Any]:
        """Give so many of the draws, from the first on."""
        places = np.arange(num_samples)
        return {site: values[None, places % len(values)] for site, values in self.draws.items()}
