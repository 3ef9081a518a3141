"""Runs, or per-layer records, held against each other."""
