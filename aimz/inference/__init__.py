"""Engines: what turns a kernel and data into posterior draws."""

from aimz.inference.chains import NUTS, ChainRecord
from aimz.inference.choice import AbsentEngine, as_engine, check_settings
from aimz.inference.engine import (
    Engine,
    Fit,
    ObjectEngine,
    Problem,
    Settings,
    SteppingEngine,
    VariationalEngine,
    more_draws,
)
from aimz.inference.linear import Columns, LinearKernel, LogisticKernel, linear_engine
from aimz.inference.reweighting import reweighted
from aimz.inference.smc import SMC, Gibbs
from aimz.inference.svi import SVIRecord
from aimz.inference.vector import DADVI, MCLMC, Laplace, NestedSampling, Pathfinder

#: Records that the states of engines consist of.
RECORDS: tuple[type, ...] = (ChainRecord, SVIRecord)

__all__ = [
    "DADVI",
    "MCLMC",
    "NUTS",
    "RECORDS",
    "SMC",
    "AbsentEngine",
    "Columns",
    "Engine",
    "Fit",
    "Gibbs",
    "Laplace",
    "LinearKernel",
    "LogisticKernel",
    "NestedSampling",
    "ObjectEngine",
    "Pathfinder",
    "Problem",
    "Settings",
    "SteppingEngine",
    "VariationalEngine",
    "as_engine",
    "check_settings",
    "linear_engine",
    "more_draws",
    "reweighted",
]
