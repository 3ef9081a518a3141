"""Measurement of a model in passes through its blocks, one block at a time."""
