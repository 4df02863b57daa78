"""The proxy measured beside sglang-router: see README.md in this folder."""
