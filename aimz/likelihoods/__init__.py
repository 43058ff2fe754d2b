"""Likelihoods of choices and their times: a closed form, and nets that learn one from a simulator.

Each is a NumPyro distribution with a density **and** draws, so that predictions, effects and
counterfactuals work as for any other family. Nothing is extrapolated in silence.
"""

from aimz.likelihoods.diffusion import DriftDiffusion
from aimz.likelihoods.responses import CensoredResponse, Response, TimeAndChoice

__all__ = ["CensoredResponse", "DriftDiffusion", "Response", "TimeAndChoice"]
