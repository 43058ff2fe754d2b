"""Kernels that no other process can import, as code: what a saved model keeps of its kernel.

>>> import numpyro
>>> import numpyro.distributions as dist
>>> def kernel(X, y=None):
...     numpyro.sample("y", dist.Normal(X[:, 0], 1.0), obs=y)
>>> kept(lambda X, y=None: kernel(X, y)).entry["captured"]["imports"]
['numpyro', 'numpyro.distributions']
"""

from aimz.capture.keeping import FILES, Kept, fetched, imported, kept, kept_account

__all__ = ["FILES", "Kept", "fetched", "imported", "kept", "kept_account"]
