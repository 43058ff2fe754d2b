"""Settings that every test shares; they are made before JAX is imported."""

import gc
import os
from collections.abc import Generator, Iterator

# The CPU unless a GPU is asked for: JAX_PLATFORMS=cuda pytest -m gpu
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
# Programs kept on disk by an earlier run would hide what a test compiles.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

import jax
import numpyro
import pytest

from tests.support.tiers import Optimising, thin_out


def pytest_configure(config: pytest.Config) -> None:
    """Compile fast what `make test` runs; distributions in tables of tests are those they say."""
    gc.disable()  # until all is collected: what is imported stays
    numpyro.enable_validation(False)  # each worker would compile what checks them, as it collects
    if "not slow" in config.getoption("markexpr"):
        config.pluginmanager.register(Optimising())
        config.option.loadscopereorder = False  # or pytest-xdist sorts the files anew
        # Threads that share one small program cost more than they save beside another worker.
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_parallel_codegen_split_count=1")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Look for no examples in the files of the tests: none has any."""
    collectors = yield
    return [each for each in collectors if type(each) is pytest.Module]


def pytest_collection_finish() -> None:
    """Check distributions, and look for garbage but not among what is imported, from here on."""
    numpyro.enable_validation()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before marks are selected by
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Thin out large tables, and skip the tests that need a GPU where there is none."""
    thin_out(items)
    if any(item.get_closest_marker("gpu") for item in items) and jax.default_backend() == "cpu":
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU; run with JAX_PLATFORMS=cuda"))


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield
