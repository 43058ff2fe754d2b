"""Rows of Parquet files and other Arrow data sets, read by the piece.

A column that an argument of the kernel is named after, such as `y="sales"`, is that argument; the
others are the columns of the primary input, by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
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
# Row groups that this process has read last, by all that their values follow from but the place
# that the file is in, which is compared: neighbours of a task's rows are in the same group.
_GROUPS: OrderedDict[tuple[Any, ...], tuple[Any, Any]] = OrderedDict()
_MOST_GROUPS, _MOST_BYTES, _LOCK = 2, 2**27, threading.Lock()


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

    @cached_property
    def parts(self) -> Callable[[slice], tuple[_TablePart, ...]] | None:
        """What reads some rows in another process: groups of Parquet files; None for other data."""
        groups = _groups_of(self.dataset)
        if groups is None or sum(group.count for group in groups) != self.count:
            return None  # as where a filter leaves rows out
        return lambda rows: (self._part(groups, rows),)

    def _part(self, groups: tuple[_Group, ...], rows: slice) -> _TablePart:
        cuts = []
        for group in groups:
            low, high = max(rows.start, group.first), min(rows.stop, group.first + group.count)
            if low < high:
                cuts.append((group, slice(low - group.first, high - group.first)))
        wanted = tuple(dict.fromkeys([*self.own, *self.named.values()]))
        columns = {self.primary: self.own, **{n: (c,) for n, c in self.named.items()}}
        return _TablePart(tuple(cuts), self.dataset.schema, wanted, self.primary, columns)

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


@dataclass(frozen=True)
class _Group:
    """A row group of a file: an Arrow fragment, which can be pickled, and its rows among all.

    `stamp` is how large the file was when the call began, and when it was written.
    """

    fragment: Any
    number: int
    first: int
    count: int
    stamp: tuple[int | None, int | None]

    def table(self, schema: Any, wanted: tuple[str, ...]) -> Any:
        """Columns of the group; None where its file is not there, or is another."""
        fragment = self.fragment
        if _stamp_of(fragment) != self.stamp:
            return None
        key = (fragment.path, self.stamp, self.number, wanted, str(schema))
        with _LOCK:
            place, table = _GROUPS.get(key, (None, None))
        if place is not None and place.equals(fragment.filesystem):
            return table
        table = fragment.to_table(schema=schema, columns=list(wanted), use_threads=False)
        if _stamp_of(fragment) != self.stamp or table.num_rows != self.count:
            return None
        if table.nbytes <= _MOST_BYTES:
            with _LOCK:
                _GROUPS[key] = (fragment.filesystem, table)
                while len(_GROUPS) > _MOST_GROUPS:
                    _GROUPS.popitem(last=False)
        return table


@dataclass(frozen=True)
class _TablePart:
    """Rows of a few groups, which another process can read."""

    cuts: tuple[tuple[_Group, slice], ...]
    schema: Any
    wanted: tuple[str, ...]
    primary: str
    columns: Mapping[str, tuple[str, ...]]

    @property
    def place(self) -> str:
        """The file of the first of them."""
        return str(self.cuts[0][0].fragment.path)

    def read(self) -> Mapping[str, Any] | None:
        """Frames and columns by argument."""
        arrow = importlib.import_module("pyarrow")
        tables = []
        for group, rows in self.cuts:
            table = group.table(self.schema, self.wanted)
            if table is None:
                return None
            tables.append(table.slice(rows.start, rows.stop - rows.start))
        whole = arrow.concat_tables(tables)
        frame = pd.DataFrame({name: whole.column(name).to_pandas() for name in self.wanted})
        named = {n: frame[c] for n, (c, *_) in self.columns.items() if n != self.primary}
        return {self.primary: frame[list(self.columns[self.primary])], **named}


def _groups_of(dataset: Any) -> tuple[_Group, ...] | None:
    """The row groups of a data set in their order; None where it is of other files, or of none."""
    datasets = importlib.import_module("pyarrow.dataset")
    groups, first = [], 0
    for fragment in dataset.get_fragments():
        if not isinstance(fragment, datasets.ParquetFileFragment) or not fragment.path:
            return None
        stamp = _stamp_of(fragment)
        if None in stamp:
            return None
        for one in fragment.split_by_row_group():
            (about,) = one.row_groups
            groups.append(_Group(one, about.id, first, about.num_rows, stamp))
            first += about.num_rows
    return tuple(groups)


def _stamp_of(fragment: Any) -> tuple[int | None, int | None]:
    about = fragment.filesystem.get_file_info(fragment.path)
    return about.size, about.mtime_ns


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
