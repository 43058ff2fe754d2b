"""Engines that see a posterior as one density of one vector, in double precision."""

from aimz.inference.vector.dadvi import DADVI
from aimz.inference.vector.laplace import Laplace
from aimz.inference.vector.mclmc import MCLMC
from aimz.inference.vector.nested import NestedSampling
from aimz.inference.vector.pathfinder import Pathfinder
from aimz.inference.vector.posterior import VectorPosterior, View

__all__ = [
    "DADVI",
    "MCLMC",
    "Laplace",
    "NestedSampling",
    "Pathfinder",
    "VectorPosterior",
    "View",
]
