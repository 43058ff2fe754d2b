"""Tests of `aimz.effects`."""
