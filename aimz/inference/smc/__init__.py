"""Tempered sequential Monte Carlo: from the prior to the posterior, and the evidence on the way."""

from aimz.inference.smc.engine import SMC

__all__ = ["SMC"]
