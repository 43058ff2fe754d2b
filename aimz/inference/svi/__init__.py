"""Stochastic variational inference: the default guide, or any NumPyro `SVI` object."""

from aimz.inference.svi.engine import SVIEngine, learned_place
from aimz.inference.svi.task import SVIRecord

__all__ = ["SVIEngine", "SVIRecord", "learned_place"]
