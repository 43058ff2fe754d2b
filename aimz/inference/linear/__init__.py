"""Linear and multinomial logistic regression: kernels, and engines that need no search."""

from aimz.inference.linear.exact import ExactLinear
from aimz.inference.linear.kernels import Columns, LinearKernel, LogisticKernel
from aimz.inference.linear.laplace import LaplaceLogistic

__all__ = ["Columns", "ExactLinear", "LaplaceLogistic", "LinearKernel", "LogisticKernel"]
