"""Rows outside the fitted data: the three rules against numpy, scikit-learn and published data."""

import dataclasses

import causaldata
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression

from aimz.errors import InputError
from aimz.overlap import Outside, Score, Support, merged, outside, sentence, support_of
from aimz.overlap.region import COLUMNS, LEVELS, SENTENCE
from tests.support.tolerance import assert_close

COVARIATES = ["age", "educ", "black", "hisp", "marr", "nodegree", "re74", "re75"]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture
def data(rng) -> dict[str, np.ndarray]:
    """Columns of very different sizes, and a treatment that depends on one of them."""
    X = rng.normal(size=(600, 4)) * [1e-8, 1.0, 1e3, 1e8] + [0.0, 5.0, -1e4, 1e9]
    treated = rng.random(600) < 1 / (1 + np.exp(-2 * (X[:, 1] - 5)))
    return {"X": X, "t": treated.astype(np.int32)}


@pytest.fixture(scope="module")
def experiment() -> dict[str, np.ndarray]:
    return arguments(causaldata.nsw_mixtape.load_pandas().data)


@pytest.fixture(scope="module")
def survey() -> dict[str, np.ndarray]:
    """The treated of the experiment with controls of a population survey."""
    nsw = causaldata.nsw_mixtape.load_pandas().data
    cps = causaldata.cps_mixtape.load_pandas().data
    return arguments(pd.concat([nsw[nsw["treat"] == 1], cps]))


def arguments(people: pd.DataFrame) -> dict[str, np.ndarray]:
    return {"X": people[COVARIATES].to_numpy(), "treat": people["treat"].to_numpy()}


def regression(X: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Chance of being treated by scikit-learn alone."""
    z = (X - X.mean(0)) / X.std(0)
    model = LogisticRegression(C=1 / X.shape[1], tol=1e-10, max_iter=5000).fit(z, t)
    return np.asarray(model.predict_proba(z))[:, 1]


class TestColumns:
    def test_statistics_are_those_of_numpy(self, data):
        found = support_of(data, {"X": ["a", "b", "c", "d"]})
        every = np.column_stack([data["X"], data["t"]])
        assert found.columns == ("X[a]", "X[b]", "X[c]", "X[d]", "t")
        assert found.arguments == ("X", "X", "X", "X", "t")
        assert found.rows == 600
        np.testing.assert_array_equal(found.low, every.min(0))
        np.testing.assert_array_equal(found.high, every.max(0))
        assert_close(found.mean, every.mean(0))
        assert_close(found.scale, every.std(0))
        assert_close(found.quantiles, np.quantile(every, LEVELS, axis=0))

    def test_columns_without_names_are_numbered(self, data):
        assert support_of(data, {}).columns[:2] == ("X[0]", "X[1]")

    def test_what_is_no_column_of_numbers_is_left_out(self, data):
        more = {"y": np.ones(600), "s": np.array(["a"] * 600), "image": np.ones((600, 2, 2))}
        found = support_of(data | more, {}, leave_out=["y"])
        assert set(found.arguments) == {"X", "t"}

    def test_nothing_but_numbers_about_columns_is_kept(self, data):
        found = support_of(data, {})
        kept = [*dataclasses.asdict(found).values(), *dataclasses.asdict(found.scores[0]).values()]
        assert {type(value) for value in kept} <= {tuple, int, float, str, np.ndarray}
        assert max(np.size(value) for value in kept if isinstance(value, np.ndarray)) < 100

    def test_integers_and_flags_are_columns_too(self):
        found = support_of(
            {"a": np.array([3, 9, 4], np.int8), "b": np.array([True, False, True])}, {}
        )
        assert found.low.tolist() == [3.0, 0.0]
        assert found.high.tolist() == [9.0, 1.0]

    def test_no_column_at_all_means_nothing_is_outside(self):
        found = support_of({"s": np.array(["a", "b"])}, {})
        assert found.columns == ()
        assert outside(found, {}).count == 0

    def test_arguments_of_other_lengths_are_refused(self):
        with pytest.raises(InputError, match="a 2, b 3") as caught:
            support_of({"a": np.ones(2), "b": np.ones(3)}, {})
        assert caught.value.code == "rows-mismatch"

    def test_other_number_of_names_than_columns_is_refused(self, data):
        with pytest.raises(InputError, match="4 columns but 1 names") as caught:
            support_of(data, {"X": ["a"]})
        assert caught.value.code == "columns-mismatch"


class TestRange:
    def test_rows_pushed_beyond_the_range_are_flagged_and_no_other(self, data):
        found = support_of(data, {"X": ["a", "b", "c", "d"]})
        X = data["X"].copy()
        X[[7, 100], 1] = found.high[1] + 0.01
        X[300, 2] = found.low[2] - 1.0
        judged = outside(found, {**data, "X": X})
        assert np.flatnonzero(judged.flags).tolist() == [7, 100, 300]
        assert judged.beyond.tolist() == [0, 2, 1, 0, 0]

    def test_values_that_are_not_finite_are_outside(self, data):
        found = support_of(data, {})
        X = data["X"].copy()
        X[:3, 0] = np.nan, np.inf, -np.inf
        judged = outside(found, {**data, "X": X})
        assert np.flatnonzero(judged.flags).tolist() == [0, 1, 2]
        assert judged.beyond[0] == 3

    def test_fitted_values_in_another_precision_are_inside(self, rng):
        X = rng.uniform(size=(50, 3))
        X[:, 2] = 0.1
        for fitted, given in ((np.float32, np.float64), (np.float64, np.float32)):
            found = support_of({"X": X.astype(fitted)}, {})
            assert outside(found, {"X": X.astype(given)}).count == 0

    def test_one_value_stands_for_all_rows(self, data):
        judged = outside(support_of(data, {}), {**data, "t": np.asarray(2)})
        assert judged.beyond[-1] == 600
        assert judged.flags.all()

    def test_missing_values_of_the_fit_are_ignored(self, data):
        X = data["X"].copy()
        X[:5, 1] = np.nan
        X[5, 2] = np.inf
        found = support_of({**data, "X": X}, {})
        assert found.low[1] == data["X"][5:, 1].min()
        kept = {name: array[6:] for name, array in data.items()}
        assert outside(found, kept).count == 0
        assert len(found.scores) == 1

    def test_a_missing_argument_is_refused(self, data):
        with pytest.raises(InputError, match="'t'") as caught:
            outside(support_of(data, {}), {"X": data["X"]})
        assert caught.value.code == "columns-mismatch"

    def test_another_number_of_columns_is_refused(self, data):
        with pytest.raises(InputError, match=r"\(600, 3\)") as caught:
            outside(support_of(data, {}), {**data, "X": data["X"][:, 1:]})
        assert caught.value.code == "columns-mismatch"


class TestJoint:
    def test_distances_are_mahalanobis_distances(self, rng):
        X = (rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3)) + 7.0) * [1e-6, 1.0, 1e6]
        found = support_of({"X": X}, {})
        precision = np.linalg.inv(np.cov(X / X.std(0), rowvar=False, bias=True))
        assert_close(found.whitening @ found.whitening.T, precision, scale=100)
        distances = cdist(
            X / X.std(0), X.mean(0, keepdims=True) / X.std(0), "mahalanobis", VI=precision
        )
        assert found.reach == pytest.approx(distances.max(), rel=1e-9)

    def test_unusual_combination_inside_all_ranges_is_flagged(self, rng):
        a = rng.normal(size=500)
        X = np.column_stack([a, a + 0.1 * rng.normal(size=500)])
        found = support_of({"X": X}, {})
        X[3] = 1.0, -1.0
        judged = outside(found, {"X": X})
        assert np.flatnonzero(judged.flags).tolist() == [3]
        assert judged.jointly == 1
        assert not judged.beyond.any()

    @pytest.mark.parametrize("treatments", [None, ()])
    def test_fitted_rows_are_inside(self, data, treatments):
        found = support_of(data, {}, treatments=treatments)
        assert found.reach > 0
        assert outside(found, data).count == 0

    def test_collinear_and_constant_columns_flag_no_fitted_row(self, rng):
        a = rng.normal(size=(200, 2)).astype(np.float32)
        X = np.column_stack([a, a.sum(1), 3 * a[:, 0], np.full(200, 0.1)])
        found = support_of({"X": X}, {})
        assert found.reach > 0
        assert outside(found, {"X": X}).count == 0

    def test_a_broken_sum_is_flagged(self, rng):
        groups = np.eye(3)[rng.integers(0, 3, 200)]
        found = support_of({"X": groups}, {})
        assert outside(found, {"X": groups}).count == 0
        judged = outside(found, {"X": np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])})
        assert judged.flags.tolist() == [True, False]
        assert judged.jointly == 1

    def test_few_rows_have_no_joint_rule(self, rng):
        found = support_of({"X": rng.normal(size=(8, 4))}, {})
        assert found.whitening.shape == (4, 0)
        assert outside(found, {"X": found.high * np.array([[1, 1, 1, 1]])}).count == 0

    def test_many_columns_have_no_joint_rule(self, rng):
        X = rng.normal(size=(2 * COLUMNS + 10, COLUMNS + 1))
        assert support_of({"X": X}, {}).whitening.shape == (COLUMNS + 1, 0)
        assert support_of({"X": X[:, 1:]}, {}).whitening.shape == (COLUMNS, COLUMNS)

    def test_a_scored_treatment_has_no_part_in_it(self, data):
        found = support_of(data, {})
        assert not found.whitening[-1].any()
        assert outside(found, {**data, "t": 1 - data["t"]}).jointly == 0


class TestScore:
    def test_chances_are_those_of_scikit_learn(self, data):
        (score,) = support_of(data, {}).scores
        chance = regression(data["X"], data["t"])
        z = (data["X"] - data["X"].mean(0)) / data["X"].std(0)
        own = 1 / (1 + np.exp(-score.intercept - z @ score.slopes[:-1]))
        np.testing.assert_allclose(own, chance, atol=1e-5)
        assert score.slopes[-1] == 0
        t = data["t"]
        expected = np.median(1 - chance[t == 0]), np.median(chance[t == 1])
        np.testing.assert_allclose(score.medians, expected, rtol=1e-4)

    def test_rows_below_a_tenth_of_the_median_are_flagged(self, data):
        chance = regression(data["X"], data["t"])
        expected = chance < 0.1 * np.median(chance[data["t"] == 1])
        judged = outside(support_of(data, {}), {**data, "t": np.ones(600)}, changed=["t"])
        assert 20 < expected.sum() < 300
        np.testing.assert_array_equal(judged.flags, expected)
        assert judged.unlikely.tolist() == [[0, expected.sum()]]

    def test_each_row_is_judged_by_the_arm_that_it_is_given(self, data):
        found = support_of(data, {})
        whole = [
            outside(found, {**data, "t": np.asarray(arm)}, changed=["t"]).flags for arm in (0, 1)
        ]
        policy = np.arange(600) % 2
        judged = outside(found, {**data, "t": policy}, changed=["t"])
        np.testing.assert_array_equal(judged.flags, np.where(policy, whole[1], whole[0]))

    def test_a_treatment_that_is_not_changed_is_not_judged(self, data):
        judged = outside(support_of(data, {}), {**data, "t": np.ones(600)}, changed=["X[0]"])
        assert judged.count == 0

    def test_a_value_that_is_neither_arm_is_left_to_the_range(self, data):
        found = support_of(data, {})
        judged = outside(found, {**data, "t": np.full(600, 0.5)}, changed=["t"])
        assert judged.count == 0
        assert outside(found, {**data, "t": np.full(600, 2)}, changed=["t"]).beyond[-1] == 600

    @pytest.mark.parametrize("columns", [5, 60])
    def test_nobody_is_flagged_in_an_experiment_that_treats_few(self, rng, columns):
        treated = np.zeros(1000, bool)
        treated[:50] = True
        arrays = {"X": rng.normal(size=(1000, columns)), "t": treated}
        found = support_of(arrays, {})
        for arm in (0, 1):
            judged = outside(found, {**arrays, "t": np.asarray(arm)}, changed=["t"])
            assert judged.unlikely.sum() <= 2, judged.unlikely
            assert judged.count <= 2

    def test_a_column_of_an_argument_is_scored_by_name(self, data):
        arrays = {"X": np.column_stack([data["X"], data["t"]])}
        found = support_of(arrays, {"X": list("abcdt")}, treatments=["X[t]"])
        apart = support_of(data, {})
        assert found.scores[0].treatment == "X[t]"
        np.testing.assert_allclose(found.scores[0].slopes, apart.scores[0].slopes)
        assert support_of(arrays, {}).scores == ()

    def test_a_treatment_with_many_values_has_no_score(self, data):
        assert support_of(data, {}, treatments=["X[0]"]).scores == ()

    def test_an_unknown_treatment_is_refused(self, data):
        with pytest.raises(InputError, match="'T' is no column") as caught:
            support_of(data, {}, treatments=["T"])
        assert caught.value.code == "treatment-unknown"

    def test_without_covariates_nobody_is_flagged(self):
        arrays = {"t": np.array([0, 0, 0, 1])}
        found = support_of(arrays, {})
        np.testing.assert_allclose(found.scores[0].medians, (0.75, 0.25))
        assert outside(found, {"t": np.ones(3)}, changed=["t"]).count == 0

    def test_rule_of_assignment_flags_the_other_side(self, rng):
        x = rng.uniform(-1, 1, size=(2000, 1))
        found = support_of({"x": x, "t": x[:, 0] > 0}, {})
        flags = outside(found, {"x": x, "t": np.asarray(1)}, changed=["t"]).flags
        assert flags[x[:, 0] < -0.3].all()
        assert not flags[x[:, 0] > 0].any()

    def test_a_rare_arm_among_many_rows_is_taken_whole(self, rng):
        X = rng.normal(size=(60_000, 3))
        t = rng.random(60_000) < 1 / (1 + np.exp(6 - 1.5 * X[:, 0]))
        (score,) = support_of({"X": X, "t": t}, {}).scores
        z = (X - X.mean(0)) / X.std(0)
        whole = LogisticRegression(C=1 / 3, tol=1e-8).fit(z, t)
        np.testing.assert_allclose(score.slopes[:3], whole.coef_[0], atol=0.06)
        np.testing.assert_allclose(score.intercept, whole.intercept_[0], atol=0.06)

    def test_rows_that_alternate_leave_both_arms_in_the_score(self, rng):
        x = rng.normal(size=(40_000, 1))
        (score,) = support_of({"x": x, "t": np.arange(40_000) % 2}, {}).scores
        np.testing.assert_allclose(score.medians, (0.5, 0.5), atol=0.01)


class TestPieces:
    @pytest.mark.parametrize("size", [1, 7, 64, 599])
    def test_pieces_give_what_the_whole_gives(self, data, size):
        found = support_of(data, {})
        X = data["X"] * np.array([1.3, 1.0, 1.0, 1.0]) + np.array([0.0, 0.4, 0.0, 0.0])
        X[5, 0] = np.nan
        scenario = {"X": X, "t": 1 - data["t"]}
        whole = outside(found, scenario, changed=["t"])
        parts = [
            outside(found, {k: v[i : i + size] for k, v in scenario.items()}, changed=["t"])
            for i in range(0, 600, size)
        ]
        assert_same(merged(parts), whole)
        assert whole.beyond.any()
        assert whole.jointly
        assert whole.unlikely.any()

    def test_rows_on_the_border_do_not_depend_on_the_piece(self, rng):
        X = rng.normal(size=(150, 30))
        found = support_of({"X": X}, {})
        # Every row at the border itself, up to the last digits, where only rounding decides.
        length = np.linalg.norm((X - found.mean) / found.scale @ found.whitening, axis=1)
        X = found.mean + (X - found.mean) * (found.reach * (1 + 1e-6) / length)[:, None]
        whole = outside(found, {"X": X})
        assert_same(merged(outside(found, {"X": row[None]}) for row in X), whole)
        assert 0 < whole.jointly < 150


def assert_same(found: Outside, expected: Outside) -> None:
    np.testing.assert_array_equal(found.flags, expected.flags)
    np.testing.assert_array_equal(found.beyond, expected.beyond)
    np.testing.assert_array_equal(found.unlikely, expected.unlikely)
    assert found.jointly == expected.jointly


class TestRealData:
    def test_survey_controls_are_unlike_the_treated(self, survey):
        """Dehejia and Wahba (1999): few of the CPS controls resemble those who were trained."""
        found = support_of(survey, {"X": COVARIATES})
        judged = outside(found, {**survey, "treat": np.asarray(1)}, changed=["treat"])
        controls = survey["treat"] == 0
        assert controls.sum() == 15_992
        assert judged.flags[controls].mean() > 0.9
        assert judged.flags[~controls].mean() < 0.2

    def test_the_treated_are_not_unlike_all_survey_controls(self, survey):
        found = support_of(survey, {"X": COVARIATES})
        assert outside(found, {**survey, "treat": np.asarray(0)}, changed=["treat"]).count == 0

    @pytest.mark.parametrize("arm", [0, 1])
    def test_an_experiment_has_both_arms_everywhere(self, experiment, arm):
        found = support_of(experiment, {"X": COVARIATES})
        judged = outside(found, {**experiment, "treat": np.asarray(arm)}, changed=["treat"])
        assert judged.flags.mean() <= 0.01

    def test_survey_rows_are_outside_a_fit_on_the_experiment(self, experiment, survey):
        found = support_of(experiment, {"X": COVARIATES})
        judged = outside(found, survey)
        X = np.asarray(survey["X"], float)
        low, high = np.min(experiment["X"], axis=0), np.max(experiment["X"], axis=0)
        np.testing.assert_array_equal(
            judged.beyond[:-1], np.sum(np.clip(X, low, high) != X, axis=0)
        )
        assert judged.count > 3000


class TestSentence:
    def fitted(self, name: str = "t", columns: int = 1) -> Support:
        names = tuple(f"{name}{k}" for k in range(columns)) if columns > 1 else (name,)
        score = Score(names[0], (0.0, 1.0), 0.0, np.zeros(columns), (0.5, 0.5))
        zeros, ones = np.zeros(columns), np.ones(columns)
        empty = np.zeros((len(LEVELS), columns))
        return Support(9, names, names, zeros, ones, empty, zeros, ones, empty[:0].T, 0.0, (score,))

    def judged(self, count: int, rows: int, beyond, jointly: int, unlikely) -> Outside:
        flags = np.arange(rows) < count
        return Outside(flags, np.zeros(rows, bool), np.array(beyond), jointly, np.array([unlikely]))

    def test_worst_reason_comes_first(self):
        text = sentence(self.fitted(), self.judged(812, 1000, [3], 5, [0, 812]))
        assert text == (
            "812 of 1,000 rows (81%) are outside the data: chance of t=1 too small in 812, "
            "columns together too far in 5, t beyond 0 to 1 in 3"
        )

    def test_nothing_outside_has_no_reason(self):
        text = sentence(self.fitted(), self.judged(0, 1000, [0], 0, [0, 0]))
        assert text == "0 of 1,000 rows (0%) are outside the data"

    @pytest.mark.parametrize(("count", "share"), [(1, "1%"), (999, "99%"), (1000, "100%")])
    def test_few_is_not_none_and_most_is_not_all(self, count, share):
        text = sentence(self.fitted(), self.judged(count, 1000, [count], 0, [0, 0]))
        assert f"({share})" in text

    def test_at_most_three_reasons_are_listed(self):
        text = sentence(self.fitted("c", 5), self.judged(9, 9, [1, 5, 3, 4, 2], 0, [0, 0]))
        assert [text.index(f"c{k} beyond") for k in (1, 3, 2)] == sorted(
            text.index(f"c{k} beyond") for k in (1, 2, 3)
        )
        assert "c0" not in text
        assert "c4" not in text

    def test_long_names_leave_it_short(self):
        found = self.judged(9_000, 9_999, [8_888] * 5, 7_777, [6_666, 0])
        text = sentence(self.fitted("a very long name of a column of an argument", 5), found)
        assert len(text) <= SENTENCE
        assert "a very long name of a..." in text
