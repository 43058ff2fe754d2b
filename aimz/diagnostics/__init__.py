"""Whether an engine is right for a kernel, by data whose truth is known; and pictures of a fit."""

from aimz.diagnostics.simulated import sbc

__all__ = ["sbc"]
