"""Labels of rows and columns: remembered at the fit, and lined up by name at every later call.

Nothing that carries labels is taken by position where the labels say something else: columns in
another order are put in the fitted one, rows of a Series in another order than those of the primary
input are put in its order, and labels that differ are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from aimz.errors import InputError, nearest
from aimz.libraries import pd

__all__ = [
    "Marks",
    "column_label",
    "column_order",
    "index_of",
    "marks_of",
    "only_counted",
    "other_labels",
    "row_order",
    "storable",
]


class Marks(NamedTuple):
    """What a container calls its rows and its columns, as it does; None where it does not."""

    rows: np.ndarray | None
    columns: tuple[str, ...] | None


def marks_of(value: Any) -> Marks:
    """Labels of the rows and of the columns of a pandas or xarray object."""
    rows, columns = getattr(value, "index", None), getattr(value, "columns", None)
    is_labelled = hasattr(value, "coords") and hasattr(value, "variable")  # a DataArray
    dims = tuple(value.dims) if is_labelled else ()
    if rows is None or callable(rows) or not hasattr(rows, "to_numpy"):
        rows = value.coords[dims[0]].values if dims and dims[0] in value.coords else None
    else:
        rows = rows.to_numpy()
    if columns is None and len(dims) == 2 and dims[1] in value.coords:
        columns = value.coords[dims[1]].values
    if columns is not None and not callable(columns):
        columns = tuple(map(column_label, columns)) or None
    else:
        columns = None
    return Marks(None if rows is None else np.asarray(rows), columns)


def storable(labels: np.ndarray | None) -> np.ndarray | None:
    """Labels that any file keeps: objects of any kind as text.

    Raises
    ------
    InputError
        `row-labels`: two labels that read alike.
    """
    if labels is None or labels.dtype != object:
        return labels
    texts: dict[str, Any] = {}
    for label in labels:
        text = str(label)
        if isinstance(texts.setdefault(text, label), str) != isinstance(label, str):
            kinds = " and ".join(sorted({type(own).__name__ for own in (texts[text], label)}))
            msg = (
                f"Two row labels, {kinds}, both read '{text:.40}', so that values cannot be lined "
                "up by them. Give all labels one kind."
            )
            raise InputError(msg, code="row-labels")
    return np.asarray([str(label) for label in labels])


def column_label(label: Any) -> str:
    """Text that stands for the name of a column, whatever kind of name it is."""
    if isinstance(label, tuple):
        return f"({', '.join(map(column_label, label))})"
    return str(label)


def only_counted(names: Sequence[str]) -> bool:
    """Whether names are the numbers 0, 1, 2, ..., which a frame without names has."""
    return list(names) == [str(number) for number in range(len(names))]


def column_order(
    names: tuple[str, ...] | None, fitted: tuple[str, ...] | None, name: str
) -> list[int] | None:
    """Where the fitted columns are among the given ones; None where they are in order already.

    Raises
    ------
    InputError
        `columns-mismatch`: a column is missing, or there is one that the fit did not see.
    """
    if names is None or fitted is None or names == fitted or only_counted(names):
        return None
    missing = [label for label in fitted if label not in names]
    if missing:
        lost = missing[0]
        msg = f"'{name}' has no column '{lost}', which the fit saw. {nearest(lost, names)}"
        raise InputError(msg, code="columns-mismatch")
    extra = [label for label in names if label not in fitted]
    if extra:
        msg = (
            f"'{name}' has a column '{extra[0]}', which the fit did not see. Drop it: the model "
            f"was fitted on {', '.join(fitted):.80}."
        )
        raise InputError(msg, code="columns-mismatch")
    return [names.index(label) for label in fitted]


def row_order(own: np.ndarray, labels: np.ndarray, name: str, named: str) -> np.ndarray | None:
    """Where the rows `labels` are in `own`; None where they are in order already."""
    if _are_equal(own, labels):
        return None
    index, wanted = index_of(own), index_of(labels)
    order = index.get_indexer_for(wanted)
    if (order < 0).any():
        is_alike = index.inferred_type == wanted.inferred_type
        raise other_labels(name, named, "that differ" if is_alike else "of another kind")
    if not (index.is_unique and wanted.is_unique):
        is_same = index.value_counts().to_dict() == wanted.value_counts().to_dict()
        how = "in another order, some of them twice" if is_same else "that differ"
        raise other_labels(name, named, how)
    return np.asarray(order)


def index_of(labels: np.ndarray) -> pd.Index:
    """Labels as what finds them; they are looked up as they are, not turned to text or levels."""
    index: pd.Index = pd.Index(
        labels, dtype=labels.dtype if labels.dtype.kind in "iufMm" else object
    )
    return index


def _are_equal(own: np.ndarray, labels: np.ndarray) -> bool:
    """Whether labels are the same; one that is missing is like another that is."""
    may_miss = own.dtype.kind in "fcMm" and own.dtype.kind == labels.dtype.kind
    return np.array_equal(own, labels, equal_nan=may_miss)


def other_labels(name: str, named: str, how: str) -> InputError:
    """The error of values whose rows are called otherwise."""
    msg = (
        f"'{name}' and '{named}' have row labels {how}, so it is not known which values belong "
        f"together. Give both the same index, or pass {name}.to_numpy() if their order is right."
    )
    return InputError(msg, code="row-labels")
