"""A kernel read as data: its sites, its equations, and how each relates to the rows."""

from aimz.kernel.control_flow import Inside, Step, enter, leave
from aimz.kernel.graph import known_outputs
from aimz.kernel.inspection import inspect
from aimz.kernel.lookups import coded_columns, needed_sizes
from aimz.kernel.misfits import in_words, is_of_arrays
from aimz.kernel.samplers import stand_ins
from aimz.kernel.signature import kernel_signature, read_signature, unknown_argument
from aimz.kernel.spec import KernelSpec, SiteSpec
from aimz.kernel.spot_check import foresight
from aimz.kernel.statements import Inputs, drawable, read, row_plates, spread_sites
from aimz.kernel.whole_numbers import check_whole_numbers

__all__ = [
    "Inputs",
    "Inside",
    "KernelSpec",
    "SiteSpec",
    "Step",
    "check_whole_numbers",
    "coded_columns",
    "drawable",
    "enter",
    "foresight",
    "in_words",
    "inspect",
    "is_of_arrays",
    "kernel_signature",
    "known_outputs",
    "leave",
    "needed_sizes",
    "read",
    "read_signature",
    "row_plates",
    "spread_sites",
    "stand_ins",
    "unknown_argument",
]
