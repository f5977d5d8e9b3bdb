"""Pictures: nets drawn block by block, and accuracy against latency."""
