"""Rows of Parquet files and other Arrow data sets, read by the piece.

A column that an argument of the kernel is named after, such as `y="sales"`, is that argument; the
others are the columns of the primary input, by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from aimz.data import RowTile
from aimz.errors import InputError, nearest
from aimz.libraries import google_crc32c, pd

__all__ = ["TableRows", "in_columns_of_files"]


#: Rows that are read at a time, and those of a head.
BATCH_ROWS, HEAD_ROWS = 2**16, 1024
_INDEX = "__index_level_"  # of pandas, which the files keep beside the columns


def in_columns_of_files(arguments: Mapping[str, Any], primary: str, output: str) -> dict[str, Any]:
    """Arguments whose primary input is a file or an Arrow data set, as a source of rows.

    Raises
    ------
    InputError
        `rows-file`, `pyarrow-missing`, `column-unknown`.
    """
    value: Any = arguments[primary]
    if importlib.util.find_spec("pyarrow") is None:
        msg = f"'{primary}' is a file, which pyarrow reads. pip install 'aimz[parquet]'."
        raise InputError(msg, code="pyarrow-missing")
    is_path = isinstance(value, str | os.PathLike)
    dataset = _opened(os.fspath(value), primary) if is_path else value
    there = dataset.schema.names
    words = {n: v for n, v in arguments.items() if isinstance(v, str) and n != primary}
    if output in words and words[output] not in there:
        msg = f"'{output}' is column '{words[output]}', which the rows of '{primary}' lack."
        raise InputError(f"{msg} {nearest(words[output], there)}", code="column-unknown")
    columns = {n: v for n, v in words.items() if v in there}  # others are words for the kernel
    used = {*columns.values()}
    own = [n for n in there if n not in used and not n.startswith(_INDEX)]
    if not own:
        msg = f"No column is left for '{primary}': all are named by other arguments."
        raise InputError(msg, code="column-unknown")
    others = {n: v for n, v in arguments.items() if n not in columns}
    return {**others, primary: TableRows(dataset, primary, tuple(own), columns)}


def _opened(path: str, primary: str) -> Any:
    arrow = importlib.import_module("pyarrow")
    datasets = importlib.import_module("pyarrow.dataset")
    try:
        # Without reading ahead: what has been read ahead stays in memory until the file ends.
        return datasets.dataset(path, format=datasets.ParquetFileFormat(pre_buffer=False))
    except (OSError, arrow.ArrowException) as error:
        msg = f"'{primary}' is {path!r:.80}, where there are no rows of Parquet. Pass such a file."
        raise InputError(msg, code="rows-file") from error


@dataclass(frozen=True)
class TableRows:
    """Rows of an Arrow data set in their order, a source as `aimz.data.Source`."""

    dataset: Any
    primary: str
    own: tuple[str, ...]  # columns of the primary input
    named: Mapping[str, str]  # those of other arguments
    labels: None = field(default=None, init=False)
    batch_rows: int = field(default=8192, init=False)  # that are looked at together
    _seen: list[int] = field(default_factory=lambda: [0, 0], init=False)

    @property
    def names(self) -> frozenset[str]:
        """Arguments that come with the tiles."""
        return frozenset({self.primary, *self.named})

    @cached_property
    def count(self) -> int:
        """How many rows there are."""
        return int(self.dataset.count_rows())

    @cached_property
    def head(self) -> Mapping[str, Any]:
        """Arrays of the first rows."""
        return next(self.tiles(HEAD_ROWS)).arrays

    def tiles(self, size: int) -> Iterator[RowTile]:
        """Frames of so many rows."""
        self._seen[:] = [0, 0]
        for frame in _recut(self._frames(), size):
            rows = slice(self._seen[0], self._seen[0] + len(frame))
            digest = 0
            for column in frame:
                digest = google_crc32c.extend(digest, frame[column].to_numpy().tobytes())
            self._seen[:] = [rows.stop, google_crc32c.extend(self._seen[1], digest.to_bytes(4))]
            others = {name: frame[column] for name, column in self.named.items()}
            yield RowTile(rows, {self.primary: frame[list(self.own)], **others}, f"{digest:08x}")

    def has_read(self) -> tuple[int, int]:
        """How many rows have been read, and a number for their values."""
        return self._seen[0], self._seen[1]

    def _frames(self) -> Iterator[pd.DataFrame]:
        """Frames of some rows, file after file; rows have no labels of their own."""
        wanted = [*dict.fromkeys([*self.own, *self.named.values()])]
        few: Any = {"batch_size": BATCH_ROWS, "batch_readahead": 2, "fragment_readahead": 1}
        for batch in self.dataset.to_batches(columns=wanted, **few):
            if batch.num_rows:
                yield pd.DataFrame({n: batch.column(n).to_pandas() for n in wanted})


def _recut(frames: Iterator[pd.DataFrame], size: int) -> Iterator[pd.DataFrame]:
    """Frames of so many rows, the last one perhaps shorter."""
    left: pd.DataFrame | None = None
    for frame in frames:
        whole = frame if left is None else pd.concat([left, frame], ignore_index=True)
        cut = len(whole) - len(whole) % size
        for first in range(0, cut, size):
            yield whole.iloc[first : first + size]
        left = whole.iloc[cut:] if cut < len(whole) else None
    if left is not None:
        yield left
