"""Each engine on the smokers of the quickstart, whose columns are in their own units.

The effect and its standard deviation are within a tenth of those of long chains, or a warning
or an error says that the fit is bad. Nested sampling is left out: 24 latents take it an hour.
"""

import warnings
from typing import Any

import numpy as np
import pytest

from aimz import AimzError, FitWarning, ImpactModel
from aimz.inference import DADVI, MCLMC, NUTS, SMC, Gibbs, Laplace, Pathfinder
from tests.real_data.test_real_data import load_example

pytestmark = pytest.mark.slow


def asked(engine: Any) -> tuple[float, float, list[str]]:
    """Mean and standard deviation of the average effect, and the warnings of the fit."""
    example = load_example("quickstart")
    X, qsmk, gained = example.load()
    natural: dict[str, Any] = {"qsmk": qsmk, "intensity": X[:, example.INTENSITY]}
    model = ImpactModel(example.kernel, inference=engine, rng_key=0, num_samples=1000)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(X, gained, **natural, progress=False)
        scenarios: dict[str, Any] = {"baseline": {"qsmk": 0}, "intervention": {"qsmk": 1}}
        effect = model.effect(X, **natural, **scenarios, progress=False).draws
    fit = [str(one.message) for one in said if issubclass(one.category, FitWarning)]
    return float(effect.mean()), float(effect.std()), fit


@pytest.fixture(scope="module")
def truth() -> tuple[float, float]:
    mean, sd, said = asked(NUTS(chains=4, warmup=500))
    assert not said
    return mean, sd


@pytest.mark.parametrize(
    "engine",
    [
        Laplace(),
        DADVI(),
        Pathfinder(),
        MCLMC(),
        SMC(particles=300, mutations=10, runs=2),
        Gibbs(chains=2, warmup=300),
        Gibbs(steps={}, chains=2, warmup=400),
    ],
    ids=["laplace", "dadvi", "pathfinder", "mclmc", "smc", "gibbs", "gibbs by blocks"],
)
def test_no_engine_is_wrong_in_silence(engine, truth):
    try:
        mean, sd, said = asked(engine)
    except AimzError as error:
        mean, sd, said = np.nan, np.nan, [error.code] if error.code == "no-mode" else []
    is_right = np.allclose([mean, sd], truth, rtol=0.1)
    assert is_right or said, (mean, sd, truth)
