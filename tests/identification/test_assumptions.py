"""Small causal structures as kernels, and what is said of each."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from numpyro.contrib.control_flow import scan

from aimz import ImpactModel, InputError
from aimz.identification import assumptions_of, graph_of
from aimz.kernel import Inputs, inspect
from aimz.plots import COLOURS, GREY

ROWS = 40
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(6, ROWS)).astype(np.float32)


def normal(name, mean, obs=None):
    return numpyro.sample(name, dist.Normal(mean, 1.0), obs=obs)


def weight(name):
    return numpyro.sample(name, dist.Normal(0.0, 1.0))


def adjusted(X, t, y=None):
    normal("y", weight("b") * t + weight("w") * X, y)


def chain(X, t, m=None, y=None):
    m = normal("m", weight("a") * t, m)
    normal("y", weight("b") * m + 0 * X, y)


def partly(X, t, m=None, y=None):
    m = normal("m", weight("a") * t + X, m)
    normal("y", weight("b") * m + weight("c") * t + X, y)


def by_argument(X, t, m=None, y=None):
    """A mediator that the outcome reads as an argument and not as a site."""
    drawn = normal("m", weight("a") * t, m)
    normal("y", weight("b") * (drawn if m is None else m) + 0 * X, y)


def fork(X, t=None, y=None):
    t = normal("t", weight("a") * X, t)
    normal("y", weight("b") * t + weight("w") * X, y)


def no_effect(X, t=None, y=None):
    normal("t", weight("a") * X, t)
    normal("y", weight("w") * X, y)


def instrument(X, z, t=None, y=None):
    u = numpyro.sample("u", dist.Normal(jnp.zeros(X.shape[0]), 1.0))
    t = normal("t", weight("a") * z + u, t)
    normal("y", weight("b") * t + u + X, y)


def hidden(X, t=None, y=None):
    u = numpyro.sample("u", dist.Normal(jnp.zeros(X.shape[0]), 1.0))
    t = normal("t", u + X, t)
    normal("y", weight("b") * t + u, y)


def front_door(X, t=None, m=None, y=None):
    u = numpyro.sample("u", dist.Normal(jnp.zeros(X.shape[0]), 1.0))
    t = normal("t", u + 0 * X, t)
    m = normal("m", weight("a") * t, m)
    normal("y", weight("b") * m + u, y)


def collider(X, t, y=None, c=None):
    y = normal("y", weight("b") * t + X, y)
    normal("c", weight("a") * t + y, c)


def sibling(X, t, y=None, c=None):
    """A collider of treatment and covariate, on no path."""
    normal("y", weight("b") * t + X, y)
    normal("c", weight("a") * t + X, c)


def m_bias(X, t=None, c=None, y=None):
    u, v = (numpyro.sample(n, dist.Normal(jnp.zeros(X.shape[0]), 1.0)) for n in "uv")
    normal("c", u + v, c)
    t = normal("t", u + 0 * X, t)
    normal("y", weight("b") * t + v, y)


def symptom(X, t, y=None, s=None):
    normal("y", weight("b") * t + X, y)
    normal("s", weight("a") * t, s)


def useless(X, w, t, y=None):
    normal("y", weight("b") * t + 0.0 * X, y)
    normal("e", weight("v") * w)


def deterministic(X, t, y=None):
    dose = numpyro.deterministic("dose", 2.0 * t)
    normal("y", weight("b") * dose + X, y)


def pooled(X, g, t, y=None):
    a = numpyro.sample("a", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    normal("y", a[g] + weight("b") * t + X, y)


def whole(X, t, l=None, d=None, y=None):  # noqa: E741  # what doctors call L
    """A dose, what comes of it, and a later dose that follows from that."""
    l = normal("l", weight("a") * t + X, l)  # noqa: E741
    d = normal("d", weight("c") * l, d)
    normal("y", weight("b") * d + weight("e") * t + l + X, y)


def later(X, e, l=None, t=None, y=None):  # noqa: E741
    """The same, asked about the later dose."""
    l = normal("l", weight("a") * e + X, l)  # noqa: E741
    t = normal("t", weight("c") * l, t)
    normal("y", weight("b") * t + weight("f") * e + l + X, y)


def selected(X, t, y=None, s=None):
    y = normal("y", weight("b") * t + X, y)
    normal("s", weight("a") * y, s)


def proxy(X, t=None, p=None, y=None):
    u = numpyro.sample("u", dist.Normal(jnp.zeros(X.shape[0]), 1.0))
    normal("p", u, p)
    t = normal("t", u + X, t)
    normal("y", weight("b") * t + u, y)


def spill(X, t, y=None):
    """Row by row: each is reached by its own treatment and by that of the row before."""

    def step(before, row):
        t, X, y = row
        normal("y", reach * before + direct * t + X, y)
        return t, None

    direct, reach = weight("b"), weight("s")
    scan(step, jnp.zeros(()), (t, X, y))


CASES = {  # kernel, roles of some of its variables, and a part of what is said
    adjusted: ({"X": "covariate"}, "came before 't'"),
    chain: ({"m": "mediator"}, "direct one"),
    partly: ({"m": "mediator", "X": "covariate"}, "direct one"),
    by_argument: ({"m": "mediator"}, "direct one"),
    fork: ({"X": "confounder"}, "given 'X'"),
    no_effect: ({"X": "confounder"}, "No path"),
    instrument: ({"z": "instrument", "u": "confounder"}, "exclusion"),
    hidden: ({"u": "confounder", "X": "instrument"}, "'u' is hidden"),
    front_door: ({"m": "mediator", "u": "confounder"}, "only through 'm'"),
    collider: ({"c": "collider"}, "'c' is a collider"),
    sibling: ({"c": "collider"}, "'c' is a collider"),
    m_bias: ({"c": "other", "u": "instrument", "v": "covariate"}, "given nothing"),
    symptom: ({"s": "after", "X": "covariate"}, "came before"),
    useless: ({"w": "other", "e": "other"}, "came before"),
    deterministic: ({"dose": "mediator"}, "only through 'dose'"),
    pooled: ({"g": "covariate"}, "'g'"),
    whole: ({"l": "mediator", "d": "mediator", "X": "covariate"}, "'l' lies between"),
    later: ({"l": "confounder", "e": "confounder", "X": "confounder"}, "given 'X', 'e', 'l'"),
    selected: ({"s": "collider"}, "select no rows by it"),
    proxy: ({"p": "other", "u": "confounder"}, "'u' is hidden"),
    spill: ({"X": "covariate"}, "Rows interact"),
}


def spec_of(kernel):
    names = kernel.__code__.co_varnames[: kernel.__code__.co_argcount]
    values = dict(zip([n for n in names if n != "g"], NOISE, strict=False))
    arrays = {n: jnp.asarray(v) for n, v in values.items()}
    if "g" in names:
        arrays["g"] = jnp.arange(ROWS) % 3
    return inspect(kernel, Inputs(arrays, {}, ROWS, ("X", "y")), "y")


@pytest.mark.parametrize("kernel", CASES, ids=lambda kernel: kernel.__name__)
def test_roles_and_words_follow_from_the_kernel(kernel):
    roles, words = CASES[kernel]
    report = assumptions_of(spec_of(kernel), "t", "y", {})
    assert {name: report.role(name) for name in roles} == roles
    assert words in report.to_text()
    assert (report.role("t"), report.role("y")) == ("treatment", "outcome")


def test_rows_that_interact_are_said():
    def mean(X, t, y=None):
        normal("y", weight("b") * t + weight("s") * t.mean() + X, y)

    assert "Rows interact" in assumptions_of(spec_of(mean), "t", "y", {}).to_text()


def test_a_broken_independence_is_found_and_a_sound_one_is_not():
    spec = spec_of(chain)
    t, direct, noise = RNG.normal(size=(3, 2000))
    m = t + noise
    values = {"t": t, "m": m, "X": RNG.normal(size=2000)}
    sound = assumptions_of(spec, "t", "y", {**values, "y": m + direct})
    assert sound.implied.query("first == 'y' and second == 't'")["holds"].all()
    broken = assumptions_of(spec, "t", "y", {**values, "y": m + t + direct})
    row = broken.implied.query("first == 'y' and second == 't'").iloc[0]
    assert not row["holds"]
    # of y given m, t leaves 1/2 of its variance, and y is t + noise: r = sqrt(1/2) / sqrt(3/2)
    assert row["correlation"] == pytest.approx(np.sqrt(1 / 3), abs=0.05)
    assert "contradict" in broken.to_text()


def test_the_picture_has_the_arrows():
    dot = assumptions_of(spec_of(chain), "t", "y", {}).to_dot()
    assert '"t" -> "m" [color=' in dot
    assert '"m" -> "y" [color=' in dot


def everything(X, z, t=None, m=None, y=None, c=None):
    u = numpyro.sample("u", dist.Normal(jnp.zeros(X.shape[0]), 1.0))
    t = normal("t", weight("a") * z + X + u, t)
    m = normal("m", weight("b") * t, m)
    y = normal("y", weight("h") * m + weight("d") * t + X + u, y)
    normal("c", m + y, c)


def test_the_drawn_graph_has_a_box_for_each_variable_and_tells_the_paths_apart():
    picture = assumptions_of(spec_of(everything), "t", "y", {}).plot()
    places = {text.get_text(): text.get_position() for text in picture.texts if text.get_text()}
    assert set(places) == {"X", "z", "u", "t", "m", "y", "c"}
    assert len({*places.values()}) == 7
    assert all(places[a][0] < places[b][0] for a, b in ("zt", "tm", "my", "yc", "ut", "Xy"))
    arrows = [text.arrow_patch for text in picture.texts if not text.get_text()]
    colours = [to_hex(arrow.get_edgecolor()).upper() for arrow in arrows]
    counts = [colours.count(colour) for colour in (COLOURS[1], COLOURS[0], GREY)]
    assert counts == [3, 4, 3]  # t to m, m to y, t to y; X and u to t and y; z to t, m and y to c
    plt.close("all")


def test_an_argument_and_the_site_that_observes_it_are_one():
    graph = graph_of(spec_of(by_argument))
    assert graph.parents["y"] >= {"m"}
    assert "m" in graph.below("t")


def test_what_is_no_variable_is_refused():
    with pytest.raises(InputError) as error:
        assumptions_of(spec_of(adjusted), "tt", "y", {})
    assert error.value.code == "treatment-unknown"


@pytest.mark.slow
def test_a_model_is_asked_with_its_data():
    t = NOISE[0]
    m = t + NOISE[1]
    im = ImpactModel(chain, inference="svi")
    im.train_on_batch(NOISE[2], m + NOISE[3], t=t, m=m)
    report = im.assumptions("t")
    assert {"y", "m"} <= {*report.implied["first"]}
    assert report.role("m") == "mediator"
