"""Engines by name, by object and by settings; what NumPyro's users expect of them; Ctrl-C."""

import os
import re
import signal
import threading
import time

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import optim
from numpyro.infer import HMC, MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz
from aimz import FitWarning, ImpactModel, InputError
from aimz.inference import Settings, as_engine
from aimz.inference.chains import compiled
from aimz.inference.progress import Bar, waited_for

RNG = np.random.default_rng(0)
X = np.zeros((40, 1), np.float32)
Y = (3.0 + RNG.normal(size=40)).astype(np.float32)


def kernel(X, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mean + X[:, 0], 1.0), obs=y)


def chains(**settings):
    return MCMC(NUTS(kernel), progress_bar=False, chain_method="sequential", **settings)


def fitted(inference, constructor=None, **call):
    model = ImpactModel(kernel, inference=inference, **(constructor or {}))
    return model.fit(X, Y, progress=False, **call)


SMALL = aimz.inference.NUTS(chains=2, warmup=50)


@pytest.mark.parametrize(
    ("inference", "asked", "lengths"),
    [
        (chains(num_warmup=50, num_samples=4000, num_chains=2), {}, (2, 50, 4000)),
        (chains(num_warmup=50, num_samples=70), {"num_samples": 30}, (1, 50, 30)),
        (chains(num_warmup=50, num_samples=70), {"num_warmup": 20}, (1, 20, 70)),
        (chains(num_warmup=50, num_samples=70), {"num_warmup": 0}, (1, 0, 70)),
        (chains(num_warmup=50, num_samples=9), {"num_chains": 3}, (3, 50, 9)),
        (SMALL, {}, (2, 50, 1000)),
        (SMALL, {"num_chains": 3, "num_warmup": 20, "num_samples": 5}, (3, 20, 5)),
        ("nuts", {}, (4, 1000, 1000)),
        ("nuts", {"num_chains": 2, "num_warmup": 30, "num_samples": 20}, (2, 30, 20)),
        ("mcmc", {"num_chains": 2}, (2, 1000, 1000)),
        (NUTS(kernel), {}, (4, 1000, 1000)),
        (HMC(kernel), {"num_samples": 20}, (4, 1000, 20)),
    ],
)
def test_the_lengths_of_chains_are_those_asked_for(inference, asked, lengths):
    plan = as_engine(inference, kernel)._plan(Settings(**asked))
    assert (plan.chains, plan.warmup, plan.samples) == lengths


@pytest.mark.filterwarnings("ignore::aimz.FitWarning")  # these chains are short
@pytest.mark.slow
def test_an_mcmc_object_and_a_call_say_how_long_chains_are():
    im = fitted(chains(num_warmup=50, num_samples=70))
    assert im.posterior_tree["posterior"]["mean"].shape == (1, 70)
    im.fit(X, Y, num_chains=2, num_warmup=20, num_samples=10, progress=False)
    assert im.posterior_tree["posterior"]["mean"].shape == (2, 10)
    assert im.diagnostics_["warmup"] == 20
    assert im.sample(num_samples=5)["posterior"]["mean"].shape == (2, 5)


@pytest.mark.filterwarnings("ignore::aimz.FitWarning")  # these chains are short
@pytest.mark.slow
def test_the_default_runs_chains_where_a_call_asks_for_them():
    im = fitted("auto", num_chains=2, num_warmup=30, num_samples=20)
    assert im.posterior_tree["posterior"]["mean"].shape == (2, 10)


@pytest.mark.parametrize(
    ("inference", "call", "words"),
    [
        ("svi", {"num_chains": 4}, "num_chains=4 is for chains"),
        ("svi", {"num_warmup": 10}, "inference='nuts'"),
        ("nuts", {"num_warmup": -1}, "num_warmup=-1"),
        ("nuts", {"num_warmup": 1.5}, "num_warmup=1.5"),
        ("nuts", {"num_steps": 100}, "num_steps=100 is for"),
        ("nuts", {"epochs": 3}, "epochs=3 is for"),
    ],
)
def test_settings_of_another_engine_name_their_place(inference, call, words):
    with pytest.raises(InputError, match=words) as caught:
        fitted(inference, **call)
    assert caught.value.code == "settings"


@pytest.mark.parametrize(
    "settings",
    [
        {"chains": 0},
        {"chains": 2.5},
        {"chains": kernel},
        {"warmup": -1},
        {"max_tree_depth": 0},
        {"target_accept_prob": 1.5},
        {"target_accept_prob": 0},
        {"target_accept_prob": "x"},
        {"target_accept_prob": np.ones(2)},
        {"chains": True},
        {"warmup": "100"},
    ],
)
def test_settings_that_no_sampler_can_follow_are_named(settings):
    (name,) = settings
    with pytest.raises(InputError, match=name) as caught:
        aimz.inference.NUTS(**settings)
    assert caught.value.code == "settings"
    assert len(str(caught.value)) < 240


@pytest.mark.parametrize(
    ("inference", "words"),
    [
        ("NUTS", "Did you mean 'nuts'"),
        (NUTS, "the class NUTS"),
        (SVI, "the class SVI"),
        (AutoNormal(kernel), "a AutoNormal.*with its guide"),
        (optim.Adam(0.1), "a Adam.*and optimiser"),
        (None, "a NoneType"),
    ],
    ids=["name", "class", "class of SVI", "guide", "optimiser", "nothing"],
)
def test_what_is_no_engine_is_named(inference, words):
    with pytest.raises(InputError, match=words) as caught:
        as_engine(inference, kernel)
    assert caught.value.code == "inference"
    assert len(str(caught.value)) < 240


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::aimz.FitWarning")  # these chains are short
def test_an_mcmc_with_the_draws_is_at_hand(capsys):
    given = chains(num_warmup=50, num_samples=150, num_chains=2)
    im = fitted(given)
    own = im.inference_
    assert own is not given
    own.print_summary()
    assert "mean" in capsys.readouterr().out
    samples = own.get_samples(group_by_chain=True)["mean"]
    np.testing.assert_array_equal(samples, im.posterior_tree["posterior"]["mean"])
    assert own.get_samples()["mean"].shape == (300,)
    assert own.get_extra_fields()["diverging"].shape == (300,)


@pytest.mark.parametrize("inference", ["svi", "object"])
def test_an_svi_whose_guide_has_seen_the_data_is_at_hand(inference):
    given = SVI(kernel, AutoNormal(kernel), optim.Adam(0.05), Trace_ELBO())
    im = fitted(given if inference == "object" else "svi", num_steps=800)
    own, result = im.inference_, im.vi_result
    draws = own.guide.sample_posterior(
        jax.random.key(1), own.get_params(result.state), sample_shape=(500,)
    )
    assert abs(draws["mean"].mean() - im.posterior["mean"].mean()) < 0.05


def test_draws_set_by_hand_have_no_object():
    im = ImpactModel(kernel).set_posterior_sample({"mean": np.ones(5)})
    assert not hasattr(im, "inference_")


def interrupt_when(done):
    """Ctrl-C as soon as something has happened."""

    def wait():
        while not done():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


@pytest.fixture
def hearing():
    """A process that was started in the background may ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def drawn(monkeypatch, hearing):
    """Numbers of transitions, as they are taken."""
    counts = []
    advance = compiled._Chains.advance

    def counted(self, states, count):
        counts.append(count)
        return advance(self, states, count)

    monkeypatch.setattr(compiled._Chains, "advance", counted)
    return counts


@pytest.mark.filterwarnings("ignore:The chains have not mixed")  # they may be short
@pytest.mark.parametrize("inference", ["nuts", pytest.param("object", marks=pytest.mark.slow)])
def test_ctrl_c_keeps_the_draws_that_are_there(inference, drawn):
    given = chains(num_warmup=50, num_samples=10**7)
    call = {"num_warmup": 50, "num_samples": 10**7}
    interrupt_when(lambda: sum(drawn) > 1000)
    with pytest.warns(FitWarning, match="interrupted: [1-4] of them kept"):
        im = fitted("nuts", **call) if inference == "nuts" else fitted(given)
    assert im.diagnostics_["interrupted"]
    assert 0 < im.posterior["mean"].shape[0] < 10**6
    assert abs(im.posterior["mean"].mean() - Y.mean()) < 0.1


def test_ctrl_c_in_the_warm_up_is_one(drawn):
    interrupt_when(lambda: sum(drawn) > 200)
    with pytest.raises(KeyboardInterrupt) as stop:
        fitted("nuts", num_warmup=10**7, num_samples=10)
    assert "Nothing of this fit was kept" in stop.value.__notes__[0]


def test_ctrl_c_is_heard_while_a_program_runs(hearing):
    begun, ended = threading.Event(), threading.Event()

    def compute():
        begun.set()
        ended.wait(20.0)

    interrupt_when(begun.is_set)
    before = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        waited_for(compute)
    assert time.perf_counter() - before < 5.0
    ended.set()


def test_what_is_waited_for_is_computed_in_the_same_precision_and_its_errors_come_through():
    with jax.enable_x64(True):
        assert waited_for(lambda: jax.numpy.ones(()) / 3.0).dtype == np.float64
    with pytest.raises(ZeroDivisionError):
        waited_for(lambda: 1 / 0)


@pytest.mark.parametrize("shown", [True, False])
def test_a_bar_says_that_it_compiles_and_is_gone_at_the_end(shown, capfd):
    with Bar("fit", 10, shown=shown) as bar:
        before = capfd.readouterr().err
        bar.advance(10, "loss 3")
    after = capfd.readouterr().err
    assert ("fit: compiling" in before) == shown
    assert ("fit: " in after and "compiling" not in after) == shown
    assert after.endswith("\r") == shown


def test_the_time_that_chains_will_take_is_told_by_what_moves_and_not_by_what_compiles(capfd):
    with Bar("chains", 1000, shown=True) as bar:
        time.sleep(0.6)  # programs are compiled in the first call
        bar.advance(1)
        time.sleep(0.2)
        bar.advance(100)
        told = bar.bar.format_dict
    left = (told["total"] - told["n"]) / ((told["n"] - told["initial"]) / told["elapsed"])
    assert left == pytest.approx(1.8, rel=0.4)  # 900 steps, of 2 thousandths of a second
    assert re.search(r"chains: .*101/1000 \[00:00<00:0[1-3]", capfd.readouterr().err)
