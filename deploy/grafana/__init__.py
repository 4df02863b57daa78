"""The operators' dashboard, made from code."""
