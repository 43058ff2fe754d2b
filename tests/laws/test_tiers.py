"""The fast tests take some cases of large tables, and compile fast where they may."""

import os
import pkgutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from tests.support.tiers import (
    DEAR_EXAMPLES,
    EVERY,
    OF_CONDUCT,
    OPTIMISED,
    Optimising,
    optimised,
)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("table", EVERY)
def test_a_table_that_is_thinned_out_is_there(table):
    file, name = table.split("::")
    assert f"def {name}(" in (ROOT / file).read_text()
    assert EVERY[table] > 1


@pytest.mark.parametrize("name", sorted(DEAR_EXAMPLES))
def test_a_dear_example_is_there(name):
    assert ">>>" in str(pkgutil.resolve_name(name).__doc__)


@pytest.mark.parametrize("folder", OPTIMISED)
def test_a_folder_that_compiles_as_a_user_does_is_there(folder):
    assert any((ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("file", OF_CONDUCT)
def test_a_file_that_has_no_digits_is_there_and_compiles_fast(file):
    assert (ROOT / file).is_file()
    assert file.startswith(OPTIMISED)
    assert not optimised(f"{file}::test")


def test_files_that_compile_well_come_last_and_keep_their_order():
    files = [
        *(f"tests/{name}.py" for name in ("data/a", "laws/b", "model/c", "pages/d")),
        "aimz/e.py",
    ]
    items: Any = [SimpleNamespace(nodeid=file) for file in files]
    Optimising().pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == [files[place] for place in (0, 2, 1, 3, 4)]


def test_a_file_of_the_other_kind_compiles_anew_and_so_do_its_children(request):
    traced = []

    @jax.jit
    def double(x):
        traced.append(Optimising.fast())
        return 2 * x

    there: Any
    here, there = request.node, SimpleNamespace(nodeid="tests/effects/test_effects.py::test")
    assert optimised(here.nodeid)
    assert not optimised(there.nodeid)
    hook = Optimising().pytest_runtest_setup
    hook(here)  # as it is in `make test` already
    for item in (here, there, there, here):
        hook(item)
        double(1.0)
        assert os.environ[Optimising.FLAG.upper()] == str(int(Optimising.fast()))
    assert traced == [False, True, False]
