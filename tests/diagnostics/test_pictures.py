"""Pictures of fits hold the numbers of the fit; what a fit cannot give is refused by name."""

from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from matplotlib import pyplot as plt

from aimz import ImpactModel, InputError
from aimz.diagnostics import (
    plot_energy,
    plot_evidence,
    plot_forest,
    plot_khat,
    plot_loo_pit,
    plot_loss,
    plot_pair,
    plot_ppc,
    plot_rank,
    plot_ranks,
    plot_trace,
)
from aimz.inference import SMC, Fit

RNG = np.random.default_rng(0)
X = np.linspace(-1.0, 1.0, 20, dtype=np.float32)[:, None]
Y = (1.5 * X[:, 0] + RNG.normal(size=20)).astype(np.float32)
B = RNG.normal(1.5, 0.1, size=(4, 50)).astype(np.float32)
SIGMA = RNG.lognormal(0.0, 0.05, size=(4, 50)).astype(np.float32)


@pytest.fixture(autouse=True)
def _agg():
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        mean = numpyro.deterministic("mean", b * X[:, 0])
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


class Told:
    """An engine that gives what it was told."""

    def __init__(self, *, stats=None, **attrs):
        self.name = attrs.get("engine", "told")
        self.stats, self.attrs = stats or {}, attrs

    def fit(self, rng_key, problem, settings, *, state=None):
        del rng_key, problem, settings, state
        return Fit({"b": B, "sigma": SIGMA}, self.stats, attrs=self.attrs)

    def draw(self, rng_key, problem, fit, num_samples):
        raise NotImplementedError


def fitted(**told):
    return ImpactModel(kernel, inference=Told(**told)).fit(X, Y, progress=False)


@pytest.fixture(scope="module")
def chains():
    draws = {"b": B.reshape(-1), "sigma": SIGMA.reshape(-1)}
    return ImpactModel(kernel).set_posterior_sample(draws, num_chains=4)


def lines_of(ax):
    return [np.asarray(line.get_ydata(), float) for line in ax.get_lines()]


def holds(ax, values):
    return any(len(y) == len(values) and np.allclose(y, values) for y in lines_of(ax))


def test_a_trace_is_the_draws_of_each_chain(chains):
    ax = plot_trace(chains, var_names="sigma").viz["plot"]["sigma"].item()
    assert all(holds(ax, chain) for chain in SIGMA)
    assert not holds(ax, B[0])


def test_ranks_of_chains_are_those_among_all_draws(chains):
    ax = plot_rank(chains, var_names="b").viz["plot"]["b"].item()
    order = B.reshape(-1).argsort().argsort().reshape(B.shape)
    for chain, ranks in enumerate(order):
        below = np.sort((ranks + 0.5) / B.size)
        furthest = np.abs(np.arange(1, 51) / 50 - below).max()
        assert abs(np.abs(lines_of(ax)[chain]).max() - furthest) < 0.03


def test_a_forest_has_the_intervals_of_the_draws(chains):
    picture = plot_forest(chains, var_names="b", combined=True, ci_kind="eti", ci_probs=(0.5, 0.9))
    trunk = picture.viz["trunk"]["b"].item().get_xdata()
    assert np.allclose(np.sort(trunk), np.quantile(B, [0.25, 0.75]), atol=0.01)


def test_a_pair_is_the_draws_of_two(chains):
    picture = plot_pair(chains)
    clouds = [
        np.asarray(points.get_offsets())
        for ax in picture.viz["figure"].item().axes
        for points in ax.collections
        if hasattr(points, "get_offsets") and len(points.get_offsets()) > 1
    ]
    drawn = np.concatenate(clouds)
    assert np.allclose(np.sort(drawn[:, 0]), np.sort(B.reshape(-1)))
    assert np.allclose(np.sort(drawn[:, 1]), np.sort(SIGMA.reshape(-1)))


def test_the_energy_is_judged_by_bfmi():
    energy = RNG.normal(size=(4, 50)).astype(np.float32)
    picture = plot_energy(fitted(engine="mcmc", stats={"energy": energy}))
    bfmi = np.square(np.diff(energy)).sum(axis=1) / (50 * energy.var(axis=1))
    points = picture.viz["bfmi_points"]["bfmi"].item().get_offsets()
    drawn = np.asarray(points)[:, 0]
    assert np.allclose(drawn, bfmi, rtol=1e-3)


@pytest.mark.parametrize(("missing", "labelled"), [(False, True), (True, True), (True, False)])
def test_predictive_pictures_are_of_the_outcomes_that_count(chains, missing, labelled):
    labels = pd.Index([f"row {number}" for number in range(20)] if labelled else range(20))
    rows = pd.DataFrame(X, labels, columns=["x"])
    y = pd.Series(np.where(np.arange(20) >= 17, np.nan, Y) if missing else Y, labels)
    how: dict[str, Any] = {"missing": "mask"} if missing else {}
    kept = Y[:17] if missing else Y
    picture = plot_ppc(chains, rows, y, options={"kind": "ecdf", "num_samples": 5}, **how)
    assert list(picture.data.data_vars) == ["y"]  # no deterministic site beside it
    x = np.asarray(picture.viz["observed_dist"]["y"].item().get_xdata(), float)
    assert np.allclose(np.sort(x[np.isfinite(x)])[[0, -1]], [kept.min(), kept.max()])
    whole = chains.predict(X, store="memory", progress=False)["posterior_predictive"]["y"].values
    for sample in range(5):
        drawn = picture.data["y"].isel(sample=sample)
        mine = whole[int(drawn["chain"]), int(drawn["draw"])]
        assert np.allclose(drawn, mine[: len(kept)])
    assert plot_loo_pit(chains, rows, y, **how).viz["plot"]["y"].item().get_lines()


def test_missing_outcomes_of_rows_that_labels_do_not_tell_apart_are_refused(chains):
    twice = pd.Index(np.arange(20) // 2)
    y = pd.Series(np.where(np.arange(20) < 3, np.nan, Y), twice)
    with pytest.raises(InputError, match="of which some are missing") as caught:
        plot_ppc(chains, pd.DataFrame(X, twice, columns=["x"]), y, missing="mask")
    assert caught.value.code == "no-picture"


def places_of(picture):
    """Where outcomes lie, as the steps of the line say: its jumps are at the places."""
    return picture.data["y"].values


def test_places_are_those_of_weights_over_the_likelihood(chains):
    """By weights one over the likelihood, of which few are so large that they are smoothed."""
    outcome = chains.predict(X, store="memory", progress=False)["posterior_predictive"]["y"].values
    mean = B[..., None] * X[:, 0]
    weight = np.exp(0.5 * ((Y - mean) / SIGMA[..., None]) ** 2) * SIGMA[..., None]
    below = (weight * (outcome < Y)).sum((0, 1)) / weight.sum((0, 1))
    picture = plot_loo_pit(chains, X, Y, options={"method": "prit_c"})
    assert np.allclose(places_of(picture), below, atol=0.01)


def test_an_outcome_that_says_nothing_has_its_place():
    """A row at x = 0 has one likelihood in all draws, whose weights ArviZ refuses."""

    def known(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 2.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    im = ImpactModel(known).set_posterior_sample({"b": B.reshape(-1)}, num_chains=4)
    rows = np.append(X, np.zeros((1, 1), np.float32), axis=0)
    picture = plot_loo_pit(im, rows, np.append(Y, 0.5).astype(np.float32))
    assert abs(places_of(picture)[-1] - 0.691) < 0.1  # the normal distribution's at 0.5


def test_k_hat_of_each_row_and_the_line_it_must_stay_below(chains):
    record = chains.loo(X, Y, progress=False)
    picture = plot_khat(chains, X, Y)
    points = np.asarray(picture.viz["khat"]["pareto_k"].item().get_offsets())
    assert np.allclose(points[:, 1], record.pareto_k)
    ax = picture.viz["plot"].item()
    assert any(np.allclose(y, record.good_k) for y in lines_of(ax))


def test_an_evidence_is_its_runs_and_what_each_temperature_added():
    increments = [[-1.0, -2.0, 0.0], [-1.5, -1.0, -0.75]]
    ladder = [[0.1, 1.0, 1.0], [0.05, 0.5, 1.0]]
    picture = plot_evidence(
        fitted(
            engine="smc",
            log_evidence=-3.1,
            log_evidence_se=0.2,
            log_evidence_by_run=[-3.0, -3.25],
            log_evidence_increments=increments,
            ladder_by_run=ladder,
        )
    )
    left, right = picture.viz["plot"].values
    assert [line.get_xydata().T.tolist() for line in left.get_lines()] == [
        [[0.1, 1.0], [-1.0, -2.0]],  # a run that has arrived waits
        [[0.05, 0.5, 1.0], [-1.5, -1.0, -0.75]],
    ]
    assert holds(right, [-3.0, -3.25])
    assert holds(right, [-3.1, -3.1])
    (band,) = right.patches
    assert np.isclose(band.get_height(), 0.8)


def test_an_evidence_without_temperatures_is_its_runs():
    nested = {"log_evidence": -3.0, "log_evidence_se": np.nan, "log_evidence_by_run": [-3.0]}
    (ax,) = plot_evidence(fitted(engine="nested", **nested)).viz["plot"].values
    assert holds(ax, [-3.0])
    assert not ax.patches  # no error is known


@pytest.mark.slow
def test_increments_of_runs_sum_to_their_evidence():
    smc = SMC(particles=200, mutations=3, runs=2)
    im = ImpactModel(kernel, inference=smc).fit(X, Y, progress=False, on_bad_fit="ignore")
    drawn = plot_evidence(im).data
    assert np.allclose(drawn["increment"].sum("temperature"), drawn["log_evidence"])
    assert np.allclose(drawn["share"][:, -1], 1.0)
    assert np.allclose(drawn["share"].mean("run"), im.diagnostics_["ladder"])


class WithLosses(ImpactModel):
    """A model whose fit had a loss."""

    vi_result = SimpleNamespace(losses=np.geomspace(90.0, 30.0, 40).astype(np.float32))


@pytest.mark.parametrize(("plateau", "said"), [(False, ": still falling"), (True, ": a plateau")])
def test_a_loss_is_drawn_with_the_means_that_say_whether_it_falls(plateau, said):
    told = Told(engine="svi", plateau=plateau, verdict="good" if plateau else "bad: not converged")
    im = WithLosses(kernel, inference=told).fit(X, Y, progress=False)
    picture = plot_loss(im)
    losses = np.asarray(im.vi_result.losses, float)
    left, right = picture.viz["plot"].values
    assert holds(left, losses)
    assert holds(right, losses[20:])
    heights = [line.get_segments()[0][:, 1].mean() for line in right.collections]
    assert np.allclose(heights, [losses[20:30].mean(), losses[30:].mean()])
    assert right.get_title(loc="left") == f"The second half{said}"
    title = picture.viz["figure_title"].item().get_text() if not plateau else ""
    assert title == ("" if plateau else "The fit is bad: not converged")


@pytest.mark.slow
def test_a_loss_is_that_of_the_fit():
    im = ImpactModel(kernel, inference="svi", num_steps=40, on_bad_fit="ignore")
    drawn = plot_loss(im.fit(X, Y, progress=False)).data["loss"]
    assert np.array_equal(drawn, np.asarray(im.vi_result.losses, float))


def test_ranks_of_a_calibration_and_its_bad_fits():
    ranks = RNG.random((1, 60)) ** 2
    tree = xr.DataTree.from_dict({"/prior_sbc": xr.Dataset({"b": (("chain", "draw"), ranks)})})
    picture = plot_ranks(tree)
    ax = picture.viz["plot"]["b"].item()
    furthest = (np.arange(1, 61) / 60 - np.sort(ranks[0])).max()
    assert abs(max(y.max() for y in lines_of(ax)) - furthest) < 0.03
    assert "figure_title" not in picture.viz
    tree["prior_sbc"].attrs.update(bad_fits=7, repeats=60)
    title = plot_ranks(tree).viz["figure_title"].item().get_text()
    assert title == "7 of 60 fits say that they are bad"


@pytest.mark.parametrize("picture", [plot_trace, plot_rank, plot_forest, plot_pair])
def test_a_bad_fit_says_so_in_its_picture(picture):
    title = picture(fitted(verdict="bad: r-hat")).viz["figure_title"].item().get_text()
    assert title == "The fit is bad: r-hat"
    assert "figure_title" not in picture(fitted(verdict="good")).viz


@pytest.mark.parametrize(
    ("picture", "told", "words"),
    [
        (plot_energy, {"engine": "svi"}, "energy: a fit by 'svi' has none"),
        (plot_energy, {"engine": "mclmc", "stats": {"accept": B}}, "by 'mclmc' has none"),
        (plot_trace, {"engine": "svi"}, "in no order"),
        (plot_trace, {"engine": "smc"}, "in no order"),
        (plot_trace, {"engine": "gibbs", "walkers": 50}, "in no order"),
        (plot_rank, {"engine": "laplace"}, "agree whatever"),
        (plot_loss, {"engine": "mcmc"}, "the loss: a fit by 'mcmc' has none"),
        (plot_evidence, {"engine": "mcmc"}, "by 'mcmc' has none"),
        (plot_evidence, {"engine": "laplace", "log_evidence": -3.0}, "and no runs"),
    ],
)
def test_what_a_fit_cannot_give_is_refused(picture, told, words):
    with pytest.raises(InputError, match=words) as caught:
        picture(fitted(**told))
    assert caught.value.code == "no-picture"
    assert len(str(caught.value)) < 240


def test_one_chain_has_no_ranks():
    one = ImpactModel(kernel).set_posterior_sample({"b": B[0], "sigma": SIGMA[0]})
    with pytest.raises(InputError, match="a posterior that was set has one chain"):
        plot_rank(one)
    plot_trace(one, backend="none")  # which is a legitimate picture


def test_a_picture_of_what_is_not_there(chains):
    with pytest.raises(InputError, match="a posterior that was set has none"):
        plot_loss(chains)
    with pytest.raises(InputError, match="no observed site 'z'"):
        plot_ppc(chains, X, Y, site="z")
    with pytest.raises(InputError, match=r"Pass what aimz\.diagnostics\.sbc"):
        plot_ranks(xr.DataTree())
