"""Where the rows of a call are: at hand, in the arrays of the call, or read by the piece.

By the piece come the rows of loaders, memory maps, dask, zarr and xarray arrays. A `Stream` is a
sequence of named batches, re-cut into tiles as it is read, once and in order. Its head, the first
rows, stands for the whole wherever only the structure of the data matters. The number of rows may
be unknown until the end.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from aimz.arrays import is_large
from aimz.data.arguments import Known
from aimz.data.containers import Casts, Value, is_given, lined_up, values_of
from aimz.data.elsewhere import Away, changed, cutter_of, teller_of, unchanged, unseen
from aimz.data.fingerprints import canonical_rows, digest_of, row_fingerprint
from aimz.data.labels import Marks, column_order, storable
from aimz.data.spool import spooled
from aimz.errors import InputError, Note
from aimz.libraries import pd

__all__ = [
    "HEAD_ROWS",
    "AtHand",
    "RowTile",
    "Source",
    "Stream",
    "load",
    "numbers_of",
    "open_stream",
]


#: Rows of the head of a stream.
HEAD_ROWS = 1024
#: Bytes to read at a time from an array that is not in memory.
READ_BYTES = 16 * 2**20
type Batch = dict[str, Any]


@dataclass(frozen=True)
class RowTile:
    """Some consecutive rows: their numbers, their arrays, and a digest of these."""

    rows: slice
    arrays: Mapping[str, Any]
    digest: str = ""


@runtime_checkable
class Source(Protocol):
    """Rows in order, a tile at a time: what a user's own source gives.

    What is known before they are read is `count`, None where it is not, their `labels`, and the
    `head`: the first of them, which stand for the structure of all.
    """

    @property
    def names(self) -> frozenset[str]:
        """Arguments that come with the tiles."""

    @property
    def head(self) -> Mapping[str, Any]:
        """Arrays of the first rows by argument, as the tiles have them."""

    @property
    def count(self) -> int | None:
        """How many rows there are."""

    @property
    def labels(self) -> np.ndarray | None:
        """What the rows are called."""

    def tiles(self, size: int) -> Iterator[RowTile]:
        """Tiles of `size` rows, the last one perhaps shorter."""

    def has_read(self) -> tuple[int, int] | None:
        """How many rows have been read, and a number for their values; None where none are."""


@dataclass(frozen=True)
class AtHand:
    """Rows whose arrays the call holds."""

    count: int
    labels: np.ndarray | None = None
    names: frozenset[str] = frozenset()
    head: Mapping[str, Any] = field(default_factory=dict)
    can_repeat = True  # the tiles may be asked for again
    away = None  # no other process reads any
    is_fixed = True  # the rows are the same whenever they are read
    notes: tuple[Note, ...] = ()
    by_row = staticmethod(np.asarray)  # flags of the rows of the call's arrays are those of all
    unread: tuple[int, ...] = ()  # numbers that stand for rows beside the call's arrays

    def tiles(self, size: int) -> Iterator[RowTile]:
        """Numbers of the rows."""
        for first in range(0, self.count, size):
            yield RowTile(slice(first, min(first + size, self.count)), {})

    def has_read(self) -> None:
        """Nothing is read."""

    def arrays_of(
        self,
        row_tile: RowTile,
        held: Mapping[str, Any],
        replaced: Mapping[str, Any],  # what is at hand is replaced there
        numbers: np.ndarray | None,
    ) -> dict[str, Any]:
        """Arrays of a tile's rows, whose numbers among those held may be others."""
        index = row_tile.rows if numbers is None else numbers[row_tile.rows]
        cut: dict[str, Any] = jax.tree.map(lambda v: np.asarray(v)[index], dict(held))
        return cut

    def held(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Those arrays of a call that are of all rows."""
        return arrays

    def need_all(self, why: str) -> None:
        """All rows are there."""


@dataclass
class Stream:
    """Named row arrays, read once and in order.

    Parameters
    ----------
    batches : iterator of dict
        Arrays by name, all of one length in a batch.
    primary : str
        Name of the primary input.
    count : int or None
        Number of rows, where it is known before the end.
    labels : ndarray or None
        Labels of the rows.
    columns : dict
        Names of columns that the fit has seen; those of the batches are added.
    is_array : bool
        Whether the rows are those of an array, which can be read from the start again.
    check : callable, optional
        Looks at the arrays of a tile and the number of its first row, and raises, or notes what
        only all rows tell.
    tell : callable, optional
        Looks for a way to tell some rows to another process, which reads them (`away`).
    notes : list of Note
        What is to be said of how the rows were read.
    """

    batches: Iterator[Batch]
    primary: str
    count: int | None = None
    labels: np.ndarray | None = None
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    is_array: bool = False
    can_repeat = False
    check: Callable[[Batch, int, Casts], None] | None = None
    tell: Callable[[], Callable[[slice], Away] | None] | None = None
    notes: list[Note] = field(default_factory=list)
    head: Batch = field(init=False)
    seen: int = field(init=False, default=0)
    casts: Casts = field(init=False, default_factory=Casts)
    _digest: Any = field(init=False, default_factory=lambda: hashlib.blake2b(digest_size=4))

    def __post_init__(self) -> None:
        checked = _checked(self.batches, self.primary, self.columns, self.casts)
        taken: list[Batch] = []
        while sum(map(_length, taken)) < HEAD_ROWS:
            batch = next(checked, None)
            if batch is None:
                break
            taken.append(batch)
        if not taken:
            msg = f"'{self.primary}' gives no batches: there are no rows. Pass at least one."
            raise InputError(msg, code="no-rows")
        self.head = next(_recut(iter(taken), HEAD_ROWS))
        self.batches = itertools.chain(taken, checked)

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets its rows with the tiles, or is told where they are."""
        left = dict.fromkeys(("tell", "away", "_digest"))
        return {**self.__dict__, **left, "batches": (), "notes": [], "casts": Casts()}

    @functools.cached_property
    def away(self) -> Callable[[slice], Away] | None:
        """How some rows are told to another process; None where they must be sent."""
        return None if self.tell is None else self.tell()

    @property
    def names(self) -> frozenset[str]:
        """Names of the arrays."""
        return frozenset(self.head)

    def tiles(self, size: int) -> Iterator[RowTile]:
        """Tiles of `size` rows, the last one perhaps shorter.

        Raises
        ------
        InputError
            `rows-mismatch`: the data ended before, or went on after, the rows they announced.
        """
        for arrays in _recut(self.batches, size):
            rows = slice(self.seen, self.seen + _length(arrays))
            self.seen = rows.stop
            if self.count is not None and self.seen > self.count:
                break
            if self.check is not None:
                self.check(arrays, rows.start, self.casts)
            for part in canonical_rows(arrays[self.primary]):
                self._digest.update(part)
            yield RowTile(rows, arrays, digest_of(arrays))
        if self.count is not None and self.seen != self.count:
            more = "at least " if self.seen > self.count else ""
            msg = (
                f"'{self.primary}' was to give {self.count} rows but gave {more}{self.seen}. Its "
                "length, and all values per row, must be those of the batches together."
            )
            raise InputError(msg, code="rows-mismatch")
        self.casts.check()

    @property
    def is_fixed(self) -> bool:
        """Whether rows are the same whenever they are read: a cluster may compute dask's anew."""
        return self.away is None or not self.away(slice(0, 1)).lazy

    def told(self, size: int) -> Iterator[RowTile]:
        """Rows of all tiles, which others read."""
        self._digest = None
        for first in range(0, self.count or 0, size):
            self.seen = min(first + size, self.count or 0)
            yield RowTile(slice(first, self.seen), {})

    def cut(self, away: Away, spans: Iterable[slice], casts: Casts) -> dict[int, RowTile] | None:
        """Tiles of rows that are read here, by their first row; None where they are not seen.

        They are lined up and checked, and have the digests, as if all had been read in order; what
        only all rows tell is noted in `casts`.

        Raises
        ------
        InputError
            `rows-mismatch`: there are not as many; `columns-mismatch`, and what `check` raises.
        """
        batch = away.read()
        if batch is None:
            return None
        first, count = away.rows.start, away.rows.stop - away.rows.start
        arrays = _seen(_lined_batch(batch, self.primary, dict(self.columns)), casts)
        _check_batch(first // HEAD_ROWS, arrays, self.head)
        if _length(arrays) != count:
            raise _not_as_said(self.primary, f"{count} rows", _length(arrays), "rows-mismatch")
        tiles = {}
        for rows in spans:
            its = {n: v[rows.start - first : rows.stop - first] for n, v in arrays.items()}
            if self.check is not None:
                self.check(its, rows.start, casts)
            tiles[rows.start] = RowTile(rows, its, digest_of(its))
        return tiles

    def fetched(self, away: Away, why: str) -> Away:
        """Rows as arrays, read here because a worker could not, which is said once.

        Raises
        ------
        InputError
            `rows-changed`: they are not what they were when the call began.
        """
        batch = away.read()
        if batch is None:
            raise changed(away)
        if not self.notes:
            self.notes.append(unseen(away, why))
        return Away(away.rows, batch)

    def load(self) -> Batch:
        """All rows, in memory."""
        return _joined([dict(tile.arrays) for tile in self.tiles(HEAD_ROWS)])

    def has_read(self) -> tuple[int, int] | None:
        """How many rows have been read, and the fingerprint of their primary input.

        None where others have read them.
        """
        if self._digest is None:
            return None
        digest = self._digest.copy()
        digest.update(str((self.seen, *np.shape(self.head[self.primary])[1:])).encode())
        return self.seen, int.from_bytes(digest.digest(), "little")

    def arrays_of(
        self,
        row_tile: RowTile,
        held: Mapping[str, Any],
        replaced: Mapping[str, Any],
        numbers: np.ndarray | None,  # all rows are read, in their order
    ) -> dict[str, Any]:
        """Arrays of a tile's rows: those read, those put in their place, and one value for all."""
        rows = row_tile.rows
        read = {n: v for n, v in row_tile.arrays.items() if n not in replaced}
        cut = {n: v[rows] for n, v in replaced.items() if v is not None}
        same = {n: v for n, v in held.items() if n not in read and n not in cut}
        count = rows.stop - rows.start
        spread = {n: np.broadcast_to(v[:1], (count, *v.shape[1:])) for n, v in same.items()}
        return {**spread, **read, **cut}

    def held(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """No arrays of the call are of all rows: they are those of the head."""
        return {}

    def by_row(self, flags: np.ndarray) -> np.ndarray:
        """The head does not speak for each row: one flag for all."""
        return np.array(flags.any())

    @property
    def unread(self) -> tuple[int, ...]:
        """Numbers that stand for the rows beside their head: how many they are."""
        return (self.count or 0,)

    def need_all(self, why: str) -> None:
        """Refuse what needs all rows at once.

        Raises
        ------
        InputError
            `rows-lazy`.
        """
        msg = f"'{self.primary}' is read by the piece, and {why}. Load them."
        raise InputError(msg, code="rows-lazy")


def open_stream(
    values: Mapping[str, Value],
    primary: str,
    *,
    batch_size: int | None,
    whole: frozenset[str],
    known: Known | None = None,
) -> Stream | None:
    """The row arguments of a call as a stream, or None where the primary input is in memory.

    Parameters
    ----------
    values : mapping of Value
        All arguments of the call.
    primary : str
        Name of the primary input.
    batch_size : int or None
        Rows to read at a time from an array that is not in memory.
    whole : frozenset of str
        Arguments that have as many values as there are rows and yet go whole.
    known : Known, optional
        What the fit has seen of the arguments: columns are put in its order.

    Raises
    ------
    InputError
        `loader-shuffled`, `batch-names`, `rows-mismatch`, `not-numeric`.
    """
    known = known or Known()
    value = values[primary].given
    if isinstance(value, Source):
        return _of_source(value, primary, values, known)
    if _is_batches(value):
        return _of_loader(value, primary, values, known)
    return _of_array(values, primary, batch_size, whole, known) if _is_lazy(value) else None


def _of_loader(loader: Any, primary: str, values: Mapping[str, Value], known: Known) -> Stream:
    """The rows of a loader, or of another iterable of batches."""
    if _shuffles(loader):
        msg = (
            f"'{primary}' is a loader that shuffles: its rows come in another order than the "
            "data's. Make it with shuffle=False."
        )
        raise InputError(msg, code="loader-shuffled")
    columns = dict(known.columns)
    stream = Stream(_read(loader, primary), primary, count=_row_count(loader), columns=columns)
    _check_once(stream.names - {primary}, values)
    return stream


def _of_array(
    values: Mapping[str, Value],
    primary: str,
    batch_size: int | None,
    whole: frozenset[str],
    known: Known,
) -> Stream:
    """The rows of an array that is not in memory, and the values of rows beside it."""
    value, names = _in_fitted_order(values[primary], known)
    columns = {} if names is None else {primary: names}
    rows = value.shape[0] if value.ndim else 0
    if rows != rows:  # noqa: PLR0124  # dask says nan where it does not know
        return Stream(({primary: part} for part in _blocks(value)), primary, columns=columns)
    labels, cut = values[primary].labels, {primary: value}
    others = {n: v for n, v in values.items() if n != primary and n not in whole}
    others = {
        n: v.in_columns(known.names(n, v.columns))
        for n, v in others.items()
        if _leads_with(v.given, rows)
    }
    cut |= {n: v.given for n, v in lined_up(others, labels, rows, primary).items()}
    step = batch_size or _step(value)
    batches = (
        {name: _part(v, start, start + step) for name, v in cut.items()}
        for start in range(0, rows, step)
    )
    tell = functools.partial(cutter_of, cut, _is_lazy)
    read = unchanged(cut, batches)
    return Stream(read, primary, rows, labels, columns, is_array=True, tell=tell)


def _of_source(source: Source, primary: str, values: Mapping[str, Value], known: Known) -> Stream:
    """The rows of a source of the user's, checked as those of a loader are."""
    labels = None if source.labels is None else storable(np.asarray(source.labels))
    if labels is not None and len(labels) != source.count:
        msg = f"The source of '{primary}' has {source.count} rows but {len(labels)} labels of rows."
        raise InputError(f"{msg} Give each row one, or none.", code="rows-mismatch")
    columns = dict(known.columns)
    stream = Stream(_batches_of(source), primary, source.count, labels, columns)
    if hasattr(type(source), "parts") and labels is None:  # which another process may read
        stream.tell = functools.partial(teller_of, source)
    _check_once(stream.names - {primary}, values)
    return stream


def _batches_of(source: Source) -> Iterator[Batch]:
    size = getattr(source, "batch_rows", HEAD_ROWS)  # what it costs to look at a batch is one price
    return (dict(tile.arrays) for tile in source.tiles(size))


def _in_fitted_order(value: Value, known: Known) -> tuple[Any, tuple[str, ...] | None]:
    """A lazy array with its columns in the fitted order, and their names."""
    names, array = value.columns, value.given
    order = column_order(names, known.names(value.name, names), value.name)
    if names is None or order is None:
        return array, names
    return array.isel({array.dims[1]: order}), tuple(names[place] for place in order)


def numbers_of(given: Any, primary: str) -> tuple[int, ...]:
    """Numbers that stand for the rows of an input: for all of them, or for their head and count."""
    if isinstance(given, Iterator):
        msg = f"'{primary}' can be read once only, so its key is not known before. Pass rng_key=."
        raise InputError(msg, code="rng-key")
    values = values_of({primary: given})
    stream = open_stream(values, primary, batch_size=None, whole=frozenset())
    if stream is None:
        return (row_fingerprint(values[primary].seen),)
    return (row_fingerprint(stream.head[primary]), *stream.unread)


def load(given: Mapping[str, Any], primary: str) -> dict[str, Value]:
    """The arguments of a call, with the arrays of all rows in place of what they are read from.

    Rows that memory should not hold are in a file that the arrays are views of.
    """
    values = values_of(given)
    value = values[primary].given
    columns: dict[str, tuple[str, ...]] = {}
    count, labels, is_array = None, None, False
    if isinstance(value, Source):
        count, batches = value.count, _checked(_batches_of(value), primary, columns, Casts())
    elif _is_batches(value):
        batches = _checked(_read(value, primary), primary, columns, Casts())
        count = _row_count(value)
    elif _is_lazy(value) and _is_to_be_spooled(value):
        stream = _of_array(values, primary, None, frozenset(), Known())
        batches, columns, labels, is_array = stream.batches, stream.columns, stream.labels, True
    else:
        return values
    first = next(batches, None)
    if first is None:
        msg = f"'{primary}' gives no batches: there are no rows. Pass at least one."
        raise InputError(msg, code="no-rows")
    if not is_array:
        _check_once(first.keys() - {primary}, values)
    batches = itertools.chain([first], batches)
    is_small = count is not None and not is_large(count, _bytes_of_row(first))
    arrays = _joined(list(batches)) if is_small else spooled(batches)
    rows = {primary: labels}
    return {
        **values,
        **{n: Value(v, n, Marks(rows.get(n), columns.get(n))) for n, v in arrays.items()},
    }


def _is_to_be_spooled(array: Any) -> bool:
    """Whether an array that is not in memory has more rows than memory should hold.

    A file that a kernel can compute with as it is stays where it is.
    """
    is_plain = isinstance(array, np.memmap) and array.flags.c_contiguous
    if is_plain and Value.of(np.zeros(1, array.dtype), "").seen.dtype == array.dtype:
        return False
    rows: Any = array.shape[0] if array.ndim else 0
    bytes_of_row = math.prod(array.shape[1:]) * min(4, array.dtype.itemsize)
    return math.isnan(rows) or is_large(rows, bytes_of_row)  # dask may not know how many


def _bytes_of_row(batch: Batch) -> int:
    return sum(int(v.nbytes) for v in batch.values()) // max(1, _length(batch))


def _is_lazy(value: Any) -> bool:
    """Whether a value is an array that is not in memory."""
    if isinstance(value, np.memmap):
        return True
    kind = type(value).__module__.partition(".")[0]
    if kind in ("zarr", "dask"):
        return hasattr(value, "shape") and hasattr(value, "ndim")
    if kind == "xarray" and hasattr(value, "variable"):
        return value.chunks is not None or not getattr(value.variable, "_in_memory", True)
    return False


def _is_batches(value: Any) -> bool:
    """Whether a value is an iterable of named batches, rather than an array of some kind."""
    if isinstance(value, list | tuple):
        return bool(value) and isinstance(value[0], Mapping)
    plain = (str, bytes, Mapping, set, range)
    arrays = ("shape", "__array__", "__dataframe__")
    return (
        hasattr(value, "__iter__")
        and not isinstance(value, plain)
        and not any(hasattr(value, name) for name in arrays)
    )


def _check_once(names: Collection[str], values: Mapping[str, Value]) -> None:
    """Refuse arguments that the batches name and the call names too."""
    for name in sorted(names):
        if is_given(values, name):
            msg = f"'{name}' is passed by name and is in the batches too. Keep one of them."
            raise InputError(msg, code="batch-names")


def _read(loader: Any, primary: str) -> Iterator[Any]:
    """The batches of a loader, which must be as many, and have as many rows, as it says.

    Raises
    ------
    InputError
        `rows-mismatch`, `loader-length`: more or fewer, or an empty batch among others.
    """
    number = rows = 0
    was_empty = False
    names = getattr(getattr(loader, "dataset", None), "columns", None)
    for number, batch in enumerate(loader, 1):
        count = _rows_of(batch, primary)
        if rows and count and was_empty:
            msg = (
                f"Batch {number - 2} of '{primary}' is empty, and rows come after it. Leave empty "
                "batches out, if no rows are lost there."
            )
            raise InputError(msg, code="loader-length")
        rows, was_empty = rows + count, not count
        yield _copied(batch) if not isinstance(names, dict) else _named(batch, names)
    promised = {"rows": _row_count(loader), "batches": _length_of(loader)}
    if promised["rows"] not in (None, rows) and not getattr(loader, "drop_last", False):
        raise _not_as_said(primary, f"{promised['rows']} rows", rows, "rows-mismatch")
    if promised["batches"] not in (None, number, rows):
        raise _not_as_said(primary, f"{promised['batches']} batches", number, "loader-length")


def _named(batch: Any, names: Mapping[str, Sequence[str]]) -> Any:
    """A batch of arrays whose columns have the names that the data set keeps beside them."""
    frames = {n: pd.DataFrame(np.asarray(batch[n]), columns=list(names[n])) for n in names}
    return {**batch, **frames}


def _not_as_said(primary: str, said: str, gave: int, code: str) -> InputError:
    msg = (
        f"The loader of '{primary}' says that it has {said} but gave {gave}, so rows may be lost "
        "or doubled. Mend its length, or what it gives."
    )
    return InputError(msg, code=code)


def _rows_of(batch: Any, primary: str) -> int:
    shape = np.shape(batch[primary]) if isinstance(batch, Mapping) and primary in batch else ()
    return shape[0] if shape else 0


def _length_of(sized: Any) -> int | None:
    """Length of a thing, where it knows it."""
    try:
        return len(sized)
    except (TypeError, ValueError, NotImplementedError):
        return None


def _copied(batch: Any) -> Any:
    """A batch that stays as it is when the loader fills its buffers again."""
    if not isinstance(batch, Mapping):
        return batch
    return {
        name: value.copy() if isinstance(value, np.ndarray) else value
        for name, value in batch.items()
    }


def _shuffles(loader: Any) -> bool:
    """Whether a loader, ours or one of torch's, gives its rows in a random order."""
    sampler = type(getattr(loader, "sampler", None)).__name__
    return bool(getattr(loader, "shuffle", False)) or "Random" in sampler


def _row_count(loader: Any) -> int | None:
    """Rows of a loader's data set, or of a list of batches."""
    return _length_of(getattr(loader, "dataset", None))


def _checked(
    batches: Iterator[Any], primary: str, columns: dict[str, tuple[str, ...]], casts: Casts
) -> Iterator[Batch]:
    """Batches as arrays of one length, of the first batch's names, shapes and dtypes.

    Labelled rows and columns are lined up; `columns` gets the names that it lacks.
    """
    first: Batch | None = None
    for number, batch in enumerate(batches):
        if not isinstance(batch, Mapping) or primary not in batch:
            got = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
            msg = (
                f"Batch {number} is {got!s:.80}. Each batch must be a dict of named arrays with "
                f"'{primary}' among them."
            )
            raise InputError(msg, code="batch-names")
        arrays = _seen(_lined_batch(batch, primary, columns), casts)
        first = first or arrays
        _check_batch(number, arrays, first)
        if _length(arrays):
            yield arrays
    casts.check()


def _seen(values: Mapping[str, Value], casts: Casts) -> Batch:
    """Values as JAX sees them; what this blurs is noted."""
    arrays = {name: value.seen for name, value in values.items()}
    for value in values.values():
        casts.add(value)
    return arrays


def _lined_batch(
    batch: Mapping[str, Any], primary: str, columns: dict[str, tuple[str, ...]]
) -> dict[str, Value]:
    """A batch with its rows in the order of the primary input, and its columns in the fitted."""
    values = values_of(batch)
    first = values.pop(primary)
    count = np.shape(first.given)[:1]
    lined = {primary: first, **lined_up(values, first.labels, count[0] if count else 0, primary)}
    for name, value in lined.items():
        if value.columns is not None:
            lined[name] = value.in_columns(columns.setdefault(name, value.columns))
    return lined


def _check_batch(number: int, arrays: Batch, first: Batch) -> None:
    if arrays.keys() != first.keys():
        msg = (
            f"Batch {number} names {sorted(arrays)} but the first one {sorted(first)}. "
            "Every batch must have the same names."
        )
        raise InputError(msg, code="batch-names")
    lengths = {name: len(v) if v.ndim else None for name, v in arrays.items()}
    if len(set(lengths.values())) > 1 or None in lengths.values():
        msg = f"The arrays of batch {number} have different numbers of rows: {lengths!s:.100}."
        raise InputError(msg, code="rows-mismatch")
    for name, v in arrays.items():
        if v.shape[1:] != first[name].shape[1:] or v.dtype != first[name].dtype:
            msg = (
                f"'{name}' is {v.dtype}{list(v.shape[1:])} a row in batch {number} but "
                f"{first[name].dtype}{list(first[name].shape[1:])} before. Every batch must agree."
            )
            raise InputError(msg, code="columns-mismatch")


def _recut(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Batches of `size` rows, the last one perhaps shorter."""
    parts: list[Batch] = []
    have = 0
    for batch in batches:
        start, length = 0, _length(batch)
        while start < length:
            stop = min(length, start + size - have)
            parts.append({name: v[start:stop] for name, v in batch.items()})
            have += stop - start
            start = stop
            if have == size:
                yield _joined(parts)
                parts, have = [], 0
    if parts:
        yield _joined(parts)


def _joined(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _length(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _leads_with(value: Any, rows: int) -> bool:
    shape: Any = getattr(value, "shape", None)
    if shape is None and isinstance(value, list | tuple):
        shape = (len(value),)
    return bool(shape) and shape[0] == rows


def _part(value: Any, start: int, stop: int) -> Any:
    part = value.iloc[start:stop] if hasattr(value, "iloc") else value[start:stop]
    return np.asarray(part) if _is_lazy(value) else part


def _blocks(value: Any) -> Iterator[np.ndarray]:
    """Blocks of a dask array along its rows, whose lengths it need not know."""
    array = getattr(value, "data", value) if hasattr(value, "variable") else value
    for number in range(array.numblocks[0]):
        yield np.asarray(array.blocks[number])


def _step(value: Any) -> int:
    """Rows to read at a time: whole chunks of about READ_BYTES, at least a tile's rows."""
    per_row = max(1, int(math.prod(value.shape[1:]) * value.dtype.itemsize))
    rows = max(HEAD_ROWS, READ_BYTES // per_row)
    chunks = getattr(value, "chunks", None)
    if hasattr(value, "variable"):
        chunks = chunks or getattr(value, "encoding", {}).get("chunks")
    first = chunks[0] if chunks else 1
    chunk = int(max(first) if isinstance(first, tuple) else first)
    return max(1, rows // chunk) * chunk
