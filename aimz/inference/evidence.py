"""Whether a kernel has an evidence: the probability of the data under it and its priors."""

import numpy as np

from aimz.inference.binding import raw_sites, scaled_sites
from aimz.inference.engine import Problem

__all__ = ["why_no_evidence"]


def why_no_evidence(problem: Problem) -> str:
    """Why the integral of prior times likelihood is no probability of the data; empty if it is."""
    for site in raw_sites(problem):
        if site.has_no_draws:
            return f"The prior of '{site.name}' is not proper, so the data have no probability."
    for name in problem.spec.latents:
        if problem.spec[name].masked:
            return f"The prior of '{name}' is masked, so it is none, and the data no probability."
    if problem.weights is not None and not np.all(np.asarray(problem.weights) == 1.0):
        return "The rows are weighted, so their densities multiply to no probability."
    scaled = scaled_sites(problem)
    if scaled:
        return f"Site '{scaled[0]}' is scaled, so its density is to the power of a number."
    return ""
