"""Private copies of a user's `SVI` object, and draws from any guide.

NumPyro's guides keep the shapes and the values of their first call. A copy is made inside each
trace, as the guide was before that call, with our binding of the kernel in place of the kernel.
"""

import copy
from collections.abc import Callable
from typing import Any

import jax
from numpyro.infer import SVI, Predictive
from numpyro.infer.autoguide import (
    AutoBNAFNormal,
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuide,
    AutoGuideList,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)

__all__ = ["guide_name", "is_point", "knows_no_rows", "private_svi", "sample_guide"]


# Others may read the rows when they draw, as the one that finds a curvature then.
_OF_PARAMETERS = {
    AutoBNAFNormal,
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
}


def private_svi(given: SVI, model: Callable[..., Any]) -> SVI:
    """A copy of an `SVI` object for another binding of its model; the optimiser is shared."""
    svi = copy.copy(given)
    svi.model = model
    svi.guide = _private_guide(given.guide, given.model, model)
    svi.constrain_fn = None
    return svi


def sample_guide(
    svi: SVI, key: jax.Array, params: dict[str, Any], count: int, kwargs: dict[str, Any]
) -> Any:
    """Values of the guide's sites, (draw, ...)."""
    guide, every = svi.guide, {**kwargs, **svi.static_kwargs}
    if _is_automatic(guide):
        return guide.sample_posterior(key, params, sample_shape=(count,), **every)
    return Predictive(guide, params=params, num_samples=count)(key, **every)


def is_point(guide: Callable[..., Any]) -> bool:
    """Whether the guide, or a part of it, is a point while training."""
    if isinstance(guide, AutoGuideList):
        return any(is_point(inner) for inner in guide)
    return isinstance(guide, AutoDelta | AutoLaplaceApproximation)


def knows_no_rows(guide: Callable[..., Any]) -> bool:
    """Whether draws of a guide follow from its parameters alone, whatever the rows are."""
    if isinstance(guide, AutoGuideList):
        return all(map(knows_no_rows, guide))
    return type(guide) in _OF_PARAMETERS


def guide_name(guide: Callable[..., Any]) -> str:
    """Name of a guide, for results."""
    return str(getattr(guide, "__name__", type(guide).__name__))


def _is_automatic(guide: Callable[..., Any]) -> bool:
    if isinstance(guide, AutoGuideList):
        return all(_is_automatic(inner) for inner in guide)
    return isinstance(guide, AutoGuide)


def _private_guide(
    guide: Callable[..., Any], kernel: Callable[..., Any], model: Callable[..., Any]
) -> Any:
    """A copy of a guide as it was before its first call, around `model`."""
    if not isinstance(guide, AutoGuide):
        return guide
    new = copy.copy(guide)
    for name, value in vars(guide).items():
        if isinstance(value, dict):
            setattr(new, name, dict(value))
    new.prototype_trace = None
    new._prototype_frames = {}
    new._prototype_frame_full_sizes = {}
    for name in ("_batch_shape", "_event_shape"):
        if hasattr(new, name):
            setattr(new, name, None)
    if hasattr(new, "_event_dims"):
        new._event_dims = {}
    new.model = _rebound(guide.model, kernel, model)
    if isinstance(guide, AutoGuideList):
        new._guides = [_private_guide(inner, kernel, model) for inner in guide]
    return new


def _rebound(wrapped: Any, kernel: Callable[..., Any], model: Callable[..., Any]) -> Any:
    """The same handlers around `model` that `wrapped` has around `kernel`."""
    if wrapped is kernel:
        return model
    inner = getattr(wrapped, "fn", None)
    if inner is None:
        return wrapped
    outer = copy.copy(wrapped)
    outer.fn = _rebound(inner, kernel, model)
    return outer
