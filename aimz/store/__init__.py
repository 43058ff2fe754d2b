"""Where the tiles of a result go: memory, or a Zarr store that is complete or says it is not."""

from aimz.store.chunks import check_names_storable
from aimz.store.directories import as_directory, local_path
from aimz.store.memory import MemorySink
from aimz.store.places import Scratch, writing
from aimz.store.reading import import_dask, open_result, verify
from aimz.store.sink import Sink, Tile, Variable
from aimz.store.zarr_sink import ZarrSink, temporary_sink

__all__ = [
    "MemorySink",
    "Scratch",
    "Sink",
    "Tile",
    "Variable",
    "ZarrSink",
    "as_directory",
    "check_names_storable",
    "import_dask",
    "local_path",
    "open_result",
    "temporary_sink",
    "verify",
    "writing",
]
