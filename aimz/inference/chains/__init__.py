"""Markov chains: HMC and NUTS compiled here, or any NumPyro `MCMC` object."""

from aimz.inference.chains.compiled import NUTS, ChainRecord
from aimz.inference.chains.engine import MCMCEngine, cut_short

__all__ = ["NUTS", "ChainRecord", "MCMCEngine", "cut_short"]
