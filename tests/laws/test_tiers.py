"""The fast tests take some cases of every table that they thin out."""

from pathlib import Path

import pytest

from tests.support.tiers import EVERY

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("table", EVERY)
def test_a_table_that_is_thinned_out_is_there(table):
    file, name = table.split("::")
    assert f"def {name}(" in (ROOT / file).read_text()
    assert EVERY[table] > 1
