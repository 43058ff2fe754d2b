"""Likelihoods of others: functions, and chains of dense layers in ONNX files."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest

from aimz import ImpactModel, InputError
from aimz.likelihoods import DriftDiffusion, from_callable, from_onnx

onnx = pytest.importorskip("onnx")
BOUNDS = {"v": (-3.0, 3.0), "a": (0.5, 3.0)}


def logp(parameters, time, choice):
    pair = jnp.stack(jnp.broadcast_arrays(time, choice), -1)
    return DriftDiffusion(parameters["v"], parameters["a"]).log_prob(pair)


def sampler(key, v, a):
    drawn = DriftDiffusion(v, a).sample(key)
    return drawn[..., 0], drawn[..., 1]


def kernel_of(lik):
    def kernel(X, y=None):
        v = numpyro.sample("v", numpyro.distributions.Uniform(-3, 3))
        with numpyro.plate("trial", X.shape[0]):
            numpyro.sample("y", lik(v=v + X[:, 0], a=1.5), obs=y)

    return kernel


@pytest.mark.slow
def test_a_function_scores_and_its_sampler_predicts():
    X = np.linspace(0, 1, 8)[:, None]
    lik = from_callable(logp, BOUNDS, sampler=sampler)
    model = ImpactModel(kernel_of(lik)).set_posterior_sample({"v": np.array([0.5, 1.0])})
    y = np.asarray(model.predict_on_batch(X).posterior_predictive["y"])[0, 0]
    scored = model.log_likelihood(X, y, store="memory", progress=False).log_likelihood["y"]
    truth = DriftDiffusion(np.array([[0.5], [1.0]]) + X[:, 0], 1.5).log_prob(y)
    np.testing.assert_allclose(scored[0], truth, rtol=1e-4, atol=1e-5)
    silent = ImpactModel(kernel_of(from_callable(logp, BOUNDS)))
    silent.set_posterior_sample({"v": np.array([0.5, 1.0])})
    with pytest.raises(InputError) as error:
        silent.predict_on_batch(X)
    assert error.value.code == "no-sampler"
    with pytest.raises(InputError) as error:
        lik(v=4.0, a=1.0)
    assert error.value.code == "outside-box"
    with pytest.raises(InputError, match=r"v = 3\.5"):
        model.predict_on_batch(X + 3.0)


def write(path, nodes, arrays):
    make, number = onnx.helper, onnx.TensorProto.FLOAT
    graph = make.make_graph(
        nodes,
        "net",
        [make.make_tensor_value_info("x", number, [1, 4])],
        [make.make_tensor_value_info("y", number, [1, 1])],
        [onnx.numpy_helper.from_array(v, n) for n, v in arrays.items()],
    )
    onnx.save(make.make_model(graph), path)


def test_a_chain_of_dense_layers_is_read_as_numpy_reads_it(tmp_path):
    rng, node = np.random.default_rng(0), onnx.helper.make_node
    arrays = {
        "first": rng.normal(size=(6, 4)).astype(np.float32),
        "bias": rng.normal(size=6).astype(np.float32),
        "second": rng.normal(size=(6, 1)).astype(np.float32),
        "last": rng.normal(size=1).astype(np.float32),
    }
    nodes = [
        node("Gemm", ["x", "first", "bias"], ["h"], transB=1),
        node("Tanh", ["h"], ["t"]),
        node("MatMul", ["t", "second"], ["m"]),
        node("Add", ["m", "last"], ["y"]),
    ]
    write(tmp_path / "net.onnx", nodes, arrays)
    lik = from_onnx(tmp_path / "net.onnx", BOUNDS)
    value = np.array([[0.7, 1.0], [1.2, -1.0], [0.4, 1.0]], np.float32)
    v = np.array([0.5, -1.0, 2.0], np.float32)
    rows = np.column_stack([v, np.full(3, 1.5), value]).astype(np.float32)
    hidden = np.tanh(rows @ arrays["first"].T + arrays["bias"])
    truth = (hidden @ arrays["second"] + arrays["last"])[:, 0]
    found = jax.jit(lambda v: lik(v=v, a=1.5).log_prob(value))(v)
    np.testing.assert_allclose(found, truth, rtol=1e-5)
    assert np.isneginf(lik(v=v, a=1.5).log_prob(-value)).all()
    with pytest.raises(InputError, match="takes 4 inputs and gives 1, and must take 5"):
        from_onnx(tmp_path / "net.onnx", {**BOUNDS, "z": (0, 1)})
    wrong = {
        "Softmax": [node("Softmax", ["x"], ["y"])],
        "'MatMul'": [*nodes[:2], node("MatMul", ["second", "t"], ["m"]), nodes[3]],  # turned
        "'Tanh'": [nodes[0], node("Tanh", ["x"], ["t"]), *nodes[2:]],  # beside the first
        "gives 6": nodes[:1],  # ends elsewhere
        "takes 4 inputs and gives 1": [*nodes, node("Tanh", ["y"], ["end"])],
    }
    for says, steps in wrong.items():
        write(tmp_path / "other.onnx", steps, arrays)
        with pytest.raises(InputError, match=says) as error:
            from_onnx(tmp_path / "other.onnx", BOUNDS)
        assert error.value.code == "likelihood-file"


def test_what_is_not_seen_has_its_own_probability():
    def seen(parameters, time, choice):
        return jnp.log(0.7 * parameters["rate"]) - parameters["rate"] * time

    def log_hidden(parameters):
        return jnp.full_like(parameters["rate"], np.log(0.3))

    box, value = {"rate": (0.1, 9.0)}, np.array([[0.7, 1.0], [0.0, 0.0], [0.7, -1.0], [0.0, 1.0]])
    lik = from_callable(seen, box, choices=(1,), log_hidden=log_hidden)
    truth = [np.log(1.4) - 1.4, np.log(0.3), -np.inf, -np.inf]
    np.testing.assert_allclose(lik(rate=2.0).log_prob(value), truth, rtol=1e-5)
    assert lik(rate=2.0).support(value).tolist() == [True, True, False, False]
    assert np.isneginf(from_callable(seen, box, choices=(1,))(rate=2.0).log_prob(value[1]))
    assert np.isneginf(jax.jit(lambda rate: lik(rate=rate).log_prob(value[1]))(10.0))
    with pytest.raises(InputError, match="0 is kept") as error:
        from_callable(seen, box, choices=(0, 1))
    assert error.value.code == "response-choice"


# ------------------------------------------------------------------ a pair of nets
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
    write(path, nodes, arrays)


@pytest.mark.slow
def test_a_pair_of_nets_covers_the_truth(tmp_path):
    """A LAN gives log densities of "go", and a CPN the log probability of no response."""
    rng, n = np.random.default_rng(0), 400_000
    low, high = np.array(list(DIFFUSION.values())).T
    rows = rng.uniform(low, high, (n, 4)).astype(np.float32)
    closed = DriftDiffusion(*rows.T)
    drawn = np.asarray(closed.sample(jax.random.key(0)))
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
        exported(tmp_path / name, weights, middle, unit)
    lik = from_onnx(tmp_path / "lan", DIFFUSION, choices=(1,), hidden=tmp_path / "cpn")
    off = np.asarray(lik(**dict(zip(DIFFUSION, rows[:3000].T, strict=True))).log_prob(pairs[:3000]))
    seen = pairs[:3000, 1] == 1
    print("density off", np.abs(off - density[:3000])[seen & (density[:3000] > -9)].mean())

    def kernel(X, y=None):
        v = numpyro.sample("v", numpyro.distributions.Uniform(0.0, 2.5))
        a = numpyro.sample("a", numpyro.distributions.Uniform(0.6, 2.4))
        t = numpyro.sample("t", numpyro.distributions.Uniform(0.2, 0.8))
        with numpyro.plate("trial", X.shape[0]):
            numpyro.sample("y", lik(v=v * X[:, 0], a=a, z=0.5, t=t), obs=y)

    X, truth = np.repeat([[1.0], [-1.0]], 500, axis=0), {"v": 1.0, "a": 1.5, "t": 0.5}
    y = np.array(DriftDiffusion(X[:, 0], 1.5, 0.5, 0.5).sample(jax.random.key(2)))
    y[y[:, 1] < 0] = 0.0
    model = ImpactModel(kernel, inference="nuts").fit(X, y, progress=False)
    for name, value in truth.items():
        low, high = np.quantile(model.posterior[name], [0.05, 0.95])
        print(name, model.posterior[name].mean(), low, high)
        assert low < value < high, name
