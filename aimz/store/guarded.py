"""A stored array that checks what it reads."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from aimz.errors import StoreError
from aimz.store.directories import Place
from aimz.store.objects import reason_of

__all__ = ["GuardedArray"]


@dataclass
class GuardedArray(BackendArray):
    """A stored array, in the dtype of its site, whose failures say what to do."""

    variable: xr.Variable
    dtype: np.dtype
    root: Place
    key: str
    owner: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.variable.shape

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it never changes, and a copy keeps the same directory alive

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "owner": None}  # another process does not own our directories

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        try:
            values: np.ndarray = self.variable[key].to_numpy()
        except Exception as error:  # whatever a store and its codecs may raise
            if type(error).__module__.startswith("obstore"):  # and no word of its own: see objects
                raise StoreError(
                    f"'{self.key}' at {self.root} cannot be read: {reason_of(error)}. Check the "
                    "place and its credentials, and read again.",
                    code="store-unreachable",
                ) from None
            what = "is damaged" if self.root.exists() else "has been removed"
            raise StoreError(
                f"'{self.key}' cannot be read: the result at {self.root} {what}. "
                "aimz.verify lists what is wrong; compute the result again.",
                code="store-damaged" if self.root.exists() else "store-missing",
            ) from error
        return values.astype(self.dtype, copy=False)
