"""Tests of `aimz.overlap`."""
