"""The estimator: it checks, delegates to pure wings, and shows what they note."""

from aimz.model.comparing import compare
from aimz.model.copying import Portable
from aimz.model.impact_model import ImpactModel
from aimz.model.setup import Inference, Kernel, PathLike

__all__ = ["ImpactModel", "Inference", "Kernel", "PathLike", "Portable", "compare"]
