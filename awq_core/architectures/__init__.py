"""Models of the table's architectures: how their blocks are reached, opened and run."""
