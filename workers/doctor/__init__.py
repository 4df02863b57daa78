"""`pd-worker doctor`: looks at a node before a worker is launched on it, and says what is wrong."""
