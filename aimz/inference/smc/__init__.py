"""Tempered sequential Monte Carlo, and its blocks without tempering."""

from aimz.inference.smc.engine import SMC
from aimz.inference.smc.gibbs import Gibbs

__all__ = ["SMC", "Gibbs"]
