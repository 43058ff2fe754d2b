"""Labels of rows and columns: remembered at the fit, and lined up by name at every later call.

Nothing that carries labels is taken by position where the labels say something else: columns in
another order are put in the fitted one, rows of a Series in another order than those of the primary
input are put in its order, and labels that differ are refused.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from aimz.errors import InputError, nearest

__all__ = [
    "column_label",
    "column_names",
    "column_order",
    "columns_ordered",
    "index_of",
    "lined_up",
    "only_counted",
    "row_labels",
]


def row_labels(value: Any) -> np.ndarray | None:
    """Labels of the rows of a pandas or xarray object; None where rows are only counted."""
    index = getattr(value, "index", None)
    if index is not None and not callable(index) and hasattr(index, "to_numpy"):
        labels = np.asarray(index.to_numpy())
        return _as_text(labels) if labels.dtype == object else labels
    dims = _dims(value)
    if dims and dims[0] in value.coords:
        labels = np.asarray(value.coords[dims[0]].values)
        return _as_text(labels) if labels.dtype == object else labels
    return None


def _as_text(labels: np.ndarray) -> np.ndarray:
    """Labels of any kind as text, which any file keeps.

    Raises
    ------
    InputError
        `row-labels`: two labels that read alike.
    """
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


def column_names(value: Any, name: str) -> tuple[str, ...] | None:
    """Names of the columns of a frame or a labelled array, as text.

    Raises
    ------
    InputError
        `columns-mismatch`: a name stands twice.
    """
    labels: Any = getattr(value, "columns", None)
    dims = _dims(value)
    if labels is None and len(dims) == 2 and dims[1] in value.coords:
        labels = value.coords[dims[1]].values
    if labels is None or callable(labels):
        return None
    names = tuple(map(column_label, labels))
    twice = sorted(label for label, count in Counter(names).items() if count > 1)
    if twice:
        msg = f"'{name}' has two columns '{twice[0]}'. Rename or drop one of them."
        raise InputError(msg, code="columns-mismatch")
    return names or None


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


def columns_ordered(value: Any, fitted: tuple[str, ...] | None, name: str) -> Any:
    """A frame or labelled array with its columns in the fitted order."""
    order = column_order(column_names(value, name), fitted, name)
    if order is None:
        return value
    return value.iloc[:, order] if hasattr(value, "iloc") else value[:, order]


def lined_up(
    values: Mapping[str, Any],
    labels: np.ndarray | None,
    rows: int,
    reference: str,
    *,
    may_order: bool = True,
) -> dict[str, Any]:
    """Values by name, with labelled ones in the order of the rows that `labels` name.

    Values without labels, or of another number of rows, stay as they are. Where the input
    `reference` has no labels, the labelled values must agree with one another, and with `labels`
    where these are those of other values (`may_order` is false).

    Raises
    ------
    InputError
        `row-labels`: labels that are not those of the rows, or that stand twice in another order.
    """
    known = may_order and labels is not None
    lined = dict(values)
    for name, value in values.items():
        own = row_labels(value) if _length(value) == rows else None
        if own is None:
            continue
        if labels is None:
            reference, labels = name, own
        order = _row_order(own, labels, name, reference)
        if order is not None and not known:
            raise _other_labels(name, reference, "in another order")
        if order is not None:
            lined[name] = value.iloc[order] if hasattr(value, "iloc") else value[order]
    return lined


def _row_order(own: np.ndarray, labels: np.ndarray, name: str, named: str) -> np.ndarray | None:
    """Where the rows `labels` are in `own`; None where they are in order already."""
    if _are_equal(own, labels):
        return None
    index, wanted = index_of(own), index_of(labels)
    order = index.get_indexer_for(wanted)
    if (order < 0).any():
        is_alike = index.inferred_type == wanted.inferred_type
        raise _other_labels(name, named, "that differ" if is_alike else "of another kind")
    if not (index.is_unique and wanted.is_unique):
        is_same = index.value_counts().to_dict() == wanted.value_counts().to_dict()
        how = "in another order, some of them twice" if is_same else "that differ"
        raise _other_labels(name, named, how)
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


def _other_labels(name: str, named: str, how: str) -> InputError:
    msg = (
        f"'{name}' and '{named}' have row labels {how}, so it is not known which values belong "
        f"together. Give both the same index, or pass {name}.to_numpy() if their order is right."
    )
    return InputError(msg, code="row-labels")


def _dims(value: Any) -> tuple[Any, ...]:
    """Dimensions of a DataArray; none of anything else."""
    return tuple(value.dims) if hasattr(value, "coords") and hasattr(value, "variable") else ()


def _length(value: Any) -> int | None:
    shape: Any = getattr(value, "shape", None)
    return int(shape[0]) if shape and isinstance(shape[0], int) else None
