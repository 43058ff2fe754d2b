"""Tests of `aimz.data`."""
