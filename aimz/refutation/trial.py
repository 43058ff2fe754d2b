"""One test of an effect, and the refits that it took."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Trial"]


@dataclass(frozen=True, eq=False)
class Trial:
    """One test and its refits.

    Parameters
    ----------
    name, asks : str
        The test, and what it does in words.
    draws : array, shape (repeats, draws)
        Of the effect of each refit.
    truth : array, shape (repeats,)
        What each should be: no effect, a known one, or the effect as it was.
    stays : bool
        Whether the truth is the effect as it was, itself an estimate of the same rows.
    spread : float
        Sd of the refits' means that is to be expected where the effect stays, in posterior sd.
    unsettled : int
        Refits whose health is bad.
    """

    name: str
    asks: str
    draws: np.ndarray
    truth: np.ndarray
    stays: bool = False
    spread: float = 0.0
    unsettled: int = 0

    @property
    def means(self) -> np.ndarray:
        """Posterior mean of each refit."""
        return np.asarray(self.draws.mean(axis=1))

    @property
    def sds(self) -> np.ndarray:
        """Posterior sd of each refit."""
        return np.asarray(self.draws.std(axis=1, ddof=1))
