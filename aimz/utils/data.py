"""Named arrays and loaders of named batches.

A loader may stand wherever a method takes `X`: its batches name the kernel's row arguments.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from aimz.data import Value, check_positive, lined_up, values_of
from aimz.errors import InputError
from aimz.programs import as_key

__all__ = ["ArrayDataset", "ArrayLoader"]


class ArrayDataset:
    """Named arrays of one length; those with row labels in the order of the first.

    The names of the columns of frames are kept beside the arrays, in `columns`.

    Parameters
    ----------
    to_jax : bool, default False
        Give the rows as JAX arrays rather than NumPy arrays.
    **arrays : array-like, shape (rows, ...)
        The arrays, by the names of the kernel's arguments.

    Raises
    ------
    InputError
        `rows-mismatch`, `no-rows`, `not-numeric`.

    Examples
    --------
    >>> import numpy as np
    >>> data = ArrayDataset(X=np.ones((3, 2)), y=np.arange(3))
    >>> len(data), data[1]["y"].item()
    (3, 1)
    """

    def __init__(self, *, to_jax: bool = False, **arrays: Any) -> None:
        self.to_jax = to_jax
        first = next(iter(arrays), "")
        values = values_of(arrays)
        leading = values.get(first) or Value.of(None, first)
        rows = len(leading.given) if np.ndim(leading.given) else 0
        lined = lined_up(values, leading.labels, rows, first)
        self.arrays = {name: value.array for name, value in lined.items()}
        found = {name: value.columns for name, value in values.items()}
        self.columns = {name: names for name, names in found.items() if names is not None}
        lengths = {n: len(v) if v.ndim else None for n, v in self.arrays.items()}
        if not lengths:
            msg = "A data set needs at least one named array, such as X=..."
            raise InputError(msg, code="no-rows")
        if len(set(lengths.values())) > 1 or None in lengths.values():
            msg = f"The arrays have different numbers of rows: {lengths!s:.120}. Pass equal ones."
            raise InputError(msg, code="rows-mismatch")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: Any) -> dict[str, Any]:
        kind: Any = jax.numpy.asarray if self.to_jax else np.asarray
        return {name: kind(value[index]) for name, value in self.arrays.items()}


class ArrayLoader:
    """Batches of a data set, as dicts of named arrays.

    Parameters
    ----------
    dataset : ArrayDataset
        The rows.
    rng_key : int or jax.Array
        Key of the order of the rows, where they are shuffled.
    batch_size : int, default 32
        Rows of a batch; the last one may be shorter.
    shuffle : bool, default False
        Give the rows in a random order, another one at each pass. Predictions refuse such a loader:
        their rows would not be the data's.

    Examples
    --------
    >>> import numpy as np
    >>> loader = ArrayLoader(ArrayDataset(X=np.arange(5.0)), 0, batch_size=2)
    >>> len(loader), [batch["X"].tolist() for batch in loader]
    (3, [[0.0, 1.0], [2.0, 3.0], [4.0]])
    """

    def __init__(
        self, dataset: ArrayDataset, rng_key: Any, *, batch_size: int = 32, shuffle: bool = False
    ) -> None:
        check_positive(batch_size, "batch_size")
        self.dataset = dataset
        self.rng_key = as_key(rng_key)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self._passes = 0

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = np.arange(len(self.dataset))
        if self.shuffle:
            key = jax.random.fold_in(self.rng_key, self._passes)
            order = np.asarray(jax.random.permutation(key, order))
            self._passes += 1
        for start in range(0, len(order), self.batch_size):
            stop = start + self.batch_size
            yield self.dataset[order[start:stop] if self.shuffle else slice(start, stop)]
