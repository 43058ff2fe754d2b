"""Tests of `aimz.decisions`."""
