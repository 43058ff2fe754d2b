"""Tests of `aimz.diagnostics`."""
