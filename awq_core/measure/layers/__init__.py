"""Layer-level instruments: statistics of each linear's inputs, and output errors of rounding it."""
