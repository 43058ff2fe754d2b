"""Arguments of a kernel under its own names: by position or by name, and never both."""

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz import ImpactModel, InputError

Z = np.arange(6.0)[:, None]
U = 2.0 * Z[:, 0]
DOSE = np.arange(6) % 2


def kernel(Z, dose, U=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", Z.shape[0]):
        numpyro.sample("U", dist.Normal(Z[:, 0] + b * dose, 1.0), obs=U)


@pytest.fixture(scope="module")
def model() -> ImpactModel:
    made = ImpactModel(kernel, param_input="Z", param_output="U", inference="svi")
    return made.set_posterior_sample({"b": np.full(8, 3.0)})


NATURAL: dict[str, Any] = {"dose": DOSE}
BETWEEN: dict[str, Any] = {"baseline": {"dose": 0}, "intervention": {"dose": 1}, "progress": False}
# What each method says that it has got twice.
TWICE: dict[str, tuple[str, Any]] = {
    "fit": ("Z", lambda im: im.fit(Z, U, Z=Z + 1, **NATURAL)),
    "fit outcomes": ("U", lambda im: im.fit(Z, U, U=U + 1, **NATURAL)),
    "fit_on_batch": ("U", lambda im: im.fit_on_batch(Z, U, U=U + 1, **NATURAL)),
    "train_on_batch": ("U", lambda im: im.train_on_batch(Z, U, U=U + 1, **NATURAL)),
    "predict": ("Z", lambda im: im.predict(Z, Z=Z + 1, **NATURAL)),
    "predict_on_batch": ("Z", lambda im: im.predict_on_batch(Z, Z=Z + 1, **NATURAL)),
    "prior": ("Z", lambda im: im.sample_prior_predictive(Z, Z=Z + 1, **NATURAL)),
    "log_likelihood": ("U", lambda im: im.log_likelihood(Z, U, U=U + 1, **NATURAL)),
    "score": ("U", lambda im: im.score(Z, U, U=U + 1, **NATURAL)),
    "to_datatree": ("Z", lambda im: im.to_datatree(Z, U, Z=Z + 1, **NATURAL)),
    "effect": ("Z", lambda im: im.effect(Z, Z=Z + 1, **NATURAL, **BETWEEN)),
    "effect in inputs": (
        "dose",
        lambda im: im.effect(Z, inputs={"dose": DOSE + 1}, **NATURAL, **BETWEEN),
    ),
}


@pytest.mark.parametrize("call", TWICE)
def test_an_argument_that_is_passed_twice_is_refused(model, call):
    name, ask = TWICE[call]
    with pytest.raises(InputError, match=f"'{name}'.*Pass it once") as refused:
        ask(model)
    assert refused.value.code == "argument-twice"
    assert len(str(refused.value)) < 240


def test_outcomes_may_come_by_the_name_that_the_kernel_has_for_them(model):
    named = model.log_likelihood(Z, U=U, **NATURAL, store="memory", progress=False)
    placed = model.log_likelihood(Z, U, **NATURAL, store="memory", progress=False)
    residual = U - Z[:, 0] - 3.0 * DOSE
    exact = -0.5 * residual**2 - 0.5 * np.log(2 * np.pi)
    for tree in (named, placed):
        np.testing.assert_allclose(tree.log_likelihood["U"][0, 0], exact, rtol=1e-5)


@pytest.mark.parametrize("rows", ["X", "Z"])
@pytest.mark.parametrize("shared", [True, False])
def test_scenarios_name_their_rows_as_predict_or_as_the_kernel_does(model, rows, shared):
    own: dict[str, Any] = {} if shared else {"rng_key": 1}
    first, second = ({rows: Z, "dose": dose, **own} for dose in (0.0, 1.0))
    effect = model.estimate_effect(args_baseline=first, args_intervention=second, on_batch=True)
    np.testing.assert_allclose(effect.posterior_predictive["U"], 3.0, rtol=1e-5)


def test_scenarios_without_rows_are_refused(model):
    with pytest.raises(InputError, match="args_baseline lacks 'Z'") as refused:
        model.estimate_effect(args_baseline={"dose": 0.0}, args_intervention={"dose": 1.0})
    assert refused.value.code == "argument-missing"


def test_a_model_is_loaded_from_a_url_of_a_file(model, tmp_path):
    model.save((tmp_path / "saved").as_uri())
    again = ImpactModel.load((tmp_path / "saved").as_uri())
    np.testing.assert_array_equal(again.posterior["b"], model.posterior["b"])


def test_a_site_that_is_not_there_leaves_the_chain_where_it_was(model):
    im = ImpactModel(kernel, param_input="Z", param_output="U", inference="svi")
    for _ in range(2):
        im.train_on_batch(Z, U, **NATURAL)
    with pytest.raises(InputError, match="'a'"):
        im.sample(num_samples=3, return_sites=["a"])
    draws: Any = im.sample(num_samples=3, return_datatree=False)
    same = ImpactModel(kernel, param_input="Z", param_output="U", inference="svi")
    for _ in range(2):
        same.train_on_batch(Z, U, **NATURAL)
    expected: Any = same.sample(num_samples=3, return_datatree=False)
    np.testing.assert_array_equal(draws["b"], expected["b"])
