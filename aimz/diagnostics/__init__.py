"""Whether an engine is right for a kernel, by data whose truth is known; and pictures of a fit."""

from aimz.diagnostics.course import plot_evidence, plot_loss
from aimz.diagnostics.pictures import (
    plot_energy,
    plot_forest,
    plot_khat,
    plot_loo_pit,
    plot_pair,
    plot_ppc,
    plot_rank,
    plot_ranks,
    plot_trace,
)
from aimz.diagnostics.simulated import sbc

__all__ = [
    "plot_energy",
    "plot_evidence",
    "plot_forest",
    "plot_khat",
    "plot_loo_pit",
    "plot_loss",
    "plot_pair",
    "plot_ppc",
    "plot_rank",
    "plot_ranks",
    "plot_trace",
    "sbc",
]
