"""Libraries that take long to import, each loaded when the first of its names is asked for.

A module that takes one from here begins with `from __future__ import annotations`, since else its
annotations would ask; and a class that inherits from a library's is defined where it is used.
`tests/laws/test_import.py` holds what `import aimz` loads.
"""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "Library",
    "cloudpickle",
    "distributed",
    "google_crc32c",
    "joblib",
    "numcodecs",
    "obstore",
    "optax",
    "pd",
    "sklearn",
    "stats",
    "xr",
    "zarr",
]


class Library:
    """A module by its name. A name that was asked for is kept, as `from library import name` does.

    Examples
    --------
    >>> Library("math").sqrt(9.0)
    3.0
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self._module), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return dir(importlib.import_module(self._module))


if TYPE_CHECKING:
    import cloudpickle  # type: ignore[import-untyped]
    import distributed
    import google_crc32c
    import joblib
    import numcodecs
    import obstore
    import obstore.exceptions
    import obstore.store
    import optax
    import pandas as pd
    import sklearn
    import xarray as xr
    import zarr
    import zarr.codecs
    import zarr.codecs.numcodecs
    import zarr.storage
    from scipy import stats
else:
    cloudpickle, distributed = Library("cloudpickle"), Library("distributed")
    google_crc32c = Library("google_crc32c")
    joblib, numcodecs, optax = Library("joblib"), Library("numcodecs"), Library("optax")
    obstore = Library("obstore")
    pd, sklearn = Library("pandas"), Library("sklearn")
    stats = Library("scipy.stats")
    xr, zarr = Library("xarray"), Library("zarr")
