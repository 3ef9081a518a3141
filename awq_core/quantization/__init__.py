"""Quantization of one weight matrix: quantizers, scales, clip limits, GPTQ and codes, without any model."""
