"""A call that is like an earlier one reuses what no value changes, and nothing of another call."""

import gc
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel
from aimz.execution import call
from aimz.prediction import one_call
from aimz.programs import Cache, as_key, call_words

X = np.linspace(-1.0, 1.0, 6, dtype=np.float32)[:, None]
T = np.array([0, 1, 0, 1, 1, 0], np.float32)
DRAWS = {name: np.linspace(low, 1.0, 4).astype(np.float32) for name, low in (("a", -1), ("b", 0.5))}


def kernel(X, t, power=1, y=None):
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal(a, 1.0))
    with numpyro.plate("rows", X.shape[0]):
        m = numpyro.deterministic("m", a * X[:, 0] ** power + b * t)
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def other_kernel(X, t, power=1, y=None):
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal(a, 1.0))
    with numpyro.plate("rows", X.shape[0]):
        m = numpyro.deterministic("m", a * X[:, 0] ** power - b * t)
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def model() -> ImpactModel:
    return ImpactModel(kernel).set_posterior_sample(DRAWS)


def forget() -> None:
    one_call._STANDING.clear()
    one_call._PLACED.clear()
    call._READY_FOR.clear()


def drawn(im: ImpactModel, given: dict[str, Any]) -> dict[str, Any]:
    found = im.predict_on_batch(X, **{"t": T, **given}, return_datatree=False)
    return {name: np.asarray(value) for name, value in found.items()}


CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "other values": (None, {"t": 1 - T}),
    "other draws": (lambda im: im.set_posterior_sample({n: -v for n, v in DRAWS.items()}), {}),
    "fewer draws": (lambda im: im.set_posterior_sample({n: v[:2] for n, v in DRAWS.items()}), {}),
    "chains": (lambda im: im.set_posterior_sample(DRAWS, num_chains=2), {}),
    "a kernel": (lambda im: im.set_params(kernel=other_kernel), {}),
    "a key": (None, {"rng_key": 7}),
    "the model's key": (lambda im: im.set_params(rng_key=7), {}),
    "sites": (None, {"return_sites": ["a", "y"]}),
    "a number that is not traced": (None, {"power": 2}),
    "its type": (None, {"power": True}),
    "an intervention": (None, {"intervention": {"b": 2.0}}),
    "its value": (None, {"intervention": {"b": 3.0}}),
    "its site": (None, {"intervention": {"a": 2.0}}),
    "a function": (None, {"intervention": {"b": lambda b: 2 * b}}),
    "another function": (None, {"intervention": {"b": lambda b: 3 * b}}),
    "rows of an intervention": (None, {"intervention": {"m": X[:, 0]}}),
    "a condition": (None, {"condition": {"b": 2.0}}),
}


@pytest.mark.filterwarnings("ignore:The intervention redraws")
def test_after_any_change_a_call_is_what_it_would_be_without_an_earlier_one():
    """Calls follow one another on one model; each is repeated after all was forgotten."""
    for name, (change, given) in CHANGES.items():
        im = model()
        drawn(im, {})
        if change is not None:
            change(im)
        got, again = drawn(im, given), drawn(im, given)
        forget()
        anew = drawn(im, given)
        assert got.keys() == again.keys() == anew.keys(), name
        for site, values in anew.items():
            np.testing.assert_array_equal(got[site], values, err_msg=f"{name}: {site}")
            np.testing.assert_array_equal(again[site], values, err_msg=f"{name}: {site}")


@pytest.mark.filterwarnings("ignore:The intervention redraws")
def test_calls_on_one_model_do_not_meet():
    im = model()
    given = [given for change, given in CHANGES.values() if change is None]
    first = [drawn(im, one) for one in given]
    second = [drawn(im, one) for one in reversed(given)][::-1]
    for one, two, options in zip(first, second, given, strict=True):
        forget()
        anew = drawn(im, options)
        assert one.keys() == two.keys() == anew.keys()
        for site, values in anew.items():
            np.testing.assert_array_equal(one[site], values, err_msg=str(options))
            np.testing.assert_array_equal(two[site], values, err_msg=str(options))


def test_precision_is_part_of_the_name():
    im = model()
    narrow = drawn(im, {})
    with jax.enable_x64(True):
        wide = drawn(im, {"return_sites": "a"})["a"]
        forget()
        anew = drawn(im, {"return_sites": "a"})["a"]
    assert wide.dtype == anew.dtype == np.float64
    np.testing.assert_array_equal(wide, anew)
    np.testing.assert_array_equal(drawn(im, {})["y"], narrow["y"])


def test_densities_and_draws_of_one_site_do_not_meet():
    im, y = model(), np.array([0.5, np.nan, 0.0, 1.0, -1.0, 2.0], np.float32)
    memory: dict[str, Any] = {"store": "memory", "progress": False}

    def densities(**given: Any) -> np.ndarray:
        tree = im.log_likelihood(X, **{"t": T, **given}, **memory)
        return np.asarray(tree["log_likelihood"]["y"])

    whole = np.nan_to_num(y)
    got = [
        densities(y=whole),
        drawn(im, {"return_sites": "y"})["y"],
        densities(y=y, missing="mask"),
        densities(y=whole, missing="mask"),
    ]
    there = np.isfinite(y)
    mean = DRAWS["a"][:, None] * X[:, 0] + DRAWS["b"][:, None] * T
    expected = -0.5 * (whole - mean) ** 2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(got[0][0], expected, rtol=1e-5)
    np.testing.assert_allclose(got[2][0], expected[:, there], rtol=1e-5)
    np.testing.assert_array_equal(got[3], got[0])
    forget()
    np.testing.assert_array_equal(got[1], drawn(im, {"return_sites": "y"})["y"])


PLATE = {"name": "rows"}


def renamed(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate(PLATE["name"], X.shape[0]):
        numpyro.sample("y", dist.Normal(b, 1.0), obs=y)


def test_a_kernel_that_reads_another_global_is_known_as_another(monkeypatch):
    im = ImpactModel(renamed).set_posterior_sample({"b": DRAWS["b"]})
    rows = im.predict_on_batch(X)["posterior_predictive"]["y"]
    monkeypatch.setitem(PLATE, "name", "people")
    people = im.predict_on_batch(X)["posterior_predictive"]["y"]
    assert (rows.dims[-1], people.dims[-1]) == ("rows", "people")
    np.testing.assert_array_equal(rows.values, people.values)


def test_other_numbers_of_rows_do_not_meet():
    im = model()
    got = {n: im.predict_on_batch(X[:n], t=T[:n], return_datatree=False) for n in (6, 4, 5, 6)}
    for n, found in got.items():
        forget()
        anew = im.predict_on_batch(X[:n], t=T[:n], return_datatree=False)
        for site, values in anew.items():
            np.testing.assert_array_equal(found[site], values)


def test_groups_say_that_they_keep_their_draws_whatever_was_asked_before():
    def grouped(X, group, y=None):
        with numpyro.plate("groups", 2):
            u = numpyro.sample("u", dist.Normal())
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(u[group], 1.0), obs=y)

    im = ImpactModel(grouped).set_posterior_sample({"u": np.ones((4, 2), np.float32)})
    group = np.array([0, 1, 0, 1, 1, 0])
    for _ in range(2):
        im.predict_on_batch(X, group=group)
        with pytest.warns(UserWarning, match="keep"):
            im.predict_on_batch(X, group=group, in_sample=False)
    larger = np.where(group == 1, 2, 0)
    with pytest.raises(ValueError, match="group"):
        im.predict_on_batch(X, group=larger)
    assert im.predict_on_batch(X, group=larger, new_groups="prior") is not None
    with pytest.raises(ValueError, match="group"):
        im.predict_on_batch(X, group=larger)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The loss was still falling")
def test_an_argument_that_has_changed_since_the_fit_is_refused_between_calls_that_are_not():
    def carried(X, t, y=None):
        b = numpyro.sample("b", dist.Normal(t.mean(), 1.0))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    im = ImpactModel(carried).fit_on_batch(X, X[:, 0], t=T, num_steps=10, progress=False)
    for _ in range(2):
        im.predict_on_batch(X, t=T)
        with pytest.raises(ValueError, match="only global latents") as error:
            im.predict_on_batch(X, t=1 - T)
        assert error.value.code == "global-carries"


def test_notes_are_told_again_after_they_have_been_kept():
    im = ImpactModel(kernel).set_posterior_sample({"a": DRAWS["a"]})
    for _ in range(2):
        with pytest.warns(UserWarning, match="drawn from its prior"):
            drawn(im, {})


def test_what_is_refused_is_refused_again():
    im = model()
    drawn(im, {})
    for _ in range(2):
        with pytest.raises(ValueError, match="no site 'z'"):
            drawn(im, {"intervention": {"z": 1.0}})


def test_a_result_is_its_own():
    """Results share draws and labels; what is written into one is not in another."""
    im = model()
    one = im.predict_on_batch(X, t=T)
    one["posterior"].attrs["mine"] = 1
    one["posterior"]["a"].attrs["mine"] = 1
    one["posterior"]["c"] = one["posterior"]["a"] + 1
    one["posterior_predictive"]["y"].values[:] = 0
    other = im.predict_on_batch(X, t=T)
    assert "mine" not in other["posterior"].attrs
    assert "mine" not in other["posterior"]["a"].attrs
    assert "c" not in other["posterior"]
    assert (other["posterior_predictive"]["y"].values != 0).any()
    assert other.attrs["created_at"] >= one.attrs["created_at"]


def test_what_is_kept_of_a_fit_goes_with_it():
    forget()
    im = model()
    drawn(im, {})
    assert len(one_call._STANDING) == 1
    assert len(one_call._PLACED) == len(DRAWS)
    del im
    gc.collect()
    assert len(one_call._STANDING) == len(one_call._PLACED) == 0


def test_a_cache_tells_owners_apart_and_lets_them_go():
    class Owner:
        pass

    cache: Cache[str, list[int]] = Cache(4)
    one, other = Owner(), Owner()
    assert cache.of_owner(one, "name", lambda: [1]) == [1]
    assert cache.of_owner(other, "name", lambda: [2]) == [2]
    assert cache.of_owner(one, "name", lambda: pytest.fail("kept")) == [1]
    del one
    gc.collect()
    assert len(cache) == 1
    assert cache.of_owner(other, "name", lambda: pytest.fail("kept")) == [2]


@pytest.mark.parametrize("seed", [0, 5, -3, 2**31 - 1, np.int16(4), jax.random.key(9)])
def test_the_words_of_a_call_are_those_of_its_key(seed):
    for _ in range(2):  # kept the second time
        np.testing.assert_array_equal(call_words(seed), call_words(as_key(seed)))
        np.testing.assert_array_equal(call_words(seed, 3, 4), call_words(as_key(seed, 3, 4)))


@pytest.mark.parametrize("option", ["jax_enable_x64", "jax_random_seed_offset"])
def test_the_words_of_a_seed_follow_the_settings_of_jax(option):
    before = getattr(jax.config, option)
    plain = call_words(2**31 - 5)
    try:
        jax.config.update(option, 3 if option.endswith("offset") else True)
        np.testing.assert_array_equal(call_words(2**31 - 5), call_words(as_key(2**31 - 5)))
        differs = bool((call_words(2**31 - 5) != plain).any())
    finally:
        jax.config.update(option, before)
    assert differs == option.endswith("offset")
