"""One kind of cache, one register, one way to empty them all."""

import threading
from functools import partial

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel
from aimz.programs import Cache, clear_programs, remembered
from aimz.programs.caches import _ALL


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)


def test_the_least_recently_used_value_goes_first():
    cache: Cache[str, int] = Cache(2)
    for name in "abac":
        cache.get_or_make(name, partial(ord, name))
    made = cache.made
    assert cache.get_or_make("a", lambda: pytest.fail("'a' was used last but one")) == ord("a")
    assert cache.get_or_make("b", lambda: 0) == 0  # made anew
    assert (made, cache.made, len(cache)) == (3, 4, 2)


def test_of_two_makers_at_a_time_the_first_one_counts():
    cache: Cache[str, object] = Cache(2)
    barrier, got = threading.Barrier(2), []

    def make():
        barrier.wait(timeout=10)  # both have looked, and neither has found
        return object()

    def look():
        got.append(cache.get_or_make("name", make))

    lanes = [threading.Thread(target=look) for _ in range(2)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    assert got[0] is got[1]
    assert cache.made == 1


def test_what_fails_to_be_made_is_tried_again():
    cache: Cache[str, int] = Cache(2)
    with pytest.raises(ZeroDivisionError):
        cache.get_or_make("name", lambda: 1 // 0)
    assert cache.get_or_make("name", lambda: 1) == 1


def test_what_changes_its_own_name_while_it_is_made_is_not_kept():
    cache: Cache[str, int] = Cache(2)
    names = iter("abbb")
    assert remembered(cache, lambda: next(names), lambda: 1) == 1  # "a" before, "b" after
    assert remembered(cache, lambda: next(names), lambda: 2) == 2
    assert cache.get_or_make("b", lambda: 3) == 2
    assert cache.get_or_make("a", lambda: 3) == 3


def test_what_has_no_name_is_made_each_time():
    cache: Cache[str, int] = Cache(2)
    made = iter(range(2))
    assert [remembered(cache, lambda: None, lambda: next(made)) for _ in range(2)] == [0, 1]
    assert not len(cache)


def test_clearing_empties_all_caches_and_changes_no_draw():
    X = np.linspace(-1.0, 1.0, 6)[:, None]
    im = ImpactModel(kernel, rng_key=1, inference="svi")
    im.train_on_batch(X, X[:, 0])
    im.set_posterior_sample({"b": np.linspace(0.0, 1.0, 8)})
    before = im.predict_on_batch(X, return_datatree=False)["y"]
    sizes = [len(cache) for cache in _ALL]
    assert sum(size > 0 for size in sizes) >= 4, sizes  # programs, specs, spot checks, steps
    clear_programs()
    assert not any(len(cache) for cache in _ALL)
    again = im.predict_on_batch(X, return_datatree=False)["y"]
    np.testing.assert_array_equal(again, before)
