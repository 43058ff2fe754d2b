"""An estimand is one record: what it says, who counts, which worlds are compared."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel, InputError
from aimz.effects.estimands import ESTIMANDS, Estimand

X = np.linspace(-1.0, 1.0, 6)[:, None]
T = np.array([0, 1, 2, 0, 1, 2])


def kernel(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    m = numpyro.deterministic("m", b * t * (1.0 + X[:, 0]))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(m + 0.5 * t, 1.0), obs=y)


@pytest.fixture(scope="module")
def im():
    return ImpactModel(kernel).set_posterior_sample({"b": np.linspace(1.0, 2.0, 5)})


def test_a_new_estimand_is_one_record(im, monkeypatch):
    """The effect in those who had neither scenario: no other place knows of it."""
    neither = Estimand(
        "average effect{cause} on {site} in others", who=lambda arms: ~(arms.old | arms.new)
    )
    monkeypatch.setitem(ESTIMANDS, "others", neither)
    effect = im.effect(X, {"t": 0}, {"t": 1}, t=T, estimand="others", progress=False)
    counted = T == 2
    expected = np.linspace(1.0, 2.0, 5) * (1.0 + X[counted, 0]).mean() + 0.5
    np.testing.assert_allclose(effect.draws.values.ravel(), expected, rtol=1e-6)
    assert "in others" in effect.to_text()
    assert effect.draws.attrs["estimand"] == "others"


def test_a_new_mediated_estimand_names_its_worlds(im, monkeypatch):
    """The part of the indirect effect in the first scenario: worlds in another order."""
    monkeypatch.setitem(ESTIMANDS, "back", Estimand("minus {site}", mediated=(0, 1)))
    options = {"t": T, "mediator": "m", "progress": False}
    back = im.effect(X, {"t": 0}, {"t": 1}, estimand="back", **options)
    total = im.effect(X, {"t": 0}, {"t": 1}, estimand="total", **options)
    np.testing.assert_allclose(back.draws.values, -total.draws.values, rtol=1e-6)
    with pytest.raises(InputError, match="'back' need mediator=") as caught:
        im.effect(X, {"t": 0}, {"t": 1}, t=T, estimand="back", progress=False)
    assert caught.value.code == "mediator-missing"
