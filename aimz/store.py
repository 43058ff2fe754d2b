"""Sinks: where the blocks of a result go.

A sink has `begin`, `write`, `commit` and `abort`. Nothing exists until `commit`; writing a block
twice is harmless.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

__all__ = ["ArraySpec", "MemorySink", "Sink"]


@dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of one result: (draw, row, ...) if it has rows, else (draw, ...)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    has_rows: bool


class Sink(Protocol):
    """Takes blocks of rows by draws and makes them a result, or nothing."""

    def begin(self, arrays: Mapping[str, ArraySpec]) -> None:
        """Prepare for blocks of these arrays."""

    def write(self, name: str, draws: slice, rows: slice, values: np.ndarray) -> None:
        """Put the values of one block in place."""

    def commit(self) -> dict[str, np.ndarray]:
        """Make the result visible and return its arrays."""

    def abort(self) -> None:
        """Drop what was written."""


@dataclass
class MemorySink:
    """A sink of NumPy arrays."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    has_rows: dict[str, bool] = field(default_factory=dict)

    def begin(self, arrays: Mapping[str, ArraySpec]) -> None:
        self.arrays = {n: np.empty(spec.shape, spec.dtype) for n, spec in arrays.items()}
        self.has_rows = {n: spec.has_rows for n, spec in arrays.items()}

    def write(self, name: str, draws: slice, rows: slice, values: np.ndarray) -> None:
        place = (draws, rows) if self.has_rows[name] else (draws,)
        self.arrays[name][place] = values

    def commit(self) -> dict[str, np.ndarray]:
        return self.arrays

    def abort(self) -> None:
        self.arrays = {}
