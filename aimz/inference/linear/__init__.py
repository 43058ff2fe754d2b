"""Linear and multinomial logistic regression: kernels, and engines that need no search."""

from aimz.inference.engine import Engine
from aimz.inference.linear.exact import ExactLinear
from aimz.inference.linear.kernels import Columns, LinearKernel, LogisticKernel, generator
from aimz.inference.linear.laplace import LaplaceLogistic

__all__ = ["Columns", "LinearKernel", "LogisticKernel", "generator", "linear_engine"]


def linear_engine(kernel: type[LinearKernel | LogisticKernel]) -> Engine:
    """The engine of such kernels: exact, or Laplace's method where there are classes."""
    return ExactLinear() if issubclass(kernel, LinearKernel) else LaplaceLogistic()
