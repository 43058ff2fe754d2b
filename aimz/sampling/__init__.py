"""One tile, pure: programs of a block of rows by draws."""

from aimz.sampling.block import DENSITY, WEIGHT, Block, Task, density_spec
from aimz.sampling.pairs import predict_pairs
from aimz.sampling.tile import (
    Found,
    evidence_block,
    expectation_block,
    law_block,
    left_out_block,
    log_likelihood_block,
    population_block,
    predict_block,
    presence_block,
    score_block,
    scored,
)
from aimz.sampling.widening import applied, check_range

__all__ = [
    "DENSITY",
    "WEIGHT",
    "Block",
    "Found",
    "Task",
    "applied",
    "check_range",
    "density_spec",
    "evidence_block",
    "expectation_block",
    "law_block",
    "left_out_block",
    "log_likelihood_block",
    "population_block",
    "predict_block",
    "predict_pairs",
    "presence_block",
    "score_block",
    "scored",
]
