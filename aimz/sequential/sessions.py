"""Sessions of several lengths, from a long table to arrays of subjects by trials."""

from __future__ import annotations

from typing import Any

import numpy as np

from aimz.errors import InputError
from aimz.libraries import pd, xr

__all__ = ["sessions"]


def sessions(frame: pd.DataFrame, by: str = "subject", trial: str | None = None) -> xr.Dataset:
    """Arrays of subjects by trials, padded with zeros, and what of them is there.

    Parameters
    ----------
    frame : DataFrame
        A row for each trial of each subject; columns of numbers.
    by : str
        The column that says whose trial it is.
    trial : str, optional
        The column that orders the trials of a subject; as they come where none is given.

    Returns
    -------
    Dataset
        A variable for each other column, with the dimensions `by` and "trial", and `there`. The
        coordinate `by` has the labels of the subjects in order of appearance; trials are numbered
        from 0 in each session, and `trial_label` keeps the numbers of the column `trial`.

    Raises
    ------
    InputError
        `sessions`: a column that is not there, holds no numbers, or has a name that is taken; a
        trial that a subject has twice; a row without a subject.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"subject": ["b", "b", "a"], "reward": [1.0, 0.0, 1.0]})
    >>> padded = sessions(frame)
    >>> padded["reward"].values.tolist(), padded["there"].values.tolist()
    ([[1.0, 0.0], [1.0, 0.0]], [[True, True], [True, False]])
    >>> padded["subject"].values.tolist()
    ['b', 'a']
    """
    _check(frame, by, trial)
    subjects = list(dict.fromkeys(frame[by]))
    row = frame[by].map({label: number for number, label in enumerate(subjects)}).to_numpy()
    order = np.lexsort((frame[trial].to_numpy(), row)) if trial else np.argsort(row, kind="stable")
    row, counts = row[order], np.bincount(row)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(subjects), int(counts.max()))

    def padded(column: pd.Series | np.ndarray) -> Any:
        values = np.asarray(column)[order]
        array = np.zeros(shape, values.dtype)
        array[row, place] = values
        return (by, "trial"), array

    names = {name: name for name in frame.columns if name not in (by, trial)}
    if trial:
        names["trial_label"] = trial
    variables = {name: padded(frame[column]) for name, column in names.items()}
    variables["there"] = padded(np.ones(len(row), bool))
    coordinates = {by: np.asarray(subjects), "trial": np.arange(shape[1])}
    return xr.Dataset(variables, coordinates)


def _check(frame: pd.DataFrame, by: str, trial: str | None) -> None:
    names = [by] if trial is None else [by, trial]
    lacking = [name for name in names if name not in frame.columns]
    if lacking:
        msg = f"There is no column '{lacking[0]}': these are {list(frame.columns)!s:.120}."
        raise InputError(msg, code="sessions")
    taken = {"there", "trial", "trial_label"} & (set(frame.columns) - {by, trial})
    if taken:
        msg = f"A column is called '{min(taken)}', as the result needs it. Rename it."
        raise InputError(msg, code="sessions")
    if not len(frame) or frame[names].isna().to_numpy().any():
        msg = f"Rows without a value in {names}, or none at all: a trial is somebody's."
        raise InputError(msg, code="sessions")
    if frame.duplicated(names).any() and trial is not None:
        twice = frame.loc[frame.duplicated(names), names].iloc[0].tolist()
        msg = f"{by} and {trial} are {twice} in more than one row. Number the trials anew."
        raise InputError(msg, code="sessions")
    for name in frame.columns:
        if name != by and not pd.api.types.is_numeric_dtype(frame[name]):
            msg = f"Column '{name}' holds no numbers. Leave it out, or code it."
            raise InputError(msg, code="sessions")
