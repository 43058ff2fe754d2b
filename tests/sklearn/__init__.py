"""Tests of the estimators in scikit-learn's sense."""
