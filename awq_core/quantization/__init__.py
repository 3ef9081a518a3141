"""Quantizing one matrix: quantizers, scales, clip limits, GPTQ, codes; no model."""
