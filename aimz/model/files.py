"""Rows of Parquet files and other Arrow data sets, read by the piece.

A column that an argument of the kernel is named after, such as `y="sales"`, is that argument; the
others are the columns of the primary input, by name.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import itertools
import json
import operator
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from aimz.data import RowTile
from aimz.errors import InputError, nearest
from aimz.libraries import google_crc32c, pd

__all__ = ["TableRows", "held_rows", "in_columns_of_files"]


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
    used |= _index_columns(dataset.schema)
    own = [n for n in there if n not in used and not n.startswith(_INDEX)]
    if not own:
        msg = f"No column is left for '{primary}': all are named by other arguments."
        raise InputError(msg, code="column-unknown")
    others = {n: v for n, v in arguments.items() if n not in columns}
    return {**others, primary: TableRows(dataset, primary, tuple(own), columns)}


def held_rows(arguments: Mapping[str, Any], primary: str) -> dict[str, Any]:
    """Arguments with frames of all rows in place of a source that reads them."""
    rows = arguments[primary]
    if not isinstance(rows, TableRows):
        return dict(arguments)
    for tile in rows.tiles(max(1, rows.count)):
        return {**arguments, **tile.arrays}
    msg = f"The file of '{primary}' has no rows. Pass at least one."
    raise InputError(msg, code="no-rows")


def _index_columns(schema: Any) -> set[str]:
    """Columns that pandas wrote as the index of a frame, and reads as that."""
    about = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    return {name for name in about.get("index_columns", ()) if isinstance(name, str)}


def _opened(path: str, primary: str) -> Any:
    arrow = importlib.import_module("pyarrow")
    datasets = importlib.import_module("pyarrow.dataset")
    try:
        # Folders such as year=2024 are a column, as pandas has it. Without reading ahead: what has
        # been read ahead stays in memory until the file ends.
        folders = datasets.HivePartitioning.discover(infer_dictionary=True)
        one = datasets.ParquetFileFormat(pre_buffer=False)
        return datasets.dataset(
            path, format=one, partitioning=folders if _is_folder(path) else None
        )
    except (OSError, arrow.ArrowException) as error:
        msg = f"'{primary}' is {path!r:.80}, where there are no rows of Parquet ({error!s:.60})."
        raise InputError(f"{msg} Pass such a file.", code="rows-file") from error


def _is_folder(path: str) -> bool:
    if "://" not in path:
        return Path(path).is_dir()
    places = importlib.import_module("pyarrow.fs")
    filesystem, place = places.FileSystem.from_uri(path)
    return bool(filesystem.get_file_info(place).type == places.FileType.Directory)


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
        with self._reading():
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
                values = frame[column].to_numpy()
                same = (
                    repr(values.tolist()).encode() if values.dtype == object else values.tobytes()
                )
                digest = google_crc32c.extend(digest, same)
            self._seen[:] = [rows.stop, google_crc32c.extend(self._seen[1], digest.to_bytes(4))]
            others = {name: frame[column] for name, column in self.named.items()}
            yield RowTile(rows, {self.primary: frame[list(self.own)], **others}, f"{digest:08x}")

    @cached_property
    def parts(self) -> Callable[[slice], tuple[_TablePart, ...]] | None:
        """What reads some rows in another process: groups of Parquet files; None for other data."""
        groups = self._groups
        return None if groups is None else lambda rows: (self._part(groups, rows),)

    @cached_property
    def _groups(self) -> tuple[_Group, ...] | None:
        """Groups of Parquet files that together are the rows; None where none are."""
        groups = _groups_of(self.dataset)
        if groups is None or sum(group.count for group in groups) != self.count:
            return None  # as where a filter leaves rows out
        return groups

    def _part(self, groups: tuple[_Group, ...], rows: slice) -> _TablePart:
        cuts = []
        for group in groups:
            low, high = max(rows.start, group.first), min(rows.stop, group.first + group.count)
            if low < high:
                cuts.append((group, slice(low - group.first, high - group.first)))
        columns = {self.primary: self.own, **{n: (c,) for n, c in self.named.items()}}
        schema, wanted = self.dataset.schema, self.wanted
        return _TablePart(tuple(cuts), schema, wanted, self.primary, columns, self.lacking)

    def has_read(self) -> tuple[int, int]:
        """How many rows have been read, and a number for their values."""
        return self._seen[0], self._seen[1]

    @cached_property
    def wanted(self) -> tuple[str, ...]:
        """Columns that are read."""
        return tuple(dict.fromkeys([*self.own, *self.named.values()]))

    @cached_property
    def lacking(self) -> frozenset[str]:
        """Columns of whole numbers or switches that lack some: floats in all rows, as in pandas.

        Files say of most parts that nothing is missing there, and only others are read.
        """
        types, compute = (importlib.import_module(f"pyarrow.{n}") for n in ("types", "compute"))
        kinds = {n: _kind_of(self.dataset.schema.field(n).type) for n in self.wanted}
        whole = [n for n, kind in kinds.items() if types.is_integer(kind) or types.is_boolean(kind)]
        lacks = {n: compute.field(n).is_null() for n in whole}
        count = self.dataset.count_rows
        with self._reading():
            if not lacks or not count(filter=functools.reduce(operator.or_, lacks.values())):
                return frozenset()
            return frozenset(n for n, is_missing in lacks.items() if count(filter=is_missing))

    def check_numbers(self) -> None:
        """Refuse columns of categories, which a frame is encoded by and a file is not.

        Raises
        ------
        InputError
            `not-numeric`.
        """
        types: Any = importlib.import_module("pyarrow.types")
        for name in self.own:
            kind = self.dataset.schema.field(name).type
            if types.is_dictionary(kind) or _is_text(kind):
                msg = (
                    f"Column '{name}' of '{self.primary}' holds categories, which only a frame in "
                    "memory has encoded. Pass pandas.read_parquet(...), or encode it in the file."
                )
                raise InputError(msg, code="not-numeric")

    def _frames(self) -> Iterator[pd.DataFrame]:
        """Frames of some rows, file after file; rows have no labels of their own."""
        with self._reading():
            for batch in self._batches():
                if batch.num_rows:
                    yield _frame_of(batch, self.wanted, self.lacking)

    def _batches(self) -> Iterator[Any]:
        """Batches of some rows, of one group after another.

        Of a whole data set Arrow reads on while nobody asks, up to a gigabyte, or all of it for the
        first rows.
        """
        few: Any = {"batch_size": BATCH_ROWS, "batch_readahead": 2, "columns": [*self.wanted]}
        if self._groups is None:
            yield from self.dataset.to_batches(fragment_readahead=1, **few)
            return
        for _, groups in itertools.groupby(self._groups, key=lambda group: group.fragment.path):
            for group in groups:
                yield from group.fragment.to_batches(schema=self.dataset.schema, **few)
            if _stamp_of(group.fragment) != group.stamp:
                raise self._changed(group)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        arrow = importlib.import_module("pyarrow")
        try:
            yield
        except (OSError, arrow.ArrowException) as error:
            for group in self.__dict__.get("_groups") or ():
                if _stamp_of(group.fragment) != group.stamp:
                    raise self._changed(group) from error
            raise self._unreadable(error) from error

    def _changed(self, group: _Group) -> InputError:
        msg = f"{group.fragment.path:.90} was written or removed while it was read. Call again."
        return InputError(msg, code="rows-changed")

    def _unreadable(self, error: Exception) -> InputError:
        """What is said of rows that Arrow does not read: mostly columns of several types."""
        arrow = importlib.import_module("pyarrow")
        fields = {field.name: field.type for field in self.dataset.schema}
        for fragment in _fragments_of(self.dataset):
            try:
                types = {own.name: own.type for own in fragment.physical_schema}
            except (OSError, arrow.ArrowException):
                continue
            for name in self.wanted:
                if types.get(name, fields[name]) != fields[name]:
                    place = getattr(fragment, "path", "").rpartition("/")[2]
                    msg = (
                        f"Column '{name:.40}' of '{self.primary}' is {fields[name]!s:.30} at first "
                        f"and {types[name]!s:.30} in {place:.40} ({error!s:.60}). Write one type."
                    )
                    return InputError(msg, code="columns-mismatch")
        msg = f"The rows of '{self.primary}' cannot be read: {error!s:.120}. Mend the file."
        return InputError(msg, code="rows-file")


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
    lacking: frozenset[str]

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
        frame = _frame_of(whole, self.wanted, self.lacking)
        named = {n: frame[c] for n, (c, *_) in self.columns.items() if n != self.primary}
        return {self.primary: frame[list(self.columns[self.primary])], **named}


def _frame_of(table: Any, wanted: Iterable[str], lacking: frozenset[str]) -> pd.DataFrame:
    """Columns as pandas has them in a frame of all rows, whatever these rows happen to hold."""
    arrow: Any = importlib.import_module("pyarrow")
    columns = {}
    for name in wanted:
        column = table.column(name)
        kind = _kind_of(column.type)
        if name in lacking:
            column = column.cast(kind).cast(arrow.float64(), safe=False)
        elif kind != column.type and not _is_text(kind):  # categories that are numbers
            column = column.cast(kind)
        columns[name] = column.to_pandas()
    return pd.DataFrame(columns)


def _kind_of(kind: Any) -> Any:
    """Type of the values of a column, of categories that of what they stand for."""
    types: Any = importlib.import_module("pyarrow.types")
    return kind.value_type if types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    types: Any = importlib.import_module("pyarrow.types")
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _groups_of(dataset: Any) -> tuple[_Group, ...] | None:
    """The row groups of a data set in their order; None where it is of other files, or of none."""
    datasets = importlib.import_module("pyarrow.dataset")
    groups, first = [], 0
    for fragment in _fragments_of(dataset):
        if not isinstance(fragment, datasets.ParquetFileFragment) or not fragment.path:
            return None
        stamp = _stamp_of(fragment)
        if None in stamp:
            return None
        for one in fragment.split_by_row_group():
            (about,) = one.row_groups
            groups.append(_Group(one, about.id, first, about.num_rows, stamp))
            first += about.num_rows
    return tuple(groups) or None


def _fragments_of(dataset: Any) -> list[Any]:
    """The files of a data set; none where Arrow does not say, as of some rows only."""
    try:
        return [*dataset.get_fragments()]
    except ValueError:
        return []


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
