"""Numbers and labels in print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aimz.libraries import pd

__all__ = ["label_text", "label_texts", "number_text", "plain_item", "scalar_text", "short_number"]


def label_texts(labels: Sequence[Any]) -> list[str]:
    """Labels in print; numbers are short where that tells them apart."""
    plain = [label_text(label) for label in labels]
    short = [short_number(n) if isinstance(n, float) else text for n, text in zip(labels, plain)]
    return short if len(set(short)) == len(set(plain)) else plain


def short_number(number: float) -> str:
    """A number in few digits."""
    is_whole = number.is_integer() and abs(number) < 1e15
    return f"{number:.0f}" if is_whole else f"{number:.7g}"  # the digits of single precision


def number_text(value: float) -> str:
    """A number as it stands in a sentence."""
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


_LETTERS = 40  # of one value


def scalar_text(value: Any) -> str:
    """One value in print."""
    if getattr(value, "dtype", None) is not None and np.ndim(value) == 0:
        value = pd.Timestamp(value) if np.asarray(value).dtype.kind == "M" else plain_item(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    is_date = isinstance(value, pd.Timestamp) and value == value.normalize()
    text = str(value.date() if is_date else value)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"


def plain_item(value: Any) -> Any:
    """One value as Python has it."""
    array = np.asarray(value)
    return pd.Timedelta(value) if array.dtype.kind == "m" else array.item()


def label_text(label: object) -> str:
    """A label in print; a date without its hours where it has none."""
    return scalar_text(label) if isinstance(label, pd.Timestamp | np.datetime64) else str(label)
