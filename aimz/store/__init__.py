"""Where the tiles of a result go: memory, or a Zarr store that is complete or says it is not.

A Zarr store is a directory, the objects below a prefix of a bucket, or a group in a session of
Icechunk.
"""

from aimz.store.chunks import check_names_storable
from aimz.store.directories import PlaceLike, destination, local_path
from aimz.store.object_sink import ObjectSink
from aimz.store.places import Scratch, writing
from aimz.store.reading import import_dask, open_result, verify
from aimz.store.session_sink import SessionSink, sink_in
from aimz.store.sink import MemorySink, Sink, Tile, Variable, tree_of
from aimz.store.zarr_sink import ZarrSink, temporary_sink

__all__ = [
    "MemorySink",
    "ObjectSink",
    "PlaceLike",
    "Scratch",
    "SessionSink",
    "Sink",
    "Tile",
    "Variable",
    "ZarrSink",
    "check_names_storable",
    "destination",
    "import_dask",
    "local_path",
    "open_result",
    "sink_in",
    "temporary_sink",
    "tree_of",
    "verify",
    "writing",
]
