"""Arguments that go whole, such as a basis or a map: of the shape that the fit has seen."""

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel, InputError
from tests.support.engines import ByHand

ROWS = 12
X = np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)
BASIS = np.ones((4, 4), np.float32)
OF_ROWS = np.ones((4, ROWS), np.float32)


def kernel(X, B, C=OF_ROWS, y=None):
    """Takes matrices of any size, so that nothing of JAX notices another one."""
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(b * X[:, 0] * B.sum() * C.max(), 1.0), obs=y)


@pytest.fixture(scope="module")
def im() -> ImpactModel:
    model = ImpactModel(kernel, inference=ByHand(b=np.arange(5.0)))
    return model.fit(X, X[:, 0], B=BASIS, C=OF_ROWS, progress=False)


WAYS: dict[str, Any] = {
    "predict": lambda im, B: im.predict_on_batch(X, B=B),
    "new rows": lambda im, B: im.predict_on_batch(X[:5], B=B, in_sample=False),
    "effect": lambda im, B: im.effect(X, {}, {"B": B}, B=BASIS, progress=False),
    "natural": lambda im, B: im.effect(X, {"X": X + 1}, {}, B=B, progress=False),
    "log_likelihood": lambda im, B: im.log_likelihood(X, X[:, 0], B=B, progress=False),
    "score": lambda im, B: im.score(X, X[:, 0], B=B),
}


@pytest.mark.filterwarnings("ignore::aimz.AimzWarning")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(4, 3), (6, 6), (4,), (4, 4, 1)], ids=str)
def test_a_matrix_of_other_columns_is_refused(im, way, shape):
    with pytest.raises(InputError, match=r"'B' has shape .* fitted with shape \(4, 4\)") as caught:
        WAYS[way](im, np.ones(shape, np.float32))
    assert caught.value.code == "columns-mismatch"


@pytest.mark.filterwarnings("ignore::aimz.AimzWarning")
def test_the_first_axis_may_grow_and_axes_of_rows_follow_the_rows(im):
    im.predict_on_batch(X, B=np.ones((6, 4), np.float32), C=OF_ROWS)
    im.predict_on_batch(X[:5], B=BASIS, C=np.ones((6, 5), np.float32), in_sample=False)


@pytest.mark.parametrize("call", ["fit_on_batch", "predict_on_batch"])
def test_columns_of_an_input_that_has_none_are_named(call):
    plain = ImpactModel(kernel).set_posterior_sample({"b": np.ones(3)})
    rows = (X[:, 0], X[:, 0]) if call == "fit_on_batch" else (X[:, 0],)
    with pytest.raises(InputError, match=r"'X' has shape \(12,\), without columns") as raised:
        getattr(plain, call)(*rows, B=BASIS)
    assert isinstance(raised.value.__cause__, IndexError)
