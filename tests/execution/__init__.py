"""Tiles over devices and clusters."""
