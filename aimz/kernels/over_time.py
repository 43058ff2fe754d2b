"""Ready-made kernels for an intervention at a time: plain NumPyro, to be read and changed.

Each is an object with its settings, which is called like any kernel. None reads the outcome's scale
from the data: a latent unit finds it, or settings give it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike

from aimz.errors import InputError
from aimz.kernels.series import kalman
from aimz.kernels.standard import OutcomeUnits, observed

__all__ = ["DifferenceInDifferences", "StructuralTimeSeries", "SyntheticControl"]


@dataclass(frozen=True)
class StructuralTimeSeries:
    """A level that wanders, a trend, a season, and a sparse regression on controls.

    The level, the trend and the season are integrated out (`aimz.kernels.kalman`). Coefficients of
    the controls have a regularised horseshoe prior (Piironen and Vehtari, 2017,
    doi:10.1214/17-EJS1337SI): most are near zero, some are not, none is beyond all bounds. How far
    the level steps has no mode at zero (Chung et al., 2013, doi:10.1007/s11336-013-9328-2): a short
    series hardly knows it, and a level that stands still would make intervals too narrow.

    Parameters
    ----------
    trend : bool
        Whether the level has a slope, which wanders too.
    season : int, optional
        Rows of one season, such as 12 of months, whose pattern wanders.
    regression : bool
        Whether the columns of `X` are controls. Bring them to zero mean and unit standard
        deviation. False leaves `X` out.

    Notes
    -----
    Sites: `unit`, the outcome's scale; `noise`, `level_step`, `trend_step` and `season_step`, in
    that unit; `shrinkage`, `local` and `slope` of the controls, whose coefficients are `unit *
    width / sqrt(1 + width**2) * slope` with `width = shrinkage * local`; `y`.

    Examples
    --------
    >>> import numpy as np
    >>> from aimz import ImpactModel
    >>> im = ImpactModel("structural_time_series", season=4, regression=False)
    >>> im.kernel.season
    4
    """

    trend: bool = False
    season: int | None = None
    regression: bool = True

    def __post_init__(self) -> None:
        if self.season is not None and (self.season < 2 or self.season % 1):
            msg = f"season= is the number of rows of a season, 2 or more, not {self.season!r:.40}."
            raise InputError(msg, code="option-unknown")

    def __call__(self, X: jax.Array, y: ArrayLike | None = None) -> None:
        unit = numpyro.sample("unit", dist.LogNormal(0.0, 5.0))
        noise = numpyro.sample("noise", dist.HalfNormal(1.0))
        steps = [numpyro.sample("level_step", dist.Gamma(2.0, 10.0))]
        spread, moves, observe = [100.0], jnp.eye(1), [1.0]
        if self.trend:
            steps.append(numpyro.sample("trend_step", dist.HalfNormal(0.02)))
            spread, moves = [*spread, 0.5], jnp.array([[1.0, 1.0], [0.0, 1.0]])
            observe.append(0.0)
        if self.season is not None:
            size = self.season - 1  # the last one is minus the sum of the others
            steps += [numpyro.sample("season_step", dist.HalfNormal(0.1)), *[0.0] * (size - 1)]
            turn = jnp.concatenate([-jnp.ones((1, size)), jnp.eye(size)[:-1]])
            corner = jnp.zeros((len(moves), size))
            moves = jnp.block([[moves, corner], [corner.T, turn]])
            spread, observe = [*spread, *[2.0] * size], [*observe, 1.0, *[0.0] * (size - 1)]
        loc = jnp.zeros(X.shape[0])
        if self.regression:
            columns = X.shape[1]
            shrinkage = numpyro.sample("shrinkage", dist.HalfCauchy(0.1))
            local = numpyro.sample("local", dist.HalfCauchy(1.0).expand([columns]).to_event(1))
            slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([columns]).to_event(1))
            width = shrinkage * local
            loc = X @ (unit * width / jnp.sqrt(1.0 + width**2) * slope)
        kalman(
            "y",
            loc,
            transition=moves,
            noise=unit * jnp.stack([jnp.asarray(step, loc.dtype) for step in steps]),
            observe=jnp.array(observe),
            scale=unit * noise,
            spread=unit * jnp.array(spread),
            obs=y,
        )


@dataclass(frozen=True)
class SyntheticControl:
    """A series as a weighted mean of others, which the intervention did not touch.

    The columns of `X` are the donors, in the unit of the outcome; the weights are at least zero and
    add up to one (Abadie et al., 2010, doi:10.1198/jasa.2009.ap08746).

    Parameters
    ----------
    concentration : float
        Of the weights' Dirichlet prior: below 1 few donors have much weight.

    Notes
    -----
    Sites: `weights`, `noise`, `y`.

    Examples
    --------
    >>> from aimz import ImpactModel
    >>> ImpactModel("synthetic_control").kernel
    SyntheticControl(concentration=1.0)
    """

    concentration: float = 1.0

    def __call__(self, X: jax.Array, y: ArrayLike | None = None) -> None:
        weights = numpyro.sample(
            "weights", dist.Dirichlet(jnp.full(X.shape[1], self.concentration))
        )
        noise = numpyro.sample("noise", dist.LogNormal(0.0, 5.0))
        with numpyro.plate("times", X.shape[0]):
            numpyro.sample("y", dist.Normal(X @ weights, noise), obs=y)


@dataclass(frozen=True, kw_only=True)
class DifferenceInDifferences(OutcomeUnits):
    """A panel of units and times: an effect of treatment beside those of each unit and time.

    `unit` and `time` are codes of rows from 0, and `treated` is 1 where a unit is treated then.
    Ask `im.effect(X, {"treated": 0}, {"treated": 1}, treatment="treated", estimand="att", ...)`.
    One effect is the same for all, which is an assumption where treatment begins at several times.
    Units and times have wide priors of a fixed size, as the fixed effects of least squares.

    Parameters
    ----------
    units, times : int
        How many there are.
    loc, unit : float
        Standard units of the outcome: `aimz.kernels.standard(y=y)`.

    Notes
    -----
    Sites: `base`, `of_unit` and `of_time`, which add up to 0, `effect`, `noise`, `y`. `X` is not
    read.

    Examples
    --------
    >>> from aimz import ImpactModel
    >>> ImpactModel("difference_in_differences", units=20, times=8).kernel.times
    8
    """

    units: int
    times: int

    summed = ("base", "effect", "of_unit", "of_time")

    def __call__(
        self,
        X: jax.Array,
        unit: jax.Array,
        time: jax.Array,
        treated: jax.Array,
        y: ArrayLike | None = None,
    ) -> None:
        del X
        base = numpyro.sample("base", dist.Normal(0.0, 3.0))
        effect = numpyro.sample("effect", dist.Normal(0.0, 3.0))
        of_unit = numpyro.sample("of_unit", dist.ZeroSumNormal(3.0, (self.units,)))
        of_time = numpyro.sample("of_time", dist.ZeroSumNormal(3.0, (self.times,)))
        observed(self, base + of_unit[unit] + of_time[time] + effect * treated, y)
