"""Which entries of a long table run in the fast suite."""

from collections.abc import Sequence
from typing import Any

import pytest

__all__ = ["some_fast"]


def some_fast(entries: Sequence[Any], every: int) -> list[Any]:
    """Parameters named by their entries, or names; one in `every` is fast, the rest are slow."""
    return [
        pytest.param(
            entry,
            id=getattr(entry, "name", entry),
            marks=() if number % every == 0 else pytest.mark.slow,
        )
        for number, entry in enumerate(entries)
    ]
