"""What a person reads of an effect: who is compared with whom, how likely, over how many draws."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

from aimz import ImpactModel
from aimz.effects.wording import Compared, in_words, share_text
from aimz.errors import nearest

ROWS = 8


def kernel(X, t, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("obs", X.shape[0]):
        m = numpyro.sample("m", dist.Normal(t, 1.0))
        numpyro.sample("y", dist.Normal(b * t + m, 1.0), obs=y)


@pytest.fixture(scope="module")
def im() -> ImpactModel:
    draws = {"b": np.linspace(1.0, 2.0, 1000)}
    return ImpactModel(kernel).set_posterior_sample(draws, num_chains=4)


def ask(im: ImpactModel, *changes: Any, **options: Any):
    X, t = np.zeros((ROWS, 1)), np.arange(ROWS) % 2.0
    with pytest.warns(UserWarning, match="no draws of m"):
        return im.effect(X, *changes, t=t, progress=False, **options)


VALUES: dict[str, tuple[Any, str]] = {
    "int": (1, "1"),
    "float": (0.1, "0.1"),
    "single precision": (np.float32(0.1), "0.1"),
    "bool": (True, "True"),
    "text": ("mail", "mail"),
    "0-d of JAX": (jnp.asarray(2), "2"),
    "date": (np.datetime64("2024-03-01"), "2024-03-01"),
    "time": (pd.Timestamp("2024-03-01 12:00"), "2024-03-01 12:00:00"),
    "equal rows": (np.zeros(50), "0"),
    "equal rows of JAX": (jnp.ones(50), "1"),
    "a list": ([1, 2], "[1, 2]"),
    "rows": (np.arange(50) / 7, "0 to 7 by row"),
    "rows of a Series": (pd.Series(np.arange(50), index=list(range(50, 0, -1))), "0 to 49 by row"),
    "dates": (pd.Series(pd.date_range("2024-01-01", periods=9)), "2024-01-01 to 2024-01-09 by row"),
    "categories": (pd.Series(list("abcdefgh")), "8 values"),
    "columns": (np.zeros((50, 3)), "50 x 3 values"),
    "frame": (pd.DataFrame(np.zeros((50, 2))), "50 x 2 values"),
    "lambda": (lambda t: t - 1, "a function"),
    "named function": (np.sqrt, "sqrt()"),
    "long text": ("x" * 100, "x" * 39 + "…"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_scenario_says_what_it_sets(kind):
    value, words = VALUES[kind]
    compared = in_words({"baseline": {}, "intervention": {"t": value}})
    assert str(compared) == f"t={words} against natural values"
    assert compared.treatment == "t"


NAMES: dict[str, tuple[Any, str, str]] = {
    "default names": (
        {"baseline": {"t": 0}, "intervention": {"t": 1}},
        "t=1 against t=0",
        " of t on y: 1 against 0",
    ),
    "two things": (
        {"baseline": {"t": 0, "m": 1}, "intervention": {"t": 1, "m": 1}},
        "t=1, m=1 against t=0, m=1",
        " on y: t=1, m=1 against t=0, m=1",
    ),
    "names of a user": (
        {"none": {"t": 0}, "mail": {"t": 1}},
        "mail (t=1) against none (t=0)",
        " of t on y: mail against none",
    ),
    "three": (
        {"none": {}, "mail": {"t": 1}, "call": {"t": 2}},
        "none (natural values), mail (t=1), call (t=2)",
        " of t on y, against none",
    ),
    "doses": (
        {0.0: {"t": 0.0}, 0.5: {"t": 0.5}, 1.0: {"t": 1.0}},
        "t=0, t=0.5, t=1",
        " of t on y, against 0",
    ),
    "observed": (
        {"baseline": {"t": 0}, "intervention": {"t": 1, "condition": {"m": 0.5}}},
        "t=1, observed m=0.5 against t=0",
        " on y: t=1, observed m=0.5 against t=0",
    ),
    "many": (
        {str(n): {"t": n} for n in range(9)},
        "t=0, t=1, t=2, t=3, t=4, t=5 and 3 more",
        " of t on y, against 0",
    ),
}


@pytest.mark.parametrize("kind", NAMES)
def test_scenarios_are_named(kind):
    changes, words, title = NAMES[kind]
    compared = in_words(changes)
    assert (str(compared), f"{compared.cause} on y{compared.ending}") == (words, title)


SHARES = [
    (1.0, 1000, "> 99.9%"),
    (1.0, 4000, "> 99.9%"),
    (1.0, 100, "> 99%"),
    (1.0, 20, "> 90%"),
    (0.99990, 10_000, "> 99.9%"),
    (0.0, 1000, "< 0.1%"),
    (0.0, 100, "< 1%"),
    (0.0001, 10_000, "< 0.1%"),
    (0.999, 1000, "99.9%"),
    (0.912, 1000, "91.2%"),
    (0.5, 20, "50%"),
    (1.0, 2, "> 50%"),
    (0.0, 4, "< 25%"),
]


@pytest.mark.parametrize(("share", "draws", "text"), SHARES)
def test_a_chance_claims_no_more_than_the_draws_can(share, draws, text):
    assert share_text(share, draws) == text


@pytest.mark.parametrize("estimand", ["ate", "att", "ite", "cate"])
def test_every_form_names_the_scenarios(im, estimand):
    options = {"by": np.arange(ROWS) % 2} if estimand == "cate" else {}
    effect = ask(im, {"t": 0}, {"t": 1}, estimand=estimand, **options)
    assert isinstance(effect.scenarios, Compared)
    for text in (effect.to_text(), repr(effect), effect._repr_html_()):
        assert "t=1 against t=0" in text
        assert "1,000 posterior draws in 4 chains" in text
        assert "100.0%" not in text
    assert set(effect.summary()["contrast"]) == {"t=1 against t=0"}
    for text in (repr(effect), effect._repr_html_()):
        assert "99.9%" in text
    assert effect.summary()["P(effect > 0)"].eq(1.0).all()


@pytest.mark.parametrize("unit", ["ns", "us", "s"])
@pytest.mark.parametrize("kind", ["dates", "durations"])
def test_rows_keep_their_dates(im, unit, kind):
    days = np.arange("2024-01-01", "2024-01-09", dtype="datetime64[D]").astype(
        f"datetime64[{unit}]"
    )
    labels = days if kind == "dates" else days - days[0]
    X = pd.DataFrame({"x": np.zeros(ROWS)}, index=pd.Index(labels))
    with pytest.warns(UserWarning, match="no draws of m"):
        effect = im.effect(X, {"t": 0}, {"t": 1}, t=np.zeros(ROWS), estimand="ite", progress=False)
    np.testing.assert_array_equal(effect.draws["obs"], labels)
    assert effect.summary()["obs"].tolist() == list(pd.Index(labels))
    assert f"obs {'2024-01-02' if kind == 'dates' else '1 days'}" in effect.to_text()


def test_text_is_a_sentence(im):
    text = ask(im, {"t": 0}, {"t": 1}).to_text()
    assert text.startswith("The average effect of t=1 against t=0 on 'y' is ")
    assert " P(effect > 0) > 99.9%. " in text


def test_several_scenarios_are_listed_with_what_they_set(im):
    scenarios = {"none": {"t": 0}, "mail": {"t": 1}, "call": {"t": 2}}
    effect = ask(im, scenarios=scenarios)
    assert effect.summary()["contrast"].tolist() == ["mail vs none", "call vs none"]
    for text in (effect.to_text(), repr(effect)):
        assert "none (t=0), mail (t=1), call (t=2)" in text


def test_an_estimand_of_a_users_own_lists_the_scenarios(im):
    def gain(averages):
        return averages["mail"] - 2 * averages["none"]

    effect = ask(im, scenarios={"none": {"t": 0}, "mail": {"t": 1}}, estimand=gain)
    assert "contrast" not in effect.summary()
    assert effect.to_text().startswith("The estimand 'gain' of 'y' is ")
    assert "mail (t=1) against none (t=0)" in effect.to_text()


def test_valid_names_are_listed_once():
    assert nearest("q", ["y", "y", "X"]) == "Valid names: X, y."
