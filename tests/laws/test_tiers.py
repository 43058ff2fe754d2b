"""The fast tests take some cases of every table that they thin out."""

import pkgutil
from pathlib import Path

import pytest

from tests.support.tiers import DEAR_EXAMPLES, EVERY

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("table", EVERY)
def test_a_table_that_is_thinned_out_is_there(table):
    file, name = table.split("::")
    assert f"def {name}(" in (ROOT / file).read_text()
    assert EVERY[table] > 1


@pytest.mark.parametrize("name", sorted(DEAR_EXAMPLES))
def test_a_dear_example_is_there(name):
    assert ">>>" in str(pkgutil.resolve_name(name).__doc__)
