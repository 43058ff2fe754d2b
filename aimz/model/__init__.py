"""The estimator: it checks, delegates to pure layers, and shows what they note."""

from aimz.model.copying import Portable
from aimz.model.impact_model import ImpactModel

__all__ = ["ImpactModel", "Portable"]
