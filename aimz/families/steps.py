"""Steps of a transformed distribution: a value from what is below it, and back."""

from typing import NamedTuple

import numpy as np
from numpyro.distributions import transforms
from scipy import special

from aimz.families.law import Map

__all__ = ["STEPS", "Step"]


class Step(NamedTuple):
    """A transform of NumPyro, and what it does in double precision."""

    name: str
    kind: type
    attributes: tuple[str, ...]
    value_of: Map
    source_of: Map


STEPS = {
    step.name: step
    for step in (
        Step(
            "affine",
            transforms.AffineTransform,
            ("loc", "scale"),
            lambda x, loc, scale: loc + scale * x,
            lambda y, loc, scale: (y - loc) / scale,
        ),
        Step("exp", transforms.ExpTransform, (), np.exp, np.log),
        Step(
            "power",
            transforms.PowerTransform,
            ("exponent",),
            lambda x, exponent: np.power(x, exponent),
            lambda y, exponent: np.power(y, 1 / exponent),
        ),
        Step("sigmoid", transforms.SigmoidTransform, (), special.expit, special.logit),
        Step(
            "softplus",
            transforms.SoftplusTransform,
            (),
            lambda x: np.logaddexp(0.0, x),
            lambda y: y + np.log(-np.expm1(-y)),
        ),
    )
}
