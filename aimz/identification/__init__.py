"""What a kernel takes for granted: roles of its variables, and what data can check of them.

The law: what the kernel does not say is listed as an assumption and not guessed.
"""

from aimz.identification.graph import Graph, graph_of
from aimz.identification.report import Assumptions, assumptions_of

__all__ = ["Assumptions", "Graph", "assumptions_of", "graph_of"]
