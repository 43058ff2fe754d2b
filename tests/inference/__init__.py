"""Tests of `aimz.inference`."""
