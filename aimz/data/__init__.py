"""What the user gave: arrays, labels, rows by the piece, and checks that name what is wrong."""

from aimz.data.arguments import MISSING, Arguments, Known, bind, check_names, check_row_shape
from aimz.data.checks import check_finite, check_outcome, check_positive, check_weights
from aimz.data.containers import (
    Value,
    as_array,
    as_jax_sees,
    check_exact,
    is_given,
    lined_up,
    rounded_by_cast,
    value_of,
    values_of,
)
from aimz.data.fingerprints import row_fingerprint, row_hashes
from aimz.data.labels import column_label, index_of, only_counted
from aimz.data.loaders import ArrayDataset, ArrayLoader
from aimz.data.source import AtHand, RowTile, Source, Stream, load, numbers_of, open_stream

__all__ = [
    "MISSING",
    "Arguments",
    "ArrayDataset",
    "ArrayLoader",
    "AtHand",
    "Known",
    "RowTile",
    "Source",
    "Stream",
    "Value",
    "as_array",
    "as_jax_sees",
    "bind",
    "check_exact",
    "check_finite",
    "check_names",
    "check_outcome",
    "check_positive",
    "check_row_shape",
    "check_weights",
    "column_label",
    "index_of",
    "is_given",
    "lined_up",
    "load",
    "numbers_of",
    "only_counted",
    "open_stream",
    "rounded_by_cast",
    "row_fingerprint",
    "row_hashes",
    "value_of",
    "values_of",
]
