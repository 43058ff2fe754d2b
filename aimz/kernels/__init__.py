"""Ready-made kernels, and parts of them: plain NumPyro, whose source is the manual."""

from aimz.kernels.series import kalman

__all__ = ["kalman"]
