"""Squared relative output error of a quantized linear, from the second moment of its inputs.

For `E = W^ - W` and `G = X^T X`, the squared output error summed over all tokens is exactly `tr(E G E^T)`, so no token
is replayed. All exponents, all precisions and all linears that read the same input share `G`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from awq_core.quantization.quantizers import QuantizerName
from awq_core.quantization.scales import scaled_round_to_nearest

CHUNK_ELEMENTS = 8_000_000
"""Weights quantized in one call: enough for several exponents, few enough for tens of megabytes."""


def summed_squared_output(difference: Tensor, second_moment: Tensor) -> Tensor:
    """Compute the summed squared output `||X E^T||_F^2 = tr(E G E^T)`.

    Args:
        difference: E, `(..., out, in)`.
        second_moment: G = X^T X, `(in, in)`.

    Returns:
        `(...)`, in squared output units, summed over tokens and outputs.
    """
    return ((difference @ second_moment) * difference).sum(dim=(-2, -1))


def relative_output_error(weight: Tensor, quantized: Tensor, second_moment: Tensor) -> Tensor:
    """Compute the squared relative output error `e(W^) = ||X (W - W^)^T||_F^2 / ||X W^T||_F^2`.

    Args:
        weight: `(out, in)`.
        quantized: `(..., out, in)`.
        second_moment: `(in, in)`.

    Returns:
        `(...)`, dimensionless; 0 where the error is 0 (even if the output is 0 as well), NaN where an input is NaN.
    """
    power = summed_squared_output(weight, second_moment)
    error = summed_squared_output(quantized - weight, second_moment)
    return torch.where(error == 0, torch.zeros_like(error), error / power)


def error_grid(
    weight: Tensor,
    scales: Tensor,
    quantizers: Sequence[QuantizerName],
    bits: Sequence[int],
    second_moments: Sequence[Tensor],
) -> Tensor:
    """Compute output errors over the grid of quantizers, precisions, scales and second moments.

    Args:
        weight: `(out, in)`.
        scales: `(alphas, in)`.
        quantizers: names of quantizers.
        bits: precisions.
        second_moments: one `(in, in)` for each split of the tokens.

    Returns:
        `(quantizers, bits, alphas, splits)`: squared relative output errors, which are absolute where the output
        without rounding is 0 (an expert that no token reached has errors of 0).
    """
    out_features, in_features = weight.shape
    per_chunk = max(1, CHUNK_ELEMENTS // (out_features * in_features))
    powers = torch.stack([summed_squared_output(weight, moment) for moment in second_moments])
    powers = torch.where(powers > 0, powers, torch.ones_like(powers))
    errors = weight.new_zeros(len(quantizers), len(bits), len(scales), len(second_moments))
    for q, quantizer in enumerate(quantizers):
        for b, precision in enumerate(bits):
            for start in range(0, len(scales), per_chunk):
                chunk = slice(start, start + per_chunk)
                quantized = scaled_round_to_nearest(weight, scales[chunk], quantizer, precision)  # (A, out, in)
                difference = quantized.sub_(weight)
                for m, moment in enumerate(second_moments):
                    errors[q, b, chunk, m] = summed_squared_output(difference, moment) / powers[m]
    return errors
