"""Tests of `aimz.model`."""
