"""Tests of the MLflow flavor."""
