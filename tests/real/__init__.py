"""Against a real SGLang with a real Mooncake, on a CPU: `make test-sglang`."""
