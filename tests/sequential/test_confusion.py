"""Confusion between models: scores in closed form, and what cannot be compared."""

from collections.abc import Iterator

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st

from aimz import FitWarning, InputError
from aimz.inference import NUTS
from aimz.sequential import Confusion, confusion, recovery

ROWS = 8
X = np.zeros((ROWS, 1))
SPREADS = {"near": 0.5, "wide": 2.0}  # of the prior of the mean


def kernel_of(spread, law=lambda mean: dist.Normal(mean, 1.0)):
    def kernel(X, y=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, spread))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", law(mean), obs=y)

    return kernel


KERNELS = {name: kernel_of(spread) for name, spread in SPREADS.items()}


def evidence(y, spread):
    return st.multivariate_normal(np.zeros(ROWS), np.eye(ROWS) + spread**2).logpdf(y)


def left_out(y, spread):
    precision = 1 / spread**2 + ROWS - 1
    others = (y.sum(-1, keepdims=True) - y) / precision
    return st.norm(others, np.sqrt(1 + 1 / precision)).logpdf(y).sum(-1)


@pytest.fixture(scope="module")
def told() -> Confusion:
    return confusion(KERNELS, {"X": X}, n=6, by="evidence", engine="laplace")


def check_scores(found, law, off):
    for row, name in enumerate(SPREADS):
        for column, spread in enumerate(SPREADS.values()):
            truth = law(found.outcomes[name].astype(float), spread)
            np.testing.assert_allclose(found.scores[row, :, column], truth, atol=off)


def test_evidence_is_that_of_the_closed_form(told):
    check_scores(told, evidence, 2e-3)
    best = np.argmax(told.scores, -1)
    shares = np.stack([(best == column).mean(1) for column in range(2)], -1)
    np.testing.assert_allclose(told.table, shares)
    np.testing.assert_allclose(told.inverse, shares / shares.sum(0))
    np.testing.assert_allclose(told.se, np.sqrt(shares * (1 - shares) / 6))
    assert told.by == "evidence"
    assert len(told.verdicts) == 24
    assert list(told.table.columns) == list(told.table.index) == list(SPREADS)


@pytest.mark.slow
def test_rows_left_out_are_those_of_the_closed_form(told):
    found = confusion(KERNELS, {"X": X}, n=6, engine="laplace")
    check_scores(found, left_out, 0.25)  # of 1,000 draws, the error of weights is some 0.06 nats
    for name, outcomes in told.outcomes.items():  # the same key, the same outcomes
        np.testing.assert_array_equal(outcomes, found.outcomes[name])


def test_each_model_and_each_replicate_has_noise_of_its_own(told):
    drawn = np.concatenate(list(told.outcomes.values()))
    residuals = drawn - drawn.mean(-1, keepdims=True)
    apart = [np.abs(a - b).max() for i, a in enumerate(residuals) for b in residuals[:i]]
    assert min(apart) > 1e-3


def test_the_picture_has_a_share_in_each_cell(told):
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure = told.plot()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [f"{share:.2f}" for share in told.table.to_numpy().ravel()]
    plt.close(figure)


@pytest.mark.slow
def test_what_one_model_cannot_give_is_its_zero():
    positive = kernel_of(1.0, lambda mean: dist.LogNormal(mean, 1.0))
    kernels = {"near": KERNELS["near"], "positive": positive}
    found = confusion(kernels, {"X": X}, n=4, by="evidence", engine="laplace")
    impossible = (found.outcomes["near"] <= 0).any(-1)
    assert impossible.sum() >= 2
    np.testing.assert_array_equal(np.isneginf(found.scores[0, :, 1]), impossible)
    assert (np.argmax(found.scores[0], -1)[impossible] == 0).all()


def counts(X, y=None):
    rate = numpyro.sample("rate", dist.Exponential())
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


@pytest.mark.parametrize(
    ("kernels", "design", "options", "says"),
    [
        ({"near": KERNELS["near"]}, {"X": X}, {}, "two or more"),
        (KERNELS, {}, {}, "has an 'X'"),
        (KERNELS, {"X": X, "reward": 1.0}, {}, "'reward', which none"),
        pytest.param(
            *({"near": KERNELS["near"], "counts": counts}, {"X": X}, {}, "no measure of one"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(KERNELS, {"X": X}, {"engine": "svi", "by": "evidence"}, "must give one"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["one", "design", "taken", "kinds", "evidence"],
)
def test_what_cannot_be_compared_is_refused(kernels, design, options, says):
    with pytest.raises(InputError, match=says) as error:
        confusion(kernels, design, n=2, **options)
    assert error.value.code == ("confusion" if "X" in design else "recovery")
    assert len(str(error.value)) < 240


def test_no_replicates_are_none():
    for ask in (
        lambda: confusion(KERNELS, {"X": X}, n=0),
        lambda: recovery(KERNELS["near"], {"X": X}, ["mean"], n=0),
    ):
        with pytest.raises(InputError) as error:
            ask()
        assert error.value.code == "not-positive"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Rows are predicted together")
def test_rows_as_wholes_are_not_compared_with_their_elements():
    def blocks(X, y=None):
        mean = numpyro.sample("mean", dist.Normal())
        with numpyro.plate("rows", X.shape[0]):
            law = dist.Normal(mean, 1.0).expand([X.shape[0], 3])
            numpyro.sample("y", law.to_event(1), obs=y)

    def elements(X, y=None):
        mean = numpyro.sample("mean", dist.Normal())
        with numpyro.plate("rows", X.shape[0], dim=-2), numpyro.plate("columns", 3):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    with pytest.raises(InputError, match="8 values are left out in turn, and of 'elements' 24"):
        confusion({"blocks": blocks, "elements": elements}, {"X": X}, n=1, engine="laplace")


@pytest.mark.slow
def test_bad_fits_are_counted():
    poor = NUTS(chains=2, warmup=2)
    with pytest.warns(FitWarning, match="of 3 fits say that they are bad") as said:
        recovery(KERNELS["wide"], {"X": X}, ["mean"], n=3, engine=poor)
    assert {one.message.code for one in said} == {"refits"}
    assert {one.filename for one in said} == {__file__}


def test_refits_share_a_program(told, compilations):
    counts = []
    for n in (2, 5):
        recovery(KERNELS["wide"], {"X": X}, ["mean"], n=n, engine="laplace")
        counts.append(len(compilations))
    assert counts[1] <= counts[0] + 1  # five draws of the prior are not two


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Names of what XLA compiles meanwhile."""
    seen: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)
