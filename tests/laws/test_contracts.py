"""Engines, sinks and sources of the library, and made-up ones, keep the published contracts."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import xarray as xr

from aimz.data import RowTile, Stream
from aimz.inference import Fit, as_engine
from aimz.store import MemorySink, ZarrSink
from aimz.testing import EngineContract, SinkContract, SourceContract


class TestSVI(EngineContract):
    def make_engine(self):
        return as_engine("svi", self.kernel)


@pytest.mark.slow
class TestAuto(EngineContract):
    def make_engine(self):
        return as_engine("auto", self.kernel)


@pytest.mark.slow
class TestChains(EngineContract):
    def make_engine(self):
        return as_engine("nuts", self.kernel)


class ConjugateEngine:
    """A made-up engine: the posterior of the contract's kernel in closed form."""

    name = "conjugate"

    def fit(self, rng_key, problem, settings, *, state=None):
        arrays = problem.inputs.arrays
        x, y = np.asarray(arrays["X"])[:, 0], np.asarray(arrays["y"])
        precision = 1 / 2.0**2 + float(x @ x)
        fit = Fit({}, state=(float(x @ y) / precision, precision**-0.5))
        draws = self.draw(rng_key, problem, fit, settings.num_samples or 1000)
        return Fit(draws, attrs={"engine": self.name}, state=fit.state)

    def draw(self, rng_key, problem, fit, num_samples):
        mean, sd = fit.state
        return {"b": np.asarray(mean + sd * jax.random.normal(rng_key, (1, num_samples)))}


class TestMadeUpEngine(EngineContract):
    def make_engine(self):
        return ConjugateEngine()


class TestMemory(SinkContract):
    def make_sink(self):
        return MemorySink()


class TestZarr(SinkContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path):
        self.place = tmp_path

    def make_sink(self):
        return ZarrSink(self.place, "contract", {"kernel": "contract"})


@pytest.mark.parametrize("first", ["whole", "by the piece"])
@pytest.mark.parametrize("then", ["whole", "by the piece"])
def test_memory_that_takes_a_second_result_mixes_none_of_the_first(first, then):
    contract, sink = TestMemory(), MemorySink()
    trees, shift = [], np.float32(0)
    for kind in (first, then):
        variables = contract.variables()
        if kind == "by the piece":  # the number of rows is not known yet
            variables = tuple(
                v if v.row_axis is None else replace(v, shape=(*v.shape[:-1], 0)) for v in variables
            )
        sink.begin(variables)
        for tile, values in contract.tiles().items():
            sink.write(tile, {key: value + shift for key, value in values.items()})
        trees.append(contract.commit(sink))
        shift += np.float32(0.5)
    contract.check(trees[0])
    for variable in contract.variables():
        found = trees[1][variable.group][variable.name].values
        np.testing.assert_array_equal(found, contract.whole(variable) + np.float32(0.5))


class DictSink:
    """A made-up sink: arrays in a dict."""

    def begin(self, variables):
        self.variables = {variable.key: variable for variable in variables}
        self.arrays = {v.key: np.empty(v.shape, v.dtype) for v in variables}

    def has(self, tile):
        return False

    def write(self, tile, values):
        for key, array in values.items():
            place = self.variables[key].place(tile)
            if place is not None:
                self.arrays[key][place] = array

    def commit(self, groups, attrs, rows):
        filled = {name: group.copy() for name, group in groups.items()}
        for (group, name), variable in self.variables.items():
            filled[group][name] = (variable.dims, self.arrays[group, name])
        tree = xr.DataTree.from_dict({f"/{name}": group for name, group in filled.items()})
        tree.attrs.update(attrs)
        return tree

    def abort(self):
        self.arrays.clear()


class TestMadeUpSink(SinkContract):
    def make_sink(self):
        return DictSink()


class TestStream(SourceContract):
    def make_source(self):
        rows = self.rows()
        parts = ({n: v[first : first + 3] for n, v in rows.items()} for first in range(0, 11, 3))
        return Stream(parts, "X", count=11)


class ListSource:
    """A made-up source: rows in a list."""

    def __init__(self, arrays):
        self.rows = [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values())]
        self.names, self.head = frozenset(arrays), self.some(slice(0, 2))
        self.count, self.labels = len(self.rows), np.array([f"r{n}" for n in range(11)])
        self.seen = 0

    def some(self, rows):
        return {name: np.stack([row[name] for row in self.rows[rows]]) for name in self.rows[0]}

    def tiles(self, size):
        for first in range(0, self.count, size):
            rows = slice(first, min(first + size, self.count))
            self.seen = rows.stop
            yield RowTile(rows, self.some(rows), str(self.rows[rows]))

    def has_read(self):
        return self.seen, 0


class TestMadeUpSource(SourceContract):
    def make_source(self):
        return ListSource(self.rows())


class HastySource(ListSource):
    """One that breaks the contract: the last rows, fewer than a tile, are left out."""

    def tiles(self, size):
        return (tile for tile in super().tiles(size) if tile.rows.stop - tile.rows.start == size)


class LazyEngine(ConjugateEngine):
    """One that breaks the contract: more draws are the old ones."""

    def draw(self, rng_key, problem, fit, num_samples):
        return {n: d[:, :num_samples] for n, d in fit.draws.items()} or super().draw(
            rng_key, problem, fit, num_samples
        )


class UnplacedSink(DictSink):
    """One that breaks the contract: every tile goes to the front."""

    def write(self, tile, values):
        for key, array in values.items():
            self.arrays[key][..., : array.shape[-1]] = array


IN_ORDER = "test_tiles_are_the_rows_in_order"


@pytest.mark.parametrize(
    ("contract", "maker", "made", "test"),
    [
        (EngineContract, "make_engine", lambda _: LazyEngine(), "test_more_draws_are_new_ones"),
        (SinkContract, "make_sink", lambda _: UnplacedSink(), "test_tiles_come_in_any_order"),
        (SourceContract, "make_source", lambda own: HastySource(own.rows()), IN_ORDER),
    ],
)
def test_a_contract_finds_what_breaks_it(contract, maker, made, test):
    broken = type("Broken", (contract,), {maker: lambda self: made(self)})()
    with pytest.raises(AssertionError):
        getattr(broken, test)()
