"""Named arrays and loaders of named batches, by the name that users of the package know."""

from aimz.data import ArrayDataset, ArrayLoader

__all__ = ["ArrayDataset", "ArrayLoader"]
