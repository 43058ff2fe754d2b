"""What a function reads beside its arguments, as a record that says whether it has changed."""

from aimz.reads.codes import globals_read, imports_inside
from aimz.reads.libraries import is_installed, is_of_library
from aimz.reads.record import Record
from aimz.reads.walk import UnrecordedError, library_record, record_of

__all__ = [
    "Record",
    "UnrecordedError",
    "globals_read",
    "imports_inside",
    "is_installed",
    "is_of_library",
    "library_record",
    "record_of",
]
