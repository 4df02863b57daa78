"""Tests of the files in `deploy` that other programs read."""
