"""Tests of learning models."""
