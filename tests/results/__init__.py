"""Tests of `aimz.results`."""
