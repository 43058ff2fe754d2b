"""The examples on real data run, and their figures are the published ones or those of numpy."""

from pathlib import Path

import numpy as np
import pytest

from tests.real_data.test_real_data import load_example
from tests.support import real_data

# A mean of 1,000 draws has a standard error of 0.032 sd, their sd one of 2.2%.
DRAWS, MEANS, SDS = 1_000, 0.15, 0.1

pytestmark = pytest.mark.slow


def run(name: str, figure: Path):
    found = load_example(name).main(draws=DRAWS, figure=figure)
    assert 1_000 < figure.stat().st_size < 150_000
    return found


def mean_of(effect) -> float:
    return float(effect.draws.mean())


def sd_of(effect) -> float:
    return float(effect.draws.std())


def of_arms(X, t, y, at) -> float:
    """By least squares in each arm: the difference at the mean of some rows."""
    fits = [real_data.least_squares(real_data.Data(X[t == arm], y[t == arm])) for arm in (0, 1)]
    first, second = (fit.mean[0] + X[at].mean(0) @ fit.mean[1:] for fit in fits)
    return float(second - first)


def test_the_experiment_finds_what_was_published(tmp_path, capsys):
    found = run("experiment", tmp_path / "figure.png")
    plain = found["unadjusted"]
    # Dehejia and Wahba (1999): a difference of 1,794 dollars, by unequal variances +- 671.
    assert mean_of(plain) == pytest.approx(1794, abs=MEANS * 671)
    assert sd_of(plain) == pytest.approx(671, rel=SDS)
    X, t, y, _ = load_example("experiment").load()
    # Half of the outcomes are known: those of the other arm have their noise and its mean's.
    counts, sds = (np.array([f(y[t == arm]) for arm in (0, 1)]) for f in (len, np.std))
    desired = np.sqrt(np.sum((sds / len(y)) ** 2 * counts[::-1] * (1 + counts[::-1] / counts)))
    assert sd_of(found["unadjusted, finite"]) == pytest.approx(desired, rel=SDS)
    adjusted = found["adjusted"]
    expected = of_arms(X.to_numpy(float), t, y, t >= 0)
    assert mean_of(adjusted) == pytest.approx(expected, abs=MEANS * sd_of(adjusted))
    assert sd_of(found["adjusted, superpopulation"]) >= sd_of(adjusted)
    assert "P(-500 <= effect <= 500)" in capsys.readouterr().out


def test_comparable_rows_bring_observational_data_towards_the_experiment(tmp_path):
    found, said, naive = run("overlap", tmp_path / "figure.png")
    assert naive == pytest.approx(-8498, abs=1)  # Dehejia and Wahba (1999), table 3
    assert said[0].startswith("Scenario 'intervention': 15,239 of 16,177 rows (94%)")
    X, t, y = load_example("overlap").load()
    trained = found["the trained"]
    expected = of_arms(X.to_numpy(float), t, y, t == 1)
    assert mean_of(trained) == pytest.approx(expected, abs=MEANS * sd_of(trained))
    last = list(found.values())[-1]
    assert last.support.fraction.max() <= 0.01
    # The experiment found 1,794 dollars, with a standard error of 671.
    assert mean_of(last) == pytest.approx(1794, abs=671)


def test_replayed_patients_keep_what_happened_and_probabilities_their_bounds(tmp_path):
    found = run("counterfactuals", tmp_path / "figure.png")
    _, t, condition = load_example("counterfactuals").load()
    deaths = [int(np.sum(condition[t == arm] == 0)) for arm in (1, 0)]
    assert deaths == [4, 14]  # of 55 and 52, as published in 1948
    survival = found["survival"]
    # By the published counts 0.196; covariates may move it by less than an sd.
    assert mean_of(survival) == pytest.approx(14 / 52 - 4 / 55, abs=sd_of(survival))
    for name, rows in {"benefit": 107, "sufficiency": 14, "necessity": 51}.items():
        effect = found[name]
        low, high = (float(effect.bounds.sel(bound=bound).mean()) for bound in ("lower", "upper"))
        slack = 4 * sd_of(effect) / np.sqrt(DRAWS)
        assert effect.rows == rows
        assert low - slack < mean_of(effect) < high + slack
    was = found["each"].averages.sel(scenario="baseline")
    np.testing.assert_array_equal(was.min(("chain", "draw")), condition[t == 0])
    np.testing.assert_array_equal(was.max(("chain", "draw")), condition[t == 0])


def test_the_direct_and_the_indirect_effect_are_the_published_ones(tmp_path):
    found = run("mediation", tmp_path / "figure.png")
    # The vignette of the R package mediation, by linear models.
    for estimand, published in {"nde": -0.0403, "nie": -0.0157}.items():
        effect = found[estimand]
        assert mean_of(effect) == pytest.approx(published, abs=MEANS * sd_of(effect))
    total = (found["nde"].draws + found["nie"].draws).values
    np.testing.assert_allclose(found["total"].draws, total, atol=1e-5)


def test_eight_schools_are_those_of_quadrature():
    found = load_example("eight_schools").main(particles=2000)
    # Log evidence, and means and sds of mu and tau, by quadrature.
    truth = {"centred": -36.1308, "not_centred": -36.1308, "alike": -30.9028}
    for name, evidence in truth.items():
        model = found["models"][name]
        assert model.log_evidence_ == pytest.approx(evidence, abs=0.12)
        assert model.diagnostics_["verdict"] == "good"
    for name in ("centred", "not_centred"):
        posterior = found["models"][name].posterior
        assert posterior["mu"].mean() == pytest.approx(5.799, abs=0.4)
        assert posterior["tau"].mean() == pytest.approx(13.167, abs=0.6)
        assert posterior["tau"].std() == pytest.approx(6.909, rel=0.1)
    assert list(found["table"].index) == ["alike", "centred"]


def test_a_net_comes_near_the_closed_form(tmp_path):
    figure = tmp_path / "figure.png"
    errors = load_example("simulator").main(simulations=100_000, figure=figure)
    assert errors["error of log density"] < 0.1  # of a tenth of the simulations
    assert figure.stat().st_size > 1_000


@pytest.mark.filterwarnings("ignore")  # chains of a small design may not be good
def test_learning_answers_what_if(tmp_path):
    figure = tmp_path / "figure.png"
    best, without = load_example("learning").main(subjects=8, trials=60, figure=figure)
    assert 0 < without < best < 1
    assert figure.stat().st_size > 1_000


def test_the_change_of_1898_is_found_in_the_nile(tmp_path, capsys):
    impact, placebo = run("impact", tmp_path / "figure.png")
    row = impact.summary(ci_prob=0.9).set_index("effect").loc["average"]
    # Two means: 1,097.75 of 28 years until 1898, 849.97 of 72 after it.
    assert row["actual"] == pytest.approx(849.97, abs=0.01)
    assert row["predicted"] == pytest.approx(1097.75, abs=60)
    assert row["absolute_eti90_ub"] < 0
    assert bool(placebo["covers_0"].iloc[0])
    assert "average effect" in capsys.readouterr().out
