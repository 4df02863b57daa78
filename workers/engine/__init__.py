"""A simulated SGLang server: the same HTTP surface, a real bootstrap handshake, faults on demand."""
