"""Tests of `aimz.store`."""
