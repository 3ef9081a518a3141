"""What measuring a model costs, stage by stage, and what the official search costs beside it."""
