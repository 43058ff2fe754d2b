"""Names of what is computed with, for annotations: nothing here runs."""

import jax
import numpy as np

__all__ = ["Array"]


#: Numbers in memory or on a device, or what stands for them while a program is traced.
type Array = jax.Array | np.ndarray
