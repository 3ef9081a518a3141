"""Measuring a model in passes through its blocks, of which one at a time is looked at."""
