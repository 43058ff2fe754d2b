"""Go and no-go trials by chains: the closed form, a net trained here, and nets of others."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

from aimz import ImpactModel
from aimz.inference import NUTS
from aimz.likelihoods import DriftDiffusion, NeuralLikelihood, from_onnx, simulate

onnx = pytest.importorskip("onnx")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DIFFUSION = {"v": (-2.5, 2.5), "a": (0.6, 2.4), "z": (0.3, 0.7), "t": (0.2, 0.8)}


def learned(inputs, targets, steps=12_000):
    """Weights of dense layers with tanh between them, by least squares."""
    sizes, key = [inputs.shape[1], 96, 96, 96, 1], jax.random.key(0)
    weights = [
        (jax.random.normal(jax.random.fold_in(key, i), (a, b)) / np.sqrt(a), jnp.zeros(b))
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
    ]
    rule = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def loss(weights, rows):
        hidden = inputs[rows]
        for number, (weight, bias) in enumerate(weights):
            hidden = hidden @ weight + bias
            hidden = jnp.tanh(hidden) if number < len(weights) - 1 else hidden
        return jnp.mean((hidden[:, 0] - targets[rows]) ** 2)

    @jax.jit
    def run(state, keys):
        def step(state, key):
            rows = jax.random.randint(key, (512,), 0, len(inputs))
            change, memory = rule.update(jax.grad(loss)(state[0], rows), state[1])
            return (optax.apply_updates(state[0], change), memory), None

        return jax.lax.scan(step, state, keys)[0]

    return run((weights, rule.init(weights)), jax.random.split(key, steps))[0]


def exported(path, weights, middle, unit):
    """A chain of Gemm and Tanh, whose first step takes inputs as they are."""
    arrays, nodes, before = {}, [], "x"
    for number, (weight, bias) in enumerate(weights):
        weight, bias = np.asarray(weight), np.asarray(bias)
        if number == 0:
            weight, bias = weight / unit[:, None], bias - (middle / unit) @ weight
        arrays |= {f"w{number}": weight.astype(np.float32), f"b{number}": bias.astype(np.float32)}
        last = number == len(weights) - 1
        after = "y" if last else f"h{number}"
        nodes.append(onnx.helper.make_node("Gemm", [before, f"w{number}", f"b{number}"], [after]))
        if not last:
            before = f"t{number}"
            nodes.append(onnx.helper.make_node("Tanh", [after], [before]))
    make, number = onnx.helper, onnx.TensorProto.FLOAT
    ends = (
        make.make_tensor_value_info(n, number, [1, size])
        for n, size in (("x", len(unit)), ("y", 1))
    )
    kept = [onnx.numpy_helper.from_array(v, n) for n, v in arrays.items()]
    entry, end = ends
    onnx.save(make.make_model(make.make_graph(nodes, "net", [entry], [end], kept)), path)


def closed(path):
    return lambda **given: DriftDiffusion(**given).censored(shown=(1,))


def trained(path):
    """A net of this package, of a quarter of the simulations that its page takes."""

    @jax.jit
    def simulator(key, v, a, z, t):
        drawn = DriftDiffusion(v, a, z, t).sample(key)
        return drawn[:, 0], drawn[:, 1]

    lik = NeuralLikelihood.train(simulate(simulator, DIFFUSION, n=250_000), shift="t")
    return lambda **given: lik(**given).censored(shown=(1,))


def imported(path):
    """A LAN gives log densities of "go", and a CPN the log probability of no response."""
    rng, n = np.random.default_rng(0), 400_000
    low, high = np.array(list(DIFFUSION.values())).T
    rows = rng.uniform(low, high, (n, 4)).astype(np.float32)
    drawn = np.asarray(DriftDiffusion(*rows.T).sample(jax.random.key(0)))
    elsewhere = rng.uniform(size=n) < 0.2
    time = np.where(elsewhere, rows[:, 3] + rng.exponential(1.0, n), drawn[:, 0])
    pairs = np.stack([time, drawn[:, 1]], -1).astype(np.float32)
    density = np.asarray(jax.jit(lambda rows, y: DriftDiffusion(*rows.T).log_prob(y))(rows, pairs))
    hidden = np.log(np.asarray(jax.jit(lambda rows: DriftDiffusion(*rows.T).choice(-1))(rows)))
    whole = np.concatenate([rows, pairs], -1)
    parts = {"lan": (whole, np.maximum(density, -9.0)), "cpn": (rows, hidden)}
    for name, (inputs, targets) in parts.items():
        middle, unit = inputs.mean(0), inputs.std(0)
        weights = learned(jnp.asarray((inputs - middle) / unit), jnp.asarray(targets))
        exported(path / name, weights, middle, unit)
    return from_onnx(path / "lan", DIFFUSION, choices=(1,), hidden=path / "cpn")


@pytest.mark.parametrize("made", [closed, trained, imported], ids=lambda made: made.__name__)
def test_intervals_hold_the_drift_the_separation_and_the_time(made, tmp_path):
    lik = made(tmp_path)

    def kernel(X, y=None):
        v = numpyro.sample("v", dist.Uniform(0.0, 2.5))
        a = numpyro.sample("a", dist.Uniform(0.6, 2.4))
        t = numpyro.sample("t", dist.Uniform(0.2, 0.8))
        with numpyro.plate("trial", X.shape[0]):
            numpyro.sample("y", lik(v=v * X[:, 0], a=a, z=0.5, t=t), obs=y)

    X, truth = np.repeat([[1.0], [-1.0]], 500, axis=0), {"v": 1.0, "a": 1.5, "t": 0.5}
    y = np.array(DriftDiffusion(X[:, 0], 1.5, 0.5, 0.5).sample(jax.random.key(2)))
    y[y[:, 1] < 0] = 0.0
    model = ImpactModel(kernel, inference=NUTS(chains=2, warmup=400), num_samples=400)
    model.fit(X, y, progress=False)
    ends = {n: np.quantile(model.posterior[n], [0.05, 0.5, 0.95]).round(3) for n in truth}
    for name, value in truth.items():
        assert ends[name][0] < value < ends[name][2], ends
