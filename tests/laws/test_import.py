"""What `import aimz` loads: NumPyro, which it cannot do without, and itself.

Seconds depend on the machine, and modules do not; `bench/import_time.py` has the seconds.
"""

import pickle
import subprocess
import sys

import pytest
import sklearn.exceptions

import aimz
from aimz.libraries import Library

MAKE_AND_SHOW = """
import sys, numpyro; before = set(sys.modules)
import aimz; dir(aimz)
im = aimz.ImpactModel(lambda X, y=None: None, 3); repr(im); im.get_params()
print(*sorted(set(sys.modules) - before))
"""


def test_import_loads_nothing_that_numpyro_does_not():
    run = subprocess.run([sys.executable, "-c", MAKE_AND_SHOW], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    more = loaded - {*sys.stdlib_module_names, "aimz", "jax"}
    assert not more, f"`import aimz` also loads {sorted(more)}: see aimz/libraries.py"


def test_a_name_of_a_library_is_asked_for_once():
    math = Library("math")
    assert "sqrt" in dir(math)
    assert "sqrt" not in vars(math)
    assert math.sqrt is vars(math)["sqrt"]
    with pytest.raises(AttributeError, match="module 'math' has no attribute 'sqroot'"):
        _ = math.sqroot


def test_not_fitted_is_one_class_and_scikit_learns_too():
    assert aimz.NotFittedError is aimz.errors.NotFittedError
    assert issubclass(aimz.NotFittedError, aimz.AimzError)
    assert issubclass(aimz.NotFittedError, sklearn.exceptions.NotFittedError)
    assert {*aimz.__all__} <= {*dir(aimz)}
    error = pickle.loads(pickle.dumps(aimz.NotFittedError("no posterior", code="not-fitted")))
    assert (type(error), error.code) == (aimz.NotFittedError, "not-fitted")


@pytest.mark.parametrize("module", [aimz, aimz.errors], ids=lambda module: module.__name__)
def test_a_name_that_is_not_there_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'no'"):
        _ = module.no
