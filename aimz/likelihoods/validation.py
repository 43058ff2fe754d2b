"""Does a net say what its simulator does? Held-out simulations tell, by region of the box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from aimz.errors import InputError
from aimz.libraries import pd
from aimz.likelihoods.box import check_box, check_names
from aimz.likelihoods.simulations import check_responses
from aimz.likelihoods.validation_plot import plot_validation
from aimz.plots import number_text

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from matplotlib.figure import Figure

    from aimz.arrays import Array
    from aimz.likelihoods.mixture import MixtureResponse
    from aimz.likelihoods.simulations import Simulations

__all__ = ["Validation", "validated"]


_LEAST, _FEW = 100, 20  # held-out simulations, in all and of a region
_CHUNK = 50_000
_SETS, _PLACES = 64, 4001  # of parameters, and of times, that integrals are taken over
_UNLIKELY, _TIME_OFF, _CHOICE_OFF = 1e-3, 0.03, 0.02


class _Learned(Protocol):
    """What is validated: the likelihood of a net."""

    bounds: dict[str, tuple[float, float]]
    shift: str | None
    choices: tuple[float, ...]
    first: tuple[float, ...] | None

    def __call__(self, **parameters: ArrayLike) -> MixtureResponse: ...


@dataclass(frozen=True)
class Validation:
    """What held-out simulations say of a likelihood.

    Parameters
    ----------
    table : DataFrame
        A line for all simulations, and one for each third of the side of the box of each parameter:
        `parameter`, `low`, `high`, `n`; `log_score`, the mean log density, and `se`; `pit`, how far
        the distribution of times is off at most (the distance of Kolmogorov and Smirnov), and
        `p_pit`, the probability of more by chance; `choice`, how far the share of a choice is off
        at most, and `p_choice`. Regions of fewer than 20 simulations have NaN.
    calibration : DataFrame
        By `choice` and tenths of its probability: `n`, the mean probability `predicted`, the share
        `observed` and its standard error `se`.
    pit : array, shape (n,)
        The distribution function of each time given its choice: even where the net is right.
    mass : pair of floats
        Smallest and largest integral of the density over times and choices, among 64 sets of
        parameters.
    """

    table: pd.DataFrame
    calibration: pd.DataFrame
    pit: np.ndarray
    mass: tuple[float, float]

    @property
    def off(self) -> pd.DataFrame:
        """Lines that are off by more than chance (1 in 1,000), and by enough to matter.

        That is 0.03 of the distribution of times, or 0.02 of the share of a choice.
        """
        times = (self.table["p_pit"] < _UNLIKELY) & (self.table["pit"] > _TIME_OFF)
        choices = (self.table["p_choice"] < _UNLIKELY) & (self.table["choice"] > _CHOICE_OFF)
        return self.table[times | choices]

    def to_text(self) -> str:
        """The validation in sentences."""
        whole, low, high = self.table.iloc[0], *self.mass
        off, few = self.off, self.table[self.table["n"] < _FEW]
        text = (
            f"{len(self.pit):,} held-out simulations have a mean log density of "
            f"{number_text(whole['log_score'])} (standard error {number_text(whole['se'])}). "
            f"The distribution of times is off by at most {whole['pit']:.3f} "
            f"(p = {whole['p_pit']:.2g}), shares of choices by {whole['choice']:.3f} "
            f"(p = {whole['p_choice']:.2g}). Densities integrate to {low:.4f} to {high:.4f}. "
        )
        if len(off):
            text += f"Off are: {'; '.join(_regions(off))}."
        else:
            text += "No region of the box is off by more than chance and by much."
        if len(few):
            text += f" Too few to say anything of: {'; '.join(_regions(few))}."
        return text

    def __repr__(self) -> str:
        return f"Validation: {self.to_text()}"

    def plot(self) -> Figure:
        """Draw the distribution functions of times, the calibration of choices, and the regions."""
        return plot_validation(self.table, self.calibration, self.pit)


def _regions(lines: pd.DataFrame) -> list[str]:
    return [
        f"{line['parameter']} from {line['low']:g} to {line['high']:g}"
        if line["parameter"]
        else "the box as a whole"
        for _, line in lines.iterrows()
    ]


def validated(likelihood: _Learned, held_out: Simulations) -> Validation:
    """`NeuralLikelihood.validate` is its public form."""
    parameters = held_out.parameters
    check_names(parameters, likelihood.bounds)
    check_box(parameters, likelihood.bounds)
    codes = np.array(likelihood.choices, np.float32)
    check_responses(held_out, likelihood.shift, codes, _LEAST)
    names = list(likelihood.bounds)
    rows = np.stack([parameters[name] for name in names], -1)
    first = None if likelihood.first is None else np.array(likelihood.first, np.float32)
    if first is not None and (rows == first).all(-1).any():
        msg = (
            "Among the held-out simulations are some that the net has learned from. Simulate "
            "with another key."
        )
        raise InputError(msg, code="simulations")
    scores, pit, shares = _read(likelihood, rows, held_out.outcomes)
    index = np.argmax(held_out.outcomes[:, 1, None] == codes, -1)
    seen = np.eye(len(codes))[index]
    lines = [{"parameter": "", "low": np.nan, "high": np.nan, **_line(scores, pit, shares, seen)}]
    for name, column in zip(names, rows.T, strict=True):
        edges = np.linspace(*likelihood.bounds[name], 4)
        third = np.clip(np.searchsorted(edges, column, "right") - 1, 0, 2)
        for number in range(3):
            of = third == number
            place = {"parameter": name, "low": edges[number], "high": edges[number + 1]}
            lines.append({**place, **_line(scores[of], pit[of], shares[of], seen[of])})
    sets = rows[np.linspace(0, len(rows) - 1, _SETS).astype(int)]
    mass = _masses(likelihood, sets)
    return Validation(
        pd.DataFrame(lines),
        _calibration(likelihood.choices, shares, seen),
        pit,
        (float(mass.min()), float(mass.max())),
    )


def _read(likelihood: _Learned, rows: np.ndarray, outcomes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Log density of each pair, distribution function of its time, probability of each choice."""

    @jax.jit
    def look(rows: Array, pairs: Array) -> tuple[Any, Any, Any]:
        law = likelihood(**dict(zip(likelihood.bounds, rows.T, strict=True)))
        index = jnp.argmax(pairs[:, 1, None] == jnp.asarray(law.codes), axis=-1)
        less, _ = law.log_tails_of(pairs[:, 0] - law.shift, index)
        return law.log_prob(pairs), jnp.exp(less), law.choice()

    parts = [
        look(rows[start : start + _CHUNK], outcomes[start : start + _CHUNK])
        for start in range(0, len(rows), _CHUNK)
    ]
    return tuple(np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))


def _line(
    scores: np.ndarray, pit: np.ndarray, shares: np.ndarray, seen: np.ndarray
) -> dict[str, float]:
    """Numbers of some simulations together."""
    n = len(scores)
    if n < _FEW:
        names = ("log_score", "se", "pit", "p_pit", "choice", "p_choice")
        return {"n": n, **dict.fromkeys(names, np.nan)}
    places, ordered = np.arange(n) / n, np.sort(pit)
    distance = max((places + 1 / n - ordered).max(), (ordered - places).max())
    gaps = np.abs((seen - shares).mean(0))
    chance = np.sqrt((shares * (1 - shares)).sum(0)) / n
    units = np.divide(gaps, chance, out=np.zeros_like(gaps), where=chance > 0)
    ways = 1 if len(gaps) <= 2 else len(gaps)  # shares of two choices are one number
    return {
        "n": n,
        "log_score": float(scores.mean()),
        "se": float(scores.std(ddof=1) / np.sqrt(n)),
        "pit": float(distance),
        "p_pit": float(special.kolmogorov(distance * np.sqrt(n))),
        "choice": float(gaps.max()),
        "p_choice": float(min(1.0, ways * special.erfc(units.max() / np.sqrt(2)))),
    }


def _calibration(choices: tuple[float, ...], shares: np.ndarray, seen: np.ndarray) -> pd.DataFrame:
    """Shares of choices by tenths of their probability."""
    lines = []
    for number, code in enumerate(choices):
        share, is_seen = shares[:, number], seen[:, number]
        tenth = np.minimum((share * 10).astype(int), 9)
        for of in (tenth == place for place in np.unique(tenth)):
            spread = np.sqrt((share[of] * (1 - share[of])).sum()) / of.sum()
            means = {"predicted": share[of].mean(), "observed": is_seen[of].mean(), "se": spread}
            lines.append({"choice": code, "n": int(of.sum()), **means})
    return pd.DataFrame(lines)


def _masses(likelihood: _Learned, sets: np.ndarray) -> np.ndarray:
    """Integrals of the density over times and choices, by the trapezoidal rule on log times."""

    @jax.jit
    def look(sets: Array, codes: Array) -> tuple[Any, Any, Any]:  # constants would be folded: slow
        law = likelihood(**dict(zip(likelihood.bounds, sets.T, strict=True)))
        locs, scales = law.head.locs, law.head.scales
        ends = ((locs - 20 * scales).min((-1, -2)), (locs + 20 * scales).max((-1, -2)))
        times = law.shift + jnp.exp(jnp.linspace(*ends, _PLACES))
        pairs = [jnp.stack([times, jnp.full_like(times, code)], -1) for code in codes]
        return times, law.shift, sum(jnp.exp(law.log_prob(pair)) for pair in pairs)

    codes = np.array(likelihood.choices, np.float32)
    times, shift, density = (np.asarray(part, np.float64) for part in look(sets, codes))
    masses: np.ndarray = np.trapezoid(density, times - shift, axis=0)  # places as they are rounded
    return masses
