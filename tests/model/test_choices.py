"""Options that are given data, or nothing that they have, are refused by name."""

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

import aimz
from aimz import ImpactModel, InputError

X = np.arange(6.0)[:, None]
LONG = "n" * 300


def kernel(X, d=0.0, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(b * d + X[:, 0], 1.0), obs=y)


@pytest.fixture(scope="module")
def model() -> ImpactModel:
    return ImpactModel(kernel).set_posterior_sample({"b": np.ones(4)})


PREDICT = ["intervention", "condition", "return_sites", "shard_axis", "batch_size", "store"]
PREDICT += ["output_dir", "progress", "in_sample", "rng_key", "new_groups"]
FIT = ["num_samples", "epochs", "batch_size", "num_steps", "shuffle", "missing", "sample_weight"]
FIT += ["progress", "num_chains", "num_warmup", "rng_key"]
MADE = ["inference", "param_input", "param_output", "num_samples", "coords", "dims", "warm_start"]
MADE += ["rng_key", "batch_size", "epochs", "num_steps"]
CALLS: dict[str, tuple[list[str], Any]] = {
    "predict": (PREDICT, lambda im, given: im.predict(X, **{"progress": False, **given})),
    "predict_on_batch": (PREDICT[:3], lambda im, given: im.predict_on_batch(X, **given)),
    "log_likelihood": (
        ["missing", "store", "progress"],
        lambda im, given: im.log_likelihood(X, X[:, 0], **given),
    ),
    "score": (["missing", "sample_weight"], lambda im, given: im.score(X, X[:, 0], **given)),
    "sample_prior_predictive": (
        ["num_samples", "intervention", "return_sites", "store"],
        lambda im, given: im.sample_prior_predictive(X, **given),
    ),
    "fit": (FIT, lambda im, given: ImpactModel(kernel).fit(X, X[:, 0], **given)),
    "fit_on_batch": (
        ["missing", "progress"],
        lambda im, given: ImpactModel(kernel).fit_on_batch(X, X[:, 0], **given),
    ),
    "ImpactModel": (
        MADE,
        lambda im, given: ImpactModel(kernel, **given).fit(X, X[:, 0], progress=False),
    ),
}
CASES = [(method, option) for method, (options, _) in CALLS.items() for option in options]


@pytest.mark.parametrize("value", [X, pd.Series(X[:, 0])], ids=["array", "Series"])
@pytest.mark.parametrize(("method", "option"), CASES)
def test_an_option_that_is_given_data_is_refused(method, option, value, model):
    if option == "sample_weight" and isinstance(value, pd.Series):
        value = value.iloc[:2]
    with pytest.raises(InputError) as raised:
        CALLS[method][1](model, {option: value})
    assert option in str(raised.value)
    assert len(str(raised.value)) < 240


@pytest.mark.parametrize(
    ("option", "value"),
    [("progress", "False"), ("in_sample", "no"), ("store", None), ("new_groups", True)],
)
def test_an_option_that_is_no_choice_is_refused(option, value, model):
    with pytest.raises(InputError, match=f"{option}.* (must be|is) .*, not") as raised:
        CALLS["predict"][1](model, {option: value})
    assert raised.value.code == "option-unknown"


@pytest.mark.parametrize("draws", [X, [1.0, 2.0], None, {3: np.ones(4)}, pd.Series([1.0, 2.0])])
def test_draws_that_name_no_site_are_refused(draws):
    with pytest.raises(InputError, match="a dict of arrays by site") as raised:
        ImpactModel(kernel).set_posterior_sample(draws)
    assert raised.value.code == "draws-shape"


def test_a_name_that_no_file_system_takes_is_refused(model, tmp_path):
    place = tmp_path / LONG
    calls: list[Any] = [
        lambda: model.predict(X, output_dir=place, progress=False),
        lambda: model.save(place),
        lambda: ImpactModel.load(place),
        lambda: aimz.open(place),
        lambda: aimz.verify(place / "store"),
    ]
    for call in calls:
        with pytest.raises(InputError, match="of over 255 letters") as raised:
            call()
        assert raised.value.code == "output-dir"
    assert list(tmp_path.iterdir()) == []


class Odd:
    """A loader that does not know how long it is, in several ways."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def __len__(self) -> int:
        if self.error is not None:
            raise self.error
        return -1  # noqa: PLE0303  # it lies

    def __iter__(self) -> Any:
        return iter([{"X": X[:3]}, {"X": X[3:]}])


@pytest.mark.parametrize("error", [None, ValueError("no"), TypeError("no"), NotImplementedError()])
def test_a_loader_without_a_length_is_read_to_its_end(error, model):
    given: dict[str, Any] = {"rng_key": 0, "store": "memory", "progress": False}
    found, expected = (model.predict(rows, **given) for rows in (Odd(error), X))
    assert found.posterior_predictive.equals(expected.posterior_predictive)
