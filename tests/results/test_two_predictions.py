"""Differences of two predictions: the same as an effect, or said why not."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr

import aimz
from aimz import ImpactModel, InputError, OutputWarning
from aimz.prediction.pairing import name_of, why_unpaired

X = np.zeros((4, 1))


def pooled_prior(X, dose, y=None):
    b = numpyro.sample("b", dist.Normal(dose.mean(), 1.0))
    numpyro.sample("y", dist.Normal(b + X[:, 0], 1.0), obs=y)


def mediated(X, dose, y=None):
    with numpyro.plate("rows", len(X)):
        z = numpyro.sample("z", dist.Normal(dose, 0.1))
        numpyro.sample("y", dist.Normal(z + X[:, 0], 1.0), obs=y)


def plain(X, dose, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(b * dose + X[:, 0], 1.0), obs=y)


def other(X, dose, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.Normal(2 * b * dose + X[:, 0], 1.0), obs=y)


def dead_end(X, dose, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("side", dist.Normal(dose.mean(), 1.0))
    numpyro.sample("y", dist.Normal(b + X[:, 0], 1.0), obs=y)


def by_arguments(im, old, new):
    return im.estimate_effect(args_baseline=old, args_intervention=new, on_batch=True)


def by_trees(im, old, new):
    return im.estimate_effect(im.predict_on_batch(**old), im.predict_on_batch(**new))


def by_both(im, old, new):
    return im.estimate_effect(im.predict_on_batch(**old), args_intervention=new, on_batch=True)


WAYS = pytest.mark.parametrize("way", [by_arguments, by_trees, by_both])


def doses(*values):
    return [{"X": X, "dose": np.full(4, value), "rng_key": 1} for value in values]


@WAYS
@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_what_only_a_global_latent_carries_is_refused_as_in_an_effect(way):
    im = ImpactModel(pooled_prior).set_posterior_sample({"b": np.ones(5)})

    with pytest.raises(InputError, match="'dose' is not the same in both scenarios") as refused:
        way(im, *doses(0.0, 1.0))
    with pytest.raises(InputError) as effect:
        im.effect(X, {"dose": 0.0}, {"dose": 1.0}, dose=np.zeros(4), progress=False)
    assert refused.value.code == effect.value.code == "global-carries"
    assert not way(im, *doses(1.0, 1.0)).posterior_predictive["y"].any()


@WAYS
def test_a_latent_of_rows_that_keeps_its_draws_is_told(way):
    im = ImpactModel(mediated).set_posterior_sample({"z": np.ones((5, 4))})

    with pytest.warns(OutputWarning, match="'z' below it keeps its draws in both") as told:
        way(im, *doses(0.0, 1.0))
    assert told[0].message.code == "latents-kept"


@WAYS
def test_what_leads_nowhere_is_told(way):
    im = ImpactModel(dead_end).set_posterior_sample({"b": np.ones(5), "side": np.ones(5)})

    with pytest.warns(OutputWarning, match="differ in 'dose', from which no path leads") as told:
        found = way(im, *doses(0.0, 1.0))
    assert told[0].message.code == "no-effect"
    assert not found.posterior_predictive["y"].any()
    way(im, *doses(1.0, 1.0))
    moved = [{**own, "X": X + n} for n, own in enumerate(doses(0.0, 1.0))]
    assert way(im, *moved).posterior_predictive["y"].values.mean() == pytest.approx(1.0)


def test_what_is_set_is_no_dead_end():
    im = ImpactModel(dead_end).set_posterior_sample({"b": np.ones(5), "side": np.ones(5)})
    old, new = doses(0.0, 1.0)

    both = [{**own, "intervention": {"b": float(n)}} for n, own in enumerate((old, new))]
    assert by_trees(im, *both).posterior_predictive["y"].values.mean() == pytest.approx(1.0)


def test_predictions_of_two_models_are_unpaired():
    draws = {"b": np.ones(5)}
    im = ImpactModel(plain).set_posterior_sample(draws)
    first: Any = im.predict_on_batch(X, dose=np.zeros(4))
    own: Any = im.predict_on_batch(X, dose=np.ones(4))
    another: Any = ImpactModel(other).set_posterior_sample(draws)
    another = another.predict_on_batch(X, dose=np.ones(4))
    refitted: Any = ImpactModel(plain).set_posterior_sample({"b": np.full(5, 2.0)})

    im.estimate_effect(first, own)
    with pytest.warns(OutputWarning, match="different models \\(kernels .*plain and .*other\\)"):
        im.estimate_effect(first, another)
    with pytest.warns(OutputWarning, match="two posteriors of one kernel \\(.*plain\\)"):
        im.estimate_effect(first, refitted.predict_on_batch(X, dose=np.ones(4)))


def test_posteriors_that_only_begin_alike_are_unpaired():
    trees: list[Any] = [
        ImpactModel(plain)
        .set_posterior_sample({"b": np.linspace(0.0, end, 5)})
        .predict_on_batch(X, dose=np.ones(4), rng_key=1)
        for end in (1.0, 2.0)
    ]
    with pytest.warns(OutputWarning, match="two posteriors of one kernel"):
        ImpactModel(plain).estimate_effect(*trees)


def test_posteriors_that_differ_between_their_ends_are_unpaired():
    im = ImpactModel(plain)
    trees: list[Any] = [
        im.set_posterior_sample({"b": np.array([0.0, middle, 2.0])}).predict_on_batch(
            X, dose=np.ones(4), rng_key=1
        )
        for middle in (0.5, 1.0, 0.5)
    ]
    with pytest.warns(OutputWarning, match="two posteriors of one kernel"):
        im.estimate_effect(*trees[:2])
    im.estimate_effect(trees[0], trees[2])
    cut = [
        xr.DataTree.from_dict({n: g.to_dataset().isel(draw=at) for n, g in trees[0].items()})
        for at in (slice(0, 2), slice(1, 3))
    ]
    assert "two posteriors" in why_unpaired(*cut)


def test_a_function_keeps_its_name_and_no_other_one_gets_it():
    def kept(t):
        return t

    names = [name_of(lambda t, n=n: t + n) for n in range(50)]  # each gone before the next is made
    assert len({*names, name_of(kept)}) == 51
    assert name_of(kept) == name_of(kept)


@pytest.mark.parametrize("wrong", [np.zeros(4), {"y": np.zeros(4)}])
def test_only_trees_are_outputs(wrong):
    im = ImpactModel(plain).set_posterior_sample({"b": np.ones(5)})
    with pytest.raises(InputError, match="An output is a DataTree") as refused:
        im.estimate_effect(wrong, wrong)
    assert refused.value.code == "scenario-incomplete"


def test_draws_in_a_result_are_not_the_models_own_to_change():
    im = ImpactModel(plain).set_posterior_sample({"b": np.ones(5)})
    tree: Any = im.predict_on_batch(X, dose=np.zeros(4))
    for group in (im.posterior_tree.posterior, tree.posterior):
        with pytest.raises(ValueError, match="read-only"):
            group["b"].values[:] = 9.0


def heading(X, dose, y=None):
    b = numpyro.sample("b", dist.Normal())
    numpyro.sample("y", dist.VonMises(b + dose, 1e5), obs=y)


def chosen(X, dose, y=None):
    b = numpyro.sample("b", dist.Normal())
    odds = jnp.stack([b + 0.0 * dose, 50.0 * dose, b + 0.0 * dose], -1)
    numpyro.sample("y", dist.Categorical(logits=odds), obs=y)


@pytest.mark.slow
def test_the_difference_of_two_angles_is_a_turn_in_memory_and_on_disk(tmp_path):
    im = ImpactModel(heading).set_posterior_sample({"b": np.full(50, 3.0)})
    turns = np.array([0.4, -0.4, 3.0, -3.1])
    for old, new in ((np.zeros(4), turns), (turns, np.zeros(4))):
        trees: list[Any] = [im.predict_on_batch(X, dose=dose) for dose in (old, new)]
        kept: list[Any] = []
        for number, dose in enumerate((old, new)):
            place = tmp_path / f"{number}{new[0]}"
            tree: Any = im.predict(X, dose=dose, output_dir=place, progress=False)
            kept.append(aimz.open(tree.attrs["artifact_path"]))
        for pair in (trees, kept, (trees[0], kept[1])):
            found = im.estimate_effect(*pair).posterior_predictive["y"]
            shown = found.mean(("chain", "draw"))
            np.testing.assert_allclose(shown, new - old, atol=0.01)


def test_codes_of_unordered_categories_warn_where_they_are_subtracted(tmp_path):
    im = ImpactModel(chosen).set_posterior_sample({"b": np.ones(5)})
    trees: list[Any] = [im.predict_on_batch(X, dose=np.full(4, dose)) for dose in (0.0, 1.0)]
    kept: Any = im.predict(X, dose=np.ones(4), output_dir=tmp_path / "kept", progress=False)

    for other in (trees[1], aimz.open(kept.attrs["artifact_path"])):
        with pytest.warns(OutputWarning, match="'y' is a category .* im.effect") as told:
            im.estimate_effect(trees[0], other)
        assert told[0].message.code == "categories-subtracted"


def of_a_mode(X, mode, y=None):
    """An argument that is not traced, which says what a prior is, and with "steep" also more."""
    b = numpyro.sample("b", dist.Normal(5.0 if mode == "high" else 0.0, 1.0))
    slope = 1.0 if mode == "steep" else 0.0
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Normal(b + slope, 1.0), obs=y)


@WAYS
def test_a_word_that_changes_nothing_is_told(way):
    im = ImpactModel(of_a_mode).set_posterior_sample({"b": np.ones(5)})
    low, high, steep = ({"X": X, "mode": m, "rng_key": 1} for m in ("low", "high", "steep"))

    with pytest.warns(OutputWarning, match="differ in 'mode' and agree in every draw") as told:
        way(im, low, high)
    assert told[0].message.code == "no-effect"
    with pytest.warns(OutputWarning, match="differ in 'mode' and agree in every draw"):
        im.effect(X, {"mode": "low"}, {"mode": "high"}, mode="low", progress=False)
    assert way(im, low, steep).posterior_predictive["y"].values.mean() == pytest.approx(1.0)
    moved = im.effect(X, {"mode": "low"}, {"mode": "steep"}, mode="low", progress=False)
    assert float(moved.draws.mean()) == pytest.approx(1.0)
