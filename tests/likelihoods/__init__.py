"""Tests of likelihoods of responses."""
