"""Tests of `aimz.capture`."""
