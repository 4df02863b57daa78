"""All tests; `tests.support` is shared."""
