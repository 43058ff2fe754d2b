"""What the user gave: arrays, labels, rows by the piece, and checks that name what is wrong."""

from aimz.data.arguments import MISSING, Arguments, Known, bind, check_names, check_row_shape
from aimz.data.checks import check_finite, check_outcome, check_positive, check_weights
from aimz.data.containers import (
    as_array,
    as_jax_sees,
    as_labels,
    check_container,
    check_exact,
    rounded_by_cast,
    rounding_refused,
)
from aimz.data.fingerprints import row_fingerprint, row_hashes
from aimz.data.labels import (
    column_label,
    column_names,
    column_order,
    columns_ordered,
    index_of,
    lined_up,
    only_counted,
    row_labels,
)
from aimz.data.loaders import ArrayDataset, ArrayLoader
from aimz.data.streams import RowTile, Stream, is_lazy, load, materialised, open_stream

__all__ = [
    "MISSING",
    "Arguments",
    "ArrayDataset",
    "ArrayLoader",
    "Known",
    "RowTile",
    "Stream",
    "as_array",
    "as_jax_sees",
    "as_labels",
    "bind",
    "check_container",
    "check_exact",
    "check_finite",
    "check_names",
    "check_outcome",
    "check_positive",
    "check_row_shape",
    "check_weights",
    "column_label",
    "column_names",
    "column_order",
    "columns_ordered",
    "index_of",
    "is_lazy",
    "lined_up",
    "load",
    "materialised",
    "only_counted",
    "open_stream",
    "rounded_by_cast",
    "rounding_refused",
    "row_fingerprint",
    "row_hashes",
    "row_labels",
]
