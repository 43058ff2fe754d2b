"""Where the times of rows lie beside one time that is asked for: before it, at it, after it.

A time is compared only with its own kind. Numbers are not dates (pandas takes 25 for 25 nanoseconds
after 1970), text that says dates is compared as dates and not letter by letter, and other text has
no order but that of the rows.
"""

from __future__ import annotations

import re
from numbers import Number
from typing import Any

import numpy as np

from aimz.errors import InputError, nearest
from aimz.libraries import pd

__all__ = ["beside_time"]


_YEAR = re.compile(r"\d{4}")


def beside_time(labels: pd.Index, time: object, option: str) -> np.ndarray:
    """Of each row, (row,): -1 before the time, 0 at it, 1 after it.

    Raises
    ------
    InputError
        `time-unknown`: a time of another kind than those of the rows, which are not in order.
    """
    times = _dates_of(labels) if labels.inferred_type in ("string", "date") else labels
    try:
        if times is None:  # text in the order of the rows
            return np.sign(np.arange(len(labels)) - _place_of(labels, time, option))
        _check_order(times)
        moment: Any = _no_switch(time)
        if isinstance(times, pd.DatetimeIndex):
            moment = _as_date(time)
            if moment.tz is None and times.tz is not None:
                moment = moment.tz_localize(_zone_of(labels, times))
        return np.asarray(times > moment, np.int8) - np.asarray(times < moment, np.int8)
    except InputError:  # a ValueError, too
        raise
    except (TypeError, ValueError, NotImplementedError) as error:
        shown = labels[0] if not isinstance(labels[0], np.generic) else labels[0].item()
        msg = f"{option}={time!r:.40} is no time like the rows' ({shown!r:.40}, ...)."
        raise InputError(msg, code="time-unknown") from error


def _check_order(times: pd.Index) -> None:
    if not times.is_monotonic_increasing:
        msg = "The labels of the rows are not in order, so that no time divides them. Sort them."
        raise InputError(msg, code="time-unknown")


def _dates_of(labels: pd.Index) -> pd.Index | None:
    """Dates that are written as ISO 8601 has them; None of other text."""
    for is_mixed in (False, True):  # summer and winter time have two offsets
        try:
            return pd.DatetimeIndex(pd.to_datetime(labels, format="ISO8601", utc=is_mixed))
        except (TypeError, ValueError):
            continue
    return None


def _place_of(labels: pd.Index, time: object, option: str) -> int:
    """Number of the row that is called so."""
    places = np.flatnonzero(np.asarray(labels == time))
    if len(places) != 1:
        msg = f"{option}={time!r:.40} is no label of one row. "
        msg += nearest(str(time), list(map(str, labels)))
        raise InputError(msg, code="time-unknown")
    return int(places[0])


def _as_date(time: Any) -> pd.Timestamp:
    """A date, which has its year."""
    if isinstance(time, Number | np.generic) and not isinstance(time, np.datetime64):
        raise TypeError(time)
    if isinstance(time, str) and not _YEAR.search(time):
        raise TypeError(time)  # pandas takes what is missing from today
    moment = time.start_time if isinstance(time, pd.Period) else pd.Timestamp(time)
    if pd.isna(moment):
        raise TypeError(time)
    return moment


def _zone_of(labels: pd.Index, times: pd.DatetimeIndex) -> Any:
    """The zone of all rows, for a time without one."""
    offsets = {pd.Timestamp(label).utcoffset() for label in labels}
    if len(offsets) > 1:
        raise TypeError(offsets)  # summer and winter time
    return times.tz


def _no_switch(time: object) -> object:
    if isinstance(time, bool | np.bool_):
        raise TypeError(time)
    return time
