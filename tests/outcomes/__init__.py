"""Tests of `aimz.outcomes`."""
