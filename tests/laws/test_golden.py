"""No number changes unseen: what the library answers is what was written down; see `golden`."""

import os

import numpy as np
import pytest

from tests.laws.golden import FILE, SAVED, SECTIONS, Answer, difference, differences, recorded

EXACT = os.environ.get("AIMZ_GOLDEN") == "exact"

#: Sections of `make test`, about 12 seconds; the others are slow.
FAST = {
    "linear: predictions",
    "autoregression: predictions",
    "linear: effects",
    "loaders",
    "fit: regressor",
    "fit: classifier",
    "store",
    "saved: normal",
}

pytestmark = pytest.mark.filterwarnings("ignore::aimz.FitWarning")


@pytest.mark.parametrize(
    "section",
    [pytest.param(s, marks=() if s in FAST else pytest.mark.slow) for s in SECTIONS],
)
def test_answers_are_those_of_the_record(section):
    wrong = differences(recorded()[section], SECTIONS[section](), exact=EXACT)
    assert not wrong, "\n".join(wrong)


def test_the_record_has_every_section_and_is_small():
    assert list(recorded()) == list(SECTIONS)
    assert FILE.stat().st_size < 60_000
    assert SAVED.stat().st_size < 100_000


VALUES = np.linspace(1.0, 2.0, 8, dtype=np.float32)


def changed(place: int, ulps: int) -> np.ndarray:
    """The values with one of them off by some units in the last place of the largest."""
    values = VALUES.copy()
    values[place] -= ulps * np.spacing(np.float32(1.5))
    return values


@pytest.mark.parametrize(
    ("record", "found", "exact", "passes"),
    [
        pytest.param(VALUES, VALUES, True, True, id="the same bits"),
        pytest.param(VALUES, changed(-1, 2), False, True, id="two units"),
        pytest.param(VALUES, changed(-1, 2), True, False, id="two units, bits asked for"),
        pytest.param(VALUES, changed(-1, 60), False, False, id="sixty units"),
        pytest.param(VALUES, changed(3, 2000), False, False, id="a value not written, in the sum"),
        pytest.param(VALUES, VALUES[None], False, False, id="another shape"),
        pytest.param(VALUES, VALUES.astype(np.float64), False, False, id="another dtype"),
        pytest.param(np.arange(9), np.arange(9) // 1, False, True, id="integers"),
        pytest.param(np.arange(9), np.arange(9)[::-1].copy(), False, False, id="other integers"),
        pytest.param(VALUES, np.full(8, np.nan, np.float32), False, False, id="nan"),
    ],
)
def test_what_passes_for_the_same(record, found, exact, passes):
    said = difference(str(Answer(record)), Answer(found), exact=exact)
    assert (not said) is passes, said
