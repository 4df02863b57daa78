"""The corridor: one request from admission to its outcome."""
