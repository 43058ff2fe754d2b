"""Traced programs: recognised, compiled once and reused; and keys that belong to a row."""

from aimz.programs.caches import Cache
from aimz.programs.fingerprints import fingerprint, fingerprint_values, numbers
from aimz.programs.keys import (
    NO_ROW,
    Draw,
    as_key,
    as_stock_key,
    call_words,
    draw_words,
    pair_words,
    site_key,
)
from aimz.programs.tracing import (
    TRACE_LOCK,
    Bound,
    clear_programs,
    compile_program,
    forget_traces,
    shared_traces,
    trace,
)
from aimz.programs.versions import (
    name_of,
    name_of_shapes,
    one_look,
    remembered,
    unversioned,
    version_of,
)

__all__ = [
    "NO_ROW",
    "TRACE_LOCK",
    "Bound",
    "Cache",
    "Draw",
    "as_key",
    "as_stock_key",
    "call_words",
    "clear_programs",
    "compile_program",
    "draw_words",
    "fingerprint",
    "fingerprint_values",
    "forget_traces",
    "name_of",
    "name_of_shapes",
    "numbers",
    "one_look",
    "pair_words",
    "remembered",
    "shared_traces",
    "site_key",
    "trace",
    "unversioned",
    "version_of",
]
