"""What becomes of a fit whose numbers may be wrong: said, refused or kept, and told by effects."""

import pickle
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from sklearn.base import clone

from aimz import AimzError, FitWarning, ImpactModel, InputError, OutputWarning
from aimz.errors import Note
from aimz.inference import Fit
from aimz.model.account import Diagnostics
from aimz.sklearn import ImpactRegressor

X = np.zeros((4, 1), np.float32)
Y = np.zeros(4, np.float32)


def kernel(X, t=None, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * (0.0 if t is None else t) + X[:, 0], 1.0), obs=y)


class Poor:
    """An engine that says of its fit what it is told to."""

    name = "poor"

    def __init__(self, verdict="bad: k-hat", category=FitWarning, value=2.0, codes=("k-hat",)):
        self.verdict, self.category, self.value, self.codes = verdict, category, value, codes

    def fit(self, rng_key, problem, settings, *, state=None):
        del rng_key, problem, settings, state
        draws = {"b": self.value + np.linspace(-1.0, 1.0, 20, dtype=np.float32)[None]}
        notes = tuple(Note(self.category, "It may be wrong.", code) for code in self.codes)
        return Fit(draws, attrs={"engine": self.name, "verdict": self.verdict}, notes=notes)

    def draw(self, rng_key, problem, fit, num_samples):
        raise NotImplementedError


FIRST = np.array([0.0, 1.0, 0.0, 1.0])


def fitted(method="fit", engine=None, called=None, **options):
    im = ImpactModel(kernel, inference=engine or Poor(), **options)
    gate = {} if called is None else {"on_bad_fit": called}
    return getattr(im, method)(X, Y, t=FIRST, progress=False, **gate)


@pytest.mark.parametrize("method", ["fit", "fit_on_batch"])
@pytest.mark.parametrize("called", [True, False])
def test_a_bad_fit_is_said_refused_or_kept(method, called):
    def with_gate(gate):
        return fitted(method, called=gate) if called else fitted(method, on_bad_fit=gate)

    with pytest.warns(FitWarning, match="It may be wrong") as caught:
        with_gate("warn")
    assert [warning.message.code for warning in caught] == ["k-hat"]
    with pytest.raises(AimzError, match="It may be wrong") as refused:
        with_gate("raise")
    assert refused.value.code == "k-hat"
    assert with_gate("ignore").diagnostics_["verdict"] == "bad: k-hat"


def test_the_call_overrides_the_model_and_the_default_warns():
    assert fitted(called="ignore", on_bad_fit="raise").is_fitted()
    with pytest.warns(FitWarning):
        fitted()


def test_a_refused_fit_leaves_the_model_as_it_was():
    im = ImpactModel(kernel, inference=Poor(value=5.0)).fit(X, Y, on_bad_fit="ignore")
    im.inference = Poor(value=1.0)
    with pytest.raises(AimzError):
        im.fit(X, Y, on_bad_fit="raise")
    assert im.posterior["b"].mean() == 5.0
    with pytest.raises(AimzError):
        (fresh := ImpactModel(kernel, inference=Poor(), on_bad_fit="raise")).fit(X, Y)
    assert not fresh.is_fitted()


@pytest.mark.parametrize(
    ("verdict", "codes", "whole"),
    [
        ("good", ("param-fixed",), "bad: param-fixed"),
        ("not checked: too few draws", ("param-fixed",), "bad: param-fixed"),
        ("bad: k-hat", ("param-fixed", "k-hat"), "bad: k-hat, param-fixed"),
        ("bad: r-hat, energy", ("r-hat", "energy"), "bad: r-hat, energy"),
        ("good", ("interrupted",), "good"),  # an entry of its own
        ("good", (), "good"),
        ("not checked: too many rows", (), "not checked: too many rows"),
    ],
)
def test_a_verdict_names_all_that_the_warnings_of_a_fit_do(verdict, codes, whole):
    im = fitted(engine=Poor(verdict, codes=codes), called="ignore")
    assert im.diagnostics_["verdict"] == whole


@pytest.mark.parametrize("engine", ["laplace", pytest.param("nuts", marks=pytest.mark.slow)])
def test_a_fit_that_keeps_parameters_where_they_began_is_not_good(engine):
    """The posterior is Normal(5, 2 / sqrt(8)) given the initial value of `sd`."""

    def kernel(X, y=None):
        sd = numpyro.param("sd", 2.0)
        mean = numpyro.sample("mean", dist.Normal(0.0, 100.0))
        numpyro.sample("y", dist.Normal(mean, sd).expand([X.shape[0]]), obs=y)

    im = ImpactModel(kernel, inference=engine, rng_key=0)
    with pytest.warns(FitWarning, match="'sd' keep their initial") as caught:
        im.fit(np.zeros((8, 1)), 5.0 + np.tile([-1.0, 1.0], 4), progress=False)
    assert [warning.message.code for warning in caught] == ["param-fixed"]
    assert im.diagnostics_["verdict"] == "bad: param-fixed"
    assert float(im.posterior["mean"].std()) == pytest.approx(2 / np.sqrt(8), rel=0.1)
    if engine == "laplace":
        assert im.reweighted().diagnostics_["verdict"] == "bad: param-fixed"


@pytest.mark.parametrize("codes", [("interrupted",), ("param-fixed", "interrupted")])
def test_what_ctrl_c_left_is_kept_where_bad_fits_are_refused(codes):
    """The error is raised as for others; draws of hours are not thrown away with it."""
    im = ImpactModel(kernel, inference=Poor("good", codes=codes), on_bad_fit="raise")
    with pytest.raises(AimzError) as refused:
        im.fit(X, Y, t=FIRST, progress=False)
    assert refused.value.code == "interrupted"
    assert im.posterior["b"].mean() == 2.0


def test_other_notes_are_no_reason_to_refuse():
    with pytest.warns(OutputWarning, match="may be wrong"):
        fitted(engine=Poor("good", OutputWarning), called="raise")
    with pytest.warns(OutputWarning, match="may be wrong"):
        fitted(engine=Poor("good", OutputWarning), called="ignore")


@pytest.mark.parametrize("gate", ["stop", True, 1])
def test_a_gate_that_there_is_not_is_refused(gate):
    with pytest.raises(InputError, match="on_bad_fit must be") as refused:
        fitted(called=gate)
    assert refused.value.code == "option-unknown"


def test_the_gate_is_a_parameter_that_is_copied_and_saved(tmp_path):
    im = fitted(on_bad_fit="ignore")
    assert clone(im).on_bad_fit == "ignore"
    im.save(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model", kernel)
    assert again.on_bad_fit == "ignore"
    assert again.diagnostics_["verdict"] == "bad: k-hat"
    regressor = ImpactRegressor(kernel, inference=Poor(), on_bad_fit="raise")
    with pytest.raises(AimzError, match="It may be wrong"):
        clone(regressor).fit(X, Y)


@pytest.mark.parametrize(
    ("attrs", "fault"),
    [
        ({"verdict": "bad: k-hat"}, "k-hat"),
        ({"verdict": "bad: r-hat, divergences"}, "r-hat, divergences"),
        ({"verdict": "good", "interrupted": True}, "interrupted"),
        ({"verdict": "bad: not converged", "interrupted": True}, "not converged, interrupted"),
        ({"verdict": "good"}, ""),
        ({"verdict": "not checked: too few draws"}, ""),
        ({}, ""),
    ],
)
def test_an_effect_says_wherever_it_is_read_that_its_fit_is_bad(attrs, fault):
    im = fitted(called="ignore")
    im._fitted.fit.attrs.clear()
    im._fitted.fit.attrs.update(attrs)
    effect = im.effect(X, {"t": 0}, {"t": 1}, t=FIRST, progress=False)
    assert effect.fault == fault
    table = effect.summary()
    assert ("fit" in table.columns) == bool(fault)
    assert not fault or table["fit"].tolist() == [f"bad: {fault}"]
    for text in (effect.to_text(), repr(effect), effect._repr_html_()):
        assert (f"The fit is bad ({fault})" in text) == bool(fault)
    assert effect.draws.attrs.get("fit_verdict") == attrs.get("verdict")
    assert effect.to_datatree().attrs.get("fit_verdict") == attrs.get("verdict")
    ax = effect.plot()
    captions = " ".join(" ".join(text.get_text().split()) for text in ax.texts)
    assert (f"the fit is bad: {fault}" in captions) == bool(fault)
    plt.close(ax.figure)


def test_differences_of_predictions_carry_the_verdict():
    im = fitted(called="ignore")
    inputs = {"X": X}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = im.estimate_effect(
            args_baseline={**inputs, "t": np.zeros(4)},
            args_intervention={**inputs, "t": np.ones(4)},
            on_batch=True,
        )
    assert tree.attrs["fit_verdict"] == "bad: k-hat"


def test_a_notebook_shows_what_a_fit_says_of_itself_as_a_table():
    said = {"engine": "svi", "k_hat": 0.51738, "notes": ["too few steps", "<none>"]}
    health = pickle.loads(pickle.dumps(Diagnostics(said)))
    assert health == said
    shown = health._repr_html_()
    assert re.findall("<th>(.*)</th>", shown) == list(said)
    cells = re.findall("<td>(.*)</td>", shown)
    assert cells == ["svi", "0.517", "too few steps; &lt;none&gt;"]
