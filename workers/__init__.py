"""What runs on the GPU nodes: SGLang wrapped, registered, watched and drained; a simulated engine."""
