"""Effects against dense arithmetic on the kernel's own formulas, in one pass and in any layout."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy.special import expit, softmax

from aimz import ImpactModel, InputError, OutputWarning
from aimz.execution import plan, tiles

ROWS, DRAWS = 2_100, 60  # two tiles and a part of one


def linear(X, t, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    mu = numpyro.deterministic("mu", b * t * X[:, 0] + X[:, 1])
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 2.0), obs=y)


def logistic(X, t, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Bernoulli(logits=b * t + X[:, 0]), obs=y)


def counts(X, t, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Poisson(jnp.exp(0.3 * b * t * X[:, 0] + X[:, 1])), obs=y)


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def t(X) -> Any:
    return (np.random.default_rng(3).uniform(size=ROWS) < 0.4).astype(np.float32)


B = np.random.default_rng(1).normal(1.5, 0.3, DRAWS).astype(np.float32)


def model(kernel: Any, **draws: Any) -> ImpactModel:
    return ImpactModel(kernel).set_posterior_sample({"b": B, **draws}, num_chains=2)


def effect(im: ImpactModel, X: Any, t: Any, **options: Any) -> Any:
    scenarios = {"baseline": {"t": 0}, "intervention": {"t": 1}}
    if "scenarios" in options:
        scenarios = {}
    return im.effect(X, **{**scenarios, "t": t, "progress": False, **options})


def flat(draws: Any) -> Any:
    """Draws with those of all chains one after another, last."""
    return draws.stack(all=("chain", "draw"), create_index=False).values


def close(actual: Any, desired: Any) -> None:
    """Equal to 1e-5 of the standard deviation over draws."""
    actual, desired = flat(actual), np.asarray(desired, np.float64)
    assert actual.shape == desired.shape
    np.testing.assert_array_less(np.abs(actual - desired).max(), 1e-5 * desired.std(-1).min())


# What the kernels compute, with a row for each row and a column for each draw, in double precision.
def dense(kernel: Any, X: np.ndarray, t: float) -> np.ndarray:
    first, second = X.astype(float).T[:, :, None]
    b = B.astype(float)
    found: np.ndarray = {
        linear: lambda: b * t * first + second,
        logistic: lambda: expit(b * t + first),
        counts: lambda: np.exp(0.3 * b * t * first + second),
    }[kernel]()
    return found


# ------------------------------------------------------------------ estimands


@pytest.mark.parametrize("kernel", [linear, logistic, counts])
def test_the_average_effect_is_that_of_the_dense_arrays(kernel, X, t):
    got = effect(model(kernel), X, t)
    close(got.draws, (dense(kernel, X, 1.0) - dense(kernel, X, 0.0)).mean(0))
    close(got.averages.sel(scenario="intervention"), dense(kernel, X, 1.0).mean(0))


def test_the_treated_and_the_untreated_are_those_who_were(X, t):
    rows = dense(logistic, X, 1.0) - dense(logistic, X, 0.0)
    close(effect(model(logistic), X, t, estimand="att").draws, rows[t == 1].mean(0))
    close(effect(model(logistic), X, t, estimand="atc").draws, rows[t == 0].mean(0))
    by_array = effect(model(logistic), X, t, estimand="att", treatment=X[:, 1] > 0)
    close(by_array.draws, rows[X[:, 1] > 0].mean(0))
    assert by_array.rows == np.sum(X[:, 1] > 0)


def test_groups_have_effects_of_their_own(X, t):
    names = np.array(["b", "a", "c"])[np.arange(ROWS) % 3]
    got = effect(model(logistic), X, t, estimand="cate", by=names)
    rows = dense(logistic, X, 1.0) - dense(logistic, X, 0.0)
    assert got.draws["group"].values.tolist() == ["a", "b", "c"]
    close(got.draws, [rows[names == name].mean(0) for name in "abc"])


def test_groups_may_be_a_column_or_an_argument(X, t):
    frame = pd.DataFrame(X, columns=["u", "v"]).assign(v=np.arange(ROWS) % 2)
    by_column = effect(model(logistic), frame, t, estimand="cate", by="v")
    by_array = effect(model(logistic), frame, t, estimand="cate", by=np.arange(ROWS) % 2)
    np.testing.assert_array_equal(by_column.draws, by_array.draws)
    by_argument = effect(model(logistic), X, t, estimand="cate", by="t")
    treated = effect(model(logistic), X, t, estimand="att")
    np.testing.assert_array_equal(by_argument.draws.sel(group=1.0), treated.draws)


def test_weights_weigh_rows(X, t):
    weights = np.random.default_rng(2).uniform(0, 2, ROWS)
    rows = dense(logistic, X, 1.0) - dense(logistic, X, 0.0)
    got = effect(model(logistic), X, t, weights=weights).draws
    close(got, np.average(rows, axis=0, weights=weights))


def test_an_effect_on_each_row_has_draws_of_each_row(X, t):
    labels = [f"r{n}" for n in range(50)]
    frame = pd.DataFrame(X[:50], index=labels)
    got = effect(model(logistic), frame, t[:50], estimand="ite")
    assert got.draws["obs"].values.tolist() == labels
    desired = dense(logistic, X[:50], 1.0) - dense(logistic, X[:50], 0.0)
    np.testing.assert_allclose(flat(got.draws), desired, atol=1e-6)


def test_several_scenarios_are_compared_with_the_first(X, t):
    doses = {dose: {"t": dose} for dose in (0.0, 0.5, 2.0)}
    got = effect(model(counts), X, t, scenarios=doses).draws
    assert got["contrast"].values.tolist() == ["0.5 vs 0.0", "2.0 vs 0.0"]
    desired = [(dense(counts, X, d) - dense(counts, X, 0.0)).mean(0) for d in (0.5, 2.0)]
    np.testing.assert_allclose(flat(got), desired, atol=1e-6)


def test_an_empty_scenario_is_what_is_natural(X, t):
    got = effect(model(linear), X, t, scenarios={"none": {"t": 0}, "natural": {}}).draws
    rows = np.where(t[:, None] == 1, dense(linear, X, 1.0), dense(linear, X, 0.0))
    close(got, (rows - dense(linear, X, 0.0)).mean(0))


def mediated(X, t, m=None, y=None):
    """t -> m -> y and t -> y, with an interaction."""
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        m = numpyro.sample("m", dist.Normal(X[:, 0] + b * t, 0.5), obs=m)
        numpyro.sample("y", dist.Normal(2.0 * t + 3.0 * m + t * m, 1.0), obs=y)


@pytest.mark.filterwarnings("ignore:The posterior holds no draws of m")
@pytest.mark.parametrize(
    "target", ["expectation", pytest.param("prediction", marks=pytest.mark.slow)]
)
def test_direct_and_indirect_effects_add_up_to_the_total(target, X, t):
    im = model(mediated)
    options = {"mediator": "m", "target": target, "rng_key": 4}
    got = {name: effect(im, X, t, estimand=name, **options) for name in ("nde", "nie", "total")}
    # Under t = 0 the mediator is what is drawn; t adds b to it.
    tree: Any = im.predict_on_batch(X, t=0.0 * t, rng_key=4, return_sites="m")
    natural = tree.posterior_predictive["m"].values.reshape(DRAWS, ROWS).astype(float).mean(1)
    close(got["nde"].draws, 2.0 + natural)
    close(got["nie"].draws, 4.0 * B.astype(float))
    close(got["total"].draws, 2.0 + natural + 4.0 * B.astype(float))
    assert "mediator: m" in repr(got["nde"])


# ------------------------------------------------------------------ comparisons


def test_a_ratio_is_that_of_totals_and_not_the_mean_of_ratios(X, t):
    new, old = dense(counts, X, 1.0), dense(counts, X, 0.0)
    ratio, mean_of_ratios = new.sum(0) / old.sum(0), (new / old).mean(0)
    weights = np.exp(2.0 * X[:, 0])
    heavy = (weights[:, None] * new).sum(0) / (weights[:, None] * old).sum(0)
    close(effect(model(counts), X, t, comparison="ratio").draws, ratio)
    assert heavy.mean() / mean_of_ratios.mean() > 1.25
    close(effect(model(counts), X, t, comparison="ratio", weights=weights).draws, heavy)
    close(effect(model(counts), X, t, comparison="lift").draws, ratio - 1)


def test_odds_ratios_and_callables_compare_averages(X, t):
    new, old = dense(logistic, X, 1.0).mean(0), dense(logistic, X, 0.0).mean(0)
    odds = new / (1 - new) / (old / (1 - old))
    close(effect(model(logistic), X, t, comparison="odds_ratio").draws, odds)

    def log_ratio(new, old):
        return np.log(new / old)

    got = effect(model(logistic), X, t, comparison=log_ratio)
    close(got.draws, np.log(new / old))
    assert got.summary()["comparison"].tolist() == ["log_ratio"]


@pytest.mark.parametrize(
    ("comparison", "match"),
    [
        ("odds_ratio", "probabilities between 0 and 1"),
        ("ratio", "total is 0 in a draw"),
        (lambda new, old: new.sum(), "returned shape"),
    ],
)
def test_averages_that_cannot_be_compared_are_an_error(comparison, match, X, t):
    zero = X * np.array([1.0, 0.0], np.float32)
    with pytest.raises(InputError, match=match):
        effect(model(linear), zero, t, comparison=comparison)


# ------------------------------------------------------------------ targets and populations


def test_outcomes_are_those_that_predict_draws(X, t):
    im = model(logistic)
    got = effect(im, X, t, target="prediction", rng_key=3).draws
    arms: list[Any] = [
        im.predict_on_batch(X, t=np.full(ROWS, arm, np.float32), rng_key=3).posterior_predictive
        for arm in (1, 0)
    ]
    difference = arms[0]["y"].astype(float) - arms[1]["y"].astype(float)
    close(got, flat(difference.mean(difference.dims[-1])))


def test_a_computed_site_can_be_the_target(X, t):
    rows = dense(linear, X, 1.0) - dense(linear, X, 0.0)
    close(effect(model(linear), X, t, site="mu").draws, rows.mean(0))


def test_categories_have_a_probability_each(X, t):
    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        logits = jnp.stack([0 * t, b * t, X[:, 0]], axis=-1)
        numpyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def shares(arm):
        zero = np.zeros((ROWS, DRAWS))
        logits = np.stack([zero, zero + B * arm, zero + X[:, :1]], axis=0)
        return softmax(logits.astype(float), axis=0).mean(1)

    got = effect(model(kernel), X, t).draws
    close(got.transpose("category", ...), shares(1.0) - shares(0.0))


def test_an_outcome_without_a_mean_is_an_error_that_names_the_other_target(X, t):
    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Cauchy(b * t + X[:, 0], 1.0), obs=y)

    with pytest.raises(InputError, match=r"'y' has no mean .*target='prediction'"):
        effect(model(kernel), X, t)


def test_a_superpopulation_adds_the_variance_of_sampling_rows(X, t):
    same = {"b": np.full(4_000, 2.0, np.float32)}
    im = ImpactModel(linear).set_posterior_sample(same)
    rows, arms = X[:400], t[:400]
    assert float(effect(im, rows, arms).draws.std()) < 1e-6
    got = effect(im, rows, arms, population="superpopulation").draws
    desired = 2.0 * rows[:, 0].std() / np.sqrt(401)  # a Dirichlet of ones
    assert float(got.std()) == pytest.approx(desired, rel=4 / np.sqrt(2 * 4_000))
    assert float(got.mean()) == pytest.approx(
        2.0 * rows[:, 0].mean(), abs=4 * desired / np.sqrt(4_000)
    )


def test_a_finite_population_keeps_the_outcomes_that_were_observed(X, t):
    im = model(linear)
    y = np.arange(ROWS, dtype=np.float32) / ROWS
    options = {"target": "prediction", "rng_key": 5}
    got = effect(im, X, t, population="finite", y=y, **options).draws
    arms = []
    for arm in (1, 0):
        tree: Any = im.predict_on_batch(X, t=np.full(ROWS, arm, np.float32), rng_key=5)
        drawn = tree.posterior_predictive["y"].values.reshape(DRAWS, ROWS).astype(float)
        arms.append(np.where(t == arm, y.astype(float), drawn).mean(1))
    close(got, arms[0] - arms[1])


@pytest.mark.parametrize("logit", [-30.0, -5.0, 5.0, 20.0, 28.0, 31.0, 40.0])
def test_odds_near_certainty_are_right_or_refused(X, logit):
    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.sample("y", dist.Bernoulli(logits=b * t), obs=y)

    certain = ImpactModel(kernel).set_posterior_sample({"b": np.array([logit])})
    if logit > 29:
        with pytest.raises(InputError, match=r"near 1|between 0 and 1"):
            effect(certain, X, np.ones(len(X)), comparison="odds_ratio")
    else:
        got = effect(certain, X, np.ones(len(X)), comparison="odds_ratio")
        np.testing.assert_allclose(flat(got.draws), np.exp(logit), rtol=1e-3)


# ------------------------------------------------------------------ layout


@pytest.mark.parametrize("population", ["sample", "superpopulation"])
def test_draws_do_not_depend_on_tiles_or_threads(population, X, t, monkeypatch):
    options: dict[str, Any] = {"estimand": "cate", "by": np.arange(ROWS) % 5}
    whole = effect(model(logistic), X, t, population=population, **options).draws
    again = effect(model(logistic), X, t, population=population, **options).draws
    np.testing.assert_array_equal(again, whole)
    monkeypatch.setattr(tiles, "num_threads", lambda devices: 1)
    np.testing.assert_array_equal(
        effect(model(logistic), X, t, population=population, **options).draws, whole
    )
    monkeypatch.setattr(tiles, "num_threads", lambda devices: 5)
    monkeypatch.setattr(plan, "MAX_ROWS", 64)
    monkeypatch.setattr(plan, "TILE_BYTES", 64 * 4 * 20)
    small = effect(model(logistic), X, t, population=population, **options).draws
    close(small, flat(whole))


def test_interacting_rows_have_effects_too(X, t):
    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(b * t * t.mean() + X[:, 0], 1.0), obs=y)

    with pytest.warns(match="predicted together"), pytest.warns(match="a statistic over the rows"):
        got = effect(model(kernel), X[:90], t[:90])
    close(got.draws, B.astype(float))


# ------------------------------------------------------------------ scenarios


def test_a_site_can_be_set_in_a_scenario(X, t):
    got = effect(model(linear), X, t, scenarios={"old": {"b": 0.0}, "new": {"b": 2.0}})
    close_to = 2.0 * (t * X[:, 0].astype(float)).mean()
    np.testing.assert_allclose(flat(got.draws), close_to, atol=1e-6)


def test_a_callable_gets_the_natural_value(X, t):
    frame = pd.DataFrame(X, columns=["u", "v"])
    by_frame = {"a": {}, "b": {"X": lambda X: X.assign(u=X.u + 1.0), "t": lambda t: 0 * t + 1}}
    got = effect(model(linear), frame, t, scenarios=by_frame).draws
    b, first = B.astype(float), X[:, :1].astype(float)
    natural = (b * t[:, None] * first).mean(0)
    close(got, (b * (first + 1.0)).mean(0) - natural)


def test_scenarios_share_their_noise(X, t):
    got = effect(model(linear), X, t, target="prediction").draws
    close(got, (dense(linear, X, 1.0) - dense(linear, X, 0.0)).mean(0))


def test_labelled_values_are_put_in_the_order_of_the_rows(X, t):
    frame = pd.DataFrame(X, index=np.arange(ROWS) + 7)
    weights = pd.Series(np.arange(ROWS, dtype=float), index=frame.index)
    shuffled = weights.sample(frac=1.0, random_state=0)
    one, other = (effect(model(linear), frame, t, weights=w).draws for w in (weights, shuffled))
    np.testing.assert_array_equal(one, other)


def test_a_labelled_treatment_says_who_was_treated_by_label(X, t):
    frame = pd.DataFrame(X, index=np.arange(ROWS) + 7)
    natural = pd.Series(t, index=frame.index)
    shuffled = natural.sample(frac=1.0, random_state=0)
    for options in ({"estimand": "att"}, {"estimand": "cate", "by": "t"}):
        one, other = (
            effect(model(logistic), frame, s, **options).draws for s in (natural, shuffled)
        )
        np.testing.assert_array_equal(one, other)
    bare = {"a": {}, "b": {"t": lambda t: 1 - np.asarray(t)}}
    one, other = (
        effect(model(linear), frame, s, scenarios=bare).draws for s in (natural, shuffled)
    )
    np.testing.assert_array_equal(one, other)


def test_an_argument_that_is_not_traced_may_be_a_scenario(X):
    def kernel(X, mode="off", y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        on = 1.0 if mode == "on" else 0.0
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Normal(5.0 * on, 0.1))
            numpyro.sample("y", dist.Normal(z + b * on, 1.0), obs=y)

    scenarios = {"off": {"mode": "off"}, "on": {"mode": "on"}}
    im = ImpactModel(kernel).set_posterior_sample({"b": B, "z": np.zeros((DRAWS, 40))})
    with pytest.raises(InputError, match="not known whether 'z' depends on it"):
        im.effect(X[:40], scenarios=scenarios, progress=False)
    got = im.effect(X[:40], scenarios=scenarios, in_sample=False, progress=False)
    np.testing.assert_allclose(flat(got.draws), B + 5.0, atol=1e-4)


def test_scenarios_that_could_not_share_their_noise_are_refused(X):
    def kernel(X, centre=False, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        x = X[:, 0] - X[:, 0].mean() if centre else X[:, 0]
        numpyro.sample("y", dist.Normal(b * x, 1.0), obs=y)

    with pytest.raises(InputError, match="'b' makes rows interact"):
        model(kernel).effect(X, scenarios={"a": {}, "b": {"centre": True}}, progress=False)


def test_latents_of_rows_are_drawn_anew_where_a_scenario_changes_their_argument():
    def chain(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        with numpyro.plate("obs", X.shape[0]):
            m = numpyro.sample("m", dist.Normal(b * t, 0.01))
            numpyro.sample("y", dist.Normal(m, 0.1), obs=y)

    rows = np.zeros((40, 1), np.float32)
    natural = (np.arange(40) % 2).astype(np.float32)
    held = np.full((DRAWS, 40), 9.0, np.float32)  # far from what t says
    im = ImpactModel(chain).set_posterior_sample({"b": B, "m": held})
    got = effect(im, rows, natural)
    assert got.redrawn == ("m",)
    np.testing.assert_allclose(
        flat(got.averages.sel(scenario="baseline")), 4.5, atol=0.01
    )  # half of the rows keep their latents
    desired = (9.0 + B.astype(float)) / 2
    np.testing.assert_allclose(flat(got.averages.sel(scenario="intervention")), desired, atol=0.01)


# ------------------------------------------------------------------ refusals


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown estimand": ({"estimand": "atee"}, "no estimand 'atee'. Did you mean 'ate'"),
    "an unknown comparison": ({"comparison": "difff"}, "no comparison 'difff'"),
    "an unknown target": ({"target": "mean"}, "no target 'mean'"),
    "an unknown population": ({"population": "all"}, "no population 'all'"),
    "groups without by": ({"estimand": "cate"}, "estimand='cate' needs by="),
    "by without groups": ({"by": "t"}, "by= is for estimand='cate'"),
    "a column that there is not": ({"estimand": "cate", "by": "z"}, "no argument and no column"),
    "labels of another length": ({"estimand": "cate", "by": [1, 2]}, "by= has shape"),
    "missing labels": ({"estimand": "cate", "by": np.full(ROWS, np.nan)}, "missing labels"),
    "negative weights": ({"weights": -np.ones(ROWS)}, "must be finite and not negative"),
    "weights of nobody": ({"weights": np.zeros(ROWS)}, "must be finite and not negative"),
    "weights of another length": ({"weights": np.ones(3)}, "weights= has shape"),
    "nobody treated": ({"estimand": "att", "t": np.zeros(ROWS)}, "nobody counts"),
    "an unknown name": (
        {"baseline": {"tt": 0}},
        "sets 'tt', which is no argument or site .* Did you mean 't'",
    ),
    "one scenario": ({"baseline": None}, "pass baseline= and intervention="),
    "other rows": ({"intervention": {"X": lambda X: X[:5], "t": 1.0}}, "5 rows, but there are"),
    "a mean of observed outcomes": ({"population": "finite"}, "Pass target='prediction'"),
    "no observed outcomes": (
        {"population": "finite", "target": "prediction"},
        "keeps observed outcomes: pass y=",
    ),
    "observed outcomes of another shape": (
        {"population": "finite", "target": "prediction", "y": np.ones((ROWS, 1))},
        r"y= has shape \(2100, 1\), but 'y' is \(2100,\)",
    ),
    "observed outcomes of another site": (
        {"population": "finite", "target": "prediction", "y": np.ones(ROWS), "site": "mu"},
        "compares 'y' with y=",
    ),
    "the treated of three scenarios": (
        {"estimand": "att", "scenarios": {n: {"t": n} for n in range(3)}},
        "'att' compares two scenarios",
    ),
    "who was treated is not known": (
        {"estimand": "att", "intervention": {"t": lambda t: t + 1}},
        "does not set 't' to one value",
    ),
    "several things are set": (
        {"estimand": "att", "baseline": {"t": 0, "b": 0.0}},
        "Several things are set",
    ),
    "a mediator without its effect": ({"mediator": "mu"}, "need mediator=, a site, and no other"),
    "an effect without its mediator": ({"estimand": "nde"}, "need mediator=, a site"),
    "a mediator that is no site": (
        {"estimand": "nde", "mediator": "muu"},
        "'muu' is no site of rows that 'y' depends on",
    ),
    "a site without rows": ({"site": "b"}, "'b' has no value per row"),
    "a site that there is not": ({"site": "z"}, "There is no site 'z' to return"),
    "too many draws of rows": ({"estimand": "ite"}, "Ask about fewer rows"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_questions_without_an_answer_are_refused(kind, X, t, monkeypatch):
    options, match = REFUSED[kind]
    monkeypatch.setattr("aimz.effects.one_pass.ROW_BYTES", 1000)
    with pytest.raises(InputError, match=match):
        effect(model(linear), X, **{"t": t, **options})


def test_an_option_that_is_also_an_argument_is_refused_where_it_is_ambiguous(X, t):
    def kernel(X, weights, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(b * weights + X[:, 0], 1.0), obs=y)

    im = model(kernel)
    scenarios = {"a": {"weights": 0.0}, "b": {"weights": 1.0}}
    with pytest.raises(InputError, match=r"'weights' is an option of effect and an argument"):
        im.effect(X, scenarios=scenarios, weights=t, progress=False)
    got = im.effect(X, scenarios=scenarios, inputs={"weights": t}, progress=False)
    close(got.draws, B.astype(float))


def test_a_scenario_that_changes_nothing_that_matters_warns(X, t):
    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.deterministic("aside", t * 2)
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    with pytest.warns(OutputWarning, match="from which no path leads to 'y'"):
        effect(model(kernel), X, t)
    assert float(effect(model(linear), X, 0 * t).draws.std()) > 0  # a scenario may be natural


def test_data_that_keep_a_change_from_the_outcome_warn(X, t):
    def kernel(X, t, m=None, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        with numpyro.plate("obs", X.shape[0]):
            m = numpyro.sample("m", dist.Normal(2.0 * t, 0.1), obs=m)
            numpyro.sample("y", dist.Normal(b * t + m, 1.0), obs=y)

    with pytest.warns(OutputWarning, match="but m keeps the values that the call passes"):
        direct = effect(model(kernel), X, t, m=2.0 * t)
    close(direct.draws, B.astype(float))
    with pytest.warns(OutputWarning, match="no draws of m"):
        whole = effect(model(kernel), X, t)
    np.testing.assert_allclose(flat(whole.draws), B + 2.0, atol=1e-5)


# ------------------------------------------------------------------ the answer


def test_the_answer_says_what_was_asked(X, t):
    got = effect(model(counts), X, t, comparison="ratio", estimand="att")
    table = got.summary(ci_prob=0.9, ci_kind="hdi", rope=(0.99, 1.01), direction="<")
    assert list(table.columns) == [
        *("estimand", "comparison", "contrast", "mean", "sd", "hdi90_lb", "hdi90_ub"),
        *("P(effect < 1)", "P(0.99 <= effect <= 1.01)"),
    ]
    draws = flat(got.draws)
    np.testing.assert_allclose(table["mean"], draws.mean())
    np.testing.assert_allclose(table["P(effect < 1)"], (draws < 1).mean())
    for text in (got.to_text(), repr(got), got._repr_html_()):
        for part in ("ratio", "expectation", "sample", "intervention", f"{int(t.sum()):,} rows"):
            assert part in text
        assert "2 chains" in text
    with pytest.raises(InputError, match="direction must be"):
        got.summary(direction="up")


def test_an_interval_has_the_quantiles_of_the_draws(X, t):
    got = effect(model(linear), X, t)
    table = got.summary(ci_prob=0.8, ci_kind="eti")
    low, high = np.quantile(flat(got.draws), [0.1, 0.9])
    np.testing.assert_allclose(table[["eti80_lb", "eti80_ub"]].iloc[0], [low, high], rtol=1e-6)


def test_an_effect_advances_no_key(X, t):
    im = model(logistic)
    first = effect(im, X, t, target="prediction").draws
    np.testing.assert_array_equal(effect(im, X, t, target="prediction").draws, first)
    assert jax.random.key_data(jax.random.key(0)).tolist() == [0, 0]


def test_a_summary_of_rows_is_that_of_their_effects(X, t):
    asked = {"quantiles": (0.1, 0.5), "threshold": 0.2}
    got = effect(model(linear), X, t, row_summary=asked).row_summary
    each = flat(effect(model(linear), X, t, estimand="ite").draws)
    np.testing.assert_allclose(got["mean"], each.mean(-1), rtol=1e-9)
    np.testing.assert_allclose(got["sd"], each.std(-1, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(got["quantiles"], np.quantile(each, [0.1, 0.5], axis=-1), rtol=1e-9)
    np.testing.assert_allclose(got["probability"], (each > 0.2).mean(-1), rtol=1e-9)


def test_an_estimand_of_a_users_own_is_of_the_averages(X, t):
    def share(averages):
        return 1 - averages["baseline"] / averages["intervention"]

    got = effect(model(logistic), X, t, estimand=share)
    averages = got.averages.sel(scenario="baseline"), got.averages.sel(scenario="intervention")
    np.testing.assert_allclose(flat(got.draws), 1 - flat(averages[0]) / flat(averages[1]))
    assert "estimand 'share' of 'y'" in got.to_text()
    assert "estimand 'share' of 'y'" in got.plot().get_xlabel()


# ------------------------------------------------------------------ silence


@pytest.mark.slow
def test_sums_of_large_counts_do_not_overflow(X, t):
    def kernel(X, t, y=None):
        numpyro.sample("y", dist.Poisson(5e6 * (1.0 + 0.1 * t)), obs=y)

    im = ImpactModel(kernel).set_posterior_sample({"free": np.zeros(4)})
    got = effect(im, X, t, target="prediction").averages
    np.testing.assert_allclose(flat(got.sel(scenario="baseline")), 5e6, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_a_bootstrap_weighs_each_draw_by_itself_in_tiles_of_one_draw():
    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(b * t + X - X.mean() + 5.0, 1.0), obs=y)

    rows, found = np.linspace(0, 1, 20), []
    for chains in (1, 300):
        im = ImpactModel(kernel).set_posterior_sample({"b": np.full(300, 2.0)}, num_chains=chains)
        got = effect(im, rows, 0 * rows, population="superpopulation", rng_key=1)
        found.append(flat(got.averages.sel(scenario="baseline")))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_observed_outcomes_are_kept_whatever_the_precision_of_the_treatment(X):
    dose = np.where(np.arange(ROWS) % 2, 0.1, 0.2).astype(np.float32)
    arms: Any = [{n: {"t": kind(n)} for n in (0.1, 0.2)} for kind in (np.float32, np.float64)]
    options: Any = {"population": "finite", "target": "prediction", "y": 100.0 + X[:, 0]}
    one, other = (effect(model(linear), X, dose, scenarios=a, **options).draws for a in arms)
    np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="nobody had any of the scenarios"):
        effect(model(linear), X, dose, scenarios={"a": {"t": 5}, "b": {"t": 6}}, **options)


def test_a_callable_that_changes_its_argument_in_place_changes_no_other_scenario(X, t):
    def raised(X):
        X[:, 0] += 10.0
        return X

    before = X.copy()
    arms = {"low": {"t": 1}, "high": {"t": 1, "X": raised}, "again": {"t": 1, "X": raised}}
    got = effect(model(linear), X, t, scenarios=arms).draws
    np.testing.assert_array_equal(X, before)
    np.testing.assert_allclose(flat(got), np.stack([10.0 * B, 10.0 * B]), rtol=1e-4)

    def spoiling(averages):
        averages["baseline"] *= 0.0
        return averages["intervention"]

    got = effect(model(logistic), X, t, estimand=spoiling)
    assert float(got.averages.sel(scenario="baseline").min()) > 0


def test_an_estimand_of_a_users_own_may_be_named_like_another(X, t):
    def att(averages):
        return averages["intervention"]

    got = effect(model(logistic), X, t, estimand=att)
    np.testing.assert_array_equal(got.draws, got.averages.sel(scenario="intervention"))


def test_negative_zero_is_a_value_of_its_own(X, t):
    def kernel(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(b * jnp.sign(1.0 / t), 1.0), obs=y)

    got = effect(model(kernel), X, t, scenarios={"a": {"t": -0.0}, "b": {"t": 0.0}})
    np.testing.assert_allclose(flat(got.draws), 2.0 * B, rtol=1e-5)


def test_scenarios_are_named_alike(X, t):
    for names in ((0, "1"), (None, "a"), (True, 2)):
        with pytest.raises(InputError, match="named by strings, or all by numbers"):
            effect(model(linear), X, t, scenarios={n: {"t": 0} for n in names})


def test_groups_keep_their_labels(X, t):
    days = np.array(["2020-01-01", "2021-01-01"], "datetime64[ns]")[np.arange(ROWS) % 2]
    got = effect(model(linear), X, t, estimand="cate", by=days).draws
    np.testing.assert_array_equal(got["group"].values, np.unique(days))
