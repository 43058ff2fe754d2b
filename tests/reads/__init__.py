"""Tests of `aimz.reads`."""
