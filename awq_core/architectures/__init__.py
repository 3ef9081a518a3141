"""Model architectures: where their linears are, where scales fold, and how their blocks are loaded and run."""
