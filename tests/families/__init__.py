"""Tests of `aimz.families`."""
