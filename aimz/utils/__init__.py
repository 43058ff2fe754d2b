"""Companions of the estimator, by the names that users of the package know."""

__all__: list[str] = []
