"""What a fit says of itself: never good where nothing was looked at, nor where it is wrong."""

import math
import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import optim
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta

from aimz import FitWarning, ImpactModel
from aimz.inference.health import SECTION, Evidence, judge_chains, judge_shape, pareto_k

RNG = np.random.default_rng(0)
HARMLESS = 0.05 * RNG.normal(size=1000)
NORMAL_LINE = -(SECTION**2) / 2
HEAVY_LINE = -2.0 * np.log1p((1.26 * SECTION) ** 2 / 3.0)
SHIFTED_LINE = -((SECTION - 0.5) ** 2) / 2
NO_LINE = np.full(len(SECTION), -np.inf)


@pytest.mark.parametrize(
    ("spread", "verdict"),
    [(1.0, "good"), (1.06, "good"), (1.2, "bad: guide-shape"), (1.3, "bad: guide-shape")],
)
def test_draws_that_weights_spread_further_are_a_fault(spread, verdict):
    # A normal guide of a normal posterior whose second latent has another sd than the guide's.
    standard = np.random.default_rng(1).normal(size=(1000, 2))
    second, other = standard[:, 1], 0.3 * np.random.default_rng(2).normal(size=1000)
    weights = 0.5 * second**2 - 0.5 * (second / spread) ** 2 + other
    lines = np.tile(NORMAL_LINE, (2, 1, 1))
    judged = judge_shape(Evidence(weights, lines, ["a", "b"], values=standard, numbers=["a", "b"]))
    assert judged.attrs["verdict"] == verdict
    said = "".join(note.message for note in judged.notes)
    assert (f"the sd of 'b' is {judged.attrs['moved_sd_ratio']:.2f} times too narrow" in said) == (
        verdict != "good"
    )


@pytest.mark.parametrize(
    ("mean", "sd", "said"),
    [
        (0.0, 0.6, "the sd of 'b' is 1.6"),
        (0.0, 0.95, ""),
        (0.4, 1.0, "the mean of 'b' is +0.4"),
        (-0.4, 1.0, "the mean of 'b' is -0.4"),
        (0.1, 1.0, ""),
    ],
)
def test_weights_see_a_guide_that_is_too_wide_or_aside_in_units_of_the_user(mean, sd, said):
    # Draws of a standard guide, on a scale of thousands; the posterior is a normal (mean, sd).
    draws = np.random.default_rng(3).normal(size=(1000, 2))
    log_weights = 0.5 * draws[:, 1] ** 2 - 0.5 * ((draws[:, 1] - mean) / sd) ** 2
    values = 5e3 + 1e3 * draws
    judged = judge_shape(Evidence(log_weights, values=values, numbers=["a", "b"]))
    assert judged.attrs["verdict"] == ("bad: guide-shape" if said else "good")
    assert said in "".join(note.message for note in judged.notes)
    assert all(len(note.message) < 240 for note in judged.notes)


def test_weights_whose_largest_are_tied_are_weighed_as_they_are():
    # There is no tail to smooth, and half of the draws count for little.
    standard = np.linspace(-2.0, 2.0, 1000)[:, None]
    lines = np.tile(NORMAL_LINE, (1, 1, 1))
    weights = np.where(np.abs(standard[:, 0]) > 1.0, 0.0, -1.0)
    judged = judge_shape(Evidence(weights, lines, ["b"], values=standard, numbers=["b"]))
    assert judged.attrs["verdict"] == "bad: guide-shape"
    # Variances of the parts are 7/3 and 1/3, their weights 1 and 1/e, and that of all is 4/3.
    ratio = np.sqrt((7.0 + math.exp(-1.0)) / (1.0 + math.exp(-1.0)) / 4.0)
    assert f"the sd of 'b' is {ratio:.2f} times too narrow" in judged.notes[0].message


def with_values(values):
    weights = HARMLESS.copy()
    weights[: len(values)] = values
    return weights


@pytest.mark.parametrize(
    ("weights", "lines", "code"),
    [
        (HARMLESS, [NORMAL_LINE], ""),
        (3.0 * RNG.standard_t(2, size=1000), [NORMAL_LINE], "k-hat"),
        (with_values([np.nan]), [NORMAL_LINE], "k-hat"),
        (with_values([np.inf]), [NORMAL_LINE], "k-hat"),
        (with_values([-np.inf]), [NORMAL_LINE], "k-hat"),
        (with_values([1e4]), [NORMAL_LINE], "k-hat"),
        (1e22 * RNG.normal(size=1000), [NORMAL_LINE], "k-hat"),
        (HARMLESS, [NORMAL_LINE, SHIFTED_LINE], "guide-shape"),
        (HARMLESS, [NORMAL_LINE * 0.5], "guide-shape"),
        (HARMLESS, [NORMAL_LINE * 2.0], "guide-shape"),
        (HARMLESS, [NORMAL_LINE, NO_LINE], "guide-shape"),
        (0.19 * RNG.standard_t(3, size=1000), [HEAVY_LINE], "k-hat"),
        (0.19 * RNG.standard_cauchy(size=1000), None, "k-hat"),
        (HARMLESS, None, ""),
    ],
)
def test_a_guide_of_another_shape_is_not_good(weights, lines, code):
    sections = None if lines is None else np.array(lines)[:, None]
    judged = judge_shape(Evidence(weights, sections, ["a", "b"]))
    assert [note.code for note in judged.notes if note.code == code] == ([code] if code else [])
    assert judged.attrs["verdict"] == (f"bad: {code}" if code else "good")
    assert all(len(note.message) < 240 for note in judged.notes)


def test_a_guide_that_was_not_looked_at_is_not_good():
    judged = judge_shape(Evidence(absent="more than 8,192 rows"))
    assert judged.attrs["verdict"] == "not checked: more than 8,192 rows"
    assert math.isnan(judged.attrs["k_hat"])


def test_few_weights_are_not_checked():
    shape = judge_shape(Evidence(log_weights=np.random.default_rng(0).normal(size=10)))
    assert shape.attrs["verdict"] == "not checked: too few draws"
    assert math.isnan(shape.attrs["k_hat"])


@pytest.mark.parametrize("weights", [1e8 * RNG.normal(size=500), with_values([700.0, -700.0])])
def test_pareto_k_of_weights_beyond_double_precision_is_infinite(weights):
    assert pareto_k(weights) == math.inf


def test_weights_that_are_equal_by_rounding_have_no_tail():
    assert pareto_k(np.round(0.1 * HARMLESS, 2)) == -math.inf
    assert pareto_k(np.minimum(HARMLESS, -0.01)) == -math.inf


def chains_of(kind):
    draws = RNG.normal(size=(4, 500, 2))
    if kind == "apart":
        draws[2:] += 3.0
    elif kind == "trend in one":
        draws = draws[:1] + np.linspace(0.0, 5.0, 500)[None, :, None]
    elif kind == "slow in one":
        draws = np.cumsum(RNG.normal(size=(1, 500, 2)), axis=1)
    elif kind == "nan":
        draws[0, 3, 0] = np.nan
    elif kind == "infinite":
        draws[0, 3, 0] = np.inf
    elif kind == "one":
        draws = draws[:1]
    elif kind == "short":
        draws = draws[:, :3]
    return draws


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("mixed", "good"),
        ("one", "good"),
        ("apart", "bad: r-hat"),
        ("trend in one", "bad: r-hat"),
        ("slow in one", "bad: r-hat"),
        ("nan", "bad: r-hat"),
        ("infinite", "bad: r-hat"),
        ("short", "not checked: too few draws"),
    ],
)
def test_chains_are_good_only_where_they_mixed(kind, verdict):
    judged = judge_chains({"a": chains_of(kind)}, {})
    assert judged.attrs["verdict"] == verdict
    assert [note.code for note in judged.notes] == (["r-hat"] if "bad" in verdict else [])


@pytest.mark.parametrize(
    ("pull", "draws", "verdict"),
    [
        (0.0, 500, "good"),
        (0.9, 500, "bad: energy"),
        (0.9, 20, "good"),
        (None, 500, "good"),
    ],
)
def test_energy_that_hardly_moves_is_said(pull, draws, verdict):
    # Of a stationary AR(1) with coefficient r, squared steps over the variance are 2 (1 - r).
    rng = np.random.default_rng(1)
    energy = rng.normal(size=(4, draws))
    for step in range(1, draws):
        energy[:, step] += (pull or 0.0) * energy[:, step - 1]
    stats = {"energy": np.zeros((4, draws)) if pull is None else energy}
    stats["reached_max_treedepth"] = np.arange(4 * draws).reshape(4, -1) < 7
    judged = judge_chains({"a": rng.normal(size=(4, draws, 2))}, stats)
    assert judged.attrs["verdict"] == verdict
    assert judged.attrs["max_tree_depths"] == 7
    if pull is None:
        assert "bfmi_min" not in judged.attrs
    elif draws == 500:
        assert abs(judged.attrs["bfmi_min"] - 2 * (1 - pull)) < 0.35


ROWS = np.zeros((20, 1), np.float32)


@pytest.mark.parametrize("draws", [1, 3])
def test_a_few_draws_of_one_chain_tell_nothing(draws):
    judged = judge_chains({"a": np.random.default_rng(0).normal(size=(1, draws, 2))}, {})
    assert judged.attrs["verdict"] == "not checked: too few draws"


def two_modes(X, y=None):
    root = numpyro.sample("root", dist.Normal(0.0, 2.0))
    numpyro.sample("y", dist.Normal(root**2 + X[:, 0], 1.0), obs=y)


@pytest.mark.slow
def test_two_modes_are_not_one_silently():
    with pytest.warns(FitWarning, match="another mode, with about 50%"):
        im = ImpactModel(two_modes).fit(ROWS, np.ones(20), progress=False)
    assert im.diagnostics_["verdict"] == "bad: modes"


def two_labels(X, y=None):
    centres = numpyro.sample("centres", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    parts = dist.MixtureSameFamily(
        dist.Categorical(probs=jnp.full(2, 0.5)), dist.Normal(centres, 1.0)
    )
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", parts, obs=y)


@pytest.mark.parametrize("key", range(6))
def test_labels_that_may_be_exchanged_are_two_modes(key):
    y = np.where(np.arange(40) % 2, -3.0, 3.0) + np.random.default_rng(0).normal(size=40)
    with pytest.warns(FitWarning, match="another mode, with about 50%"):
        ImpactModel(two_labels, rng_key=key).fit(np.zeros((40, 1)), y, progress=False)


@pytest.mark.slow
def test_chains_start_at_different_modes():
    with pytest.warns(FitWarning, match="have not mixed"):
        im = ImpactModel(two_modes, inference="nuts").fit(ROWS, np.ones(20), progress=False)
    assert im.posterior["root"].min() < 0 < im.posterior["root"].max()


def test_a_point_says_that_it_has_no_intervals():
    def kernel(X, y=None):
        mean = numpyro.sample("mean", dist.Normal())
        numpyro.sample("y", dist.Normal(mean + X[:, 0], 1.0), obs=y)

    svi = SVI(kernel, AutoDelta(kernel), optim.Adam(0.1), Trace_ELBO())
    with pytest.warns(FitWarning, match="All draws of 'mean' are the same"):
        im = ImpactModel(kernel, inference=svi).fit(ROWS, np.ones(20), progress=False, epochs=500)
    assert im.diagnostics_["verdict"] == "bad: no-intervals"


def prior_of(law):
    def kernel(X, y=None):
        value = numpyro.sample("value", law)
        numpyro.sample("y", dist.Normal(0.0 * value + X[:, 0], 1.0), obs=y)

    return kernel


def arms(X, y=None):
    a, b = numpyro.sample("ab", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=a + b * X[:, 0]), obs=y)


def grid_moments(X, y, width=5.0):
    a, b = np.meshgrid(np.linspace(-12, 5, 600), np.linspace(-30, 10, 800), indexing="ij")
    logs = -(a**2 + b**2) / 2 / width**2
    for x, one in zip(X[:, 0], y, strict=True):
        logs -= np.logaddexp(0.0, np.where(one, -1.0, 1.0) * (a + b * x))
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    mean = (weights * b).sum()
    return mean, np.sqrt((weights * b**2).sum() - mean**2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "mean", "sd"),
    [
        (dist.StudentT(3.0), 0.0, math.sqrt(3.0)),
        (dist.Exponential(), 1.0, 1.0),
        (dist.Gamma(0.5, 1.0), 0.5, math.sqrt(0.5)),
        (dist.Gumbel(), 0.5772, math.pi / math.sqrt(6.0)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_posteriors_with_other_tails_are_right(law, mean, sd):
    im = ImpactModel(prior_of(law)).fit(ROWS, np.zeros(20), progress=False)
    value = im.posterior["value"]
    assert abs(value.mean() - mean) < 0.25 * sd
    assert abs(value.std() / sd - 1.0) < 0.25


@pytest.mark.slow
def test_an_arm_without_events_keeps_its_long_tail():
    X = np.repeat([0.0, 1.0], 150)[:, None]
    y = np.r_[np.arange(150) % 10 == 0, np.zeros(150, bool)].astype(np.int32)
    im = ImpactModel(arms).fit(X, y, progress=False)
    mean, sd = grid_moments(X, y)
    b = im.posterior["ab"][:, 1]
    assert abs(b.mean() - mean) < 0.25 * sd
    assert abs(b.std() / sd - 1.0) < 0.2


@pytest.mark.slow
def test_columns_of_any_size_are_right():
    rng = np.random.default_rng(0)
    X = 1e-6 * rng.normal(size=(100, 2))
    y = 3e5 + X @ [1e11, -2e12] + 1e5 * rng.normal(size=100)

    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1e7))
        b = numpyro.sample("b", dist.Normal(0.0, 1e13).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1e6))
        numpyro.sample("y", dist.Normal(a + X @ b, sigma), obs=y)

    im = ImpactModel(kernel).fit(X, y, progress=False)
    design = np.column_stack([np.ones(100), X])
    mean = np.linalg.lstsq(design, y, rcond=None)[0][1:]
    sd = 1e5 * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))[1:]
    assert np.all(np.abs(im.posterior["b"].mean(axis=0) - mean) < 0.3 * sd)
    np.testing.assert_allclose(im.posterior["b"].std(axis=0), sd, rtol=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_healthy_regressions_raise_no_alarm(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, 3))
    y = rng.random(200) < 1.0 / (1.0 + np.exp(-X @ [0.5, -1.0, 0.2]))

    def kernel(X, y=None):
        slope = numpyro.sample("slope", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=X @ slope), obs=y)

    im = ImpactModel(kernel).fit(X, y.astype(np.int32), progress=False)
    assert im.diagnostics_["verdict"] == "good"


ERRORS = np.array([15, 10, 16, 11, 9, 11, 10, 18], np.float32)
EFFECTS = np.array([28, 8, -3, 7, -1, 1, 18, 12], np.float32)


def schools(X, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = numpyro.sample("spread", dist.HalfCauchy(5.0))
    noise = numpyro.sample("noise", dist.Normal().expand([8]).to_event(1))
    numpyro.sample("y", dist.Normal(mean + spread * noise, X[:, 0]), obs=y)


@pytest.mark.slow
def test_chains_by_name_do_not_trust_a_mode_that_is_no_summary():
    means, spreads = np.meshgrid(np.linspace(-20, 30, 400), np.linspace(0.01, 200, 20_000))
    logs = -(means**2) / 50 - np.log1p((spreads / 5) ** 2)
    for effect, error in zip(EFFECTS, ERRORS, strict=True):
        variance = error**2 + spreads**2
        logs -= 0.5 * np.log(variance) + (effect - means) ** 2 / 2 / variance
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    im = ImpactModel(schools, inference="nuts").fit(ERRORS[:, None], EFFECTS, progress=False)
    assert im.diagnostics_["verdict"] == "good"
    assert abs(im.posterior["mean"].mean() - (weights * means).sum()) < 0.3
    share = np.mean(im.posterior["spread"] < 3.0)
    assert abs(share - weights[spreads < 3.0].sum()) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "size"), [(1e-5, 1e5), (1e-6, 1e6), (1e5, 1e-5)])
def test_a_guide_is_right_at_any_scale(unit, size):
    rng = np.random.default_rng(0)
    X = unit * rng.normal(size=(100, 2))
    y = X @ np.array([1.0, -2.0]) * size / unit + size * rng.normal(size=100)

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 10 * size / unit).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(10 * size))
        numpyro.sample("y", dist.Normal(X @ b, sigma), obs=y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        im = ImpactModel(kernel, inference="svi").fit(X, y, progress=False)
    mean, (squares,) = np.linalg.lstsq(X, y, rcond=None)[:2]
    sd = np.sqrt(squares / 98 * np.diag(np.linalg.inv(X.T @ X)))
    assert np.all(np.abs(im.posterior["b"].mean(axis=0) - mean) < 0.3 * sd)
    np.testing.assert_allclose(im.posterior["b"].std(axis=0), sd, rtol=0.15)


@pytest.mark.parametrize(("events", "spread"), [(7, "bad: k-hat"), (400, "good")])
def test_rare_events_are_said_where_common_ones_are_fine(events, spread):
    """With 7 events of 2,000 a normal guide's sds are a seventh too small, and k-hat above 1."""

    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 10.0))
        b = numpyro.sample("b", dist.Normal(0.0, 10.0))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Bernoulli(logits=a + b * X[:, 0]), obs=y)

    t = (np.arange(2000) % 2).astype(np.float32)
    y = np.zeros(2000, np.int32)
    y[np.r_[np.flatnonzero(t)[: events * 5 // 7], np.flatnonzero(t == 0)[: events * 2 // 7]]] = 1
    im = ImpactModel(kernel, inference="svi")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        im.fit(t[:, None], y, progress=False)
    assert im.diagnostics_["verdict"] == spread
