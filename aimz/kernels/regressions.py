"""Ready-made regressions, with and without a treatment: plain NumPyro, to be read and changed.

Each is an object with its settings, which is called like any kernel. Priors are in standard units
(`aimz.kernels.standard`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from scipy import special

from aimz.errors import InputError
from aimz.kernels.relevance import chances_of, effect_relevance_of, knots_of, relevance_of
from aimz.kernels.standard import Standard, observed

__all__ = ["GLM", "Flexible", "Hierarchical", "Linear"]

_WAVES = 120
# Rows above which some are looked at for the places of curves, and how many.
_MANY_ROWS, _SHOWN_ROWS = 2**18, 2**16
_SHRUNK = 0.5  # curves beside the columns of the ridge


@dataclass(frozen=True, kw_only=True)
class Linear(Standard):
    """A linear regression with normal noise.

    Parameters
    ----------
    treatment : str, optional
        Name of the argument for the treatment, which has an effect of its own.
    prior_scale : float
        Standard deviation of the coefficients' normal prior.
    center, scale, loc, unit : optional
        Standard units: `aimz.kernels.standard(X, y)`.

    Notes
    -----
    Sites: `base`, `slope` (by column), `effect`, `noise`, `y`. Without settings a fit takes the
    units of its data; data that are far from settings are refused (`not-standard`).

    Examples
    --------
    >>> from aimz import ImpactModel
    >>> ImpactModel("linear", treatment="t").kernel.treatment
    't'
    """

    treatment: str | None = None
    prior_scale: float = 2.0

    summed: ClassVar[tuple[str, ...]] = ("base", "slope", "effect")

    def arguments(self) -> tuple[str, ...]:
        """Names of the kernel's arguments that settings give."""
        return () if self.treatment is None else (self.treatment,)

    def __call__(self, X: jax.Array, y: ArrayLike | None = None, **named: jax.Array) -> None:
        observed(self, self.line(self.columns(X), named), y)

    def line(self, columns: jax.Array, named: Mapping[str, jax.Array]) -> Any:
        """A line along the columns and the effect, by row."""
        prior, width = dist.Normal(0.0, self.prior_scale), columns.shape[1]
        mean = numpyro.sample("base", dist.Normal(0.0, 3.0))
        mean = mean + columns @ numpyro.sample("slope", prior.expand([width]).to_event(1))
        if self.treatment is not None:
            mean = mean + numpyro.sample("effect", prior) * named[self.treatment]
        return mean


@dataclass(frozen=True, kw_only=True)
class GLM(Linear):
    """A generalised linear regression: normal, or Bernoulli by logits, or Poisson by a log rate.

    Parameters
    ----------
    family : {"normal", "bernoulli", "poisson"}
        Of the outcome.
    treatment, prior_scale, center, scale, loc, unit : optional
        As of `Linear`; `loc` and `unit` are for a normal outcome only.

    Notes
    -----
    Sites: `base`, `slope`, `effect`, `y`, and `noise` of a normal outcome.

    Examples
    --------
    >>> from aimz import ImpactModel
    >>> ImpactModel("glm", family="poisson").kernel.family
    'poisson'
    """

    family: str = "normal"


@dataclass(frozen=True, kw_only=True)
class Hierarchical(Standard):
    """A regression whose level, and effect of a treatment, differ between groups.

    What groups have in common is learned from all of them, and each is drawn towards it.

    Parameters
    ----------
    groups : int
        How many there are.
    group : str
        Name of the argument for the groups' codes, from 0.
    treatment : str, optional
        Name of the argument for the treatment.
    family : {"normal", "bernoulli", "poisson"}
        Of the outcome.
    center, scale, loc, unit : optional
        As of `Linear`.

    Notes
    -----
    Sites: `base`, `slope`, `level_spread`, `level` (by group), `effect`, `effect_spread`,
    `effect_beyond` (by group), `noise`, `y`.

    Examples
    --------
    >>> from aimz import ImpactModel
    >>> ImpactModel("hierarchical", groups=8, group="school", treatment="t").kernel.arguments()
    ('school', 't')
    """

    groups: int
    group: str = "group"
    treatment: str | None = None
    family: str = "normal"

    summed = ("base", "slope", "level", "effect", "effect_beyond")

    def arguments(self) -> tuple[str, ...]:
        """Names of the kernel's arguments that settings give."""
        return (self.group,) if self.treatment is None else (self.group, self.treatment)

    def __call__(self, X: jax.Array, y: ArrayLike | None = None, **named: jax.Array) -> None:
        group, prior = named[self.group], dist.Normal(0.0, 2.0)
        base = numpyro.sample("base", dist.Normal(0.0, 3.0))
        slope = numpyro.sample("slope", prior.expand([X.shape[1]]).to_event(1))
        spread = numpyro.sample("level_spread", dist.HalfNormal(1.0))
        with numpyro.plate("groups", self.groups):
            level = numpyro.sample("level", dist.Normal(0.0, spread))
        mean = base + self.columns(X) @ slope + level[group]
        if self.treatment is not None:
            effect = numpyro.sample("effect", prior)
            spread = numpyro.sample("effect_spread", dist.HalfNormal(0.5))
            with numpyro.plate("groups", self.groups):
                beyond = numpyro.sample("effect_beyond", dist.Normal(0.0, spread))
            mean = mean + (effect + beyond[group]) * named[self.treatment]
        observed(self, mean, y)


@dataclass(frozen=True, kw_only=True)
class Flexible(Standard):
    """A curved regression, and an effect of a treatment that varies with the columns.

    The outcome is a prognosis plus the effect times the treatment (centred), both functions of the
    columns: a line, steps along single columns, soft and steep ones, and random waves across them
    (Rahimi and Recht, 2007). How much the effect varies has a prior near zero of its own, so that
    it varies only where the data say so: the idea of Bayesian causal forests (Hahn et al., 2020,
    doi:10.1214/19-BA1195).

    Parameters
    ----------
    treatment : str
        Name of the argument for the treatment, 0 or 1.
    propensity : str, optional
        Name of an argument for each row's chance of treatment, which is a column of the prognosis,
        and what the treatment is centred at: rows may have been treated for what was expected of
        them. None: a fit estimates it, by a logistic regression with a ridge penalty.
    chance : tuple of float, optional
        What that found: intercept and slopes of the logit of treatment along the columns in
        standard units, the steps and the waves.
    waves : int, optional
        How many steps and waves in either part, half of each. Default 120, fewer beside more than
        180 columns, so that both parts have 600 coefficients at most.
    relevance : tuple of float, optional
        How far waves of the prognosis lean to each column; a fit finds it by trees and products of
        columns.
    knots : tuple of tuples of float, optional
        By column, where its steps are; a fit takes quantiles, more of relevant columns.
    effect_relevance, effect_knots : optional
        The same of the effect, whose line leans too; a fit finds it by moments of the outcome with
        the treatment.
    family : {"normal", "bernoulli", "poisson"}
        Of the outcome; effects vary on the scale of logits or log rates.
    center, scale, loc, unit : optional
        As of `Linear`.

    Notes
    -----
    Sites: `base`, `effect`, for each of the two parts coefficients and their spreads
    (`prognosis_line`, `prognosis_wave`, `variation_line`, `variation_step`, `variation_wave`),
    `noise`, `y`. Beside columns of two values alone there are no steps.

    Examples
    --------
    >>> from aimz import ImpactModel
    >>> ImpactModel("flexible", treatment="t").kernel.arguments()
    ('t',)
    """

    treatment: str = "t"
    propensity: str | None = None
    waves: int | None = None
    family: str = "normal"
    chance: tuple[float, ...] = ()
    relevance: tuple[float, ...] = ()
    knots: tuple[tuple[float, ...], ...] = ()
    effect_relevance: tuple[float, ...] = ()
    effect_knots: tuple[tuple[float, ...], ...] = ()

    summed = (
        *("base", "prognosis_line", "prognosis_wave"),
        *("effect", "variation_line", "variation_step", "variation_wave"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        waves: object = self.waves
        if waves is not None and (not isinstance(waves, int) or waves < 1):
            msg = f"waves= is a number of waves, at least 1, not {self.waves!r:.40}."
            raise InputError(msg, code="option-unknown")

    def arguments(self) -> tuple[str, ...]:
        """Names of the kernel's arguments that settings give."""
        return (self.treatment,) if self.propensity is None else (self.treatment, self.propensity)

    def __call__(self, X: jax.Array, y: ArrayLike | None = None, **named: jax.Array) -> None:
        columns = self.columns(X)
        curves, of_effect = self.curves(columns), self.effect_curves(columns)
        center: Any = 0.5
        behind = columns
        if self.propensity is not None or self.chance:
            center = self.chances(columns, curves, named)
            behind = jnp.column_stack([columns, 4.0 * center - 2.0])
        prognosis = numpyro.sample("base", dist.Normal(0.0, 3.0))
        prognosis = prognosis + _surface("prognosis", {"line": behind, "wave": curves}, 1.0)
        effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
        effect = effect + _surface("variation", of_effect, 0.25)
        observed(self, prognosis + effect * (named[self.treatment] - center), y)

    def chances(
        self, columns: jax.Array, curves: jax.Array, named: Mapping[str, jax.Array]
    ) -> jax.Array:
        """Of treatment, by row: what was given, or what the fit found."""
        if self.propensity is not None:
            return named[self.propensity]
        features = jnp.column_stack([columns, _SHRUNK * curves])
        if len(self.chance) != 1 + features.shape[1]:
            msg = (
                f"chance= has {len(self.chance)} numbers, and this kernel has {features.shape[1]} "
                "columns and curves: an intercept and one slope each. Leave it to the fit."
            )
            raise InputError(msg, code="shape")
        return jax.nn.sigmoid(self.chance[0] + features @ jnp.array(self.chance[1:]))

    def curves(self, columns: jax.Array) -> jax.Array:
        """Steps along single columns, and waves across, of the prognosis: (row, curve)."""
        return jnp.column_stack(self._steps_and_waves(columns, self.relevance, self.knots))

    def effect_curves(self, columns: jax.Array) -> dict[str, jax.Array]:
        """Those of the effect, and the columns as far as they are relevant to it."""
        width = columns.shape[1]
        found = self.effect_relevance, self.effect_knots
        steps, waves = self._steps_and_waves(columns, *found, name="effect_")
        lean = np.sqrt(width * np.array(self.effect_relevance or (1.0 / width,) * width))
        return {"line": columns * lean, "step": steps, "wave": waves}

    def _steps_and_waves(
        self,
        columns: jax.Array,
        relevance: tuple[float, ...],
        knots: tuple[tuple[float, ...], ...],
        name: str = "",
    ) -> tuple[jax.Array, jax.Array]:
        width = columns.shape[1]
        for setting, given in (("relevance", relevance), ("knots", knots)):
            if len(given) not in (0, width):
                msg = f"{name}{setting}= has an entry for each of {width} columns. Leave it to fit."
                raise InputError(msg, code="shape")
        relevance = relevance or (1.0 / width,) * width
        if not knots:  # as if all were normal
            normal = np.broadcast_to(
                special.ndtri((np.arange(99) + 0.5) / 99)[:, None], (99, width)
            )
            knots = knots_of(normal, relevance, self._count(width) // 2)
        of_column = np.repeat(np.arange(width), [len(places) for places in knots])
        places = np.array([place for of_one in knots for place in of_one], np.float32)
        steepness = np.where(np.arange(len(places)) % 2, 8.0, 2.0).astype(np.float32)
        steps = jnp.tanh(steepness * (columns[:, of_column] - places))
        count = max(0, self._count(width) - len(of_column))
        seeded = np.random.default_rng(0)  # the same waves in each call
        directions = 0.5 * np.sqrt(relevance)[:, None] * seeded.normal(size=(width, count))
        turns = columns @ directions.astype(np.float32) + seeded.uniform(0.0, 2 * np.pi, count)
        return steps, 2**0.5 * jnp.cos(turns)

    def _count(self, width: int) -> int:
        return self.waves or min(_WAVES, max(20, 300 - width))

    def settled(self, X: Any, y: Any, arguments: Mapping[str, Any]) -> Self:
        """In the units of these data, with what they show of columns and chances of treatment."""
        kernel = super().settled(X, y, arguments)
        named = {name: arguments[name] for name in self.arguments()}
        X, y, named = _some_rows(X, y, named)
        columns = np.asarray(kernel.columns(X), np.float64)
        treatment, outcome = np.asarray(named[self.treatment]), np.asarray(y, np.float64)
        count = self._count(columns.shape[1]) // 2
        is_switch = set(np.unique(treatment).tolist()) == {0, 1}
        if not kernel.relevance:
            arms = treatment if is_switch else np.zeros(len(columns))
            kernel = replace(kernel, relevance=relevance_of(columns, outcome, arms))
        if not kernel.knots:
            kernel = replace(kernel, knots=knots_of(columns, kernel.relevance, count))
        curves = np.asarray(kernel.curves(jnp.asarray(columns)), np.float64)
        features = np.column_stack([columns, _SHRUNK * curves])
        if is_switch and self.propensity is None and not self.chance:
            kernel = replace(kernel, chance=chances_of(features, treatment))
        if not kernel.effect_relevance:
            center: Any = treatment.mean()
            if self.propensity is not None or kernel.chance:
                places = jnp.asarray(columns), jnp.asarray(curves)
                center = np.asarray(kernel.chances(*places, named))
            seen = columns, features, outcome, treatment - center
            found = effect_relevance_of(*seen, kernel.relevance)
            kernel = replace(kernel, effect_relevance=found)
        if not kernel.effect_knots:
            knots = knots_of(columns, kernel.effect_relevance, count)
            kernel = replace(kernel, effect_knots=knots)
        return kernel


def _some_rows(X: Any, y: Any, named: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Some of many rows, which show what there is to see: the same of a file and in memory."""
    count = len(X)
    if count <= _MANY_ROWS:
        return X, y, dict(named)
    rows = np.sort(np.random.default_rng(0).choice(count, _SHOWN_ROWS, replace=False))
    cut = {name: np.asarray(v)[rows] if np.ndim(v) else v for name, v in named.items()}
    return np.asarray(X)[rows], np.asarray(y)[rows], cut


def _surface(name: str, bases: Mapping[str, jax.Array], size: float) -> Any:
    """A function of the columns, by row: the sum of a line and curves."""
    mean: Any = 0.0
    for part, basis in bases.items():
        if basis.shape[1]:
            spread = numpyro.sample(f"{name}_{part}_spread", dist.HalfNormal(size))
            each = dist.Normal(0.0, spread * basis.shape[1] ** -0.5)
            mean = mean + basis @ numpyro.sample(
                f"{name}_{part}", each.expand([basis.shape[1]]).to_event(1)
            )
    return mean
