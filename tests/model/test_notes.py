"""Warnings point at the user's own line, at each of them, however deep the road to them is."""

import warnings
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from aimz import ImpactModel

X = np.linspace(-1.0, 1.0, 6)[:, None]
TOGETHER = "rows-coupled"


def walk(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    mean = numpyro.deterministic("mean", (b * X[:, 0]).cumsum())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.fixture(scope="module")
def im():
    return ImpactModel(walk, inference="svi").set_posterior_sample({"b": np.linspace(0.0, 1.0, 4)})


CALLS = {
    "predict": lambda im: im.predict(X, store="memory", progress=False),
    "predict_on_batch": lambda im: im.predict_on_batch(X),
    "sample_posterior_predictive": lambda im: im.sample_posterior_predictive_on_batch(X),
    "sample_prior_predictive": lambda im: im.sample_prior_predictive_on_batch(X, num_samples=4),
    "log_likelihood": lambda im: im.log_likelihood(X, X[:, 0], store="memory", progress=False),
    "score": lambda im: im.score(X, X[:, 0]),
    "effect": lambda im: im.effect(X, {"X": X}, {"X": X + 1.0}, progress=False),
}


def shown(call, im):
    """File and line of each warning of two calls on two lines, by the filter that Python sets."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        call(im)
        call(im)
    return [w for w in caught if getattr(w.message, "code", "") == TOGETHER]


@pytest.mark.parametrize("name", CALLS)
def test_each_warning_is_shown_at_the_line_of_the_call(name, im):
    seen = shown(CALLS[name], im)
    assert seen, "this kernel's rows interact, which is said"
    assert {Path(w.filename).name for w in seen} == {"test_notes.py"}


def test_two_lines_show_two_warnings(im):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        im.predict_on_batch(X)
        im.predict_on_batch(X)
    lines = [w.lineno for w in caught if getattr(w.message, "code", "") == TOGETHER]
    assert len(lines) == 2
    assert lines[1] == lines[0] + 1


def test_a_pipeline_between_does_not_hide_the_line(im):
    pipeline = make_pipeline(FunctionTransformer(), im)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        pipeline.predict(X, store="memory", progress=False)
    seen = [w for w in caught if getattr(w.message, "code", "") == TOGETHER]
    assert {Path(w.filename).name for w in seen} == {"test_notes.py"}
