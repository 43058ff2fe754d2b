"""The law of a site's distribution, read while the kernel is traced."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import transforms

from aimz.errors import InputError
from aimz.families.discrete import Counts
from aimz.families.law import Law, base_distribution
from aimz.families.steps import STEPS
from aimz.families.table import FAMILIES

__all__ = ["law_of"]


# Distributions made of another one, and the attributes that say how.
_INFLATED = {
    dist.ZeroInflatedLogits: "gate_logits",
    dist.ZeroInflatedPoisson: "gate",
    dist.ZeroInflatedProbs: "gate",
}
_TRUNCATED = {
    dist.LeftTruncatedDistribution: ("low",),
    dist.RightTruncatedDistribution: ("high",),
    dist.TwoSidedTruncatedDistribution: ("low", "high"),
}


def law_of(name: str, fn: dist.Distribution, shape: tuple[int, ...]) -> Law:
    """The law of a site's distribution.

    Parameters
    ----------
    name : str
        Name of the site, for the error.
    fn : Distribution
        The distribution, under masks, expansions and event dimensions.
    shape : tuple of int
        Shape of the site's value.

    Returns
    -------
    Law
        Family and parameters.

    Raises
    ------
    InputError
        `family-unknown`: the noise behind a value of such a distribution cannot be recovered.

    Examples
    --------
    >>> law = law_of("y", dist.LogNormal(0.0, 2.0).expand([3]), (3,))
    >>> law.family, law.base.family, law.base.parameters["scale"].tolist()
    ('exp', 'normal', [2.0, 2.0, 2.0])
    """
    base = base_distribution(fn)
    kind, row = type(base), FAMILIES.of[type(base)]
    below: Callable[[Any], Law] = partial(law_of, name, shape=shape)
    if row.noise is not None:
        axes = {attribute: row.axes.get(attribute, 0) for attribute in row.kinds[kind]}
        return Law(row.name, _parameters(base, axes, shape))
    if kind in _INFLATED:
        gate = _parameters(base, {_INFLATED[kind]: 0}, shape)
        if not isinstance(FAMILIES.of[type(base_distribution(base.base_dist))].noise, Counts):
            raise _unknown(name, kind)
        return Law("zero-inflated", gate, below(base.base_dist))
    if kind in _TRUNCATED:
        limits = _parameters(base, dict.fromkeys(_TRUNCATED[kind], 0), shape)
        return Law("truncated", limits, below(base.base_dist))
    if isinstance(base, dist.TransformedDistribution):
        law = below(base.base_dist)
        for step in base.transforms:
            law = _step(name, step, shape, law)
        return law
    raise _unknown(name, kind)


def _step(name: str, transform: transforms.Transform, shape: tuple[int, ...], law: Law) -> Law:
    if isinstance(transform, transforms.ComposeTransform):
        for inner in transform.parts:
            law = _step(name, inner, shape, law)
        return law
    step = next((one for one in STEPS.values() if one.kind is type(transform)), None)
    if step is None:
        raise _unknown(name, type(transform))
    return Law(step.name, _parameters(transform, dict.fromkeys(step.attributes, 0), shape), law)


def _parameters(
    source: dist.Distribution | transforms.Transform, axes: dict[str, int], shape: tuple[int, ...]
) -> dict[str, Any]:
    """Attributes in the shape of the value, and axes of their own."""
    parameters = {}
    for name, depth in axes.items():
        value = jnp.asarray(getattr(source, name))
        parameters[name] = jnp.broadcast_to(value, (*shape, *value.shape[value.ndim - depth :]))
    return parameters


def _unknown(name: str, kind: type) -> InputError:
    msg = (
        f"Site '{name}' is drawn from {kind.__name__}, whose noise cannot be recovered from an "
        "outcome. Ask for rung='intervention', or use a family of the table in docs/effects.md."
    )
    return InputError(msg, code="family-unknown")
