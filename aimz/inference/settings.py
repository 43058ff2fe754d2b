"""Settings of engines, checked."""

import numpy as np

from aimz.errors import InputError

__all__ = ["check_count", "check_probability"]


def check_count(engine: str, setting: str, value: object, least: int) -> None:
    """Refuse what is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        msg = (
            f"{engine}({setting}={value!r:.60}) is no whole number of at least {least}. Pass one; "
            "the kernel is the model's."
        )
        raise InputError(msg, code="settings")


def check_probability(engine: str, setting: str, value: object) -> None:
    """Refuse what is no number between 0 and 1, or is one of these."""
    if not isinstance(value, float | np.floating) or not 0.0 < value < 1.0:
        msg = f"{engine}({setting}={value!r:.60}) is no probability between 0 and 1, as 0.9 is."
        raise InputError(msg, code="settings")
