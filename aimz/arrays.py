"""Names of what is computed with, for annotations: nothing here runs."""

import jax
import numpy as np

__all__ = ["Array", "Seed"]


#: Numbers in memory or on a device, or what stands for them while a program is traced.
type Array = jax.Array | np.ndarray
#: What `as_key` makes a random key of: a number, a key of JAX, or the two words of an old one.
type Seed = int | Array
