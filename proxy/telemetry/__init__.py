"""Metrics in one list, and logs."""
