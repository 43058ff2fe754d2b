"""Tests of `aimz.sensitivity`."""
