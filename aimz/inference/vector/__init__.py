"""Engines that see a posterior as one density of one vector, in double precision."""

from aimz.inference.vector.dadvi import DADVI
from aimz.inference.vector.laplace import Laplace

__all__ = ["DADVI", "Laplace"]
