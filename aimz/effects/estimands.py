"""What each estimand means: one frozen record, against which a question is checked."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["ESTIMANDS", "Arms", "Estimand"]


@dataclass(frozen=True)
class Arms:
    """What is known of each row: which of the two scenarios it had, and whether it had a 1.

    All are (row,) of bool. Where nothing was observed of a row it had neither a 1 nor a 0.
    """

    old: np.ndarray
    new: np.ndarray
    had_one: np.ndarray | None = None
    had_zero: np.ndarray | None = None


def _had(arms: Arms, had: np.ndarray | None) -> np.ndarray:
    return np.zeros(len(arms.old), bool) if had is None else had


@dataclass(frozen=True)
class Estimand:
    """What is averaged, over whom, and what it needs.

    Parameters
    ----------
    words : str
        In words: `{cause}` is nothing, or " of " and what is changed; `{site}` what is compared.
    unit : {"all", "group", "row", "any"}
        One answer, one for each group of `by=`, one for each row, or one with or without `by=`.
    who : callable, optional
        The rows that count, (row,) of bool, given their `Arms`; default all of them.
    needs_all : bool
        Whether the question has no answer unless all rows count.
    mediated : tuple of int, optional
        Which of three worlds is compared with which: 0 the first scenario, 1 the second, 2 the
        second with the mediator of the first. Such an estimand needs a mediator.
    is_joint : bool
        Whether it is the probability of what a unit has in two worlds at once.

    Examples
    --------
    >>> ESTIMANDS["att"].words.format(cause=" of t", site="y")
    'average effect of t on y in the treated'
    >>> ESTIMANDS["nde"].mediated
    (2, 0)
    """

    words: str
    unit: str = "all"
    who: Callable[[Arms], np.ndarray] | None = None
    needs_all: bool = False
    mediated: tuple[int, int] | None = None
    is_joint: bool = False


ESTIMANDS = {
    "ate": Estimand("average effect{cause} on {site}"),
    "att": Estimand("average effect{cause} on {site} in the treated", who=lambda arms: arms.new),
    "atc": Estimand("average effect{cause} on {site} in the untreated", who=lambda arms: arms.old),
    "cate": Estimand("average effect{cause} on {site} in each group", unit="group"),
    "ite": Estimand("effect{cause} on {site} in each row", unit="row"),
    "nde": Estimand("natural direct effect{cause} on {site}", mediated=(2, 0)),
    "nie": Estimand("natural indirect effect{cause} on {site}", mediated=(1, 2)),
    "total": Estimand("total effect{cause} on {site}", mediated=(1, 0)),
    "benefit": Estimand(
        "probability that {site} is 1 with, and 0 without, the intervention{cause}",
        who=lambda arms: arms.old | arms.new,
        needs_all=True,
        is_joint=True,
    ),
    "necessity": Estimand(
        "probability that {site} would have been 0 without the intervention{cause}, among rows "
        "that had it and a 1,",
        who=lambda arms: arms.new & _had(arms, arms.had_one),
        is_joint=True,
    ),
    "sufficiency": Estimand(
        "probability that {site} would have been 1 with the intervention{cause}, among rows that "
        "had neither it nor a 1,",
        who=lambda arms: arms.old & _had(arms, arms.had_zero),
        is_joint=True,
    ),
}
