"""Tests of `aimz.identification`."""
