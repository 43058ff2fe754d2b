"""A ready-made regression of smooth curves: plain NumPyro, to be read and changed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike

from aimz.arrays import pieces
from aimz.errors import InputError
from aimz.kernels.regressions import GLM
from aimz.kernels.standard import PIECE_ROWS, observed

__all__ = ["HSGP"]

_REACH = 1.5  # of the bounds, beyond the rows of the fit
_LEAST = 1e-30  # so that a root has a slope where a density underflows
_NORMAL = 4.5  # a bound of a column in standard units, where no fit has said one


@dataclass(frozen=True, kw_only=True)
class HSGP(GLM):
    """A sum of smooth curves, one along each column, beside a line and an effect of a treatment.

    Each curve is a Gaussian process with a squared exponential covariance, written by a few
    functions that are zero at bounds beyond the rows of the fit (Riutort-Mayol et al., 2023,
    doi:10.1007/s11222-022-10167-2; `numpyro.contrib.hsgp`). Beyond the bounds nothing is known: the
    mean is NaN there, and such rows are refused (`parameters`).

    Parameters
    ----------
    functions : int
        How many for each curve. The shortest length that they can show is about the bound divided
        by half their number.
    bounds : tuple of float, optional
        By column, in standard units; a fit takes 1.5 times the largest value of its rows.
    treatment, family, prior_scale, center, scale, loc, unit : optional
        As of `GLM`.

    Notes
    -----
    Sites: `base`, `slope`, `effect`, `length` and `size` of all curves, `curve` (column, function),
    which is in units of its spread where the outcome is not normal, `y`, and `noise` of a normal
    outcome.

    Examples
    --------
    >>> from aimz import ImpactModel
    >>> ImpactModel("hsgp", functions=12).kernel.functions
    12
    """

    functions: int = 20
    bounds: tuple[float, ...] = ()

    summed = ("base", "slope", "effect", "curve")

    def __post_init__(self) -> None:
        super().__post_init__()
        count: object = self.functions
        if not isinstance(count, int) or count < 1:
            msg = f"functions= is a number of functions, at least 1, not {count!r:.40}."
            raise InputError(msg, code="option-unknown")

    def __call__(self, X: jax.Array, y: ArrayLike | None = None, **named: jax.Array) -> None:
        columns = self.columns(X)
        observed(self, self.line(columns, named) + self.curves(columns), y)

    def curves(self, columns: jax.Array) -> jax.Array:
        """The sum of the curves, by row."""
        from numpyro.contrib.hsgp.laplacian import eigenfunctions
        from numpyro.contrib.hsgp.spectral_densities import (
            diag_spectral_density_squared_exponential,
        )

        width = columns.shape[1]
        if len(self.bounds) not in (0, width):
            msg = f"bounds= has {len(self.bounds)} entries, and there are {width} columns."
            raise InputError(f"{msg} Leave it to the fit.", code="shape")
        length = numpyro.sample("length", dist.LogNormal(0.0, 0.5))
        size = numpyro.sample("size", dist.HalfNormal(1.0))
        count, bounds = self.functions, self.bounds or (_NORMAL,) * width
        power = jnp.stack(  # of a variance
            [
                diag_spectral_density_squared_exponential(size**2, length, b, count, 1)
                for b in bounds
            ]
        )
        spread = jnp.sqrt(power + _LEAST)
        # Few data for each coefficient: chains move better where its spread stands apart from it.
        is_summed = self.family == "normal"
        law = dist.Normal(jnp.zeros_like(spread), spread if is_summed else 1.0)
        curve = numpyro.sample("curve", law.to_event(2))
        weights = curve if is_summed else spread * curve
        pairs = zip(columns.T, bounds, strict=True)
        basis = jnp.stack([eigenfunctions(column, bound, count) for column, bound in pairs])
        is_known = jnp.all(jnp.abs(columns) <= jnp.array(bounds), axis=1)
        return jnp.where(is_known, jnp.einsum("crk,ck->r", basis, weights), jnp.nan)

    def settled(self, X: Any, y: Any, arguments: Mapping[str, Any]) -> Self:
        """In the units of these data, with bounds around them."""
        kernel = super().settled(X, y, arguments)
        if kernel.bounds:
            return kernel
        each = (np.asarray(kernel.columns(some)) for some in pieces(np.asarray(X), PIECE_ROWS))
        largest = np.max([np.abs(some).max(0) for some in each], axis=0).astype(np.float64)
        bounds = tuple(np.where(largest > 0, _REACH * largest, _NORMAL).tolist())
        return replace(kernel, bounds=bounds)
