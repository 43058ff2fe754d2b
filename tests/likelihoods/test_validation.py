"""What held-out simulations say of a net, and what is said where a net knows nothing.

The net here is written by hand: log times are logistic around `m`, choices are even. Simulations of
its own law must validate it, and those of another law must not.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st

from aimz import ImpactModel, InputError
from aimz.likelihoods import (
    DriftDiffusion,
    NeuralLikelihood,
    Simulations,
    Training,
    from_callable,
    simulate,
)

BOX = {"m": (-1.0, 1.0), "t": (0.0, 0.5)}
SCALE = 0.2475  # halfway between the limits that nets keep to


def net() -> NeuralLikelihood:
    kernel, bias = np.zeros((1, 8), np.float32), np.zeros(8, np.float32)
    kernel[0, 4:6] = 1.0  # of both choices, the place of the only part
    weights = {"kernel_0": kernel, "bias_0": bias}
    return NeuralLikelihood(weights, bounds=BOX, shift="t", choices=(-1, 1), units=(0.0, 1.0))


def held_out(n: int = 4000, *, late: float = 0.0, share: float = 0.5) -> Simulations:
    """Of the net's law, but for log times that are later, and choices, where m is above 1/3."""
    rng = np.random.default_rng(5)
    m, t = (rng.uniform(*BOX[name], n).astype(np.float32) for name in BOX)
    there = m > 1 / 3
    time = t + np.exp(m + late * there + SCALE * rng.logistic(size=n))
    choice = np.where(rng.uniform(size=n) < np.where(there, share, 0.5), 1.0, -1.0)
    return Simulations({"m": m, "t": t}, np.stack([time, choice], -1).astype(np.float32), BOX)


def test_the_net_that_is_the_law_is_validated():
    simulations = held_out()
    validation = net().validate(simulations)
    m, t = (simulations.parameters[name].astype(float) for name in BOX)
    time = simulations.outcomes[:, 0].astype(float) - t
    law = st.logistic(m, SCALE)
    score = np.log(0.5) + law.logpdf(np.log(time)) - np.log(time)
    whole = validation.table.iloc[0]
    np.testing.assert_allclose(validation.pit, law.cdf(np.log(time)), atol=2e-5)
    assert whole["log_score"] == pytest.approx(score.mean(), abs=1e-4)
    assert whole["se"] == pytest.approx(st.sem(score), rel=1e-3)
    known = st.kstest(validation.pit, "uniform", method="asymp")
    assert whole["pit"] == pytest.approx(known.statistic, abs=1e-9)
    assert whole["p_pit"] == pytest.approx(known.pvalue, abs=1e-9)
    ones = (simulations.outcomes[:, 1] == 1).sum()
    assert whole["choice"] == pytest.approx(abs(ones / 4000 - 0.5), abs=1e-6)
    normal = 2 * st.norm.sf(abs(ones - 2000) / np.sqrt(1000))
    assert whole["p_choice"] == pytest.approx(normal, abs=1e-6)
    assert validation.off.empty
    assert validation.mass == pytest.approx((1.0, 1.0), abs=1e-3)
    assert "No region of the box is off" in validation.to_text()
    by_m = validation.table[validation.table["parameter"] == "m"]
    assert by_m["n"].sum() == 4000
    middle = np.abs(m) < 1 / 3
    assert by_m["log_score"].iloc[1] == pytest.approx(score[middle].mean(), abs=1e-4)
    shares = validation.calibration
    assert shares["observed"].tolist() == pytest.approx([1 - ones / 4000, ones / 4000])
    assert shares["predicted"].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("change", "right", "wrong"),
    [({"late": 0.15}, "choice", "pit"), ({"share": 0.6}, "pit", "choice")],
    ids=["times", "choices"],
)
def test_where_the_net_is_wrong_is_said(change, right, wrong):
    validation = net().validate(held_out(**change))
    off = validation.off
    assert off[off["parameter"] == "m"]["low"].tolist() == pytest.approx([1 / 3])
    assert (off[f"p_{wrong}"] < 1e-3).all()
    assert (off[f"p_{right}"] > 1e-3).all()
    assert "m from 0.333333 to 1" in validation.to_text()


def test_regions_without_simulations_are_named():
    simulations = held_out()
    of = simulations.parameters["m"] < 0
    half = {name: value[of] for name, value in simulations.parameters.items()}
    validation = net().validate(Simulations(half, simulations.outcomes[of], BOX))
    assert "Too few to say anything of: m from 0.333333 to 1." in validation.to_text()
    assert np.isnan(validation.table["pit"][3])


def test_what_validates_nothing_is_refused(tmp_path):
    def simulator(key, m, t):
        noise = np.random.default_rng(int(jax.random.bits(key)))
        place = noise.logistic(m, SCALE).astype(np.float32)
        return t + np.exp(place), noise.choice([-1, 1], m.size)

    brief = Training(width=2, depth=1, components=1, epochs=1, batch_size=64)
    many, fewer = (simulate(simulator, BOX, n=n) for n in (400, 150))
    lik = NeuralLikelihood.train(many, shift="t", training=brief)
    lik.save(tmp_path / "net")
    for known in (many, fewer):  # the same key gives the same parameters
        for one in (lik, NeuralLikelihood.load(tmp_path / "net")):
            with pytest.raises(InputError, match="another key"):
                one.validate(known)
    assert len(lik.validate(simulate(simulator, BOX, n=150, key=1)).pit) == 150
    with pytest.raises(InputError, match="too few"):
        net().validate(held_out(99))
    far = held_out()
    far.parameters["m"][7] = 1.5
    with pytest.raises(InputError) as error:
        net().validate(far)
    assert error.value.code == "outside-box"
    other = held_out()
    other.outcomes[3, 1] = 2.0
    with pytest.raises(InputError, match="Name the code"):
        net().validate(other)


def test_the_picture_shows_times_choices_and_regions():
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure = net().validate(held_out(500)).plot()
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "Times",
        "Choices",
        "Regions of the box",
    ]
    assert len(figure.axes[2].get_yticklabels()) == 6
    plt.close(figure)


# ------------------------------------------------------------------ outside of the box
def logp(parameters, time, choice):
    pair = jnp.stack(jnp.broadcast_arrays(time, choice), -1)
    return net()(**parameters).log_prob(pair)


LAWS = {
    "net": lambda **given: net()(**given),
    "censored": lambda **given: net()(**given).censored(3.0),
    "external": lambda **given: from_callable(logp, BOX)(**given),
}
X = np.linspace(0.0, 0.5, 6)[:, None]
Y = np.stack([np.full(6, 1.5), [1.0, -1.0] * 3], -1)


def kernel_of(law: str, prior: Any, t: float = 0.3) -> Any:
    def kernel(X, y=None):
        m = numpyro.sample("m", prior)
        with numpyro.plate("trial", X.shape[0]):
            numpyro.sample("y", LAWS[law](m=m + X[:, 0], t=t), obs=y)

    return kernel


@pytest.mark.parametrize("law", LAWS)
def test_priors_that_never_reach_the_box_are_told_so(law):
    with pytest.raises(InputError, match=r"row 0 outside of the box of .* -1 to 1\.") as error:
        ImpactModel(kernel_of(law, dist.Normal(40.0, 1.0))).fit_on_batch(X, Y, progress=False)
    assert error.value.code == "outside-box"
    assert len(str(error.value)) < 240


@pytest.mark.slow
def test_priors_that_reach_the_box_for_some_rows_are_told_the_others():
    rows = np.array([[0.0], [0.5], [40.0]])
    with pytest.raises(InputError, match="in row 2 outside of the box"):
        ImpactModel(kernel_of("net", dist.Uniform(-1, 0.4))).fit_on_batch(rows, Y[:3])


def test_an_impossible_outcome_inside_of_the_box_is_still_the_outcome():
    early = Y.copy()
    early[4, 0] = 0.2

    def kernel(X, y=None):
        t = numpyro.sample("t", dist.Uniform(0.3, 0.5))
        with numpyro.plate("trial", X.shape[0]):
            numpyro.sample("y", net()(m=X[:, 0], t=t), obs=y)

    with pytest.raises(InputError, match="observes in row 4") as error:
        ImpactModel(kernel).fit_on_batch(X, early, progress=False)
    assert error.value.code == "outcome-support"


ASKED = {
    "predict_on_batch": lambda model: model.predict_on_batch(X),
    "predict": lambda model: model.predict(X, store="memory", progress=False),
    "log_likelihood": lambda model: model.log_likelihood(X, Y, store="memory", progress=False),
    "score": lambda model: model.score(X, Y),
    "effect": lambda model: model.effect(X, {}, {"m": 0.1}, target="prediction", progress=False),
}


@pytest.mark.parametrize(
    ("law", "asked"),
    [
        pytest.param(law, asked, marks=() if (law, asked) in FAST else pytest.mark.slow)
        for FAST in [{("net", "predict_on_batch"), ("censored", "log_likelihood")}]
        for law in LAWS
        for asked in ASKED
        if (law == "external") <= (asked in ("log_likelihood", "score"))  # it has no draws
    ],
)
def test_one_draw_outside_of_the_box_is_named(law, asked):
    draws = np.array([0.1, 0.2, 0.7, 0.3])  # in the box for the first rows only
    model = ImpactModel(kernel_of(law, dist.Normal())).set_posterior_sample({"m": draws})
    with pytest.raises(InputError, match=r"m = 1\.1 in row 4, outside .*\(-1 to 1\)") as error:
        ASKED[asked](model)
    assert error.value.code == "outside-box"
    assert len(str(error.value)) < 240


# ------------------------------------------------------------------ saved with a model
class Kernel:
    def __init__(self, lik: Any) -> None:
        self.lik = lik

    def __call__(self, X, y=None):
        m = numpyro.sample("m", dist.Normal())
        with numpyro.plate("trial", X.shape[0]):
            numpyro.sample("y", self.lik(m=m + X[:, 0], t=0.3), obs=y)


def closure_of(lik: Any) -> Any:
    def kernel(X, y=None):
        m = numpyro.sample("m", dist.Normal())
        with numpyro.plate("trial", X.shape[0]):
            numpyro.sample("y", lik(m=m + X[:, 0], t=0.3).censored(2.0, (1,)), obs=y)

    return kernel


def diffusion(X, y=None):
    m = numpyro.sample("m", dist.Normal())
    with numpyro.plate("trial", X.shape[0]):
        numpyro.sample("y", DriftDiffusion(m + X[:, 0], 1.5, 0.5, 0.3), obs=y)


def sampler(key, m, t):
    drawn = net()(m=m, t=t).sample(key)
    return drawn[..., 0], drawn[..., 1]


_HELD = net()


def of_module(X, y=None):
    closure_of(_HELD)(X, y)


def kernels() -> dict[str, Any]:
    return {
        "object": Kernel(net()),
        "closure": closure_of(net()),
        "diffusion": diffusion,
        "module": of_module,
        "external": Kernel(from_callable(logp, BOX, sampler=sampler)),
    }


def drawn(model: ImpactModel) -> np.ndarray:
    tree: Any = model.predict_on_batch(X)
    return np.asarray(tree.posterior_predictive["y"])


_READS = """
import sys
from pathlib import Path
import numpy as np
from aimz import ImpactModel
X = np.linspace(0.0, 0.5, 6)[:, None]
for path in sorted(Path(sys.argv[1]).iterdir()):
    tree = ImpactModel.load(path).predict_on_batch(X)
    np.save(f"{sys.argv[2]}/{path.name}.npy", np.asarray(tree.posterior_predictive["y"]))
"""


def test_a_saved_model_keeps_its_net(tmp_path):
    model = ImpactModel(closure_of(net())).set_posterior_sample({"m": np.array([0.1, 0.2, -0.4])})
    model.save(tmp_path / "model")
    again = ImpactModel.load(tmp_path / "model")
    assert again.kernel is not model.kernel
    np.testing.assert_array_equal(drawn(again), drawn(model))


@pytest.mark.slow
def test_another_process_predicts_bit_for_bit(tmp_path):
    root, saved = Path(__file__).resolve().parents[2], tmp_path / "saved"
    truths = {}
    for name, kernel in kernels().items():
        model = ImpactModel(kernel).set_posterior_sample({"m": np.array([0.1, 0.2, -0.4])})
        model.save(saved / name)
        truths[name] = drawn(model)
    environment = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", _READS, str(saved), str(tmp_path)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, truth in truths.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), truth, err_msg=name)
