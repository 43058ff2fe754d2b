"""Tests of `aimz.prediction`."""
