"""Tests of `aimz.programs`."""
