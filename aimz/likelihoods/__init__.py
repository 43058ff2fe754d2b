"""Likelihoods of choices and their times: a closed form, and nets that learn one from a simulator.

Each is a NumPyro distribution with a density **and** draws, so that predictions, effects and
counterfactuals work as for any other family. Nothing is extrapolated in silence.
"""

from aimz.likelihoods.box import InBox, has_box
from aimz.likelihoods.diffusion import DriftDiffusion
from aimz.likelihoods.external import ExternalLikelihood, from_callable, from_onnx
from aimz.likelihoods.mixture import Head, MixtureResponse
from aimz.likelihoods.nets import Training
from aimz.likelihoods.neural import NeuralLikelihood
from aimz.likelihoods.responses import CensoredResponse, Response, TimeAndChoice
from aimz.likelihoods.simulations import Simulations, simulate
from aimz.likelihoods.validation import Validation

__all__ = [
    "CensoredResponse",
    "DriftDiffusion",
    "ExternalLikelihood",
    "Head",
    "InBox",
    "MixtureResponse",
    "NeuralLikelihood",
    "Response",
    "Simulations",
    "TimeAndChoice",
    "Training",
    "Validation",
    "from_callable",
    "from_onnx",
    "has_box",
    "simulate",
]
