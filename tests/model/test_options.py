"""Options of the process: progress bars that can be switched off everywhere."""

import subprocess
import sys

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import aimz
from aimz import ImpactModel
from aimz.choices import progress_bar
from aimz.sklearn import ImpactRegressor

X = np.linspace(0.0, 1.0, 8)[:, None]


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("o", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)


@pytest.fixture(scope="module")
def im() -> ImpactModel:
    return ImpactModel(kernel).set_posterior_sample({"b": np.ones(5)})


def test_bars_say_what_they_do_and_end(im, capfd):
    im.predict(X, store="memory")
    im.effect(X, {"X": X}, {"X": X + 0.1})
    shown = capfd.readouterr().err
    assert "predict: 100%" in shown
    assert "effect: 100%" in shown
    first = shown.index("effect: compiling: ")  # what takes so long in a new process
    assert first < shown.index("effect: 100%")


def test_no_bar_is_shown_where_the_process_wants_none(im, capfd):
    with aimz.set_options(progress=False):
        im.predict(X, store="memory", progress=True)
        with aimz.set_options(progress=True):
            assert not progress_bar(3, desc="inner", unit="row", shown=True).disable
        assert progress_bar(3, desc="outer", unit="row", shown=True).disable
    assert "predict" not in capfd.readouterr().err
    assert not progress_bar(3, desc="after", unit="row", shown=True).disable


def test_a_setting_lasts_and_reaches_workers(monkeypatch):
    monkeypatch.delenv("AIMZ_PROGRESS", raising=False)
    aimz.set_options(progress=False)
    code = (
        "from aimz.choices import progress_bar\n"
        "print(progress_bar(1, desc='', unit='', shown=True).disable)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    aimz.set_options(progress=True)
    assert done.stdout.strip() == "True"
    assert not progress_bar(3, desc="again", unit="row", shown=True).disable


@pytest.mark.slow
@pytest.mark.parametrize(("verbose", "silent"), [(0, True), (1, False)])
def test_wrappers_show_bars_where_they_are_verbose(verbose, silent, capfd):
    wrapped = ImpactRegressor(kernel, num_steps=50, verbose=verbose).fit(X, X[:, 0])
    wrapped.predict_draws(X)
    assert ("predict" not in capfd.readouterr().err) is silent
