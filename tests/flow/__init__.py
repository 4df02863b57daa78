"""What a request experiences, from a client to a pair and back: the real proxy, simulated engines."""
