"""Counterfactuals of units against closed forms, and worlds that were replayed without a change."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel, InputError, OutputWarning
from aimz.families import Evidence, abduce, law_of

RNG = np.random.default_rng(0)
DRAWS = 40


def ask(im: ImpactModel, X: Any, *args: Any, **options: Any) -> Any:
    return im.effect(X, *args, **{"rung": "counterfactual", "progress": False, **options})


# ------------------------------------------------------------------ closed forms


def encouragement(X, h=None, y=None):
    """Pearl, Glymour and Jewell (2016), "Causal Inference in Statistics: A Primer", 4.2.3."""
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal())
    c = numpyro.sample("c", dist.Normal())
    with numpyro.plate("student", X.shape[0]):
        h = numpyro.sample("h", dist.Normal(a * X, 1.0), obs=h)
        numpyro.sample("y", dist.Normal(b * X + c * h, 1.0), obs=y)


@pytest.fixture(scope="module")
def primer() -> ImpactModel:
    draws = {"a": np.full(DRAWS, 0.5), "b": np.full(DRAWS, 0.7), "c": np.full(DRAWS, 0.4)}
    return ImpactModel(encouragement).set_posterior_sample(draws)


def test_the_student_of_the_primer_would_have_scored_1_90(primer):
    joe = {"X": np.array([0.5]), "h": np.array([1.0]), "y": np.array([1.5])}
    got = ask(primer, joe["X"], {}, {"h": 2.0}, h=joe["h"], y=joe["y"])
    np.testing.assert_allclose(got.averages.sel(scenario="intervention"), 1.90, rtol=1e-6)
    np.testing.assert_allclose(got.averages.sel(scenario="baseline"), 1.5, rtol=1e-6)
    people = primer.effect(joe["X"], {"h": 1.0}, {"h": 2.0}, h=joe["h"], progress=False)
    np.testing.assert_allclose(people.averages.sel(scenario="intervention"), 1.15, rtol=1e-6)


def test_what_is_on_the_path_is_replayed_before_what_it_causes(primer):
    X, h, y = np.array([0.5, -1.0]), np.array([1.0, 0.2]), np.array([1.5, 3.0])
    got = ask(primer, X, {}, {"X": X + 2.0}, h=h, y=y)
    # h moves by a * 2, and y by b * 2 + c * a * 2.
    np.testing.assert_allclose(got.draws, 2 * 0.7 + 0.4 * 2 * 0.5, rtol=1e-5)
    on_h = ask(primer, X, {}, {"X": X + 2.0}, h=h, y=y, site="h")
    np.testing.assert_allclose(on_h.draws, 1.0, rtol=1e-5)
    assert got.couplings == {"h": "residual", "y": "residual"}


def binary(X, t, y=None):
    low = numpyro.sample("low", dist.Uniform(0, 1))
    high = numpyro.sample("high", dist.Uniform(0, 1))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(jnp.where(t == 1, high, low)), obs=y)


@pytest.fixture(scope="module")
def trial() -> Any:
    """Outcomes of a trial, its model, and what is asked of it; 100,000 draws."""
    count = 100_000
    draws = {"low": RNG.beta(30, 70, count), "high": RNG.beta(60, 40, count)}
    im = ImpactModel(binary).set_posterior_sample(draws)
    X, t, y = np.zeros(8), np.repeat([0.0, 1.0], 4), np.array([0, 0, 0, 1, 0, 1, 1, 1])

    def asked(estimand: str) -> Any:
        return ask(im, X, {"t": 0}, {"t": 1}, t=t, y=y, estimand=estimand)

    return asked, draws["low"], draws["high"]


def test_a_failure_would_have_been_a_success_as_often_as_the_arms_say(trial):
    asked, low, high = trial
    got = asked("sufficiency")
    assert got.rows == 3
    desired = np.maximum(high - low, 0) / (1 - low)
    np.testing.assert_allclose(got.draws.squeeze(), desired, atol=1e-6)
    assert float(got.draws.mean()) == pytest.approx(np.mean((high - low) / (1 - low)), abs=0.005)
    below, above = (float(got.bounds.sel(bound=b).mean()) for b in ("lower", "upper"))
    assert below == pytest.approx(np.mean(np.maximum(high - low, 0) / (1 - low)), abs=1e-6)
    assert above == pytest.approx(np.mean(np.minimum(high, 1 - low) / (1 - low)), abs=1e-6)
    table = got.summary()
    assert table[["lower bound", "upper bound"]].iloc[0].tolist() == pytest.approx([below, above])
    assert "Whatever the coupling" in got.to_text()
    assert "y by quantile (monotone)" in repr(got)


def test_a_success_was_due_to_the_treatment_as_often_as_the_arms_say(trial):
    asked, low, high = trial
    got = asked("necessity")
    assert got.rows == 3
    assert float(got.draws.mean()) == pytest.approx(np.mean((high - low) / high), abs=0.005)
    assert float(got.bounds.sel(bound="upper").mean()) == pytest.approx(
        np.mean(np.minimum(high, 1 - low) / high), abs=1e-6
    )


def test_a_benefit_is_ruled_out_by_a_success_without_and_a_failure_with_it(trial):
    asked, low, high = trial
    got = asked("benefit")
    desired = (3 * (high - low) / (1 - low) + 3 * (high - low) / high) / 8
    assert got.rows == 8
    assert float(got.draws.mean()) == pytest.approx(np.mean(desired), abs=0.005)


# ------------------------------------------------------------------ replays without a change

FAMILIES: dict[str, Any] = {
    "poisson": lambda mu: dist.Poisson(jnp.exp(mu)),
    "negative binomial": lambda mu: dist.NegativeBinomial2(jnp.exp(mu), 2.0),
    "gamma": lambda mu: dist.Gamma(2.0, jnp.exp(-mu)),
    "log-normal": lambda mu: dist.LogNormal(mu, 0.7),
    "zero-inflated": lambda mu: dist.ZeroInflatedPoisson(0.4, jnp.exp(mu)),
    "ordinal": lambda mu: dist.OrderedLogistic(mu, jnp.array([-1.0, 0.5, 2.0])),
    "categories": lambda mu: dist.Categorical(logits=jnp.stack([mu, 0 * mu, 1 - mu], -1)),
    "student-t": lambda mu: dist.StudentT(4.0, mu, 2.0),
}


def of_family(family: Any) -> Any:
    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", family(b * t + X), obs=y)

    return kernel


FAST = ("gamma", "zero-inflated", "categories")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in FAMILIES]
)
def test_the_world_that_was_is_replayed_as_it_was(name):
    im = ImpactModel(of_family(FAMILIES[name]))
    im.set_posterior_sample({"b": RNG.normal(0.5, 0.2, DRAWS)}, num_chains=2)
    X, t = RNG.normal(size=50), RNG.integers(0, 2, 50).astype(float)
    y = im.predict_on_batch(X, t=t).posterior_predictive["y"].values[0, 0]
    got = ask(im, X, {"t": t}, {"t": 1.0}, t=t, y=y, estimand="ite")
    averages = got.averages.sel(scenario="baseline")
    if "category" in averages.dims:  # shares of categories, of which one is 1
        averages = averages.argmax("category")
    was = averages.transpose("obs", ...).values.reshape(50, -1)
    if y.dtype.kind == "i":
        np.testing.assert_array_equal(was, np.broadcast_to(y[:, None], was.shape))
    else:
        ulps = np.abs(was - y[:, None]) / np.spacing(np.abs(y))[:, None]
        assert ulps.max() <= 4
    # Who had the treatment keeps the outcome, others have one that is drawn given theirs.
    effects = got.draws.transpose("obs", ...).values.reshape(50, -1)
    assert np.abs(effects[t == 1]).max() < 1e-5 * np.abs(y).max()
    assert np.abs(effects[t == 0]).max() > 0


def test_a_counterfactual_of_counts_is_monotone_in_what_was_observed():
    im = ImpactModel(of_family(FAMILIES["poisson"])).set_posterior_sample({"b": np.full(4000, 0.7)})
    X, t, y = np.zeros(3), np.zeros(3), np.array([0, 2, 5])
    got = ask(im, X, {"t": 0.0}, {"t": 1.0}, t=t, y=y, estimand="ite")
    new = got.averages.sel(scenario="intervention").values.reshape(3, -1)
    assert np.all(np.diff(new.mean(1)) > 0)
    assert np.all(new >= y[:, None])  # the rate has risen for all
    assert new[0].mean() < np.exp(0.7)


# ------------------------------------------------------------------ latents of rows


def shifted(X, t, y=None):
    """A trait of each row, raised by the treatment, with noise of its own."""
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(X + b * t, 2.0))
        numpyro.sample("y", dist.Normal(3.0 * z, 1.0), obs=y)


def test_a_latent_of_a_row_keeps_its_own_noise():
    X, t, y = np.zeros(5), np.zeros(5), RNG.normal(size=5)
    draws = {"b": RNG.normal(size=DRAWS), "z": RNG.normal(size=(DRAWS, 5))}
    im = ImpactModel(shifted).set_posterior_sample(draws)
    got = ask(im, X, {"t": 0.0}, {"t": 1.0}, t=t, y=y, estimand="ite")
    np.testing.assert_allclose(
        got.draws.squeeze("chain").values,
        np.broadcast_to(3 * draws["b"], (5, DRAWS)),
        rtol=1e-4,
        atol=1e-4,
    )
    assert got.couplings == {"z": "residual", "y": "residual"}
    assert not got.redrawn


@pytest.mark.filterwarnings("ignore:The posterior holds no draws of z")
def test_a_latent_whose_value_is_not_known_is_refused():
    im = ImpactModel(shifted).set_posterior_sample({"b": RNG.normal(size=DRAWS)})
    with pytest.raises(InputError, match="'z' lies above what was observed") as caught:
        ask(im, np.zeros(5), {"t": 0.0}, {"t": 1.0}, t=np.zeros(5), y=np.zeros(5))
    assert caught.value.code == "counterfactual-latent"


# ------------------------------------------------------------------ layouts


@pytest.mark.slow
def test_counterfactuals_do_not_depend_on_tiles(monkeypatch):
    im = ImpactModel(of_family(FAMILIES["zero-inflated"]))
    im.set_posterior_sample({"b": RNG.normal(0.5, 0.2, DRAWS)})
    X, t = RNG.normal(size=300), RNG.integers(0, 2, 300).astype(float)
    y = im.predict_on_batch(X, t=t).posterior_predictive["y"].values[0, 0]
    whole = ask(im, X, {"t": 0.0}, {"t": 1.0}, t=t, y=y, estimand="ite", rng_key=3)
    few = ask(im, X[:70], {"t": 0.0}, {"t": 1.0}, t=t[:70], y=y[:70], estimand="ite", rng_key=3)
    np.testing.assert_array_equal(whole.draws[:70], few.draws)
    monkeypatch.setattr("aimz.execution.plan.MAX_ROWS", 64)
    monkeypatch.setattr("aimz.execution.plan.TILE_BYTES", 64 * 4 * 10)
    tiled = ask(im, X, {"t": 0.0}, {"t": 1.0}, t=t, y=y, estimand="ite", rng_key=3)
    np.testing.assert_array_equal(whole.draws, tiled.draws)


def centred(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Poisson(jnp.exp(b * t + X - X.mean())), obs=y)


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
@pytest.mark.slow
def test_rows_that_interact_are_replayed_together():
    im = ImpactModel(centred).set_posterior_sample({"b": np.full(DRAWS, 0.5)})
    X, t = RNG.normal(size=20), np.zeros(20)
    y = im.predict_on_batch(X, t=t).posterior_predictive["y"].values[0, 0]
    got = ask(im, X, {"t": t}, {"t": 1.0}, t=t, y=y, estimand="ite")
    was = got.averages.sel(scenario="baseline").values.reshape(20, -1)
    np.testing.assert_array_equal(was, np.broadcast_to(y[:, None], was.shape))
    assert float(got.draws.mean()) > 0


# ------------------------------------------------------------------ mistakes


def test_outcomes_that_say_nothing_of_the_noise_are_counted(trial):
    im = ImpactModel(of_family(FAMILIES["poisson"])).set_posterior_sample({"b": np.zeros(DRAWS)})
    X, y = np.array([0.0, 9.0, 0.0]), np.array([1, 0, -1])
    options = {"t": np.zeros(3), "y": y}
    with pytest.warns(OutputWarning, match=r"In 2 of 3 rows what was observed") as caught:
        ask(im, X, {"t": 0.0}, {"t": 1.0}, **options)
    assert caught[0].message.code == "noise-lost"


def bypassing(X, t, m=None, y=None):
    numpyro.sample("m", dist.Normal(t, 1.0), obs=m)
    numpyro.sample("y", dist.Normal(2.0 * m, 1.0), obs=y)


def folded(X, t, y=None):
    numpyro.sample("y", dist.FoldedDistribution(dist.Normal(t, 1.0)), obs=y)


def by_factor(X, t, y=None):
    mu = numpyro.deterministic("y", 2.0 * t)
    if y is not None:
        numpyro.factor("fit", -((y - mu) ** 2))


def test_questions_without_an_answer_are_refused(primer):
    row = np.array([0.5])
    options: Any = {"y": row, "progress": False, "rung": "counterfactual"}

    def refused(code: str, model: Any = primer, *changes: Any, **more: Any) -> None:
        arms = changes or ({}, {"X": row + 1})
        with pytest.raises(InputError) as caught:
            model.effect(row, *arms, **{**options, **more})
        assert caught.value.code == code, caught.value

    refused("counterfactual-latent")  # h is not passed
    refused("outcome-missing", h=row, y=None)
    refused("rung-mismatch", h=row, target="expectation")
    refused("rung-mismatch", h=row, population="finite")
    refused("rung-mismatch", h=row, rung="intervention", estimand="benefit")
    refused(
        "not-probability",
        primer,
        {"X": row},
        {"X": row + 1},
        h=row,
        estimand="benefit",
        treatment=row > 0,
    )
    refused("option-unknown", h=row, rung="association")
    refused("not-finite", h=row, y=row * np.nan)
    arms = {"t": 0.0}, {"t": 1.0}
    by_hand = {
        n: ImpactModel(k).set_posterior_sample({"free": np.zeros(3)})
        for n, k in (("bypass", bypassing), ("folded", folded), ("factor", by_factor))
    }
    refused("counterfactual-site", by_hand["bypass"], *arms, t=row, m=row)
    refused("family-unknown", by_hand["folded"], *arms, t=row)
    refused("counterfactual-site", by_hand["factor"], *arms, t=row)


# ------------------------------------------------------------------ silence


def flagged(X, flag=False, t=None, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        more = 0.0 if t is None else t
        numpyro.sample("y", dist.Normal(b * (2.0 if flag else 1.0) + more, 1.0), obs=y)


@pytest.mark.parametrize(
    ("changes", "natural"),
    [
        (({"flag": False}, {"flag": True}), {"flag": False}),
        (({}, {"t": 3.0}), {}),
    ],
    ids=["not traced", "left at its default"],
)
def test_arguments_that_are_not_traced_are_replayed_too(changes, natural):
    im = ImpactModel(flagged).set_posterior_sample({"b": np.full(DRAWS, 3.0)})
    got = ask(im, np.zeros(4), *changes, **natural, y=np.arange(4.0))
    np.testing.assert_allclose(got.draws, 3.0, rtol=1e-5)


def assisted(X, t, d, y=None):
    numpyro.sample("y", dist.Bernoulli(0.1 + 0.3 * t + 0.1 * d), obs=y)


def test_probabilities_condition_on_the_world_that_was():
    im = ImpactModel(assisted).set_posterior_sample({"free": np.zeros(DRAWS)})
    t, y = np.repeat([0.0, 1.0], 4), np.ones(8, int)
    options: Any = {"t": t, "d": np.zeros(8), "y": y, "treatment": "t", "estimand": "necessity"}
    got = ask(im, np.zeros(8), {"t": 0.0}, {"t": 1.0, "d": 5.0}, **options)
    np.testing.assert_allclose(got.draws, 1 - 0.1 / 0.4, rtol=1e-5)
    assert got.bounds is None  # three worlds


@pytest.mark.parametrize(
    "family",
    [
        lambda p: dist.Binomial(5, p),
        lambda p: dist.Geometric(p),
        lambda p: dist.ZeroInflatedDistribution(dist.Bernoulli(p), gate=0.5),
        lambda p: dist.Poisson(p),
    ],
)
def test_probabilities_are_of_bernoulli_outcomes(family):
    im = ImpactModel(of_family(lambda mu: family(0.2 + 0.1 * mu)))
    im.set_posterior_sample({"b": np.ones(DRAWS)})
    t, y = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 1, 0, 1])
    with pytest.raises(InputError, match="are of a Bernoulli outcome"):
        ask(im, np.zeros(4), {"t": 0}, {"t": 1}, t=t, y=y, estimand="sufficiency")
    with pytest.raises(InputError, match="sets 'y' itself"):
        ask(im, np.zeros(4), {"t": 0}, {"y": 1}, t=t, y=y, treatment=t == 1, estimand="benefit")


@pytest.mark.parametrize(
    ("fn", "outcome"),
    [
        (lambda mu: dist.Uniform(0.0, 1.0 + mu), 5.0),
        (lambda mu: dist.Levy(mu, 1.0), -5.0),
        (lambda mu: dist.LogUniform(1.0, 2.0 + mu), 9.0),
        (lambda mu: dist.Kumaraswamy(2.0, 3.0 + mu), -0.5),
    ],
)
@pytest.mark.filterwarnings("ignore:In 2 of 2 rows")
def test_outcomes_beyond_limits_say_nothing_of_the_noise(fn, outcome):
    law = law_of("y", fn(jnp.zeros(2)), (2,))
    assert not abduce(Evidence(law, np.full(2, outcome), np.full(2, 0.5))).is_sound.any()


def test_outcomes_that_a_site_cannot_hold_are_refused():
    im = ImpactModel(of_family(FAMILIES["poisson"])).set_posterior_sample({"b": np.zeros(DRAWS)})
    for outcome, code in ((2.9, "site-integer"), (2**32 + 3, "cast-overflow")):
        with pytest.raises(InputError) as caught:
            ask(im, np.zeros(1), {"t": 0}, {"t": 1}, t=np.zeros(1), y=np.array([outcome]))
        assert caught.value.code == code
