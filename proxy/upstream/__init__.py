"""The carriers: connections to workers, the two-legged exchange, the bootstrap splice, probes."""
