"""The default guide: a normal that is found on whitened coordinates."""

from aimz.inference.normal.around import CLOSE, GLANCE, Look, around_normal, numbers_at, numbers_of
from aimz.inference.normal.guide import WhitenedNormal
from aimz.inference.normal.refinement import REFINED_DIM
from aimz.inference.normal.start import WHITENED_DIM, find_start, latent_dim, set_up_guide

__all__ = [
    "CLOSE",
    "GLANCE",
    "REFINED_DIM",
    "WHITENED_DIM",
    "Look",
    "WhitenedNormal",
    "around_normal",
    "find_start",
    "latent_dim",
    "numbers_at",
    "numbers_of",
    "set_up_guide",
]
