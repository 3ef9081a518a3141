"""Benchmarks: costs of measuring a model, stage by stage, and of the suite's search against llm-awq's."""
