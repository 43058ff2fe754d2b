"""The row axis is followed through every primitive, and lost wherever rows meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from aimz.kernel.row_flow.indexing import INDEXING
from aimz.kernel.row_flow.rules import RULES
from aimz.kernel.row_flow.walk import constant, follow, following, whole

ROWS, WIDTH = 7, 3
MIXED = "mixed"


def primitives_of(jaxpr):
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        wrapped = eqn.params.get("_prim")
        yield eqn.primitive.name if wrapped is None else type(wrapped).__name__
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns"):
                    yield from primitives_of(inner)


def array(*shape, kind="float", seed=0):
    rng = np.random.default_rng(seed)
    if kind == "float":
        return jnp.asarray(rng.uniform(0.2, 0.9, size=shape), jnp.float32)
    return jnp.asarray(rng.integers(0, WIDTH, size=shape), jnp.int32)


def flow_of(fn, rows, others=()):
    """Flow of the outputs: `rows` follow the rows along axis 0, `others` are whole."""
    closed = jax.make_jaxpr(fn)(*rows, *others)
    inputs = [following(x.shape, 0, f"row{i}") for i, x in enumerate(rows)]
    inputs += [whole(x.shape, f"whole{i}") for i, x in enumerate(others)]
    return closed, follow(closed, inputs)


def assert_rows_apart(fn, rows, others, axes):
    """Permuting the rows of the inputs permutes those of the outputs, and nothing else."""
    order = np.random.default_rng(1).permutation(ROWS)
    before = jax.tree.leaves(fn(*rows, *others))
    after = jax.tree.leaves(fn(*(x[order] for x in rows), *others))
    for old, new, axis in zip(before, after, axes, strict=True):
        expected = old if axis is None else jnp.take(old, order, axis=axis)
        np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-6)


X = array(ROWS, WIDTH)
V = array(ROWS)
G = array(ROWS, kind="int")
SQUARE = array(ROWS, WIDTH, WIDTH) + 3 * jnp.eye(WIDTH)
SPD = jnp.einsum("nij,nkj->nik", SQUARE, SQUARE)

PIVOTS = jnp.tile(jnp.arange(WIDTH), (ROWS, 1))

UNARY = """abs acos asin asinh atan atanh bessel_i0e bessel_i1e cbrt ceil cos cosh digamma erf
    erf_inv erfc exp exp2 expm1 floor is_finite lgamma log log1p logistic neg real round rsqrt sign
    sin sinh sqrt square stop_gradient tan tanh"""
BINARY = "add atan2 div igamma igammac max min mul ne nextafter pow rem sub eq ge gt le lt"
INTEGER = "and or xor shift_left shift_right_arithmetic shift_right_logical"


def named(name):
    return getattr(
        lax, {"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}.get(name, name)
    )


@pytest.mark.parametrize("name", UNARY.split())
def test_elementwise_of_one(name):
    value = lax.complex(X, X) if name == "real" else X
    _, [out] = flow_of(named(name), [value])
    assert (out.axis, out.mixed) == (0, "")


@pytest.mark.parametrize("name", (BINARY + " " + INTEGER).split())
def test_elementwise_of_two(name):
    kind = "int" if name in INTEGER.split() else "float"
    left, right = array(ROWS, WIDTH, kind=kind), array(ROWS, WIDTH, kind=kind, seed=1)
    fn = named(name)

    _, [together] = flow_of(fn, [left, right])
    _, [with_row] = flow_of(lambda x, w: fn(x, jnp.broadcast_to(w, x.shape)), [left], [right[0]])
    _, [with_position] = flow_of(fn, [left], [right])

    assert (together.axis, with_row.axis) == (0, 0)
    assert "position" in with_position.mixed


# Primitive, function, arrays of rows, whole arrays, axis of the rows in each output or MIXED.
CASES = [
    ("acosh", lambda x: lax.acosh(1 + x), [X], [], [0]),
    ("argmax", lambda x: jnp.argmax(x, 1), [X], [], [0]),
    ("argmax", lambda x: jnp.argmax(x, 0), [X], [], [MIXED]),
    ("argmin", lambda x: jnp.argmin(x, 1), [X], [], [0]),
    ("argmin", lambda x: jnp.argmin(x, 0), [X], [], [MIXED]),
    ("approx_top_k", lambda x: lax.approx_max_k(x, 2)[0], [X], [], [0]),
    ("bitcast_convert_type", lambda x: lax.bitcast_convert_type(x, jnp.int32), [X], [], [0]),
    ("broadcast_in_dim", lambda v: jnp.broadcast_to(v[:, None], (ROWS, 4)), [V], [], [0]),
    ("broadcast_in_dim", lambda v: jnp.broadcast_to(v, (4, ROWS)), [V], [], [1]),
    ("broadcast_in_dim", lambda v: v[:, None] + v[None, :], [V], [], [MIXED]),
    ("cholesky", lax.linalg.cholesky, [SPD], [], [0]),
    ("cholesky", lambda v, m: lax.linalg.cholesky(m + jnp.diag(v)), [V], [jnp.eye(ROWS)], [MIXED]),
    ("clamp", lambda x: lax.clamp(0.3, x, 0.5), [X], [], [0]),
    ("clz", lax.clz, [G], [], [0]),
    ("complex", lambda x: jnp.abs(lax.complex(x, x)), [X], [], [0]),
    ("concatenate", lambda x: jnp.concatenate([x, 2 * x], 1), [X], [], [0]),
    ("concatenate", lambda x: jnp.concatenate([x, jnp.zeros((ROWS, 1))], 1), [X], [], [0]),
    ("concatenate", lambda v: jnp.concatenate([jnp.zeros(1), v]), [V], [], [MIXED]),
    ("cond", lambda x, s: lax.cond(s > 0, jnp.sin, jnp.zeros_like, x), [X], [jnp.float32(1)], [0]),
    ("cond", lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), [X], [], [MIXED]),
    (
        "cond",
        lambda x, s: lax.cond(s > 0, lambda a: a.T, lambda a: a.T * 2, x),
        [X],
        [jnp.float32(1)],
        [1],
    ),
    ("conj", lambda x: jnp.real(lax.conj(lax.complex(x, x))), [X], [], [0]),
    (
        "conv_general_dilated",
        lambda x, w: lax.conv(x[:, None, :], w, (1,), "VALID"),
        [X],
        [jnp.ones((1, 1, 2))],
        [0],
    ),
    ("conv_general_dilated", lambda v: jnp.convolve(v, jnp.ones(2)), [V], [], [MIXED]),
    ("convert_element_type", lambda x: x.astype(int), [X], [], [0]),
    ("copy", jnp.copy, [X], [], [0]),
    *(
        (name, lambda x, f=name: getattr(lax, f)(x, axis=1), [X], [], [0])
        for name in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
    ),
    *(
        (name, lambda x, f=name: getattr(lax, f)(x, axis=0), [X], [], [MIXED])
        for name in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
    ),
    ("custom_jvp_call", jax.nn.relu, [X], [], [0]),
    ("custom_linear_solve", lambda a: jnp.linalg.inv(a), [SQUARE], [], [0]),
    ("dot_general", lambda x, w: x @ w, [X], [array(WIDTH, 4)], [0]),
    ("dot_general", lambda x, w: w @ x.T, [X], [array(4, WIDTH)], [1]),
    ("dot_general", lambda x, z: jnp.einsum("nk,nk->n", x, z), [X, 2 * X], [], [0]),
    ("dot_general", lambda x: x @ x.T, [X], [], [MIXED]),
    ("dot_general", lambda x: x.T @ x, [X], [], [MIXED]),
    ("dot_general", lambda v, w: w @ v, [V], [array(ROWS, ROWS)], [MIXED]),
    ("dot_general", lambda x, w: jnp.einsum("nk,nk->n", x, w), [X], [X], [MIXED]),
    ("dynamic_slice", lambda x, i: lax.dynamic_slice_in_dim(x, i, 2, 1), [X], [jnp.int32(1)], [0]),
    (
        "dynamic_slice",
        lambda x, i: lax.dynamic_slice_in_dim(x, i, 2, 0),
        [X],
        [jnp.int32(1)],
        [MIXED],
    ),
    (
        "dynamic_update_slice",
        lambda x, i: lax.dynamic_update_slice_in_dim(x, x[:, :1], i, 1),
        [X],
        [jnp.int32(1)],
        [0],
    ),
    (
        "dynamic_update_slice",
        lambda x, i: lax.dynamic_update_slice_in_dim(x, jnp.ones((1, WIDTH)), i, 0),
        [X],
        [jnp.int32(1)],
        [MIXED],
    ),
    ("eigh", lambda a: lax.linalg.eigh(a)[1], [SPD], [], [0]),
    ("fft", lambda x: jnp.abs(jnp.fft.fft(x, axis=1)), [X], [], [0]),
    ("fft", lambda x: jnp.abs(jnp.fft.fft(x, axis=0)), [X], [], [MIXED]),
    ("gather", lambda g, t: t[g], [G], [array(9, 2)], [0]),
    ("gather", lambda x, i: x[:, i], [X], [jnp.array([2, 0])], [0]),
    ("gather", lambda x, i: x[i], [X], [jnp.array([2, 0])], [MIXED]),
    ("gather", lambda x, g: x[g], [X, G], [], [MIXED]),
    ("gather", lambda x: x[jnp.arange(ROWS)], [X], [], [0]),
    ("gather", lambda x: x[np.arange(ROWS)], [X], [], [0]),
    ("gather", lambda x: x[jnp.arange(ROWS) - 1], [X], [], [MIXED]),
    ("gather", lambda x, g: x[jnp.arange(ROWS), g], [X, G], [], [0]),
    ("gather", lambda g, t: t[jnp.arange(ROWS), g], [G], [array(ROWS, WIDTH)], [MIXED]),
    ("gather", lambda x, g: jnp.take_along_axis(x, g[:, None], 1), [X, G], [], [0]),
    (
        "gather",
        lambda x, i: jnp.take_along_axis(x, i, 1),
        [X],
        [array(ROWS, 1, kind="int")],
        [MIXED],
    ),
    ("gather", lambda g, t: jax.vmap(lambda r, i: r[i])(t, g), [G], [X], [MIXED]),
    ("igamma_grad_a", lambda x: lax.igamma_grad_a(x, x), [X], [], [0]),
    ("imag", lambda x: lax.imag(lax.complex(x, x)), [X], [], [0]),
    ("integer_pow", lambda x: x**3, [X], [], [0]),
    ("iota", lambda x: x + jnp.arange(WIDTH), [X], [], [0]),
    ("iota", lambda x: x + jnp.arange(ROWS)[:, None], [X], [], [MIXED]),
    ("jit", jax.jit(lambda x: x.sum(1)), [X], [], [0]),
    ("lu", lambda a: lax.linalg.lu(a)[0], [SQUARE], [], [0]),
    (
        "lu_pivots_to_permutation",
        lambda g: lax.linalg.lu_pivots_to_permutation(g, WIDTH),
        [PIVOTS],
        [],
        [0],
    ),
    ("not", lambda g: ~g, [G], [], [0]),
    ("optimization_barrier", lax.optimization_barrier, [X], [], [0]),
    ("pad", lambda x: jnp.pad(x, ((0, 0), (1, 2))), [X], [], [0]),
    ("pad", lambda x: jnp.pad(x, ((1, 0), (0, 0)))[:-1], [X], [], [MIXED]),
    ("polygamma", lambda x: lax.polygamma(jnp.ones_like(x), x), [X], [], [0]),
    ("population_count", lax.population_count, [G], [], [0]),
    ("qr", lambda a: jnp.abs(lax.linalg.qr(a)[1]), [SQUARE], [], [0]),
    *(
        (f"reduce_{op}", lambda x, f=op: getattr(x, f)(1), [X], [], [0])
        for op in ("sum", "max", "min", "prod")
    ),
    *(
        (f"reduce_{op}", lambda x, f=op: getattr(x, f)(0), [X], [], [MIXED])
        for op in ("sum", "max", "min", "prod")
    ),
    ("reduce_and", lambda x: (x > 0.5).all(1), [X], [], [0]),
    ("reduce_or", lambda x: (x > 0.5).any(0), [X], [], [MIXED]),
    ("reduce_xor", lambda x: lax.reduce(x > 0.5, False, lax.bitwise_xor, (1,)), [X], [], [0]),
    ("reduce", lambda x: lax.reduce(x, 0.0, lambda a, b: a + 2 * b, (0,)), [X], [], [MIXED]),
    ("reduce_precision", lambda x: lax.reduce_precision(x, 8, 10), [X], [], [0]),
    (
        "reduce_window_max",
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 1), "VALID"),
        [X],
        [],
        [0],
    ),
    (
        "reduce_window_sum",
        lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 1), (1, 1), "SAME"),
        [X],
        [],
        [MIXED],
    ),
    (
        "regularized_incomplete_beta",
        lambda x: lax.betainc(x + 1, x + 1, x),
        [X],
        [],
        [0],
    ),
    ("remat2", jax.checkpoint(jnp.sin), [X], [], [0]),
    ("reshape", lambda x: x.reshape(ROWS, 1, WIDTH), [X], [], [0]),
    ("reshape", lambda v: v.reshape(1, ROWS), [V], [], [1]),
    ("reshape", lambda a: a.reshape(ROWS, -1), [SQUARE], [], [0]),
    ("reshape", lambda x: x.reshape(-1), [X], [], [MIXED]),
    ("reshape", lambda x: x.T.reshape(ROWS, WIDTH), [X], [], [MIXED]),
    ("rev", lambda x: x[:, ::-1], [X], [], [0]),
    ("rev", lambda x: x[::-1], [X], [], [MIXED]),
    ("scan", lambda x, w: lax.scan(lambda h, a: (h * a, None), x, w)[0], [X], [array(4)], [0]),
    ("scan", lambda x, w: lax.scan(lambda h, a: (h * a, h), x, w)[1], [X], [array(4)], [1]),
    ("scan", lambda x: lax.scan(lambda h, a: (h + a, h), 0.0, x)[1], [V], [], [MIXED]),
    ("scan", lambda x: lax.scan(lambda h, a: (h + 1, a * h), 0, x)[1], [V], [], [MIXED]),
    ("scan", lambda x: lax.map(lambda row: jnp.sort(row).sum(), x), [X], [], [0]),
    ("scan", lambda x: lax.map(lambda row: (row * x).sum(), x), [X], [], [MIXED]),
    ("scan", lambda x: lax.map(lambda r: r[0] * r[1], (x, jnp.arange(ROWS))), [V], [], [MIXED]),
    (
        "scan",
        lambda x: lax.scan(lambda h, a: (jnp.roll(h, 1, 0), None), x, jnp.arange(4.0))[0],
        [X],
        [],
        [MIXED],
    ),
    ("scatter", lambda x: x.at[:, 1].set(x[:, 0]), [X], [], [0]),
    ("scatter", lambda x, g: x.at[jnp.arange(ROWS), g].set(1.0), [X, G], [], [0]),
    ("scatter", lambda x: x.at[2].set(1.0), [X], [], [MIXED]),
    ("scatter", lambda x, g: jax.vmap(lambda r, i: r.at[i].set(0.0))(x, g), [X, G], [], [0]),
    ("scatter-add", lambda x, g: jnp.zeros(4).at[g].add(x), [V, G], [], [MIXED]),
    ("scatter-add", lambda x, g: x.at[jnp.arange(ROWS), g].add(1.0), [X, G], [], [0]),
    ("scatter-mul", lambda x: x.at[:, 0].mul(2.0), [X], [], [0]),
    ("scatter-max", lambda x, g: x.at[g].max(0.5), [X, G], [], [MIXED]),
    ("scatter-min", lambda x: x.at[:, 0].min(0.5), [X], [], [0]),
    ("scatter-sub", lambda x: x.at[:, 0].subtract(2.0), [X], [], [0]),
    ("SearchSorted", lambda v, t: jnp.searchsorted(t, v), [V], [jnp.linspace(0, 1, 5)], [0]),
    ("SearchSorted", lambda v: jnp.searchsorted(v, v), [V], [], [MIXED]),
    ("select_n", lambda x: jnp.where(x > 0.5, x, 0.0), [X], [], [0]),
    ("select_n", lambda x: jnp.where(jnp.arange(ROWS)[:, None] < 2, x, 0.0), [X], [], [MIXED]),
    ("slice", lambda x: x[:, 1:], [X], [], [0]),
    ("slice", lambda x: x[:-1], [X], [], [MIXED]),
    ("slice", lambda x: x[::2], [X], [], [MIXED]),
    ("sort", lambda x: jnp.sort(x, 1), [X], [], [0]),
    ("sort", lambda x: jnp.sort(x, 0), [X], [], [MIXED]),
    ("split", lambda x: jnp.split(x, 3, axis=1)[1], [X], [], [0]),
    ("split", lambda x: lax.split(x, (3, 4))[0], [X], [], [MIXED]),
    ("squeeze", lambda x: x[:, :1].squeeze(1), [X], [], [0]),
    ("stack", lambda v: jnp.stack([v, -v], -1), [V], [], [0]),
    ("stack", lambda v: jnp.stack([v, -v], 0), [V], [], [1]),
    ("svd", lambda a: jnp.linalg.svd(a, compute_uv=False), [SQUARE], [], [0]),
    ("tile", lambda x: jnp.tile(x, (1, 2)), [X], [], [0]),
    ("tile", lambda x: jnp.tile(x, (2, 1)), [X], [], [MIXED]),
    ("top_k", lambda x: lax.top_k(x, 2)[0], [X], [], [0]),
    ("top_k", lambda v: lax.top_k(v, 2)[0], [V], [], [MIXED]),
    ("transpose", lambda x: x.T, [X], [], [1]),
    (
        "triangular_solve",
        lambda a, x: lax.linalg.triangular_solve(a, x[..., None], left_side=True),
        [SPD, X],
        [],
        [0],
    ),
    (
        "triangular_solve",
        lambda x, a: lax.linalg.triangular_solve(a, x.T, left_side=True, lower=True),
        [X],
        [SPD[0]],
        [1],
    ),
    (
        "triangular_solve",
        lambda v, a: lax.linalg.triangular_solve(a, v[:, None], left_side=True),
        [V],
        [array(ROWS, ROWS) + 3 * jnp.eye(ROWS)],
        [MIXED],
    ),
    ("unstack", lambda x: jnp.unstack(x, axis=1)[0], [X], [], [0]),
    ("unstack", lambda x: jnp.unstack(x, axis=0)[0], [X], [], [MIXED]),
    (
        "while",
        lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] / 2), (0, x))[1],
        [X],
        [],
        [0],
    ),
    (
        "while",
        lambda x: lax.while_loop(lambda c: (c > 0.1).any(), lambda c: c / 2, x),
        [X],
        [],
        [MIXED],
    ),
    ("zeta", lambda x: lax.zeta(1 + x, x), [X], [], [0]),
    ("Ldexp", lambda x: jnp.ldexp(x, 2), [X], [], [0]),
    ("pure_callback", lambda x: jax.pure_callback(np.sin, x, x), [X], [], [MIXED]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[4][0]}")
def test_primitive(case):
    name, fn, rows, others, expected = case

    closed, outputs = flow_of(fn, rows, others)

    assert name in set(primitives_of(closed))
    assert [MIXED if out.mixed else out.axis for out in outputs] == expected
    if MIXED not in expected:
        assert_rows_apart(fn, rows, others, expected)


def test_every_rule_is_tested():
    tested = {case[0] for case in CASES} | set((UNARY + " " + BINARY + " " + INTEGER).split())
    spellings = {  # other versions of JAX, or what differentiation and compilation leave behind
        "add_any", "copy_p", "device_put", "eig", "eq_to", "geqrf", "householder_product", "le_to",
        "log2", "lt_to", "mulhi", "name", "one_minus_square", "pvary", "random_gamma_grad",
        "reduce_window_min", "schur", "sharding_constraint",
        *(name for name in INDEXING if name.startswith("scatter_")),
    }  # fmt: skip
    assert set(RULES) | set(INDEXING) == (tested & (set(RULES) | set(INDEXING))) | spellings


def test_dead_code_does_not_couple():
    def fn(x):
        jnp.sort(x, 0)
        return 2 * x

    _, [out] = flow_of(fn, [X])
    assert (out.axis, out.mixed) == (0, "")


def test_each_output_has_its_own_verdict():
    _, outputs = flow_of(lambda x: (x.sum(1), x.sum(0), jnp.ones(3)), [X])
    assert [(out.axis, bool(out.mixed)) for out in outputs] == [
        (0, False),
        (None, True),
        (None, False),
    ]


def test_sources_are_the_inputs_that_reach_an_output():
    _, outputs = flow_of(lambda x, z, w: (x * w, z + 1.0), [X, X], [jnp.float32(2)])
    assert [out.sources for out in outputs] == [{"row0", "whole0"}, {"row1"}]


def test_sources_of_a_choice_reach_both_branches():
    _, [out] = flow_of(lambda x, s: lax.cond(s > 0, jnp.sin, jnp.cos, x), [X], [jnp.float32(1)])
    assert out.sources == {"row0", "whole0"}


@pytest.mark.parametrize(
    ("value", "same", "index", "fill"),
    [
        (2.0, (), None, 2.0),
        (np.zeros(4), (0,), None, 0.0),
        (np.arange(4), (), 0, None),
        (np.arange(1, 5), (), None, None),
        (np.ones((4, 1)) * np.arange(3.0), (0,), None, None),
    ],
)
def test_constants_are_positions_where_they_change(value, same, index, fill):
    flow = constant(value)
    assert (flow.same, flow.index, flow.fill) == (frozenset(same), index, fill)


def test_constant_array_of_the_program_is_a_position():
    weights = np.linspace(0, 1, ROWS).astype(np.float32)
    _, [out] = flow_of(lambda v: v * weights, [V])
    assert "position" in out.mixed


def test_coincidence_of_sizes_is_no_row_axis():
    _, [out] = flow_of(lambda w: w @ w, [], [array(ROWS, ROWS)])
    assert (out.axis, out.mixed) == (None, "")
