"""Predictions of many rows as a table: each row's mean, spread and quantiles, and no draws."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aimz.choices import quantiles_of
from aimz.errors import InputError
from aimz.libraries import pd, xr
from aimz.model.setup import PathLike, RowsLike
from aimz.store import Tile, Variable, local_path

__all__ = ["Predicts", "predict_summary"]


type Key = tuple[str, str]


class Predicts(Protocol):
    """A model, of which this is a method."""

    def predict(self, X: RowsLike, **options: Any) -> xr.DataTree:
        """Draws of rows."""


def predict_summary(
    self: Predicts,
    X: RowsLike,
    *,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    path: PathLike | None = None,
    **kwargs: Any,
) -> pd.DataFrame | Path:
    """Summarise the predictive distribution of each row, and keep no draws.

    Parameters
    ----------
    X, **kwargs
        As in `predict`; not `store` and `output_dir`.
    quantiles : sequence of float
        Quantiles over the draws, between 0 and 1.
    path : path-like, optional
        A Parquet file to write, a part of the rows at a time, so that the table need not fit into
        memory. It is there when all rows are in it.

    Returns
    -------
    DataFrame or Path
        A line for each row, in their order, with `<site> mean`, `<site> sd` and the quantiles, for
        sites with several values a row by their number; or the path of the file.

    Raises
    ------
    InputError
        `option-unknown`: quantiles that are none; `no-mean`: a site of angles or categories;
        `pyarrow-missing`.

    Examples
    --------
    >>> im = ImpactModel(kernel).set_posterior_sample({"b": np.full(100, 2.0)})
    >>> table = im.predict_summary(X, t=t, quantiles=(0.5,), progress=False)
    >>> list(table), len(table)
    (['y mean', 'y sd', 'y 50%'], 50)
    """
    asked = quantiles_of(quantiles, "quantiles=")
    if "store" in kwargs:
        msg = "predict_summary keeps no draws, so that it has no store=. Leave it out."
        raise InputError(msg, code="option-unknown")
    if path is not None and importlib.util.find_spec("pyarrow") is None:
        msg = "path= is a file that pyarrow writes. pip install 'aimz[parquet]'."
        raise InputError(msg, code="pyarrow-missing")
    final = None if path is None else local_path(path, "path")
    sink = _Summaries(asked, final)
    tree = self.predict(X, store=sink, **kwargs)
    if final is not None:
        return final
    (group,) = (tree[name] for name in ("posterior_predictive", "predictions") if name in tree)
    table = pd.concat(sink.tables, ignore_index=True)
    (row_dim,) = {v.dims[v.row_axis or 0] for v in sink.by_row}
    if row_dim in group.coords:
        table.index = group.coords[row_dim].to_index()
    return table


@dataclass
class _Summaries:
    """A sink that keeps summaries of the rows; draws only until a row has all of them."""

    quantiles: tuple[float, ...]
    path: Path | None
    by_row: list[Variable] = field(default_factory=list)
    tables: list[pd.DataFrame] = field(default_factory=list)
    _draws: int = 0
    _waiting: dict[int, list[tuple[Tile, Mapping[Key, np.ndarray]]]] = field(default_factory=dict)
    _done: dict[int, pd.DataFrame] = field(default_factory=dict)
    _next: int = 0
    _file: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, variables: Sequence[Variable]) -> None:
        self.by_row = [v for v in variables if v.has_draws and v.row_axis is not None]
        for variable in self.by_row:
            if variable.measure:
                msg = (
                    f"Site '{variable.name}' holds values of kind {variable.measure}, which have "
                    "no mean. Leave it out by return_sites=, or predict draws."
                )
                raise InputError(msg, code="no-mean")
        if not self.by_row:
            msg = "No site that is asked for has one value per row. Choose others: return_sites=."
            raise InputError(msg, code="no-mean")
        self._draws = self.by_row[0].shape[0] * self.by_row[0].shape[1]

    def has(self, tile: Tile) -> bool:
        return False

    def write(self, tile: Tile, values: Mapping[Key, np.ndarray]) -> None:
        first = tile.rows.start
        with self._lock:
            parts = self._waiting.setdefault(first, [])
            parts.append((tile, values))
            if sum(_draws_of(part) for part, _ in parts) < self._draws:
                return
            del self._waiting[first]
        parts.sort(key=lambda item: item[0].number)
        table = pd.DataFrame(dict(self._columns([values for _, values in parts])))
        with self._lock:
            self._done[first] = table
            while self._next in self._done:
                self._next += len(self._put(self._done.pop(self._next)))

    def commit(
        self, groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any], rows: int
    ) -> xr.DataTree:
        if self._file is not None and self.path is not None:
            self._file.close()
            self._partial.replace(self.path)
        return xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})

    def abort(self) -> Path | None:
        if self._file is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)
        return None

    @property
    def _partial(self) -> Path:
        assert self.path is not None  # noqa: S101  # only files have parts
        return self.path.with_name(f".{self.path.name}.partial")

    def _columns(self, parts: list[Mapping[Key, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
        """Summaries of some rows, by the names of their columns."""
        for variable in self.by_row:
            arrays = [np.moveaxis(p[variable.key], variable.row_axis or 0, 0) for p in parts]
            rows, own = len(arrays[0]), arrays[0].shape[3:]
            flat = [a.reshape(rows, -1, int(np.prod(own))) for a in arrays]
            draws = np.concatenate(flat, axis=1).astype(np.float64)  # (row, draw, element)
            for number in range(draws.shape[2]):
                name = f"{variable.name}[{number}]" if own else variable.name
                values = draws[:, :, number]
                # One draw has no spread, which is not one of 0.
                spread = values.std(axis=1, ddof=1) if self._draws > 1 else np.nan * values[:, 0]
                yield f"{name} mean", values.mean(axis=1)
                yield f"{name} sd", spread
                for q, found in zip(self.quantiles, np.quantile(values, self.quantiles, axis=1)):
                    yield f"{name} {100 * q:g}%", found

    def _put(self, table: pd.DataFrame) -> pd.DataFrame:
        """Add the next rows."""
        if self.path is None:
            self.tables.append(table)
            return table
        arrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
        block = arrow.Table.from_pandas(table, preserve_index=False)
        if self._file is None:
            self._file = parquet.ParquetWriter(self._partial, block.schema)
        self._file.write_table(block)
        return table


def _draws_of(tile: Tile) -> int:
    return int(tile.chains.stop - tile.chains.start) * int(tile.draws.stop - tile.draws.start)
