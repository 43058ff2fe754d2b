"""Simulations in a Zarr store, which a later call goes on with.

A chunk counts once both of its arrays are whole there: each is written as one object with a
checksum, over numbers that are none. What is there is taken only if the simulator still gives it:
its first chunk is simulated again and must be the same, bit by bit.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from aimz.errors import InputError
from aimz.libraries import zarr

__all__ = ["KeptSimulations"]


_ABOUT = "aimz_simulations"


class KeptSimulations:
    """Chunks of parameters and outcomes, by number, below a path.

    Raises
    ------
    InputError
        `simulations`: the path holds something else, or simulations that were asked for otherwise.
    """

    def __init__(
        self, path: str | os.PathLike[str], about: dict[str, Any], n: int, names: int, chunk: int
    ) -> None:
        where = os.fspath(path)
        if "://" in where:
            msg = f"Simulations are kept in a directory, not at '{where:.60}'. Pass a local path."
            raise InputError(msg, code="simulations")
        self.path, self.n, self.chunk = Path(where), n, chunk
        asked = {**about, "n": n, "chunk": chunk}
        store = zarr.storage.LocalStore(self.path)
        if self.path.exists() and any(self.path.iterdir()):
            found = _about_of(store)
            if found != json.loads(json.dumps(asked)):
                what = _differing(found, asked)
                msg = f"'{where[-60:]}' holds {what}. Pass another path, or remove it."
                raise InputError(msg, code="simulations")
            root = zarr.open_group(store, mode="r+")
        else:
            root = zarr.create_group(store, attributes={_ABOUT: asked})
        self._arrays: list[Any] = []
        self._root, self._widths = root, {"parameters": names, "outcomes": 2}
        if all(name in root for name in self._widths):
            self._arrays = [root[name] for name in self._widths]
        else:
            self._empty()

    def _empty(self) -> None:
        """Forget all chunks: without the first, nobody knows what made the others."""
        self._arrays = [self._made(name, width) for name, width in self._widths.items()]

    def _made(self, name: str, width: int) -> Any:
        return self._root.create_array(
            name,
            overwrite=True,
            shape=(self.n, width),
            chunks=(self.chunk, width),
            dtype="float32",
            fill_value=np.nan,
            compressors=(zarr.codecs.Crc32cCodec(),),
        )

    def _place(self, number: int) -> slice:
        return slice(number * self.chunk, min(self.n, (number + 1) * self.chunk))

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray] | None:
        """A chunk's parameters and outcomes, where it is whole."""
        try:
            parts = [np.asarray(array[self._place(number)]) for array in self._arrays]
        except (ValueError, RuntimeError, OSError):  # its checksum, or half of it
            return None
        if not all(np.isfinite(part).all() for part in parts):
            return None
        return parts[0], parts[1]

    def write(self, number: int, parameters: np.ndarray, outcomes: np.ndarray) -> None:
        """Keep a chunk."""
        for array, part in zip(self._arrays, (parameters, outcomes), strict=True):
            array[self._place(number)] = part

    def check_first(self, parameters: np.ndarray, outcomes: np.ndarray) -> None:
        """Refuse what another simulator has made, or one that does not repeat itself."""
        kept = self.read(0)
        if kept is None:
            self._empty()
            return
        if all(map(np.array_equal, kept, (parameters, outcomes))):
            return
        msg = (
            f"The simulator does not give again what '{str(self.path)[-60:]}' holds: it has "
            "changed, or its noise is not of its key alone. Pass another path, or remove it."
        )
        raise InputError(msg, code="simulations")


def _about_of(store: Any) -> Any:
    try:
        return zarr.open_group(store, mode="r").attrs.get(_ABOUT)
    except (FileNotFoundError, ValueError, zarr.errors.GroupNotFoundError):
        return None


def _differing(found: Any, asked: dict[str, Any]) -> str:
    if not isinstance(found, dict):
        return "something else than simulations"
    one = next((name for name in asked if found.get(name) != asked[name]), "more")
    return f"simulations with another {one} ({found.get(one)!s:.60})"
