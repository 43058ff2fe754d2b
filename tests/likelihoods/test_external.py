"""Likelihoods of others: functions, and chains of dense layers in ONNX files."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
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
