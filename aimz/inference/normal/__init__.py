"""The default guide: a normal that is found on whitened coordinates."""

from aimz.inference.normal.guide import WhitenedNormal
from aimz.inference.normal.refinement import REFINED_DIM
from aimz.inference.normal.start import WHITENED_DIM, find_start, latent_dim, set_up_guide

__all__ = [
    "REFINED_DIM",
    "WHITENED_DIM",
    "WhitenedNormal",
    "find_start",
    "latent_dim",
    "set_up_guide",
]
