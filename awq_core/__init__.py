"""Quantization, measurement and judging for the AWQ claims suite: a library without pytest, printing or paths."""
