"""A kernel is read once, as data: signature, sites, parents, plates, and what is refused."""

import inspect as python_inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx
from jax import lax
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.contrib.module import flax_module, random_nnx_module

from aimz.errors import InputError, KernelValidationError
from aimz.kernel import Inputs, inspect, read_signature, row_plates

ROWS = 9
X = np.linspace(-1, 1, ROWS, dtype=np.float32)
XS = np.stack([X, X**2, np.cos(X)], axis=1)


def spec_of(kernel, arrays=None, rows=ROWS, output="y", **static):
    arrays = {"X": X, "y": X} if arrays is None else arrays
    always = tuple(name for name in ("X", output) if name in arrays)
    return inspect(kernel, Inputs(arrays, static, rows, always), output)


def slope():
    return numpyro.sample("b", dist.Normal(0.0, 1.0))


def observe(mu, y, **options):
    return numpyro.sample("y", dist.Normal(mu, 1.0), obs=y, **options)


# ------------------------------------------------------------------ signature


def test_signature_lists_arguments_and_defaults():
    def kernel(X, dose, y=None, *, power=2.0): ...

    signature = read_signature(kernel, "X", "y")

    assert signature.names == ("X", "dose", "y", "power")
    assert signature.required == ("X", "dose")
    assert signature.defaults == {"y": None, "power": 2.0}


def test_signature_of_callable_objects():
    class Model:
        def __call__(self, X, y=None): ...

    assert read_signature(Model(), "X", "y").names == ("X", "y")
    assert read_signature(handlers.mask(Model().__call__, mask=True), "X", "y").names == ("X", "y")


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (lambda y=None: None, "no argument 'X'"),
        (lambda X: None, "no argument 'y'"),
        (lambda X, Y=None: None, "Valid names: X, Y"),
        (lambda X=1, y=None: None, "without a default"),
        (lambda X, y: None, "must default to None"),
        (lambda X, y=0: None, "must default to None"),
        (lambda X, *rest, y=None: None, "by name"),
        (lambda X, y=None, **rest: None, "by name"),
        (lambda X, /, y=None: None, "Remove the `/`"),
        (lambda X, progress, y=None: None, r"'progress'.*Rename it"),
        (3, "has no signature"),
    ],
)
def test_signature_refused(kernel, words):
    with pytest.raises(KernelValidationError, match=words) as caught:
        read_signature(kernel, "X", "y")
    assert caught.value.code == "signature"
    assert len(str(caught.value)) < 240


# ------------------------------------------------------------------ sites


def test_sites_of_a_hierarchical_kernel():
    def kernel(X, group, y=None):
        tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        with numpyro.plate("groups", 4):
            a = numpyro.sample("a", dist.Normal(0.0, tau))
        mu = numpyro.deterministic("mu", a[group] + X)
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Poisson(jnp.exp(mu)), obs=y)

    arrays = {"X": X, "group": np.arange(ROWS) % 4, "y": np.ones(ROWS, int)}
    spec = spec_of(kernel, arrays)

    assert spec.names == ("tau", "a", "mu", "y")
    assert [s.kind for s in spec.sites] == ["latent", "latent", "deterministic", "observed"]
    assert [s.parents for s in spec.sites] == [set(), {"tau"}, {"a"}, {"mu"}]
    assert [s.inputs for s in spec.sites] == [set(), set(), {"X", "group"}, set()]
    assert [s.dims for s in spec.sites] == [(), ("groups",), (None,), ("rows",)]
    assert [s.plates for s in spec.sites] == [(), ("groups",), (), ("rows",)]
    assert [s.discrete for s in spec.sites] == [False, False, False, True]
    assert spec.latents == ("tau", "a")
    assert spec["y"].shape == (ROWS,)
    assert spec["y"].dtype == np.int32
    assert "z" not in spec


def test_unknown_site_suggests_the_nearest():
    spec = spec_of(lambda X, y=None: observe(X * slope(), y))
    with pytest.raises(KeyError, match=r"yy.*Did you mean 'y'"):
        spec["yy"]


def test_descendants_reach_through_sites():
    def kernel(X, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        m = numpyro.sample("m", dist.Normal(a, 1.0))
        numpyro.sample("aside", dist.Normal(0.0, 1.0))
        observe(m * X, y)

    spec = spec_of(kernel)

    assert spec.descendants({"a"}) == {"m", "y"}
    assert spec.descendants({"aside"}) == frozenset()
    assert spec.descendants(arguments={"X"}) == {"y"}


def test_output_read_by_another_site_is_its_parent():
    def kernel(X, y=None):
        y = observe(X * slope(), y)
        numpyro.sample("later", dist.Normal(y, 1.0))

    spec = spec_of(kernel)

    assert spec["later"].parents == {"y"}
    assert spec["y"].parents == {"b"}


def test_output_is_observed_even_when_it_is_drawn():
    spec = spec_of(lambda X, y=None: observe(X * slope(), y), {"X": X})
    assert spec["y"].kind == "observed"
    assert spec.latents == ("b",)


def test_event_axes_and_rows():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(X @ b, 1.0).to_event(1), obs=y)

    spec = spec_of(kernel, {"X": XS, "y": XS[:, :2]})

    assert (spec["b"].event_dim, spec["y"].event_dim) == (2, 1)
    assert (spec["y"].rows, spec["y"].row_axis, spec["y"].dims) == ("leading", 0, ("rows", None))


def test_sized_site():
    def kernel(X, y=None):
        numpyro.sample("steps", dist.Normal(0.0, 1.0).expand([X.shape[0] - 1]))
        observe(X, y)

    spec = spec_of(kernel)

    assert (spec["steps"].rows, spec["steps"].row_axis) == ("sized", None)
    assert spec.coupled
    assert "'steps'" in spec.reason


def test_sites_inside_scan_and_cond():
    def kernel(X, y=None):
        def step(level, x):
            level = numpyro.sample("level", dist.Normal(level + x, 1.0))
            return level, level

        decay = numpyro.sample("decay", dist.Normal(0.0, 1.0))
        _, level = scan(step, decay, X)
        shift = cond(
            decay > 0,
            lambda _: numpyro.sample("shift", dist.Normal(0.0, 1.0)),
            lambda _: numpyro.sample("shift", dist.Normal(1.0, 1.0)),
            None,
        )
        observe(level + shift, y)

    spec = spec_of(kernel)

    assert (spec["level"].rows, spec["level"].shape) == ("scan", (ROWS,))
    assert spec["shift"].rows == "scan"
    assert spec.coupled
    assert {"level", "shift"} <= spec.descendants({"decay"}) | spec["y"].parents
    assert "level" in spec["y"].parents


def test_factor_sites():
    def kernel(X, y=None):
        mu = numpyro.deterministic("y", slope() * X) if y is None else slope() * X
        if y is not None:
            numpyro.factor("log_lik", -0.5 * (y - mu) ** 2)

    fitted, predicted = spec_of(kernel), spec_of(kernel, {"X": X})

    site = fitted["log_lik"]
    assert (site.kind, site.rows, site.row_axis, site.shape) == ("factor", "leading", 0, (ROWS,))
    assert site.inputs == {"X", "y"}
    assert not fitted.coupled
    assert predicted["y"].kind == "deterministic"


@pytest.mark.parametrize(
    ("scale", "expected"), [(None, False), (1.0, False), (2.0, True), (jnp.float32(2), True)]
)
def test_scaled_by_the_kernel(scale, expected):
    def kernel(X, y=None):
        b = slope()
        if scale is None:
            observe(b * X, y)
        else:
            with handlers.scale(scale=scale):
                observe(b * X, y)

    assert spec_of(kernel)["y"].scaled is expected


def test_scaled_by_a_subsampled_plate():
    def kernel(X, y=None):
        b = slope()
        with numpyro.plate("rows", 100, subsample_size=X.shape[0]):
            observe(b * X, y)

    assert spec_of(kernel)["y"].scaled


def test_parameters_of_neural_nets_are_sites():
    net = nnx.Linear(3, 1, rngs=nnx.Rngs(0))

    def random_net(X, y=None):
        observe(random_nnx_module("net", net, prior=dist.Normal())(X)[:, 0], y)

    def fitted_net(X, y=None):
        observe(flax_module("net", nn.Dense(1), input_shape=(3,))(X)[:, 0], y)

    random, fitted = (spec_of(k, {"X": XS, "y": X}) for k in (random_net, fitted_net))

    assert set(random.latents) == {"net/kernel", "net/bias"}
    assert "net$params" not in random
    assert fitted["net$params"].kind == "param"
    assert fitted["y"].parents == {"net$params"}
    assert not random.coupled
    assert not fitted.coupled


def test_mutable_state_of_a_neural_net_couples_rows_only_where_it_reads_them():
    norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0), use_running_average=True)

    def kernel(X, y=None):
        observe(random_nnx_module("net", norm, prior=dist.Normal())(X)[:, 0], y)

    spec = spec_of(kernel, {"X": XS, "y": X})

    assert not spec.coupled, spec.reason


def test_argument_that_is_a_tree_of_arrays():
    def kernel(X, data, y=None):
        observe(slope() * X + data["dose"] + data["age"], y)

    spec = spec_of(kernel, {"X": X, "data": {"dose": X, "age": X}, "y": X})

    assert spec.row_inputs == {"X", "y", "data"}
    assert not spec.coupled


def test_static_arguments():
    def kernel(X, power, y=None):
        observe(slope() * (X - X.mean() if power == "centred" else X), y)

    assert spec_of(kernel, power="centred").coupled
    assert not spec_of(kernel, power="raw").coupled


# ------------------------------------------------------------------ plates


def test_row_plates_resizes_by_name_only():
    def kernel(X, y=None):
        with numpyro.plate("groups", 5):
            numpyro.sample("a", dist.Normal())
        with numpyro.plate("rows", 100, subsample_size=10) as i:
            numpyro.sample("z", dist.Normal(X[i], 1.0))

    seeded = handlers.seed(row_plates(kernel, {"rows"}, 3), 0)
    trace = handlers.trace(seeded).get_trace(jnp.arange(3.0))

    assert trace["a"]["value"].shape == (5,)
    assert trace["z"]["value"].shape == (3,)
    assert trace["z"]["scale"] is None
    np.testing.assert_array_equal(trace["z"]["fn"].loc, [0.0, 1.0, 2.0])


def test_row_plates_without_names_is_the_kernel():
    def kernel(X):
        with numpyro.plate("rows", 4, subsample_size=2):
            numpyro.sample("z", dist.Normal())

    site = handlers.trace(handlers.seed(row_plates(kernel, (), 3), 0)).get_trace(X)["z"]

    assert site["value"].shape == (2,)
    assert site["scale"] == 2.0


# ------------------------------------------------------------------ refused


def refusal(kernel, arrays=None, error=KernelValidationError, **options):
    with pytest.raises(error) as caught:
        spec_of(kernel, arrays, **options)
    assert len(str(caught.value)) < 260
    return caught.value


def test_misspelled_output():
    def kernel(X, y=None):
        numpyro.sample("yy", dist.Normal(X, 1.0), obs=y)

    error = refusal(kernel)
    assert error.code == "output"
    assert "Did you mean 'yy'" in str(error)


def test_output_that_does_not_observe_its_argument():
    error = refusal(lambda X, y=None: numpyro.sample("y", dist.Normal(X, 1.0)))
    assert error.code == "output"
    assert "obs=y" in str(error)


def test_output_that_observes_another_argument():
    def kernel(X, y=None):
        numpyro.sample("y", dist.Normal(X, 1.0), obs=2 * X)

    assert refusal(kernel).code == "output"


def test_two_sites_of_one_name():
    def kernel(X, y=None):
        observe(X, y)
        numpyro.deterministic("y", X)

    error = refusal(kernel)
    assert error.code == "duplicate-site"
    assert "'y'" in str(error)


def test_python_branch_on_values():
    def kernel(X, y=None):
        observe(X if X.sum() > 0 else -X, y)

    error = refusal(kernel)
    assert error.code == "traced-branch"
    assert "jnp.where" in str(error)


def test_numpy_on_values():
    assert refusal(lambda X, y=None: observe(np.sort(X), y)).code == "traced-numpy"


@pytest.mark.parametrize(
    "around",
    [
        lambda f, x: jax.vmap(f)(x),
        lambda f, x: jax.jit(f)(x),
        lambda f, x: lax.map(f, x),
        lambda f, x: lax.cond(x[0] > 0, f, lambda v: v, x),
        lambda f, x: jax.grad(lambda v: f(v).sum())(x),
    ],
    ids=["vmap", "jit", "map", "cond", "grad"],
)
def test_site_under_a_transform(around):
    def kernel(X, y=None):
        observe(around(lambda x: x + numpyro.sample("z", dist.Normal(0.0, 1.0)), X), y)

    error = refusal(kernel)
    assert error.code == "site-under-transform"
    assert "numpyro.plate" in str(error)


@pytest.mark.parametrize(
    ("x", "y", "plate"),
    [
        (X, X[:, None], False),
        (X, X[:, None], True),
        (X[:, None], X, False),
        (X[:, None], X, True),
        (X[:, None], X[:, None], True),
    ],
)
def test_column_against_line_is_never_broadcast(x, y, plate):
    def kernel(X, y=None):
        mu = slope() * X
        if not plate:
            observe(mu, y)
            return
        with numpyro.plate("rows", X.shape[0]):
            observe(mu, y)

    error = refusal(kernel, {"X": x, "y": y}, InputError)
    assert error.code == "shape"
    assert f"({ROWS}, 1)" in str(error) or f"({ROWS}, {ROWS})" in str(error)


def test_broadcast_output_is_refused_without_an_outcome_too():
    def kernel(X, y=None):
        mu = slope() * X
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    error = refusal(kernel, {"X": X[:, None]})
    assert error.code == "shape"


def test_input_with_another_number_of_rows():
    error = refusal(lambda X, y=None: observe(X, y), {"X": X, "y": X[:-1]}, InputError)
    assert error.code == "shape"


def test_errors_of_the_kernel_itself_pass_unchanged():
    def kernel(X, y=None):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        spec_of(kernel)


# ------------------------------------------------------------------ the record


def test_second_call_gives_the_same_record():
    def kernel(X, y=None):
        observe(slope() * X, y)

    assert spec_of(kernel) is spec_of(kernel, {"X": 2 * X, "y": X})


def test_bound_method_is_recognised():
    class Model:
        def kernel(self, X, y=None):
            observe(slope() * X, y)

    model = Model()
    assert spec_of(model.kernel) is spec_of(model.kernel)


def test_changed_global_is_seen():
    state = {"centre": False}

    def kernel(X, y=None):
        observe(slope() * (X - X.mean() if state["centre"] else X), y)

    before = spec_of(kernel)
    state["centre"] = True

    assert not before.coupled
    assert spec_of(kernel).coupled


def test_kernel_that_runs_at_one_size_only_is_coupled_and_keeps_its_rows():
    def kernel(X, y=None):
        weights = jnp.asarray(np.ones(ROWS, np.float32))
        with numpyro.plate("rows", X.shape[0]):
            z = numpyro.sample("z", dist.Normal(X * weights, 1.0))
            observe(z, y)

    spec = spec_of(kernel)

    assert spec.coupled
    assert "9 rows only" in spec.reason
    assert (spec["z"].rows, spec["y"].rows) == ("leading", "leading")
    assert spec.row_plates == frozenset()


def test_inspection_does_not_touch_the_values():
    spec = spec_of(
        lambda X, y=None: observe(slope() * X, y), {"X": jax.ShapeDtypeStruct((ROWS,), np.float32)}
    )
    assert not spec.coupled


def _written(X, dose=1.0, *, scale=2.0, y=None): ...


def _of_other_defaults() -> None:
    _written.__defaults__ = (5.0,)


def _of_other_named_defaults() -> None:
    assert _written.__kwdefaults__ is not None
    _written.__kwdefaults__["scale"] = 5.0


def _of_other_code() -> None:
    def other(X, dose=1.0, *, size=2.0, scale=2.0, y=None): ...

    _written.__code__ = other.__code__
    _written.__kwdefaults__ = {"size": 5.0, "scale": 2.0, "y": None}


def _of_a_signature_of_its_own() -> None:
    def other(X, y=None): ...

    _written.__signature__ = python_inspect.signature(other)


@pytest.mark.parametrize(
    ("change", "defaults"),
    [
        (_of_other_defaults, {"dose": 5.0, "scale": 2.0, "y": None}),
        (_of_other_named_defaults, {"dose": 1.0, "scale": 5.0, "y": None}),
        (_of_other_code, {"dose": 1.0, "size": 5.0, "scale": 2.0, "y": None}),
        (_of_a_signature_of_its_own, {"y": None}),
    ],
)
def test_a_signature_that_changes_is_read_anew(change, defaults):
    own = dict(vars(_written))
    state = (_written.__code__, _written.__defaults__, dict(_written.__kwdefaults__ or {}))
    try:
        for _ in range(2):
            before = read_signature(_written, "X", "y").defaults
            assert before == {"dose": 1.0, "scale": 2.0, "y": None}
        change()
        assert read_signature(_written, "X", "y").defaults == defaults
    finally:
        _written.__code__, _written.__defaults__, _written.__kwdefaults__ = state
        vars(_written).clear()
        vars(_written).update(own)
