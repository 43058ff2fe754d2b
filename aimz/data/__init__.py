"""What the user gave: arrays, labels, rows by the piece, and checks that name what is wrong."""

from aimz.data.arguments import (
    MISSING,
    Arguments,
    Known,
    bind,
    check_finite,
    check_outcome,
    check_positive,
)
from aimz.data.containers import (
    Casts,
    Value,
    as_array,
    check_exact,
    is_given,
    lined_up,
    values_of,
)
from aimz.data.fingerprints import row_fingerprint, row_hashes
from aimz.data.labels import column_label, index_of
from aimz.data.source import AtHand, RowTile, Source, Stream, load, numbers_of, open_stream

__all__ = [
    "MISSING",
    "Arguments",
    "AtHand",
    "Casts",
    "Known",
    "RowTile",
    "Source",
    "Stream",
    "Value",
    "as_array",
    "bind",
    "check_exact",
    "check_finite",
    "check_outcome",
    "check_positive",
    "column_label",
    "index_of",
    "is_given",
    "lined_up",
    "load",
    "numbers_of",
    "open_stream",
    "row_fingerprint",
    "row_hashes",
    "values_of",
]
