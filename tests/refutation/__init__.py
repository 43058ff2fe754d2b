"""Tests of `aimz.refutation`."""
