"""A simulator without a likelihood: a net learns it, and is held to the closed form.

Choices and times of a drift-diffusion process are simulated; a net learns their density and is
compared with the series that are known for it, on parameters that it has not seen. Then 1,000
trials of a go / no-go task are fitted with both. Run it with `python examples/simulator.py`.
"""

from pathlib import Path

import jax
import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist

from aimz import ImpactModel
from aimz.likelihoods import DriftDiffusion, NeuralLikelihood, simulate

FIGURE = Path(__file__).with_name("simulator.png")
BOUNDS = {"v": (-3.0, 3.0), "a": (0.6, 4.0), "z": (0.1, 0.9), "t": (0.0, 2.0)}
TRUTH = {"v": 1.0, "a": 3.0, "z": 0.5, "t": 0.5}


@jax.jit
def simulator(key, v, a, z, t):
    """Times and choices, one for each set of parameters."""
    drawn = DriftDiffusion(v, a, z, t).sample(key)
    return drawn[:, 0], drawn[:, 1]


def go_no_go(likelihood):
    """A kernel: the drift points to "go" or away from it, and only "go" is seen."""

    def kernel(X, y=None):
        v = numpyro.sample("v", dist.Uniform(*BOUNDS["v"]))
        a = numpyro.sample("a", dist.Uniform(*BOUNDS["a"]))
        t = numpyro.sample("t", dist.Uniform(0.0, 1.0))
        with numpyro.plate("trial", X.shape[0]):
            responses = likelihood(v=v * X[:, 0], a=a, z=0.5, t=t)
            numpyro.sample("y", responses.censored(shown=(1,)), obs=y)

    return kernel


def main(simulations=1_000_000, figure=FIGURE):
    """Train, compare, draw the picture."""
    lik = NeuralLikelihood.train(simulate(simulator, BOUNDS, n=simulations), shift="t")
    fresh = simulate(simulator, BOUNDS, n=3000, key=1)
    closed, net = DriftDiffusion(*fresh.parameters.values()), lik(**fresh.parameters)
    known, learned = (np.asarray(fn.log_prob(fresh.outcomes)) for fn in (closed, net))
    choice = np.asarray(net.choice(1) - closed.choice(1))
    errors = {
        "error of log density": float(np.abs(learned - known).mean()),
        "bias of log density": float((learned - known).mean()),
        "error of choice": float(np.abs(choice).mean()),
    }
    print(errors)
    _draw(lik, known, learned, figure)
    return errors


def _draw(lik, known, learned, figure):
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    _, (left, right) = plt.subplots(1, 2, figsize=(7.0, 2.9), layout="constrained")
    left.plot([-8, 3], [-8, 3], color="#7F7F7F", lw=1)
    left.plot(known, learned, "o", ms=2, alpha=0.4, color="#0072B2", mew=0)
    left.set(
        xlabel="log density, closed form", ylabel="log density, net", xlim=(-8, 3), ylim=(-8, 3)
    )
    times = np.linspace(0.51, 4.0, 400)
    for code, colour in ((1.0, "#0072B2"), (-1.0, "#D55E00")):
        pairs = np.stack([times, np.full_like(times, code)], -1)
        laws = DriftDiffusion(*TRUTH.values()), lik(**TRUTH)
        closed, net = (np.exp(law.log_prob(pairs)) for law in laws)
        right.plot(times, closed, color=colour, lw=3, alpha=0.35, label=f"{code:+g}, closed form")
        right.plot(times, net, color=colour, lw=1, ls="--", label=f"{code:+g}, net")
    right.set(xlabel="time in seconds", ylabel="density of time and choice")
    right.legend(fontsize=7)
    plt.savefig(figure, dpi=110)
    plt.close()


def fitted(likelihood, trials=1000):
    """The go / no-go task, fitted by chains."""
    X = np.where(np.arange(trials) < trials / 2, 1.0, -1.0)[:, None]
    truth = DriftDiffusion(TRUTH["v"] * X[:, 0], TRUTH["a"], TRUTH["z"], TRUTH["t"])
    y = np.asarray(truth.censored(shown=(1,)).sample(jax.random.key(3)))
    return ImpactModel(go_no_go(likelihood), inference="nuts").fit(X, y, progress=False)


if __name__ == "__main__":
    main()
    draws = fitted(DriftDiffusion).posterior
    print(
        {
            name: [round(float(q), 2) for q in np.quantile(draws[name], [0.05, 0.95])]
            for name in "vat"
        }
    )
