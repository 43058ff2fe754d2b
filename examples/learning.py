"""Learning from rewards: what if nobody learned from losses?

40 subjects choose among 5 arms in up to 200 trials. The choices are simulated from known rates, so
that what is found can be held to them. Run it with `python examples/learning.py`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import numpyro
import numpyro.distributions as dist

from aimz import ImpactModel
from aimz.sequential import hierarchical, scan_trials

FIGURE = Path(__file__).with_name("learning.png")
ARMS = 5


def learning(X, reward, there=None, y=None):
    """Values are learned by rates of their own for gains and losses; choices are softmax."""
    subjects = numpyro.plate("subject", X.shape[0])
    alpha_p = hierarchical("alpha_p", subjects, jax.nn.sigmoid)
    alpha_n = hierarchical("alpha_n", subjects, jax.nn.sigmoid)
    beta = hierarchical("beta", subjects, jnp.exp, 1.0, 0.5)

    def step(value, trial):
        gain, choice = trial
        choice = numpyro.sample("y", dist.Categorical(logits=beta[:, None] * value), obs=choice)
        error = (gain - value) * jax.nn.one_hot(choice, ARMS)
        rate = jnp.where(error > 0, alpha_p[:, None], alpha_n[:, None])
        return value + rate * error, value

    start = jnp.full((X.shape[0], ARMS), 0.5)
    scan_trials(step, start, (reward, y), members=subjects, there=there)


def load(subjects=40, trials=200):
    """True rates, rewards of all arms, and choices."""
    rng = np.random.default_rng(1)
    truth = {
        "alpha_p": 1 / (1 + np.exp(-rng.normal(-0.5, 0.8, subjects))),
        "alpha_n": 1 / (1 + np.exp(-rng.normal(-1.0, 0.8, subjects))),
        "beta": np.exp(rng.normal(1.3, 0.3, subjects)),
    }
    pays = np.linspace(0.2, 0.8, ARMS)
    reward = (rng.uniform(size=(subjects, trials, ARMS)) < pays).astype(np.float32)
    choice = np.zeros((subjects, trials), int)
    for member in range(subjects):
        value = np.full(ARMS, 0.5)
        for trial in range(trials):
            weights = np.exp(truth["beta"][member] * value)
            chosen = choice[member, trial] = rng.choice(ARMS, p=weights / weights.sum())
            error = reward[member, trial, chosen] - value[chosen]
            value[chosen] += truth["alpha_p" if error > 0 else "alpha_n"][member] * error
    return truth, reward, choice


def main(subjects=40, trials=200, figure=FIGURE):
    """Fit, ask what if, draw the picture."""
    truth, reward, choice = load(subjects, trials)
    X = np.zeros((subjects, 1))
    model = ImpactModel(learning, inference="nuts").fit(X, choice, reward=reward, progress=False)
    natural = model.predict_on_batch(X, reward=reward, return_sites=[*truth, "y"])
    never = model.predict_on_batch(X, reward=reward, intervention={"alpha_n": 0.0})
    found = natural.posterior_predictive
    best = [
        (tree["y"] == ARMS - 1).mean(("chain", "draw"))
        for tree in (found, never.posterior_predictive)
    ]
    shares = [float(one.mean()) for one in best]
    print(
        f"share of the best arm: {shares[0]:.2f}, and {shares[1]:.2f} without learning from losses"
    )
    _draw(truth, found, best, figure)
    return shares[0], shares[1]


def _draw(truth, found, best, figure):
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    _, axes = plt.subplots(1, 4, figsize=(9.6, 2.6), layout="constrained")
    for ax, name in zip(axes, truth, strict=False):
        draws = np.asarray(found[name]).reshape(-1, len(truth[name]))
        low, high = np.quantile(draws, [0.05, 0.95], axis=0)
        ax.vlines(truth[name], low, high, color="#0072B2", lw=0.8, alpha=0.5)
        ax.plot(truth[name], draws.mean(0), "o", ms=3, color="#0072B2")
        ends = [0, 1.05 * truth[name].max()]
        ax.plot(ends, ends, color="#7F7F7F", lw=1)
        ax.set(xlabel=f"true {name}", ylabel="posterior mean, 90%" if ax is axes[0] else "")
    for line, colour, label in zip(
        best, ("#0072B2", "#D55E00"), ("as it is", "no learning from losses"), strict=True
    ):
        smooth = np.convolve(line.mean("subject"), np.ones(10) / 10, "valid")
        axes[3].plot(smooth, color=colour, label=label)
    axes[3].set(xlabel="trial", ylabel="share of the best arm", ylim=(0, 0.75))
    axes[3].legend(fontsize=7)
    plt.savefig(figure, dpi=100)
    plt.close()


if __name__ == "__main__":
    main()
