"""Quantization methods: how each calibrates and rounds a block, and the losses that result."""
