"""The schema of what comes back: trees as ArviZ expects them."""

from aimz.results.differences import (
    aligned,
    difference_dtype,
    difference_layout,
    less,
    shared_group,
    shared_measure,
    subtract,
)
from aimz.results.draws import (
    as_draws,
    draw_labels,
    draws_dataset,
    flat_arrays,
    flat_draws,
)
from aimz.results.schema import (
    Schema,
    check_labels,
    constant_dataset,
    first_outcome,
    labelled_groups,
    layout_of,
    site_dims,
)

__all__ = [
    "Schema",
    "aligned",
    "as_draws",
    "check_labels",
    "constant_dataset",
    "difference_dtype",
    "difference_layout",
    "draw_labels",
    "draws_dataset",
    "first_outcome",
    "flat_arrays",
    "flat_draws",
    "labelled_groups",
    "layout_of",
    "less",
    "shared_group",
    "shared_measure",
    "site_dims",
    "subtract",
]
