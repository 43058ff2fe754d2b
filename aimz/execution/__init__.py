"""Tiles over devices: how a result is cut, compiled and run into a sink."""

from aimz.execution.call import Call, Ready, compile_call
from aimz.execution.joint import JointRun
from aimz.execution.plan import Plan, num_draws, plan_tiles
from aimz.execution.threads import run_in_threads
from aimz.execution.tiles import TileRun, each_tile, tiles_into

__all__ = [
    "Call",
    "JointRun",
    "Plan",
    "Ready",
    "TileRun",
    "compile_call",
    "each_tile",
    "num_draws",
    "plan_tiles",
    "run_in_threads",
    "tiles_into",
]
