"""The default guide: a normal that is found on whitened coordinates."""

from aimz.inference.normal.guide import WhitenedNormal
from aimz.inference.normal.start import WHITENED_DIM, find_start, latent_dim, set_up_guide

__all__ = ["WHITENED_DIM", "WhitenedNormal", "find_start", "latent_dim", "set_up_guide"]
