"""Contracts: what an engine, a sink or a source of your own must keep to, as tests to inherit.

A class whose name begins with `Test`, which inherits a contract and makes the thing, is a suite for
pytest::

    class TestMyEngine(EngineContract):
        def make_engine(self):
            return MyEngine()
"""

import threading
from collections.abc import Mapping

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import xarray as xr

from aimz.arrays import Array
from aimz.data import Source
from aimz.inference import Engine, Fit, Problem, Settings
from aimz.model import ImpactModel
from aimz.prediction import problem_of
from aimz.store import Sink, Tile, Variable

__all__ = ["EngineContract", "SinkContract", "SourceContract"]


class EngineContract:
    """What an engine promises: draws of the posterior, the same for the same key, none twice.

    Override `make_engine`, and where the engine fits kernels of its own only, also `kernel`, `data`
    and `posterior`.

    Examples
    --------
    >>> from aimz.inference import as_engine
    >>> class TestSVI(EngineContract):
    ...     def make_engine(self):
    ...         return as_engine("svi", self.kernel)
    >>> TestSVI().test_it_is_an_engine()
    """

    #: Draws to ask for.
    num_samples = 500
    #: Largest error of a posterior mean, in posterior standard deviations.
    tolerance = 0.25

    def make_engine(self) -> Engine:
        """The engine to test, made anew."""
        raise NotImplementedError

    @staticmethod
    def kernel(X: jax.Array, y: jax.Array | None = None) -> None:
        """A normal mean with a normal prior: `b` has a posterior in closed form."""
        b = numpyro.sample("b", dist.Normal(0.0, 2.0))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X[:, 0], 1.0), obs=y)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and outcomes of the fit."""
        rng = np.random.default_rng(0)
        X = rng.normal(size=(40, 1)).astype(np.float32)
        return X, (1.5 * X[:, 0] + rng.normal(size=40)).astype(np.float32)

    def posterior(self) -> Mapping[str, tuple[float, float]]:
        """Mean and standard deviation of each scalar site that is compared."""
        X, y = self.data()
        precision = 1 / 2.0**2 + float(X[:, 0] @ X[:, 0])
        return {"b": (float(X[:, 0] @ y) / precision, precision**-0.5)}

    def problem(self) -> Problem:
        """What is fitted."""
        X, y = self.data()
        return problem_of(self.kernel, ("X", "y"), {"X": X, "y": y}, None, "raise")[0]

    def fitted(self, seed: int = 0) -> tuple[Engine, Problem, Fit]:
        """An engine, what it has fitted, and what it found."""
        engine, problem = self.make_engine(), self.problem()
        settings = Settings(num_samples=self.num_samples, progress=False)
        return engine, problem, engine.fit(jax.random.key(seed), problem, settings)

    def test_it_is_an_engine(self) -> None:
        """It has a name, `fit` and `draw`."""
        engine = self.make_engine()
        assert isinstance(engine, Engine)
        assert isinstance(engine.name, str)
        assert engine.name

    def test_draws_are_of_the_posterior(self) -> None:
        """Means are those of the posterior, and the spread is within a quarter of its."""
        _, _, fit = self.fitted()
        for name, (mean, sd) in self.posterior().items():
            draws = np.asarray(fit.draws[name])
            assert draws.ndim == 2, f"draws of a scalar are (chain, draw), not {draws.shape}"
            assert abs(draws.mean() - mean) < self.tolerance * sd, (draws.mean(), mean, sd)
            assert abs(np.log(draws.std() / sd)) < np.log(1.25), (draws.std(), sd)

    def test_the_same_key_gives_the_same_draws(self) -> None:
        """A fit follows from its key and its problem alone."""
        first, again = self.fitted(3)[2].draws, self.fitted(3)[2].draws
        assert set(first) == set(again)
        for name, draws in first.items():
            np.testing.assert_array_equal(draws, again[name])

    def test_more_draws_are_new_ones(self) -> None:
        """`draw` never gives those of the fit again, and leaves the fit as it was."""
        engine, problem, fit = self.fitted()
        before = {name: np.array(draws) for name, draws in fit.draws.items()}
        more = engine.draw(jax.random.key(1), problem, fit, 20)
        for name in self.posterior():
            assert np.shape(more[name])[1] == 20
            assert not np.isin(np.asarray(more[name]), before[name]).any()
            np.testing.assert_array_equal(fit.draws[name], before[name])

    def test_a_model_takes_it(self) -> None:
        """`ImpactModel(kernel, inference=engine)` fits and predicts with it."""
        X, y = self.data()
        im = ImpactModel(self.kernel, inference=self.make_engine(), num_samples=self.num_samples)
        im.fit(X, y, progress=False)
        tree = im.predict_on_batch(X[:3])
        assert isinstance(tree, xr.DataTree)
        assert tree["posterior_predictive"]["y"].shape[-1] == 3
        assert im.diagnostics_ is not None


class SinkContract:
    """What a sink promises: the tiles in their places, whatever their order, or nothing at all.

    Override `make_sink`. It is called once for each result.

    Examples
    --------
    >>> from aimz.store import MemorySink
    >>> class TestMemory(SinkContract):
    ...     def make_sink(self):
    ...         return MemorySink()
    >>> TestMemory().test_tiles_come_in_any_order()
    """

    _ROWS, _SIZE, _CHAINS, _DRAWS = 11, 4, 2, 3

    def make_sink(self) -> Sink:
        """A sink for one result."""
        raise NotImplementedError

    def variables(self) -> tuple[Variable, ...]:
        """One array by row, one without rows, and one of what was observed."""
        float32 = np.dtype("float32")
        sizes, size = (self._CHAINS, self._DRAWS), self._SIZE
        dims = ("chain", "draw")
        by_row = ((*dims, "obs"), (*sizes, self._ROWS), (*sizes, size), float32, float32, 2)
        observed = (("obs",), (self._ROWS,), (size,), float32, float32, 0)
        return (
            Variable("predictions", "y", "y", *by_row),
            Variable("predictions", "total", "total", dims, sizes, sizes, float32, float32, None),
            Variable("observed_data", "y", "y", *observed, has_draws=False),
        )

    def tiles(self) -> dict[Tile, dict[tuple[str, str], np.ndarray]]:
        """Each tile and its values."""
        found = {}
        for number, start in enumerate(range(0, self._ROWS, self._SIZE)):
            rows = slice(start, min(start + self._SIZE, self._ROWS))
            tile = Tile(number, rows, slice(0, self._CHAINS), slice(0, self._DRAWS))
            found[tile] = {
                variable.key: self.whole(variable)[variable.place(tile) or ()]
                for variable in self.variables()
            }
        return found

    def whole(self, variable: Variable) -> np.ndarray:
        """What an array must hold in the end: each element another number."""
        first = 1000 * [v.key for v in self.variables()].index(variable.key)
        count = int(np.prod(variable.shape))
        return np.arange(first, first + count, dtype=np.float32).reshape(variable.shape)

    def commit(self, sink: Sink) -> xr.DataTree:
        """The result of a sink that has all tiles."""
        groups = {
            name: xr.Dataset(attrs={"group": name}) for name in ("predictions", "observed_data")
        }
        return sink.commit(groups, {"made_by": "contract"}, self._ROWS)

    def check(self, tree: xr.DataTree) -> None:
        """The tree holds every element in its place, with names, dimensions and attributes."""
        assert tree.attrs["made_by"] == "contract"
        for variable in self.variables():
            array = tree[variable.group][variable.name]
            assert array.dims == variable.dims
            np.testing.assert_array_equal(array.values, self.whole(variable))

    def test_it_is_a_sink(self) -> None:
        """It has `begin`, `has`, `write`, `commit` and `abort`."""
        assert isinstance(self.make_sink(), Sink)

    def test_tiles_come_in_any_order(self) -> None:
        """The result does not depend on the order of its tiles."""
        sink = self.make_sink()
        sink.begin(self.variables())
        for tile, values in reversed(self.tiles().items()):
            sink.write(tile, values)
        self.check(self.commit(sink))

    def test_a_tile_may_come_twice(self) -> None:
        """Writing a tile again is harmless, and what `has` knows need not come again."""
        sink = self.make_sink()
        sink.begin(self.variables())
        for tile, values in self.tiles().items():
            for _ in range(1 if sink.has(tile) else 2):
                sink.write(tile, values)
        self.check(self.commit(sink))

    def test_threads_write_at_once(self) -> None:
        """Tiles may be written from several threads."""
        sink = self.make_sink()
        sink.begin(self.variables())
        lanes = [threading.Thread(target=sink.write, args=item) for item in self.tiles().items()]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        self.check(self.commit(sink))

    def test_an_aborted_result_is_none(self) -> None:
        """`abort` says where a part is kept, or None, and nothing looks like a result."""
        sink = self.make_sink()
        sink.begin(self.variables())
        tile, values = next(iter(self.tiles().items()))
        sink.write(tile, values)
        kept = sink.abort()
        assert kept is None or kept.exists()

    def test_predictions_can_go_into_it(self) -> None:
        """`predict(store=sink)` gives what `store="memory"` gives."""
        X = np.linspace(-1.0, 1.0, 5)[:, None]
        im = ImpactModel(EngineContract.kernel).set_posterior_sample({"b": np.linspace(0, 1, 4)})
        expected = im.predict(X, store="memory", progress=False)["posterior_predictive"]["y"]
        tree = im.predict(X, store=self.make_sink(), progress=False)
        np.testing.assert_array_equal(tree["posterior_predictive"]["y"].values, expected.values)


class SourceContract:
    """What a source promises: its rows in their order, whatever the size of the tiles.

    Override `make_source`, and `rows` where it has rows of its own only. Such a source may stand
    wherever a method takes `X`.

    Examples
    --------
    >>> from aimz.data import RowTile
    >>> class Pieces:
    ...     labels = None
    ...     def __init__(self, arrays):
    ...         self.head, self.names, self.seen = arrays, frozenset(arrays), 0
    ...         self.count = len(arrays["X"])
    ...     def tiles(self, size):
    ...         for first in range(0, self.count, size):
    ...             part = {name: array[first : first + size] for name, array in self.head.items()}
    ...             self.seen = first + len(part["X"])
    ...             yield RowTile(slice(first, self.seen), part, digest=str(part))
    ...     def has_read(self):
    ...         return self.seen, hash(self.count)
    >>> class TestPieces(SourceContract):
    ...     def make_source(self):
    ...         return Pieces(self.rows())
    >>> TestPieces().test_tiles_are_the_rows_in_order()
    """

    def make_source(self) -> Source:
        """A source of `rows`, made anew: it may be read once only."""
        raise NotImplementedError

    def rows(self) -> dict[str, np.ndarray]:
        """All rows by argument."""
        X = np.arange(22, dtype=np.float32).reshape(11, 2)
        return {"X": X, "y": X.sum(axis=1)}

    def check(self, arrays: Mapping[str, Array], rows: slice) -> None:
        """Arrays are those of some rows."""
        for name, whole in self.rows().items():
            np.testing.assert_array_equal(arrays[name], whole[rows])

    def test_it_is_a_source(self) -> None:
        """It has `names`, `head`, `count`, `labels`, `tiles` and `has_read`."""
        source = self.make_source()
        assert isinstance(source, Source)
        assert set(source.names) == set(source.head) == set(self.rows())

    def test_what_is_said_before_is_so(self) -> None:
        """The head is the first rows, and the count and the labels are of all, or not known."""
        source, (first, *_) = self.make_source(), self.rows().values()
        size = len(next(iter(source.head.values())))
        assert size > 0
        self.check(source.head, slice(0, size))
        assert source.count in (None, len(first))
        assert source.labels is None or len(source.labels) == len(first)

    def test_tiles_are_the_rows_in_order(self) -> None:
        """All are of the size but the last, none is left out, and none comes twice."""
        count = len(next(iter(self.rows().values())))
        for size in (1, 4, count, count + 1):
            source, last = self.make_source(), 0
            for tile in source.tiles(size):
                assert tile.rows == slice(last, min(last + size, count))
                assert set(tile.arrays) == set(source.names)
                self.check(tile.arrays, tile.rows)
                last = tile.rows.stop
            assert last == count
            assert (source.has_read() or (0, 0))[0] == count

    def test_a_digest_stands_for_the_values(self) -> None:
        """The same rows have the same digest in each pass, and others another."""
        first, again = ([t.digest for t in self.make_source().tiles(4)] for _ in range(2))
        assert first == again
        assert len(set(first)) == len(first)

    def test_predictions_can_be_made_of_it(self) -> None:
        """`predict(source)` gives what the arrays give."""
        draws = {"b": np.linspace(0, 1, 4)}
        im = ImpactModel(EngineContract.kernel).set_posterior_sample(draws)
        trees = [
            im.predict(X, rng_key=0, store="memory", progress=False)
            for X in (self.rows()["X"], self.make_source())
        ]
        expected, tree = trees[0]["posterior_predictive"]["y"], trees[1]
        np.testing.assert_array_equal(tree["posterior_predictive"]["y"].values, expected.values)
        np.testing.assert_array_equal(tree["observed_data"]["y"].values, self.rows()["y"])
