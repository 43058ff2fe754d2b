"""Engines: what turns a kernel and data into posterior draws."""

from aimz.inference.chains import NUTS, ChainRecord, MCMCEngine
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
from aimz.inference.linear import (
    Columns,
    ExactLinear,
    LaplaceLogistic,
    LinearKernel,
    LogisticKernel,
)
from aimz.inference.reweighting import reweighted
from aimz.inference.smc import SMC
from aimz.inference.svi import SVIEngine, SVIRecord
from aimz.inference.vector import DADVI, MCLMC, Laplace, NestedSampling, Pathfinder

__all__ = [
    "DADVI",
    "MCLMC",
    "NUTS",
    "SMC",
    "AbsentEngine",
    "ChainRecord",
    "Columns",
    "Engine",
    "ExactLinear",
    "Fit",
    "Laplace",
    "LaplaceLogistic",
    "LinearKernel",
    "LogisticKernel",
    "MCMCEngine",
    "NestedSampling",
    "ObjectEngine",
    "Pathfinder",
    "Problem",
    "SVIEngine",
    "SVIRecord",
    "Settings",
    "SteppingEngine",
    "VariationalEngine",
    "as_engine",
    "check_settings",
    "more_draws",
    "reweighted",
]
