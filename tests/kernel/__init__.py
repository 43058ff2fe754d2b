"""Tests of `aimz.kernel`."""
