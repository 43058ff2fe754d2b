"""How close two numbers have to be, by dtype, in one place."""

from typing import Any

import numpy as np

__all__ = ["RTOL", "assert_close", "rtol"]

#: Relative tolerance by dtype: sums of a few thousand terms, in another order.
RTOL = {"float16": 1e-2, "bfloat16": 2e-2, "float32": 2e-5, "float64": 1e-11}


def rtol(*arrays: Any) -> float:
    """Loosest relative tolerance among the dtypes of some arrays; integers are exact."""
    return max((RTOL.get(str(np.asarray(array).dtype), 0.0) for array in arrays), default=0.0)


def assert_close(actual: Any, desired: Any, *, scale: float = 1.0, factor: float = 1.0) -> None:
    """Assert that two arrays are equal up to rounding.

    `scale` is the magnitude that the numbers were summed at (it sets the absolute tolerance);
    `factor` loosens both for a computation that is known to lose digits.
    """
    tolerance = factor * rtol(actual, desired)
    np.testing.assert_allclose(
        np.asarray(actual), np.asarray(desired), rtol=tolerance, atol=tolerance * scale
    )
